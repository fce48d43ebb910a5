//! One running copy of a service, as a registry knows it.
//!
//! An [`Instance`] is a plain record: who it is (id, service, version), where it listens
//! ([`EndpointUrl`]s), and what a balancer may want to know (weight, [`Locality`], [`Status`],
//! metadata). It reads and writes with serde (camelCase; unknown fields are refused).
//!
//! ```
//! use tower_mesh_discovery::instance::{Instance, Status};
//!
//! let instance = Instance::new("orders", "orders-1")
//!     .with_version("2.1.0")
//!     .with_endpoint("http://10.0.0.1:8080".parse()?)
//!     .with_zone("eu-west-1", "eu-west-1a")
//!     .with_metadata("canary", "true");
//! instance.validate()?;
//! assert_eq!(instance.status, Status::Up);
//! # Ok::<(), tower_mesh_layers::config::ConfigError>(())
//! ```
//!
//! # Fields
//!
//! | field | default | allowed |
//! |---|---|---|
//! | `id` | required; in a registry file the first endpoint | 1 to 255 printable characters, no spaces; unique in its service |
//! | `service` | required; in a registry file the name of the list | as `id` |
//! | `version` | empty | any text |
//! | `endpoints` | required | at least one [`EndpointUrl`], none twice |
//! | `metadata` | empty | any text by non-empty keys; `tls.serverName` is the name in its certificate |
//! | `weight` | 100 | 1 to 65535: its share of the calls, relative to the other instances |
//! | `locality` | unknown | `region`, `zone`, `subZone`; empty is unknown |
//! | `status` | `up` | `up`, `draining`, `down` |

mod url;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Deserializer, Serialize, de};
use tower_mesh_layers::{
    Protocol,
    config::{ConfigError, in_range},
};

pub use self::url::{EndpointUrl, Scheme};
#[cfg(feature = "dns")]
pub(crate) use self::url::{is_dns_name, parse_port};

const NAME_EXPECTED: &str = "1 to 255 printable characters without spaces";

/// One running copy of a service. See the [module](self) for the fields, defaults and ranges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub struct Instance {
    /// What tells it from the other instances of its service. State about a peer (latencies,
    /// ejections, connections) is kept by id and endpoint URL, so it should outlive a restart.
    #[serde(default, deserialize_with = "name")]
    pub id: String,
    /// The service that it is an instance of.
    #[serde(default, deserialize_with = "name")]
    pub service: String,
    /// The version of the service that it runs; empty if unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Where it listens, one URL per protocol and address.
    #[serde(default)]
    pub endpoints: Vec<EndpointUrl>,
    /// Whatever else the service says about itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Its share of the calls, relative to the other instances: with 60 and 40, six of ten go to
    /// the first. How strictly is the [picker's](crate::balance::Picker) to say: round robin counts,
    /// P2C also looks at who is busy.
    #[serde(default = "default_weight", deserialize_with = "weight")]
    pub weight: u32,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Locality::is_unknown")]
    pub locality: Locality,
    /// Whether it takes calls.
    #[serde(default)]
    pub status: Status,
}

/// Where an instance runs, from large to small; an empty part is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Locality {
    /// The region, such as `eu-west-1`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// The zone in the region, such as `eu-west-1a`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// The part of the zone, such as a rack.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sub_zone: String,
}

/// Whether an instance takes calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Status {
    /// It takes calls.
    #[default]
    Up,
    /// It finishes what it has, and should get nothing new while another instance is up.
    Draining,
    /// It is explicitly out: a balancer forgets it at once, unlike one that is only missing from an
    /// answer.
    Down,
}

// ===== impl Instance =====

impl Instance {
    /// The weight of an instance that names none.
    pub const DEFAULT_WEIGHT: u32 = 100;
    /// The metadata with the name that certificates of this instance are for, where its address is not
    /// that name. Our own [HTTP endpoint](crate::endpoint) asks for it.
    pub const SERVER_NAME: &str = "tls.serverName";
    /// The largest weight; the smallest is 1.
    pub const MAX_WEIGHT: u32 = 65_535;

    /// An instance with no endpoint yet and default values.
    pub fn new(service: impl Into<String>, id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            service: service.into(),
            version: String::new(),
            endpoints: Vec::new(),
            metadata: BTreeMap::new(),
            weight: Self::DEFAULT_WEIGHT,
            locality: Locality::default(),
            status: Status::Up,
        }
    }

    /// An instance of which only its address is known: the URL is its id too.
    pub fn at(service: impl Into<String>, url: EndpointUrl) -> Self {
        Self::new(service, url.to_string()).with_endpoint(url)
    }

    /// Sets the version.
    #[must_use]
    pub fn with_version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Adds an endpoint.
    #[must_use]
    pub fn with_endpoint(mut self, url: EndpointUrl) -> Self {
        self.endpoints.push(url);
        self
    }

    /// Sets one piece of metadata.
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Sets the weight, 1 to 65535.
    #[must_use]
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// Sets region and zone.
    #[must_use]
    pub fn with_zone(mut self, region: impl Into<String>, zone: impl Into<String>) -> Self {
        self.locality.region = region.into();
        self.locality.zone = zone.into();
        self
    }

    /// Sets the status.
    #[must_use]
    pub fn with_status(mut self, status: Status) -> Self {
        self.status = status;
        self
    }

    /// The first endpoint for plain HTTP calls: `http`, `https` or `h2c`.
    pub fn http(&self) -> Option<&EndpointUrl> {
        self.endpoints.iter().find(|url| !url.scheme().is_grpc())
    }

    /// The first endpoint for gRPC calls: `grpc` or `grpcs`.
    pub fn grpc(&self) -> Option<&EndpointUrl> {
        self.endpoints.iter().find(|url| url.scheme().is_grpc())
    }

    /// What it has under a name that subsets of a service are told by: `version` is its version where it
    /// names one, everything else is metadata.
    pub fn label(&self, name: &str) -> Option<&str> {
        if name == "version" && !self.version.is_empty() {
            return Some(&self.version);
        }
        self.metadata.get(name).map(String::as_str)
    }

    /// Which address is called: the first one, or the first that speaks `protocol`.
    pub(crate) fn address(&self, protocol: Option<Protocol>) -> Option<&EndpointUrl> {
        match protocol {
            Some(Protocol::Http) => self.http(),
            Some(Protocol::Grpc) => self.grpc(),
            None => self.endpoints.first(),
        }
    }

    /// Checks every field against the [table](self).
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] for the first field that is out of bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_name("id", &self.id)?;
        check_name("service", &self.service)?;
        if self.endpoints.is_empty() {
            return Err(ConfigError::new(
                "endpoints",
                "[]",
                "at least one endpoint URL",
            ));
        }
        let mut seen = BTreeSet::new();
        for (i, url) in self.endpoints.iter().enumerate() {
            if !seen.insert(url) {
                let path = format!("endpoints[{i}]");
                return Err(ConfigError::new(path, url, "every endpoint once"));
            }
        }
        if self.metadata.contains_key("") {
            return Err(ConfigError::new("metadata", "", "keys that are not empty"));
        }
        in_range("weight", self.weight, 1..=Self::MAX_WEIGHT)?;
        Ok(())
    }
}

// ===== impl Locality =====

impl Locality {
    /// Whether no part is known.
    pub fn is_unknown(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.sub_zone.is_empty()
    }
}

/// Refuses a name that could not be told apart in a log, a label or a key of a store.
pub fn check_name(path: &str, name: &str) -> Result<(), ConfigError> {
    let printable = |c: char| !c.is_whitespace() && !c.is_control();
    if (1..=255).contains(&name.chars().count()) && name.chars().all(printable) {
        return Ok(());
    }
    Err(ConfigError::new(path, name.escape_debug(), NAME_EXPECTED))
}

// The checks run while a document is read, since only then the parser knows line and column.

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    check_name("", &name).map_err(de::Error::custom)?;
    Ok(name)
}

fn default_weight() -> u32 {
    Instance::DEFAULT_WEIGHT
}

/// Whatever else is written there (a percentage, -1) is refused with what is allowed, and not with its
/// type.
fn weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    struct Visitor;

    fn refused<E: de::Error>(value: impl fmt::Display) -> E {
        let most = Instance::MAX_WEIGHT;
        E::custom(ConfigError::new(
            "",
            value,
            format!("1 to {most}, such as 100"),
        ))
    }

    impl de::Visitor<'_> for Visitor {
        type Value = u32;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "1 to {}, such as 100", Instance::MAX_WEIGHT)
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<u32, E> {
            let weight = u32::try_from(number).ok();
            weight
                .filter(|weight| (1..=Instance::MAX_WEIGHT).contains(weight))
                .ok_or_else(|| refused(number))
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<u32, E> {
            let positive = u64::try_from(number).map_err(|_| refused(number))?;
            self.visit_u64(positive)
        }

        fn visit_f64<E: de::Error>(self, number: f64) -> Result<u32, E> {
            Err(refused(number))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<u32, E> {
            Err(refused(text))
        }
    }

    deserializer.deserialize_any(Visitor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders() -> Instance {
        Instance::new("orders", "orders-1").with_endpoint("http://10.0.0.1:80".parse().unwrap())
    }

    #[test]
    fn protocols_are_found_by_their_schemes() {
        let instance = orders()
            .with_endpoint("grpcs://10.0.0.1".parse().unwrap())
            .with_endpoint("http://10.0.0.1:81".parse().unwrap());
        assert_eq!(instance.http().unwrap().port(), Some(80));
        assert_eq!(instance.grpc().unwrap().scheme(), Scheme::Grpcs);
        assert!(orders().grpc().is_none());
    }

    #[test]
    fn the_version_is_a_label_beside_the_metadata() {
        let labelled = orders()
            .with_metadata("version", "old")
            .with_metadata("team", "a");
        assert_eq!(labelled.label("version"), Some("old"));
        assert_eq!(labelled.with_version("2.0").label("version"), Some("2.0"));
        assert_eq!(orders().with_metadata("team", "a").label("team"), Some("a"));
        assert_eq!(orders().label("version"), None);
    }

    #[test]
    fn every_field_out_of_bounds_is_named_with_its_value() {
        let url: EndpointUrl = "http://10.0.0.1".parse().unwrap();
        for (instance, message) in [
            (Instance::new("orders", ""), "id: got ``, expected 1 to 255"),
            (
                Instance::new("or ders", "a"),
                "service: got `or ders`, expected 1 to 255",
            ),
            (Instance::new("orders", "a\n"), "id: got `a\\n`, expected"),
            (
                Instance::new("orders", "a"),
                "endpoints: got `[]`, expected at least one",
            ),
            (
                orders().with_weight(0),
                "weight: got `0`, expected 1 to 65535",
            ),
            (
                orders().with_weight(65_536),
                "weight: got `65536`, expected 1 to 65535",
            ),
            (
                orders().with_metadata("", "x"),
                "metadata: got ``, expected keys",
            ),
            (
                orders().with_endpoint(url),
                "endpoints[1]: got `http://10.0.0.1:80`, expected every endpoint once",
            ),
        ] {
            let error = instance.validate().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        assert_eq!(orders().validate(), Ok(()));
    }

    #[test]
    #[cfg(feature = "file")]
    fn serde_reads_what_it_writes_and_refuses_the_rest() {
        let instance = orders()
            .with_version("1.10")
            .with_zone("eu", "eu-1")
            .with_status(Status::Draining)
            .with_metadata("team", "a");
        let text = serde_json::to_string(&instance).unwrap();
        assert!(text.contains(r#""status":"draining""#), "{text}");
        assert_eq!(serde_json::from_str::<Instance>(&text).unwrap(), instance);

        for (text, message) in [
            (r#"{"wieght":1}"#, "unknown field `wieght`"),
            (r#"{"weight":70000}"#, "got `70000`, expected 1 to 65535"),
            (r#"{"weight":-1}"#, "got `-1`, expected 1 to 65535"),
            (r#"{"id":""}"#, "expected 1 to 255"),
            (
                r#"{"status":"UP"}"#,
                "unknown variant `UP`, expected one of `up`",
            ),
            (
                r#"{"endpoints":["tcp://a:1"]}"#,
                "got `tcp://a:1`, expected",
            ),
            (r#"{"locality":{"subzone":"x"}}"#, "unknown field `subzone`"),
        ] {
            let error = serde_json::from_str::<Instance>(text)
                .unwrap_err()
                .to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
