//! The configuration of a mesh: the same model in code and in a file.
//!
//! ```yaml
//! # mesh.yaml
//! version: 1
//! registries:
//!   default: file:./registry.yaml
//! clients:
//!   defaults:
//!     deadline: { timeout: 2s }
//!     retry: { maxAttempts: 2 }
//!   orders:
//!     circuitBreaker: { consecutiveFailures: 5 }
//!     retry: off
//! server:
//!   rateLimit: { rate: 500/s, key: operation }
//! routes:
//!   - host: orders
//!     rules:
//!       - name: canary
//!         sticky: { key: [ { header: x-user } ] }
//!         backends:
//!           - { name: stable, subset: { version: "1.0" }, weight: 95 }
//!           - { name: canary, subset: { version: "2.0" }, weight: 5 }
//! registration:
//!   version: "1.0"
//! ```
//!
//! | section | what | a change while it runs |
//! |---|---|---|
//! | `version` | the version of this layout: 1 | |
//! | `service` | the name of this service | refused |
//! | `registries` | registry URLs by name; clients use `default` unless they name another | clients move to the new one, and keep their instances until it answers |
//! | `clients` | `defaults`, and what single clients say instead | at once; what was learnt is kept |
//! | `server` | the layers of the server preset | at once; what was learnt is kept |
//! | `routes` | which arm of a service calls go to: rules by `host` | at once; calls under way keep their arm |
//! | `registration` | how this process registers | counts for registrations that begin later |
//! | `endpoints` | connections to endpoints | refused |
//! | `telemetry` | where spans go, and what is logged: see [`telemetry`](crate::telemetry) | refused |
//!
//! # From a file
//!
//! [`Mesh::from_file`](crate::Mesh::from_file) reads YAML, TOML or JSON, as the extension says, and goes
//! on watching the file. An edit is parsed, checked as a whole and swapped in at once, or refused as a
//! whole: then the last good configuration stays in force, and the error, with file, line, column, path,
//! value and what is allowed, goes to the log and to [`Mesh::reloads`](crate::Mesh::reloads).
//! [`Mesh::check`](crate::Mesh::check) checks a file without using it.
//!
//! Unknown fields are refused with the nearest known one. A section may be `off`. Relative paths, those
//! of registries too, start at the working directory.
//!
//! [`schema/mesh.schema.json`](https://raw.githubusercontent.com/tower-mesh/tower-mesh/main/schema/mesh.schema.json)
//! describes the file for editors: name it in the first line, as
//! `# yaml-language-server: $schema=...`, or take it from `schema` (feature `schema`).

mod clients;
mod registration;
mod routes;
#[cfg(feature = "schema")]
mod schema;
pub(crate) mod section;
mod spans;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tower_mesh_discovery::endpoint::http::HttpEndpointConfig;
use tower_mesh_layers::config::ConfigError;

#[cfg(feature = "schema")]
#[cfg_attr(docsrs, doc(cfg(feature = "schema")))]
pub use self::schema::schema;
pub use self::{
    clients::{ClientsConfig, NamedClientConfig},
    registration::RegistrationConfig,
    routes::HostRoutes,
    section::Section,
    spans::SpansConfig,
};
#[cfg(feature = "file")]
pub use crate::mesh::Reloads;
use crate::{client::ClientConfig, server::ServerConfig, telemetry::TelemetryConfig};

/// The configuration of a mesh. The [module](self) has the sections in a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshConfig {
    /// The version of the layout: 1. The one field that must be there, or an empty file would be a
    /// configuration.
    #[cfg_attr(feature = "schema", schemars(extend("const" = Self::VERSION)))]
    pub version: u32,
    /// The name of this service.
    #[cfg_attr(feature = "schema", schemars(with = "Option<schema::Name>"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Registries by name, as URLs. Clients use the one named `default` unless they name another.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "BTreeMap<String, tower_mesh_discovery::registry::RegistryUrl>")
    )]
    #[serde(default)]
    pub registries: BTreeMap<String, String>,
    /// Options of the clients.
    #[serde(default)]
    pub clients: ClientsConfig,
    /// Options of the server side.
    #[serde(default)]
    pub server: ServerConfig,
    /// Which arm of a service calls go to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<HostRoutes>,
    /// How this process registers.
    #[serde(default)]
    pub registration: RegistrationConfig,
    /// Options of the connections to all endpoints.
    #[serde(default)]
    pub endpoints: HttpEndpointConfig,
    /// Where spans go, and what is logged.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

// ===== impl MeshConfig =====

impl MeshConfig {
    /// The registry of clients that name none.
    pub const DEFAULT_REGISTRY: &str = "default";

    /// The version of the layout that this build reads.
    pub const VERSION: u32 = 1;

    /// The options of a client.
    pub fn client(&self, service: &str) -> ClientConfig {
        let mut client = self.clients.of(service);
        if let Some(route) = routes::of(&self.routes, service) {
            client.route = Some(route);
        }
        client
    }

    /// What can be checked of it without the mesh around it.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.version != Self::VERSION {
            return Err(ConfigError::new(
                "version",
                self.version,
                Self::VERSION.to_string(),
            ));
        }
        if let Some(service) = &self.service {
            tower_mesh_discovery::instance::check_name("service", service)?;
        }
        let registration = self.registration.check();
        registration.map_err(|error| error.at("registration"))?;
        let telemetry = self.telemetry.validate();
        telemetry.map_err(|error| error.at("telemetry"))?;
        routes::check(&self.routes)
    }
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            version: Self::VERSION,
            service: None,
            registries: BTreeMap::new(),
            clients: ClientsConfig::default(),
            server: ServerConfig::default(),
            routes: Vec::new(),
            registration: RegistrationConfig::default(),
            endpoints: HttpEndpointConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

#[cfg(test)]
mod tests;
