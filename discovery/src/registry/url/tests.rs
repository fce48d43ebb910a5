use proptest::prelude::*;

use super::*;

fn refused(text: &str) -> String {
    text.parse::<RegistryUrl>().expect_err(text).to_string()
}

#[test]
fn a_file_is_named_by_path_and_parameters() {
    for (text, path, poll) in [
        ("file:./registry.yaml", "./registry.yaml", 5_000),
        ("file:registry.yml", "registry.yml", 5_000),
        ("file:/etc/mesh/r.toml?poll=100ms", "/etc/mesh/r.toml", 100),
        (
            "file:///etc/a%20b%3F.json?grace=1m&poll=1h",
            "/etc/a b?.json",
            3_600_000,
        ),
    ] {
        let url: RegistryUrl = text.parse().unwrap();
        let poll = Duration::from_millis(poll);
        assert_eq!(
            url.kind,
            Kind::File {
                path: path.into(),
                poll
            }
        );
        assert_eq!(url.to_string(), text);
    }
    let url: RegistryUrl = "file:r.json?grace=0s".parse().unwrap();
    assert_eq!(url.grace, Duration::ZERO);
}

#[test]
fn every_refusal_says_what_was_written_and_what_is_allowed() {
    for (text, message) in [
        (
            "",
            "got ``, expected a URL that begins with `static:`, `memory:`, `file:`",
        ),
        (
            "registry.yaml",
            "got `registry.yaml`, expected a URL that begins with `static:`",
        ),
        (
            "fil:r.yaml",
            "scheme: got `fil`, expected a registry's scheme: `static:`, `memory:`, `file:`, `dns:`, `dns+srv:` (did you mean `file`?)",
        ),
        (
            "consul://localhost/orders",
            "scheme: got `consul`, expected a registry's scheme: `static:`, `memory:`, `file:`",
        ),
        ("FILE:r.yaml", "scheme: got `FILE`"),
        (
            "file:",
            "file.extension: got ``, expected .yaml, .yml, .toml or .json",
        ),
        (
            "file:r.yml.bak",
            "file.extension: got `r.yml.bak`, expected .yaml, .yml, .toml or .json",
        ),
        (
            "file://host/r.yaml",
            "file: got `//host/r.yaml`, expected no host",
        ),
        (
            "file:r.yaml#x",
            "file: got `r.yaml#x`, expected no fragment",
        ),
        ("file:a%2.yaml", "file: got `a%2.yaml`, expected %XX"),
        ("file:a%FF.yaml", "file: got `a%FF.yaml`, expected %XX"),
        (
            "file:r.yaml?pol=5s",
            "parameter: got `pol`, expected one of the parameters `poll`, `grace` (did you mean `poll`?)",
        ),
        (
            "file:r.yaml?",
            "parameter: got ``, expected one of the parameters `poll`, `grace`",
        ),
        ("file:r.yaml?poll", "poll: got ``, expected a duration"),
        ("file:r.yaml?poll=5", "poll: got `5`, expected a duration"),
        (
            "file:r.yaml?poll=50ms",
            "poll: got `50ms`, expected 100ms to 1h",
        ),
        (
            "file:r.yaml?poll=1s&poll=2s",
            "poll: got `2s`, expected every parameter once",
        ),
        ("file:r.yaml?grace=2h", "grace: got `2h`, expected 0s to 1h"),
        ("static:", "static[0]: got ``, expected `scheme://host"),
        (
            "static:http://a,",
            "static[1]: got ``, expected `scheme://host",
        ),
        (
            "static:http://a,http://a:80",
            "static[1]: got `http://a:80`, expected every address once",
        ),
        ("memory:", "memory: got ``, expected 1 to 255 printable"),
        (
            "memory:a b",
            "memory: got `a b`, expected 1 to 255 printable",
        ),
        ("memory:a?grace=2h", "grace: got `2h`, expected 0s to 1h"),
        (
            "static:http://a?poll=1s",
            "parameter: got `poll`, expected no parameter",
        ),
    ] {
        let error = refused(text);
        assert!(error.starts_with(message), "{text}: {error}");
    }
    let error = resolver("static:http://a", "or ders")
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("service: got `or ders`, expected 1 to 255"),
        "{error}"
    );
}

#[tokio::test]
async fn static_addresses_are_the_instances_of_any_service() {
    let resolver = resolver("static:http://b:1, grpc://a:2", "orders").unwrap();
    let set = resolver.watch().changed().await;
    let ids: Vec<_> = set
        .iter()
        .map(|i| (i.id.as_str(), i.service.as_str()))
        .collect();
    assert_eq!(ids, [("grpc://a:2", "orders"), ("http://b:1", "orders")]);
}

#[tokio::test(start_paused = true)]
async fn what_is_registered_under_a_url_is_resolved_under_the_same_url() {
    let url = "memory:registered-by-url?grace=0s";
    let orders = resolver(url, "orders").unwrap();
    let mut watch = orders.watch();
    assert_eq!(watch.changed().await.len(), 0);
    let registry = url.parse::<RegistryUrl>().unwrap().open();
    let instance = Instance::at("orders", "http://a".parse().unwrap());
    let registration = registry
        .register(instance, RegisterConfig::default())
        .unwrap();
    assert_eq!(watch.changed().await.len(), 1);
    registration.close().await.unwrap();
    while !watch.changed().await.is_empty() {}
}

#[tokio::test]
async fn a_registry_that_cannot_be_written_says_which_can() {
    let instance = || Instance::at("orders", "http://a".parse().unwrap());
    let open = |url: &str| url.parse::<RegistryUrl>().unwrap().open();
    let error = open("static:http://a").register(instance(), RegisterConfig::default());
    assert_eq!(
        error.unwrap_err().to_string(),
        "registry: got `static:http://a`, expected a registry that can be written: `memory:` or `file:`"
    );
    let error = open("memory:x").register(instance().with_weight(0), RegisterConfig::default());
    assert_eq!(error.unwrap_err().path(), "instance.weight");
}

proptest! {
    #[test]
    fn no_text_panics(text in "((file|static|memory):)?[a-z:/%?&=.,0-9F]{0,30}") {
        if let Ok(url) = text.parse::<RegistryUrl>() {
            prop_assert_eq!(url.to_string(), text);
        }
    }
}
