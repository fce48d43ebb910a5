//! Building a mesh.

use std::{collections::HashMap, sync::Arc};

use tower_mesh_discovery::{
    endpoint::http::{HttpEndpointConfig, HttpEndpoints},
    registry::{Registry, RegistryUrl},
};
use tower_mesh_layers::ConfigError;

use super::{Inner, Mesh, MeshConfig};
use crate::{
    client::{ClientConfig, ClientLayer},
    error::BuildError,
    server::{ServerConfig, ServerLayer},
};

/// Builds a [`Mesh`].
#[derive(Debug, Default)]
#[must_use]
pub struct MeshBuilder {
    config: MeshConfig,
    registries: HashMap<String, Registry>,
}

// ===== impl MeshBuilder =====

impl MeshBuilder {
    /// Starts from a whole configuration.
    pub fn config(mut self, config: MeshConfig) -> Self {
        self.config = config;
        self
    }

    /// The registry that clients use unless they name another, as a URL: `file:./registry.yaml`,
    /// `static:http://127.0.0.1:8080`.
    pub fn registry(self, url: impl Into<String>) -> Self {
        self.named_registry(MeshConfig::DEFAULT_REGISTRY, url)
    }

    /// A registry that clients use by its name.
    pub fn named_registry(mut self, name: impl Into<String>, url: impl Into<String>) -> Self {
        self.config.registries.insert(name.into(), url.into());
        self
    }

    /// A registry of your own, by name; `default` is the one that clients use unless they name
    /// another.
    pub fn custom_registry(mut self, name: impl Into<String>, registry: Registry) -> Self {
        self.registries.insert(name.into(), registry);
        self
    }

    /// Options of every client that has none of its own.
    pub fn client_defaults(mut self, config: ClientConfig) -> Self {
        self.config.clients.defaults = config;
        self
    }

    /// Options of one client, in the place of the defaults.
    pub fn client(mut self, service: impl Into<String>, config: ClientConfig) -> Self {
        self.config.clients.named.insert(service.into(), config);
        self
    }

    /// Options of the server side.
    pub fn server(mut self, config: ServerConfig) -> Self {
        self.config.server = config;
        self
    }

    /// Options of the connections to all endpoints.
    pub fn endpoints(mut self, config: HttpEndpointConfig) -> Self {
        self.config.endpoints = config;
        self
    }

    /// Checks the whole configuration and builds the mesh.
    ///
    /// # Errors
    ///
    /// The first value that is refused, with its path in the configuration.
    pub fn build(mut self) -> Result<Mesh, BuildError> {
        for (name, url) in &self.config.registries {
            let url: RegistryUrl = url
                .parse()
                .map_err(|error: ConfigError| error.at(format_args!("registries.{name}")))?;
            self.registries.insert(name.clone(), url.open());
        }
        let clients = &self.config.clients;
        self.check_client(&clients.defaults)
            .map_err(|error| error.at("clients.defaults"))?;
        for (name, client) in &clients.named {
            self.check_client(client)
                .map_err(|error| error.at(format_args!("clients.{name}")))?;
        }
        let server = ServerLayer::new(&self.config.server).map_err(|error| error.at("server"))?;
        let endpoints = HttpEndpoints::new(self.config.endpoints.clone())
            .map_err(|error| error.at("endpoints"))?;
        let Self { config, registries } = self;
        let clients = Default::default();
        Ok(Mesh {
            inner: Arc::new(Inner {
                config,
                registries,
                endpoints,
                server,
                clients,
            }),
        })
    }

    fn check_client(&self, config: &ClientConfig) -> Result<(), ConfigError> {
        ClientLayer::new(config)?;
        config
            .balance
            .validate()
            .map_err(|error| error.at("balance"))?;
        match &config.registry {
            Some(name) if !self.registries.contains_key(name) => {
                let mut known: Vec<_> = self.registries.keys().map(String::as_str).collect();
                known.sort_unstable();
                let expected = format!("the name of a registry: {}", known.join(", "));
                Err(ConfigError::new("registry", name, expected))
            }
            _ => Ok(()),
        }
    }
}
