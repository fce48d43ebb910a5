//! The configuration of a mesh, the same in code and in a file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tower_mesh_discovery::endpoint::http::HttpEndpointConfig;

use crate::{client::ClientConfig, server::ServerConfig};

/// The configuration of a mesh.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MeshConfig {
    /// Registries by name, as URLs. Clients use the one named `default` unless they name another.
    pub registries: BTreeMap<String, String>,
    /// Options of the clients.
    pub clients: ClientsConfig,
    /// Options of the server side.
    pub server: ServerConfig,
    /// Options of the connections to all endpoints.
    pub endpoints: HttpEndpointConfig,
}

/// Options of the clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientsConfig {
    /// Those of every client that has none of its own.
    pub defaults: ClientConfig,
    /// Those of single clients, in the place of the defaults.
    #[serde(flatten)]
    pub named: BTreeMap<String, ClientConfig>,
}

// ===== impl MeshConfig =====

impl MeshConfig {
    /// The registry of clients that name none.
    pub const DEFAULT_REGISTRY: &str = "default";

    /// The options of a client.
    pub fn client(&self, service: &str) -> &ClientConfig {
        self.clients
            .named
            .get(service)
            .unwrap_or(&self.clients.defaults)
    }
}
