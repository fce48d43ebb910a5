//! The content of a registry file, and why one is refused.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, de};
use tower_mesh_layers::config::ConfigError;

use super::super::hint::{did_you_mean, nearest};
use crate::{
    instance::{Instance, check_name},
    resolve::{Snapshot, snapshot},
};

/// The version of the layout that this build reads and writes.
const VERSION: u64 = 1;

/// How a file is written, told by its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Yaml,
    Toml,
    Json,
}

/// Why a registry file was refused: where, and what was wrong with what.
#[derive(Debug, Clone)]
pub struct FileError {
    file: PathBuf,
    /// Line and column, both from 1, where the parser knows them.
    position: Option<(u64, u64)>,
    /// The path in the document, `services.orders[0].weight`; empty for the document itself.
    path: String,
    message: String,
}

/// All services of a file.
#[derive(Debug, Default)]
pub(super) struct Document {
    services: BTreeMap<String, Snapshot>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wire {
    #[serde(rename = "version", deserialize_with = "version")]
    _version: u64,
    #[serde(deserialize_with = "services")]
    services: BTreeMap<String, Vec<Instance>>,
}

// ===== impl Format =====

impl Format {
    pub(crate) fn of(file: &Path) -> Result<Self, ConfigError> {
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("yaml" | "yml") => Ok(Self::Yaml),
            Some("toml") => Ok(Self::Toml),
            Some("json") => Ok(Self::Json),
            _ => {
                let expected = ".yaml, .yml, .toml or .json";
                Err(ConfigError::new("extension", file.display(), expected))
            }
        }
    }
}

// ===== impl Document =====

impl Document {
    pub(super) fn parse(file: &Path, text: &str) -> Result<Self, FileError> {
        let refused = |error: ConfigError| FileError::refused(file, error);
        let format = Format::of(file).map_err(refused)?;
        let wire = match format {
            Format::Yaml => yaml(file, text),
            Format::Toml => toml(file, text),
            Format::Json => json(file, text),
        }?;
        // YAML and TOML do not say where they end: `port: 80` may be the first half of `port: 8080`.
        // So their last line must be whole. JSON ends with its last bracket.
        if format != Format::Json && !text.ends_with('\n') {
            let last = text.lines().next_back().unwrap_or_default();
            let expected = "a line break after the last line: without it the file may be cut off";
            return Err(refused(ConfigError::new("", last, expected)));
        }
        let mut services = BTreeMap::new();
        for (name, list) in wire.services {
            let at = |error: ConfigError| refused(error.at(format!("services.{name}")));
            check_name("", &name).map_err(at)?;
            let instances = complete(&name, list).map_err(at)?;
            services.insert(name, snapshot(instances));
        }
        Ok(Self { services })
    }

    /// The instances of `service`; none if the file does not have it.
    pub(super) fn instances(&self, service: &str) -> Snapshot {
        if let Some(set) = self.services.get(service) {
            return Arc::clone(set);
        }
        let near = nearest(service, self.services.keys().map(String::as_str));
        tracing::warn!(
            service,
            near,
            "the registry file does not have this service"
        );
        Arc::new([])
    }
}

/// Fills in what the place in the file says, and checks the whole.
fn complete(service: &str, mut list: Vec<Instance>) -> Result<Vec<Instance>, ConfigError> {
    let mut seen = BTreeMap::new();
    for (i, instance) in list.iter_mut().enumerate() {
        if instance.service.is_empty() {
            service.clone_into(&mut instance.service);
        }
        if instance.service != service {
            let path = format!("[{i}].service");
            let expected = format!("`{service}`, as the list it is in");
            return Err(ConfigError::new(path, &instance.service, expected));
        }
        if let (true, Some(url)) = (instance.id.is_empty(), instance.endpoints.first()) {
            instance.id = url.to_string();
        }
        instance
            .validate()
            .map_err(|error| error.at(format!("[{i}]")))?;
        if let Some(first) = seen.insert(instance.id.clone(), i) {
            let expected = format!("an id that [{first}] does not have");
            return Err(ConfigError::new(
                format!("[{i}].id"),
                &instance.id,
                expected,
            ));
        }
    }
    Ok(list)
}

fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match u64::deserialize(deserializer)? {
        VERSION => Ok(VERSION),
        other => Err(de::Error::custom(ConfigError::new(
            "",
            other,
            VERSION.to_string(),
        ))),
    }
}

/// A map that refuses a repeated key, of which JSON would keep the last without a word.
fn services<'de, D>(deserializer: D) -> Result<BTreeMap<String, Vec<Instance>>, D::Error>
where
    D: Deserializer<'de>,
{
    struct Visitor;

    impl<'de> de::Visitor<'de> for Visitor {
        type Value = BTreeMap<String, Vec<Instance>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map from the names of services to lists of instances")
        }

        fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut services = BTreeMap::new();
            while let Some(name) = map.next_key::<String>()? {
                if services.contains_key(&name) {
                    let error = ConfigError::new("", name, "every service once");
                    return Err(de::Error::custom(error));
                }
                services.insert(name, map.next_value()?);
            }
            Ok(services)
        }
    }

    deserializer.deserialize_map(Visitor)
}

fn yaml(file: &Path, text: &str) -> Result<Wire, FileError> {
    let mut path = String::new();
    let read = serde_saphyr::with_deserializer_from_str(text, |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            path = error.path().to_string();
            error.into_inner()
        })
    });
    read.map_err(|error| {
        let error = error.without_snippet();
        let position = error.location().map(|at| (at.line(), at.column()));
        let message = error.to_string();
        FileError::new(file, position, path, message)
    })
}

fn toml(file: &Path, text: &str) -> Result<Wire, FileError> {
    let refused = |path: String, error: toml::de::Error| {
        let position = error.span().map(|span| position(text, span.start));
        FileError::new(file, position, path, error.message().to_owned())
    };
    let deserializer =
        toml::Deserializer::parse(text).map_err(|error| refused(String::new(), error))?;
    serde_path_to_error::deserialize(deserializer)
        .map_err(|error| refused(error.path().to_string(), error.into_inner()))
}

fn json(file: &Path, text: &str) -> Result<Wire, FileError> {
    let refused = |path: String, error: serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        FileError::new(
            file,
            Some((line as u64, column as u64)),
            path,
            error.to_string(),
        )
    };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let wire = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| refused(error.path().to_string(), error.into_inner()))?;
    deserializer
        .end()
        .map_err(|error| refused(String::new(), error))?;
    Ok(wire)
}

/// Line and column of a byte, from 1.
fn position(text: &str, byte: usize) -> (u64, u64) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    (line as u64, before[line_start..].chars().count() as u64 + 1)
}

/// Writes instances in the layout that [`Document::parse`] reads. JSON, which is YAML too.
pub(super) fn render(instances: &[Instance]) -> String {
    #[derive(Serialize)]
    struct Wire<'a> {
        version: u64,
        services: BTreeMap<&'a str, Vec<&'a Instance>>,
    }

    let mut services = BTreeMap::<_, Vec<_>>::new();
    for instance in instances {
        services
            .entry(instance.service.as_str())
            .or_default()
            .push(instance);
    }
    let wire = Wire {
        version: VERSION,
        services,
    };
    serde_json::to_string_pretty(&wire).expect("a record of strings and numbers is JSON") + "\n"
}

/// For ``unknown field `x`, expected one of `a`, `b` `` (one parser leaves out the backticks).
fn suggestion(message: &str) -> String {
    let Some((unknown, known)) = message.split_once("`, expected ") else {
        return String::new();
    };
    let Some((what, name)) = unknown.split_once('`') else {
        return String::new();
    };
    if !what.starts_with("unknown ") {
        return String::new();
    }
    let known = known.strip_prefix("one of ").unwrap_or(known);
    did_you_mean(
        name,
        known.split(['`', ',', ' ']).filter(|word| !word.is_empty()),
    )
}

// ===== impl FileError =====

impl FileError {
    fn new(file: &Path, position: Option<(u64, u64)>, path: String, message: String) -> Self {
        // The position goes to the front, where editors look for it.
        let message = match message.rsplit_once(" at line ") {
            Some((message, at))
                if at
                    .chars()
                    .all(|c| c.is_ascii_digit() || ", column".contains(c)) =>
            {
                message.to_owned()
            }
            _ => message,
        };
        let path = if path == "." { String::new() } else { path };
        let near = suggestion(&message);
        Self {
            file: file.to_owned(),
            position,
            path,
            message: message + &near,
        }
    }

    fn refused(file: &Path, error: ConfigError) -> Self {
        let message = format!("got `{}`, expected {}", error.value(), error.expected());
        Self::new(file, None, error.path().to_owned(), message)
    }

    pub(super) fn unreadable(file: &Path, error: &std::io::Error) -> Self {
        Self::new(
            file,
            None,
            String::new(),
            format!("cannot be read: {error}"),
        )
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Line and column, both from 1, where the parser knows them.
    pub fn position(&self) -> Option<(u64, u64)> {
        self.position
    }

    /// The path in the document, such as `services.orders[0].weight`; empty for the document itself.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for FileError {}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
