use tower_mesh_layers::{circuit_breaker::BreakerConfig, rate_limit::RateLimitConfig};

use super::*;
use crate::{client::ClientConfig, server::ServerConfig};

fn refused(config: &str) -> String {
    let config = config.replacen('{', r#"{"version": 1, "#, 1);
    let config: MeshConfig = serde_json::from_str(&config).unwrap();
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
        (
            r#"{"server": {"trace": {"exclude": [{"path": {"regex": "("}}]}}}"#,
            "server.trace.exclude[0].path.regex: got `(`",
        ),
        (
            r#"{"clients": {"orders": {"metrics": {"maxOperations": 0}}}}"#,
            "clients.orders.metrics.maxOperations: got `0`, expected 1 to 10000",
        ),
    ] {
        let error = refused(config);
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn unknown_fields_are_refused() {
    for config in [
        r#"{"version": 1, "client": {}}"#,
        r#"{"version": 1, "clients": {"orders": {"retries": {}}}}"#,
        r#"{"version": 1, "server": {"ratelimit": {}}}"#,
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
    config
        .clients
        .named
        .insert("orders".to_owned(), client.into());
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
        let layer = ClientLayer::new("orders", &config).unwrap();
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

// ===== changes while it runs =====

/// Answers as its name says, so that a test sees which registry a client is on.
fn named_server(name: &'static str) -> tower_mesh_layers::test_util::servers::Server {
    use tower_mesh_layers::test_util::{Answer, Scripted, servers::Server};
    let (service, _) = Scripted::answering(move |_, _| Answer::ok().header("x-server", name));
    Server::hyper(service)
}

async fn asked(mesh: &Mesh) -> Result<String, http::StatusCode> {
    use tower::ServiceExt;
    let request = http::Request::get("/").body(crate::Body::empty()).unwrap();
    let response = mesh.client("orders").oneshot(request).await.unwrap();
    match response.headers().get("x-server") {
        Some(name) => Ok(name.to_str().unwrap().to_owned()),
        None => Err(response.status()),
    }
}

#[tokio::test]
async fn a_client_moves_to_another_registry_and_misses_no_call() {
    let (one, other) = (named_server("one"), named_server("other"));
    let config = |name: &str| {
        let json = serde_json::json!({
            "version": 1,
            "registries": {
                "a": format!("static:http://{}", one.addr()),
                "b": format!("static:http://{}", other.addr()),
            },
            "clients": { "orders": { "registry": name } },
        });
        serde_json::from_value::<MeshConfig>(json).unwrap()
    };
    let mesh = Mesh::builder().config(config("a")).build().unwrap();
    assert_eq!(asked(&mesh).await.unwrap(), "one");
    mesh.set_config(config("b")).unwrap();
    let moved = async {
        while asked(&mesh).await.unwrap() != "other" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), moved)
        .await
        .expect("the client moves");
    let error = mesh.set_config(config("c")).unwrap_err();
    assert_eq!(error.path(), "clients.orders.registry");
    assert_eq!(asked(&mesh).await.unwrap(), "other");
}

#[tokio::test]
async fn layers_come_and_go_and_keep_what_they_have_learnt() {
    let server = named_server("orders");
    let config = |client: &str| {
        let registry = format!("static:http://{}", server.addr());
        let json = format!(
            r#"{{"version": 1, "registries": {{"default": "{registry}"}}, "clients": {{"orders": {client}}}}}"#
        );
        serde_json::from_str::<MeshConfig>(&json).unwrap()
    };
    let mesh = Mesh::builder().config(config("{}")).build().unwrap();
    asked(&mesh).await.unwrap();
    let breakers = mesh.client_layer("orders", Protocol::Http).breakers();
    breakers.force_open();
    assert_eq!(asked(&mesh).await.unwrap_err(), 503);

    mesh.set_config(config(r#"{"rateLimit": {"rate": "1/h"}}"#))
        .unwrap();
    assert_eq!(
        asked(&mesh).await.unwrap_err(),
        503,
        "the breaker is still open"
    );
    assert_eq!(
        asked(&mesh).await.unwrap_err(),
        429,
        "and there is a limit now"
    );
    mesh.set_config(config(r#"{"rateLimit": {"rate": "1/h", "burst": 2}}"#))
        .unwrap();
    assert_eq!(
        asked(&mesh).await.unwrap_err(),
        429,
        "what was used stays used"
    );
    mesh.set_config(config(r#"{"circuitBreaker": "off"}"#))
        .unwrap();
    assert_eq!(asked(&mesh).await.unwrap(), "orders");
}

#[tokio::test]
async fn what_was_used_up_at_the_start_cannot_change() {
    let mesh = Mesh::builder().service("checkout").build().unwrap();
    let mut config = mesh.config();
    config.service = None;
    assert_eq!(mesh.set_config(config).unwrap_err().path(), "service");
    let mut config = mesh.config();
    config.endpoints.max_idle += 1;
    assert_eq!(mesh.set_config(config).unwrap_err().path(), "endpoints");
    let mut config = mesh.config();
    config.telemetry.logs = "debug".to_owned();
    assert_eq!(mesh.set_config(config).unwrap_err().path(), "telemetry");
    let mut config = mesh.config();
    config.version = 2;
    let error = mesh.set_config(config).unwrap_err().to_string();
    assert_eq!(error, "version: got `2`, expected 1");
}

#[tokio::test(start_paused = true)]
async fn routes_come_from_the_configuration_and_change_with_it() {
    use tower_mesh_layers::test_util::Answer;

    use crate::test_util::MockMesh;

    let mock = MockMesh::new();
    let [stable, canary] = ["1.0", "2.0"].map(|version| {
        let endpoint = mock.endpoint("orders", |_, _| Answer::ok());
        endpoint.update(|instance| instance.version = version.to_owned());
        endpoint
    });
    let mesh = mock.mesh();
    let config = |stable: u32, canary: u32| {
        let routes = serde_json::json!([{ "host": "orders", "rules": [{ "name": "canary", "backends": [
            { "subset": { "version": "1.0" }, "weight": stable },
            { "subset": { "version": "2.0" }, "weight": canary },
        ] }] }]);
        MeshConfig {
            routes: serde_json::from_value(routes).unwrap(),
            ..MeshConfig::default()
        }
    };
    for (weights, calls) in [
        ((1, 0), (100, 0)),
        ((0, 1), (100, 100)),
        ((1, 0), (200, 100)),
    ] {
        mesh.set_config(config(weights.0, weights.1)).unwrap();
        for _ in 0..100 {
            asked_status(&mesh, 200).await;
        }
        assert_eq!((stable.calls(), canary.calls()), calls);
    }
    let refused = mesh.set_config(config(0, 0)).unwrap_err();
    assert!(
        refused.path().starts_with("routes[0].rules[0].backends"),
        "{refused}"
    );
    let mut twice = config(1, 1);
    twice.routes.extend(config(1, 1).routes);
    let refused = mesh.set_config(twice).unwrap_err().to_string();
    assert_eq!(
        refused,
        "routes[1].host: got `orders`, expected a service that routes[0] is not for"
    );
}

async fn asked_status(mesh: &Mesh, expected: u16) {
    use tower::ServiceExt;
    let request = http::Request::get("/").body(crate::Body::empty()).unwrap();
    let response = mesh.client("orders").oneshot(request).await.unwrap();
    assert_eq!(response.status(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_mesh_registers_what_its_configuration_says() {
    use crate::{config::RegistrationConfig, test_util::MockMesh};

    let mock = MockMesh::new();
    let registration = RegistrationConfig {
        version: "1.2".to_owned(),
        ..RegistrationConfig::default()
    };
    let mesh = mock.builder().registration(registration).build().unwrap();
    let address: std::net::SocketAddr = "10.0.0.1:80".parse().unwrap();
    let registered = mesh.register("checkout", address).unwrap();
    registered.registered().await;
    let known = mock.registry().instances("checkout");
    assert_eq!(known[0].version, "1.2");
    assert_eq!(known[0].endpoints[0].to_string(), "http://10.0.0.1:80");

    let fixed = Mesh::builder()
        .registry("static:http://127.0.0.1:1")
        .build()
        .unwrap();
    let refused = fixed.register("checkout", address).unwrap_err();
    assert_eq!(refused.path(), "registry");
    let mut config = mesh.config();
    config.registration.registry = Some("other".to_owned());
    let refused = mesh.set_config(config).unwrap_err().to_string();
    assert_eq!(
        refused,
        "registration.registry: got `other`, expected the name of a registry: default"
    );
}
