//! How this process registers, in a configuration.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tower_mesh_discovery::{
    instance::{EndpointUrl, Instance, Locality},
    register::RegisterConfig,
};
use tower_mesh_layers::config::{ConfigError, in_range};

/// How this process registers, and what it says of itself.
///
/// | field | default | |
/// |---|---|---|
/// | `registry` | the mesh's default one | the name of the registry |
/// | `version` | empty | of the service, as routes ask for it |
/// | `metadata` | none | entries that routes and peers may ask for |
/// | `weight` | 100 | 1 to 65535 |
/// | `locality` | unknown | `region`, `zone`, `subZone` |
/// | `lease` | see [`RegisterConfig`] | heartbeats, draining |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RegistrationConfig {
    /// The name of the registry. Default: the mesh's default registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
    /// The version of the service.
    pub version: String,
    /// Entries that routes and peers may ask for.
    pub metadata: BTreeMap<String, String>,
    /// How many calls it gets, relative to the others.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = Instance::MAX_WEIGHT)))]
    pub weight: u32,
    /// Where it runs.
    pub locality: Locality,
    /// Heartbeats and draining.
    pub lease: RegisterConfig,
}

// ===== impl RegistrationConfig =====

impl RegistrationConfig {
    /// What would otherwise be refused when it registers.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        in_range("weight", self.weight, 1..=Instance::MAX_WEIGHT)?;
        self.lease.validate().map_err(|error| error.at("lease"))
    }

    /// The record of a service at an address.
    pub fn instance(&self, service: &str, url: EndpointUrl) -> Instance {
        let mut instance = Instance::at(service, url);
        instance.version.clone_from(&self.version);
        instance.metadata.clone_from(&self.metadata);
        instance.weight = self.weight;
        instance.locality.clone_from(&self.locality);
        instance
    }
}

impl Default for RegistrationConfig {
    fn default() -> Self {
        Self {
            registry: None,
            version: String::new(),
            metadata: BTreeMap::new(),
            weight: Instance::DEFAULT_WEIGHT,
            locality: Locality::default(),
            lease: RegisterConfig::default(),
        }
    }
}
