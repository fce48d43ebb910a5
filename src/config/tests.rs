use std::path::Path;

use tower_mesh_discovery::document::Text;
use tower_mesh_layers::retry::RetryConfig;

use super::*;

/// The version comes last, so that the lines are those of the text.
fn read(yaml: &str) -> Result<MeshConfig, String> {
    read_whole(&format!("{yaml}version: 1\n"))
}

fn read_whole(yaml: &str) -> Result<MeshConfig, String> {
    let text = Text::new(Path::new("mesh.yaml"), yaml).unwrap();
    text.read().map_err(|error| error.to_string())
}

#[test]
fn a_client_takes_from_the_defaults_what_it_does_not_say() {
    let config = read(
        "
clients:
  defaults:
    deadline: { timeout: 2s }
    retry: { maxAttempts: 2 }
    circuitBreaker: off
  orders:
    circuitBreaker: { consecutiveFailures: 5 }
    retry: off
",
    )
    .unwrap();
    let defaults = &config.clients.defaults;
    assert_eq!(defaults.retry.as_ref().unwrap().max_attempts, 2);
    assert_eq!(defaults.circuit_breaker, None);

    let orders = config.client("orders");
    assert_eq!(orders.deadline, defaults.deadline);
    assert_eq!(orders.retry, None);
    let breaker = orders.circuit_breaker.unwrap();
    assert_eq!(breaker.consecutive_failures, Some(5));
    assert_eq!(config.client("users"), *defaults);
}

#[test]
fn a_section_of_a_client_stands_in_the_place_of_the_whole_default() {
    let config = read(
        "
clients:
  defaults: { retry: { maxAttempts: 7, attemptTimeout: 1s } }
  orders: { retry: { attemptTimeout: 2s } }
",
    )
    .unwrap();
    let retry = config.client("orders").retry.unwrap();
    assert_eq!(retry.max_attempts, RetryConfig::default().max_attempts);
}

#[test]
fn a_section_is_switched_off_by_a_word() {
    for off in ["off", "false", "null", "~"] {
        let config = read(&format!("server: {{ deadline: {off} }}\n")).unwrap();
        assert_eq!(config.server.deadline, None, "{off}");
    }
    for on in ["on", "true", "1", "[]"] {
        let error = read(&format!("server: {{ deadline: {on} }}\n")).unwrap_err();
        assert!(error.starts_with("mesh.yaml:1:"), "{error}");
        assert!(error.contains(": server.deadline: "), "{error}");
        assert!(error.contains("a section, or `off`"), "{error}");
    }
}

#[test]
fn slips_of_the_hand_are_refused_with_their_place_and_the_nearest_name() {
    for (yaml, message) in [
        (
            "client: {}\n",
            "mesh.yaml:1:1: client: unknown field `client`",
        ),
        (
            "clients:\n  default: {}\n",
            "got `default`, expected `defaults`, or the name of a service",
        ),
        (
            "clients:\n  defualts: {}\n",
            "got `defualts`, expected `defaults`",
        ),
        (
            "clients:\n  orders:\n    retry:\n      maxAttemps: 3\n",
            "(did you mean `maxAttempts`?)",
        ),
        (
            "clients:\n  orders:\n    retry:\n      maxAttemps: 3\n",
            "mesh.yaml:4:7: clients.orders.retry.maxAttemps: unknown field `maxAttemps`",
        ),
        ("server:\n  ratelimit: off\n", "(did you mean `rateLimit`?)"),
        (
            "server:\n  deadline:\n    timeout: fast\n",
            "mesh.yaml:3:14: server.deadline.timeout: ",
        ),
    ] {
        let error = read(yaml).unwrap_err();
        assert!(error.contains(message), "{error}\n  lacks {message}");
    }
}

#[test]
fn a_client_is_named_once() {
    let json = r#"{"version": 1, "clients": {"orders": {}, "orders": {}}}"#;
    let error = serde_json::from_str::<MeshConfig>(json)
        .unwrap_err()
        .to_string();
    assert!(error.contains("every client once"), "{error}");
}

#[test]
fn what_is_written_reads_back() {
    let mut config = MeshConfig::default();
    config.clients.defaults.rate_limit = None;
    config.clients.named.insert(
        "orders".to_owned(),
        NamedClientConfig {
            registry: Some("other".to_owned()),
            retry: Section::Off,
            deadline: Section::Set(Default::default()),
            ..NamedClientConfig::default()
        },
    );
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<MeshConfig>(&json).unwrap(), config);
}

#[test]
fn an_empty_file_is_no_configuration() {
    for yaml in ["", "\n", "# version: 1\n", "{}\n", "clients: {}\n"] {
        let error = read_whole(yaml).unwrap_err();
        let reasons = ["missing field `version`", "unexpected end", "got ``"];
        assert!(
            reasons.iter().any(|reason| error.contains(reason)),
            "{yaml}: {error}"
        );
    }
}
