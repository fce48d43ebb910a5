//! Building a mesh.

use std::{collections::HashMap, fmt, sync::Arc};
#[cfg(feature = "file")]
use std::{path::PathBuf, sync::OnceLock};

use tower_mesh_discovery::{
    endpoint::http::{Dial, HttpEndpointConfig, HttpEndpoints},
    registry::Registry,
};
#[cfg(feature = "file")]
use tower_mesh_layers::metrics;
use tower_mesh_layers::{ConfigError, Live, route::RuleConfig};

#[cfg(feature = "file")]
use super::reload::{self, ReloadStats};
use super::{Inner, Mesh, state::State};
use crate::{
    client::ClientConfig,
    config::{HostRoutes, MeshConfig, RegistrationConfig},
    error::BuildError,
    server::{ServerConfig, ServerLayer},
    telemetry::TelemetryConfig,
};

/// Builds a [`Mesh`].
#[derive(Debug, Default)]
#[must_use]
pub struct MeshBuilder {
    config: MeshConfig,
    registries: HashMap<String, Registry>,
    dial: Option<DialBox>,
}

/// Has no name of its own in what is printed.
struct DialBox(Box<dyn FnOnce(HttpEndpoints) -> HttpEndpoints + Send>);

// ===== impl MeshBuilder =====

impl MeshBuilder {
    /// Starts from a whole configuration.
    pub fn config(mut self, config: MeshConfig) -> Self {
        self.config = config;
        self
    }

    /// The name of this service.
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.config.service = Some(name.into());
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
        let clients = &mut self.config.clients.named;
        clients.insert(service.into(), config.into());
        self
    }

    /// Which arm of a service calls to it go to.
    pub fn routes(
        mut self,
        service: impl Into<String>,
        rules: impl IntoIterator<Item = RuleConfig>,
    ) -> Self {
        self.config.routes.push(HostRoutes {
            host: service.into(),
            rules: rules.into_iter().collect(),
        });
        self
    }

    /// How this process registers.
    pub fn registration(mut self, config: RegistrationConfig) -> Self {
        self.config.registration = config;
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

    /// Where spans go, and what is logged; it begins with `Mesh::telemetry`.
    pub fn telemetry(mut self, config: TelemetryConfig) -> Self {
        self.config.telemetry = config;
        self
    }

    /// Opens connections over something else than sockets.
    pub fn dial(mut self, dial: impl Dial) -> Self {
        self.dial = Some(DialBox(Box::new(|endpoints| endpoints.with_dial(dial))));
        self
    }

    /// Checks the whole configuration and builds the mesh.
    ///
    /// # Errors
    ///
    /// The first value that is refused, with its path in the configuration.
    pub fn build(self) -> Result<Mesh, BuildError> {
        Ok(self.make()?)
    }

    /// Builds the mesh from a file, and keeps it on what the file says from then on; the page of
    /// [`config`](crate::config) has the rules. The file stands in the place of all options that were
    /// set here, but for [`custom_registry`](Self::custom_registry).
    ///
    /// # Errors
    ///
    /// When the file cannot be read or anything in it is refused, with its place.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[cfg(feature = "file")]
    pub async fn from_file(self, path: impl Into<PathBuf>) -> Result<Mesh, BuildError> {
        let path = path.into();
        let file = path.clone();
        let read = tokio::task::spawn_blocking(move || {
            reload::read(&file, |config| self.config(config).make())
        });
        let mesh = read
            .await
            .expect("reading a configuration does not panic")?;
        mesh.follow(path);
        Ok(mesh)
    }

    fn make(self) -> Result<Mesh, ConfigError> {
        let Self {
            config,
            registries,
            dial,
        } = self;
        let endpoints = config.endpoints.clone();
        let config = Live::new(config);
        let state = config
            .derive_with(move |config, previous| State::new(config, &registries, previous))?;
        let server = state.section("server", |state| state.config.server.clone());
        let mut endpoints = HttpEndpoints::new(endpoints).map_err(|error| error.at("endpoints"))?;
        if let Some(DialBox(dial)) = dial {
            endpoints = dial(endpoints);
        }
        Ok(Mesh {
            inner: Arc::new(Inner {
                server: ServerLayer::live(&server)?,
                endpoints,
                config,
                state,
                clients: Default::default(),
                #[cfg(feature = "file")]
                reloads: metrics::register(ReloadStats::default()),
                #[cfg(feature = "file")]
                file: OnceLock::new(),
            }),
        })
    }
}

impl fmt::Debug for DialBox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}
