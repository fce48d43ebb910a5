use tower_mesh_layers::{circuit_breaker::BreakerConfig, rate_limit::RateLimitConfig};

use super::*;
use crate::server::ServerConfig;

fn refused(config: &str) -> String {
    let config: MeshConfig = serde_json::from_str(config).unwrap();
    Mesh::builder()
        .config(config)
        .build()
        .unwrap_err()
        .to_string()
}

#[test]
fn a_refusal_names_the_path_from_the_root() {
    for (config, message) in [
        (
            r#"{"registries": {"default": "etcdd://host"}}"#,
            "registries.default.scheme: got `etcdd`, expected a registry",
        ),
        (
            r#"{"clients": {"defaults": {"circuitBreaker": {"probes": 0}}}}"#,
            "clients.defaults.circuitBreaker.probes: got `0`, expected 1 to 1000",
        ),
        (
            r#"{"clients": {"orders": {"rateLimit": {"rate": "1/s", "burst": 0}}}}"#,
            "clients.orders.rateLimit.burst: got `0`, expected 1 to 1000000",
        ),
        (
            r#"{"registries": {"a": "static:http://127.0.0.1:1"}, "clients": {"orders": {"registry": "b"}}}"#,
            "clients.orders.registry: got `b`, expected the name of a registry: a",
        ),
        (
            r#"{"server": {"rateLimit": {"rate": "1/s", "name": ""}}}"#,
            "server.rateLimit.name: got ``",
        ),
    ] {
        let error = refused(config);
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn unknown_fields_are_refused() {
    for config in [
        r#"{"client": {}}"#,
        r#"{"clients": {"orders": {"retries": {}}}}"#,
        r#"{"server": {"ratelimit": {}}}"#,
    ] {
        assert!(
            serde_json::from_str::<MeshConfig>(config).is_err(),
            "{config}"
        );
    }
}

#[test]
fn what_is_configured_reads_back() {
    let mut config = MeshConfig {
        registries: [("default".to_owned(), "static:http://127.0.0.1:1".to_owned())].into(),
        ..MeshConfig::default()
    };
    let client = ClientConfig {
        rate_limit: Some(RateLimitConfig::new("5/s".parse().unwrap())),
        circuit_breaker: Some(BreakerConfig::default()),
        ..ClientConfig::default()
    };
    config.clients.named.insert("orders".to_owned(), client);
    config.server = ServerConfig {
        deadline: None,
        ..ServerConfig::default()
    };
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<MeshConfig>(&text).unwrap(), config);
}

#[test]
fn a_breaker_section_without_a_key_is_per_operation_all_the_same() {
    // A breaker with a key lists the one that keys above the cap share.
    for (section, shared) in [
        ("{}", "other"),
        (r#"{"failureRate": "30%"}"#, "other"),
        (r#"{"key": "operation"}"#, "other"),
        (r#"{"key": "global"}"#, ""),
    ] {
        let config = format!(r#"{{"circuitBreaker": {section}}}"#);
        let config: ClientConfig = serde_json::from_str(&config).unwrap();
        let layer = ClientLayer::new(&config).unwrap();
        let breakers = layer.breakers().breakers();
        assert_eq!(breakers[0].key(), shared, "{section}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_cannot_be_resolved_says_so_on_every_call() {
    use tower::ServiceExt;
    use tower_mesh_layers::{Reason, Rejection};

    // No registry at all, and a name that no registry takes.
    let with_registry = Mesh::builder()
        .registry("static:http://127.0.0.1:1")
        .build()
        .unwrap();
    for client in [
        Mesh::builder().build().unwrap().client("orders"),
        with_registry.client(""),
    ] {
        let request = http::Request::get("/").body(crate::Body::empty()).unwrap();
        let response = client.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 503);
        let rejection = response.extensions().get::<Rejection>().unwrap();
        assert_eq!(rejection.reason(), Reason::NoEndpoint);
    }
}

#[tokio::test]
async fn clients_of_one_name_share_what_they_have_learnt() {
    let mesh = Mesh::builder()
        .registry("static:http://127.0.0.1:1")
        .build()
        .unwrap();
    let handle = || mesh.client_layer("orders", Protocol::Http).breakers();
    handle().force_open();
    let _client = mesh.client("orders");
    let states: Vec<_> = handle()
        .breakers()
        .iter()
        .map(|breaker| breaker.state().label())
        .collect();
    assert_eq!(states, ["forced_open"]);
}
