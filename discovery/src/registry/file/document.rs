//! The content of a registry file.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, de};
use tower_mesh_layers::config::{ConfigError, nearest};

use crate::{
    document::{FileError, Text},
    instance::{Instance, check_name},
    resolve::{Snapshot, snapshot},
};

/// The version of the layout that this build reads and writes.
const VERSION: u64 = 1;

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

// ===== impl Document =====

impl Document {
    pub(super) fn parse(text: Text<'_>) -> Result<Self, FileError> {
        let wire: Wire = text.read()?;
        let mut services = BTreeMap::new();
        for (name, list) in wire.services {
            let at = |error: ConfigError| text.refuse(error.at(format_args!("services.{name}")));
            check_name("", &name).map_err(at)?;
            let instances = complete(&name, list).map_err(at)?;
            services.insert(name, snapshot(instances));
        }
        Ok(Self { services })
    }

    /// The instances of `service`; `None` if the file does not have it.
    pub(super) fn instances(&self, service: &str) -> Option<Snapshot> {
        self.services.get(service).cloned()
    }

    /// The service whose name is most like `service`.
    pub(super) fn nearest(&self, service: &str) -> Option<&str> {
        nearest(service, self.services.keys().map(String::as_str))
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

pub(super) fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
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

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
