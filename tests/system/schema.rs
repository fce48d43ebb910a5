//! The JSON Schema of a configuration: the one that is checked in is the one of the code, what is shown in the
//! docs is valid, and it refuses what `Mesh::check` refuses by shape.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use boon::{Compiler, SchemaIndex, Schemas};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower_mesh::{Mesh, MeshConfig, config, discovery::document::Text};

const CHECKED_IN: &str = "schema/mesh.schema.json";

/// Every section, with values that are not the defaults.
const WHOLE: &str = include_str!("whole.yaml");

struct Validator {
    schemas: Schemas,
    index: SchemaIndex,
}

impl Validator {
    fn new() -> Self {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource(CHECKED_IN, config::schema()).unwrap();
        let index = compiler.compile(CHECKED_IN, &mut schemas).unwrap();
        Self { schemas, index }
    }

    fn check(&self, document: &Value) -> Result<(), String> {
        let checked = self.schemas.validate(document, self.index);
        checked.map_err(|error| format!("{error:#}"))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn parse<T: DeserializeOwned>(yaml: &str) -> T {
    let text = Text::new(Path::new("mesh.yaml"), yaml).unwrap();
    text.read().unwrap_or_else(|error| {
        panic!(
            "{error}
{yaml}"
        )
    })
}

fn read(yaml: &str) -> Value {
    parse(yaml)
}

/// As `Mesh::check` says it.
fn check(yaml: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mesh.yaml");
    fs::write(&file, yaml).unwrap();
    Mesh::check(&file).map_err(|error| error.to_string())
}

#[test]
fn the_schema_that_is_checked_in_is_that_of_the_code() {
    let (file, schema) = (root().join(CHECKED_IN), config::schema());
    if env::var_os("UPDATE_SCHEMA").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, format!("{schema:#}\n")).unwrap();
    }
    let checked_in = fs::read_to_string(&file).unwrap_or_default();
    let is_same =
        serde_json::from_str(&checked_in).is_ok_and(|checked_in: Value| checked_in == schema);
    assert!(
        is_same,
        "{CHECKED_IN} is not what the configuration looks like now; update it with\n\
         UPDATE_SCHEMA=1 cargo test --test system schema::"
    );
}

#[test]
fn every_configuration_that_the_docs_show_is_valid() {
    let (validator, mut seen) = (Validator::new(), 0);
    let mut files = vec![root().join("README.md")];
    for folder in ["docs", "examples", "src"] {
        files_in(&root().join(folder), &mut files);
    }
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let documents = match file.extension().and_then(|extension| extension.to_str()) {
            Some("yaml") => vec![text],
            _ => fenced(&text),
        };
        // Other documents are registries, and parts of configurations.
        for yaml in documents
            .iter()
            .filter(|yaml| yaml.contains("version: 1\n"))
        {
            let checked = validator.check(&read(yaml));
            checked.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            seen += 1;
        }
    }
    assert!(seen >= 2, "{seen}");
}

#[test]
fn a_configuration_with_everything_is_valid() {
    let validator = Validator::new();
    assert_eq!(check(WHOLE), Ok(()));
    assert_eq!(validator.check(&read(WHOLE)), Ok(()));
    // As the code writes it.
    for config in [MeshConfig::default(), parse(WHOLE)] {
        let written = serde_json::to_value(config).unwrap();
        assert_eq!(validator.check(&written), Ok(()));
    }
}

#[test]
fn what_is_misshapen_is_refused_by_the_schema_too() {
    let validator = Validator::new();
    for (good, broken) in [
        ("version: 1\n", "version: 2\n"),
        ("version: 1\n", ""),
        ("service: checkout", "service: check out"),
        ("server:\n", "servers:\n"),
        ("maxAttempts:", "maxAttemps:"),
        ("maxAttempts: 2", "maxAttempts: two"),
        ("maxAttempts: 2", "maxAttempts: 1.5"),
        ("timeout: 2s", "timeout: 2"),
        ("timeout: 2s", "timeout: 2 seconds"),
        ("ratio: 10%", "ratio: 0.1"),
        ("failureRate: 33.3%", "failureRate: 101%"),
        ("rate: 500/s", "rate: 500"),
        ("{ rate: 500/s, burst", "{ burst"),
        ("file:./registry.yaml", "./registry.yaml"),
        ("static:http", "statics:http"),
        ("  defaults:\n", "  default:\n"),
        ("rateLimit: off", "rateLimit: on"),
        ("rateLimit: off", "rateLimit: []"),
        ("picker: roundRobin", "picker: random"),
        ("key: clientIp", "key: []"),
        ("key: clientIp", "key: { cookie: user }"),
        ("window: { time: 5s }", "window: 5s"),
        ("window: { time: 5s }", "window: { time: 5s, calls: 5 }"),
        ("[connect, 503", "[6xx, 503"),
        ("[connect, 503", "[connect, 200"),
        ("method: POST", "method: post"),
        ("present: true", "present: true, exact: a"),
        ("{ name: x-safe, present: true }", "{ name: x-safe }"),
        ("{ service: shop.Orders }", "{}"),
        ("\"*.internal\"", "\"*.*\""),
        ("cidrs: [10.0.0.0/8", "cidrs: [localhost"),
        ("maxOperations: 20", "maxOperations: 0"),
        ("metrics: off", "metrics: on"),
        ("unit: ms", "unit: min"),
        ("[go-chassis]", "[dubbo]"),
        ("fallback: any", "fallback: none"),
        ("{ cookie: user }", "{ query: user }"),
    ] {
        let yaml = WHOLE.replacen(good, broken, 1);
        assert_ne!(yaml, WHOLE, "{good} is not in it");
        let (by_mesh, by_schema) = (check(&yaml), validator.check(&read(&yaml)));
        assert!(
            by_mesh.is_err() && by_schema.is_err(),
            "`{broken}` in the place of `{good}`:\n{by_mesh:?}\n{by_schema:?}"
        );
    }
}

#[test]
fn the_bounds_of_the_schema_are_those_of_the_check() {
    let (whole, schema) = (read(WHOLE), config::schema());
    let mut bounds = Vec::new();
    find_bounds(&schema, &schema, &whole, String::new(), &mut bounds);
    assert!(bounds.len() > 30, "{bounds:?}");

    let with = |path: &str, value: i64| {
        let mut document = whole.clone();
        *document.pointer_mut(path).unwrap() = value.into();
        check(&format!("{document}\n"))
    };
    for (path, bound, step) in bounds {
        let beyond = with(&path, bound + step);
        assert!(beyond.is_err(), "{path}: {} passes", bound + step);
        // Whether the bound itself passes is for `perCall`, `probes` or `targetDelay` to say, or for the sum of the
        // weights.
        let by_others = path.contains("/backends/")
            || [
                "/replay/total",
                "/successThreshold",
                "/concurrencyLimit/queue",
            ]
            .iter()
            .any(|end| path.ends_with(end));
        if !by_others {
            assert_eq!(with(&path, bound), Ok(()), "{path}: {bound}");
        }
    }
}

/// Walks a document along its schema: the path of each number that is bounded, the bound, and which way is out.
fn find_bounds(
    root: &Value,
    schema: &Value,
    value: &Value,
    path: String,
    bounds: &mut Vec<(String, i64, i64)>,
) {
    if let Some(target) = schema["$ref"].as_str() {
        let target = root.pointer(target.trim_start_matches('#')).unwrap();
        return find_bounds(root, target, value, path, bounds);
    }
    for options in ["anyOf", "oneOf", "allOf"] {
        for option in schema[options].as_array().into_iter().flatten() {
            find_bounds(root, option, value, path.clone(), bounds);
        }
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let schema = match &schema["properties"][name] {
                    Value::Null => &schema["additionalProperties"],
                    schema => schema,
                };
                find_bounds(root, schema, value, format!("{path}/{name}"), bounds);
            }
        }
        Value::Array(items) => {
            for (at, value) in items.iter().enumerate() {
                let path = format!("{path}/{at}");
                find_bounds(root, &schema["items"], value, path, bounds);
            }
        }
        Value::Number(_) => {
            let ways = [("minimum", -1), ("maximum", 1)];
            let found =
                ways.map(|(bound, step)| Some((path.clone(), schema[bound].as_i64()?, step)));
            bounds.extend(found.into_iter().flatten());
        }
        _ => {}
    }
}

/// The YAML in a page of Markdown, or in the documentation of a file of Rust.
fn fenced(text: &str) -> Vec<String> {
    let plain = |line: &str| {
        let mut doc = ["//! ", "/// ", "//!", "///"].iter();
        let doc = doc.find_map(|mark| line.trim_start().strip_prefix(mark));
        format!("{}\n", doc.unwrap_or(line))
    };
    let blocks = text.split("```yaml").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap());
    // The first line is the rest of the fence's, the last one leads to the next fence.
    blocks
        .map(|block| block.lines().skip(1).map(plain).collect())
        .collect()
}

fn files_in(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files_in(&path, files),
            false => files.push(path),
        }
    }
}
