use std::path::Path;

use super::*;
use crate::instance::Status;

const YAML: &str = r#"version: 1
services:
  orders:
    - id: orders-1
      version: 1.10
      endpoints: ["http://10.0.0.1:8080", "grpc://10.0.0.1:9090"]
      metadata: { shard: "7" }
      weight: 50
      locality: { region: eu, zone: eu-1, subZone: r2 }
      status: draining
    - endpoints: ["http://10.0.0.2"]
  users: []
"#;

const TOML: &str = r#"version = 1
[[services.orders]]
id = "orders-1"
version = "1.10"
endpoints = ["http://10.0.0.1:8080", "grpc://10.0.0.1:9090"]
metadata = { shard = "7" }
weight = 50
locality = { region = "eu", zone = "eu-1", subZone = "r2" }
status = "draining"
[[services.orders]]
endpoints = ["http://10.0.0.2"]
[services]
users = []
"#;

const JSON: &str = r#"{
  "version": 1,
  "services": {
    "orders": [
      {
        "id": "orders-1",
        "version": "1.10",
        "endpoints": ["http://10.0.0.1:8080", "grpc://10.0.0.1:9090"],
        "metadata": { "shard": "7" },
        "weight": 50,
        "locality": { "region": "eu", "zone": "eu-1", "subZone": "r2" },
        "status": "draining"
      },
      { "endpoints": ["http://10.0.0.2"] }
    ],
    "users": []
  }
}"#;

fn parse(name: &str, text: &str) -> Result<Document, FileError> {
    Text::new(Path::new(name), text).and_then(Document::parse)
}

fn refused(name: &str, text: &str) -> String {
    parse(name, text).expect_err(text).to_string()
}

#[test]
fn three_formats_say_the_same() {
    let toml = TOML.replace("[services]\nusers = []\n", "");
    for (name, text) in [
        ("r.yaml", YAML),
        ("r.yml", YAML),
        ("r.toml", &toml),
        ("r.json", JSON),
    ] {
        let document = parse(name, text).unwrap_or_else(|error| panic!("{error}"));
        let set = document.instances("orders").unwrap();
        let first = Instance::new("orders", "orders-1")
            .with_version("1.10")
            .with_endpoint("http://10.0.0.1:8080".parse().unwrap())
            .with_endpoint("grpc://10.0.0.1:9090".parse().unwrap())
            .with_metadata("shard", "7")
            .with_weight(50)
            .with_status(Status::Draining);
        let mut first = first.with_zone("eu", "eu-1");
        first.locality.sub_zone = "r2".to_owned();
        let second = Instance::at("orders", "http://10.0.0.2:80".parse().unwrap());
        assert_eq!(set, snapshot([second, first]), "{name}");
        let users = document.instances("users");
        assert!(users.is_none_or(|set| set.is_empty()));
        assert_eq!(document.instances("absent"), None);
    }
}

#[test]
fn what_is_written_reads_back() {
    let instances = [
        Instance::at("orders", "http://10.0.0.1:80".parse().unwrap()).with_weight(7),
        Instance::at("users", "grpcs://[::1]:80".parse().unwrap()).with_status(Status::Down),
    ];
    let text = render(&instances);
    for name in ["r.json", "r.yaml"] {
        let document = parse(name, &text).unwrap();
        assert_eq!(
            document.instances("orders").unwrap(),
            snapshot([instances[0].clone()])
        );
        assert_eq!(
            document.instances("users").unwrap(),
            snapshot([instances[1].clone()])
        );
    }
}

/// One field of the first instance, broken in one way: where, and what is said.
const BROKEN: [(&str, &str, &str, &str); 11] = [
    (
        "weight",
        "50",
        "0",
        "services.orders[0].weight: got `0`, expected 1 to 65535",
    ),
    (
        "weight",
        "50",
        "70000",
        "services.orders[0].weight: got `70000`, expected 1 to 65535",
    ),
    (
        "weight",
        "50",
        r#""50%""#,
        "services.orders[0].weight: got `50%`, expected 1 to 65535, such as 100",
    ),
    (
        "weight",
        "50",
        "0.5",
        "services.orders[0].weight: got `0.5`, expected 1 to 65535, such as 100",
    ),
    (
        "weight",
        "50",
        "-1",
        "services.orders[0].weight: got `-1`, expected 1 to 65535",
    ),
    (
        "endpoint",
        "http://10.0.0.1:8080",
        "http://10.0.0.1:0",
        "services.orders[0].endpoints[0]: got `http://10.0.0.1:0`, expected `scheme://host[:port]`",
    ),
    (
        "endpoint",
        "grpc://",
        "tcp://",
        "services.orders[0].endpoints[1]: got `tcp://10.0.0.1:9090`, expected `scheme://host[:port]`",
    ),
    (
        "id",
        "orders-1",
        "orders 1",
        "services.orders[0].id: got `orders 1`, expected 1 to 255 printable",
    ),
    (
        "status",
        "draining",
        "drained",
        "services.orders[0].status: unknown variant `drained`, expected one of up, draining, down (did you mean `draining`?)",
    ),
    (
        "field",
        "weight",
        "wieght",
        "services.orders[0].wieght: unknown field `wieght`, expected one of",
    ),
    (
        "locality",
        "subZone",
        "subzone",
        "services.orders[0].locality.subzone: unknown field `subzone`, expected one of region, zone, subZone (did you mean `subZone`?)",
    ),
];

#[test]
fn a_bad_field_is_refused_with_file_line_path_value_and_what_is_allowed() {
    for (name, text) in [("r.yaml", YAML), ("r.toml", TOML), ("r.json", JSON)] {
        let text = text.replace("[services]\nusers = []\n", "");
        for (what, good, bad, message) in BROKEN {
            let broken = text.replacen(good, bad, 1);
            let error = parse(name, &broken).expect_err(what);
            let before = &text[..text.find(good).unwrap()];
            let line = before.matches('\n').count() as u64 + 1;
            assert_eq!(
                error.position().map(|(line, _)| line),
                Some(line),
                "{error}"
            );
            let shown = error.to_string();
            assert!(shown.starts_with(&format!("{name}:{line}:")), "{shown}");
            // The YAML parser lists names without backticks.
            let plain = shown
                .replace("`, `", ", ")
                .replace("one of `", "one of ")
                .replace("` (", " (");
            assert!(plain.contains(message), "{shown}\n  lacks {message}");
            assert!(!shown.contains('\n'), "one line: {shown}");
        }
    }
}

#[test]
fn a_bad_document_is_refused_whole() {
    for (name, text, message) in [
        ("r.yaml", "", "r.yaml"),
        ("r.json", "", "r.json:1:0: EOF"),
        ("r.toml", "", "r.toml:1:1: missing field `version`"),
        (
            "r.yaml",
            "version: 2\nservices: {}\n",
            "r.yaml:1:10: version: got `2`, expected 1",
        ),
        ("r.yaml", "version: 1\n", "missing field `services`"),
        (
            "r.yaml",
            "version: 1\nservice: {}\n",
            "unknown field `service`, expected one of version, services (did you mean `services`?)",
        ),
        ("r.yaml", "version: 1\nservices: [}\n", "r.yaml:2:"),
        ("r.yaml", "version: 1\nservices: {a: 5}\n", "services.a"),
        (
            "r.yaml",
            "version: 1\nservices: {}\n---\nversion: 1\n",
            "r.yaml",
        ),
        (
            "r.yaml",
            "version: 1\nservices: {a b: []}\n",
            "services.a b: got `a b`, expected 1 to 255",
        ),
        (
            "r.yaml",
            "version: 1\nservices: {a: [], a: []}\n",
            "duplicate",
        ),
        (
            "r.json",
            r#"{"version":1,"services":{"a":[],"a":[]}}"#,
            "services: got `a`, expected every service once",
        ),
        (
            "r.json",
            r#"{"version":1,"services":{}} x"#,
            "r.json:1:29: trailing characters",
        ),
        (
            "r.yaml",
            "version: 1\nservices: {a: [{id: x}]}\n",
            "services.a[0].endpoints: got `[]`, expected at least one",
        ),
        (
            "r.yaml",
            "version: 1\nservices: {a: [{service: b, endpoints: [http://a]}]}\n",
            "services.a[0].service: got `b`, expected `a`",
        ),
        (
            "r.yaml",
            "version: 1\nservices: {a: [{endpoints: [http://a]}, {endpoints: [http://a]}]}\n",
            "services.a[1].id: got `http://a:80`, expected an id that [0] does not have",
        ),
        (
            "r.ini",
            "version = 1",
            "extension: got `r.ini`, expected .yaml, .yml, .toml or .json",
        ),
        (
            "r.yaml",
            "version: 1\nservices: {}",
            "got `services: {}`, expected a line break",
        ),
        (
            "r.toml",
            "version = 1\nservices = {}",
            "got `services = {}`, expected a line break",
        ),
    ] {
        let error = refused(name, text);
        assert!(
            error.starts_with(name) && error.contains(message),
            "{error}\n  lacks {message}"
        );
    }
}

#[test]
fn a_text_that_was_cut_in_a_line_is_refused_wherever_it_was_cut() {
    let toml = TOML.replace("[services]\nusers = []\n", "");
    for (name, text) in [("r.yaml", YAML), ("r.toml", &toml), ("r.json", JSON)] {
        for end in 0..text.len() {
            if !text[..end].ends_with('\n') {
                assert!(parse(name, &text[..end]).is_err(), "{name} cut at {end}");
            }
        }
    }
}

#[test]
fn an_anchor_bomb_is_refused() {
    let mut text = String::from("version: 1\nservices:\n  a0: &a0 [{endpoints: [http://a]}]\n");
    for i in 1..30 {
        let aliases = vec![format!("*a{}", i - 1); 20].join(", ");
        text.push_str(&format!("  a{i}: &a{i} [{aliases}]\n"));
    }
    assert!(parse("r.yaml", &text).is_err());
}
