//! [`Mesh`]: everything that one service needs, from one configuration.

mod builder;
#[cfg(feature = "file")]
mod reload;
mod state;

use std::{collections::HashMap, fmt, sync::Arc};
#[cfg(feature = "file")]
use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use parking_lot::Mutex;
#[cfg(feature = "file")]
use tokio::sync::watch;
#[cfg(feature = "file")]
use tower_mesh_discovery::document::FileError;
use tower_mesh_discovery::{
    balance::{Balance, EndpointView},
    endpoint::http::HttpEndpoints,
    instance::{EndpointUrl, Instance, check_name},
    register::Registration,
    resolve::Resolver,
};
#[cfg(feature = "file")]
use tower_mesh_layers::metrics::Registered;
use tower_mesh_layers::{ConfigError, Live, Protocol};

pub use self::builder::MeshBuilder;
#[cfg(feature = "file")]
pub use self::reload::Reloads;
#[cfg(feature = "file")]
use self::reload::{ConfigFile, ReloadStats};
use self::state::{ClientRegistry, State};
#[cfg(feature = "tonic")]
use crate::client::Channel;
#[cfg(feature = "file")]
use crate::error::BuildError;
#[cfg(feature = "otlp")]
use crate::telemetry::{Telemetry, TelemetryError};
use crate::{
    client::{Client, ClientLayer, Endpoints},
    config::MeshConfig,
    server::ServerLayer,
};

/// Named clients and a server preset from one configuration, which may change while they run. A clone is
/// a handle to the same mesh.
#[derive(Clone)]
pub struct Mesh {
    inner: Arc<Inner>,
}

struct Inner {
    /// What was set last.
    config: Live<MeshConfig>,
    /// What was made of it, and what everything below is made of.
    state: Live<State>,
    endpoints: HttpEndpoints,
    server: ServerLayer,
    clients: Mutex<HashMap<(String, Protocol), Named>>,
    #[cfg(feature = "file")]
    reloads: Registered<ReloadStats>,
    #[cfg(feature = "file")]
    file: OnceLock<ConfigFile>,
}

/// What all clients of one name share: balancer, connections, breakers, budgets.
#[derive(Clone)]
struct Named {
    layer: ClientLayer,
    balance: Endpoints,
}

// ===== impl Mesh =====

impl Mesh {
    /// Starts with the defaults.
    pub fn builder() -> MeshBuilder {
        MeshBuilder::default()
    }

    /// A mesh from a file, which is watched: see [`config`](crate::config) for the layout and what an
    /// edit does.
    ///
    /// ```no_run
    /// # async fn build() -> Result<(), tower_mesh::BuildError> {
    /// let mesh = tower_mesh::Mesh::from_file("mesh.yaml").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the file cannot be read or anything in it is refused: file, line, column, path in the
    /// document, value, and what is allowed.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[cfg(feature = "file")]
    pub async fn from_file(path: impl Into<PathBuf>) -> Result<Self, BuildError> {
        Self::builder().from_file(path).await
    }

    /// Checks a configuration file without using it. Blocks.
    ///
    /// # Errors
    ///
    /// Those of [`from_file`](Self::from_file).
    #[cfg(feature = "file")]
    pub fn check(path: impl AsRef<Path>) -> Result<(), FileError> {
        let checked = |config| State::new(&config, &HashMap::new(), None).map(drop);
        reload::read(path.as_ref(), checked)
    }

    /// The configuration that is in force.
    pub fn config(&self) -> MeshConfig {
        self.inner.state.get().config.clone()
    }

    /// Puts another configuration into force, all of it at once, for calls that begin from now on. What
    /// was learnt is kept: open breakers, used tokens, latencies, connections.
    ///
    /// # Errors
    ///
    /// The first value that is refused, with its path; then nothing has changed.
    pub fn set_config(&self, config: MeshConfig) -> Result<(), ConfigError> {
        self.inner.config.set(config)
    }

    /// What became of the edits of the [file](Self::from_file) so far, and from now on.
    #[cfg(feature = "file")]
    pub fn reloads(&self) -> watch::Receiver<Reloads> {
        self.inner.reloads.0.subscribe()
    }

    #[cfg(feature = "file")]
    fn follow(&self, path: PathBuf) {
        let file = ConfigFile::watch(path, Arc::downgrade(&self.inner));
        let is_first = self.inner.file.set(file).is_ok();
        debug_assert!(is_first);
    }

    /// The client of a service: calls its `http` and `https` addresses.
    ///
    /// The first call for a name makes the client; further ones share it, with its connections and
    /// all it has learnt. It resolves the name from then on, inside a tokio runtime. A name that the
    /// registry does not know is no error: it may come later. Until then calls are refused with
    /// [`NoEndpoint`](tower_mesh_layers::Reason::NoEndpoint).
    pub fn client(&self, service: &str) -> Client {
        let named = self.named(service, Protocol::Http);
        Client::new(&named.layer, named.balance)
    }

    /// The same with layers of your own in the preset's slots, for this client value and its clones.
    ///
    /// ```no_run
    /// # fn build(mesh: tower_mesh::Mesh) {
    /// use tower::util::MapRequestLayer;
    /// use tower_mesh::Body;
    ///
    /// let stamp = MapRequestLayer::new(|mut request: http::Request<Body>| {
    ///     request.headers_mut().insert("x-tenant", http::HeaderValue::from_static("7"));
    ///     request
    /// });
    /// let orders = mesh.client_with("orders", |preset| preset.before_retry(stamp));
    /// # }
    /// ```
    pub fn client_with<L>(
        &self,
        service: &str,
        customize: impl FnOnce(ClientLayer) -> L,
    ) -> Client<L>
    where
        L: tower_layer::Layer<Endpoints>,
    {
        let named = self.named(service, Protocol::Http);
        Client::new(&customize(named.layer), named.balance)
    }

    /// A channel for tonic's generated clients: calls the `grpc` and `grpcs` addresses of a service.
    #[cfg(feature = "tonic")]
    pub fn channel(&self, service: &str) -> Channel {
        let named = self.named(service, Protocol::Grpc);
        Channel::new(&named.layer, named.balance)
    }

    /// The same with layers of your own in the preset's slots.
    #[cfg(feature = "tonic")]
    pub fn channel_with<L>(
        &self,
        service: &str,
        customize: impl FnOnce(ClientLayer) -> L,
    ) -> Channel<L>
    where
        L: tower_layer::Layer<Endpoints>,
    {
        let named = self.named(service, Protocol::Grpc);
        Channel::new(&customize(named.layer), named.balance)
    }

    /// Sets up telemetry for this process, as the section `telemetry` has it: the page of
    /// [`telemetry`](crate::telemetry) tells what that is. Spans say that they come from this service.
    ///
    /// # Errors
    ///
    /// When there is a subscriber of `tracing` already, or the exporter cannot be made.
    #[cfg(feature = "otlp")]
    pub fn telemetry(&self) -> Result<Telemetry, TelemetryError> {
        let config = self.config();
        Telemetry::install(config.service.as_deref(), &config.telemetry)
    }

    /// The preset for an axum `Router` or a tonic `Server`.
    pub fn server(&self) -> ServerLayer {
        self.inner.server.clone()
    }

    /// Registers this process as an instance of a service, reachable at `url`, and keeps it registered
    /// until the registration is closed. What else the record says is under `registration` in the
    /// configuration.
    ///
    /// ```no_run
    /// # async fn serve(mesh: tower_mesh::Mesh) -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = tokio::net::TcpListener::bind("10.0.0.1:0").await?;
    /// let registration = mesh.register("checkout", listener.local_addr()?)?;
    /// registration.registered().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When the record is refused, or the registry is not there or cannot be written.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn register(
        &self,
        service: &str,
        url: impl Into<EndpointUrl>,
    ) -> Result<Registration, ConfigError> {
        let config = self.config().registration;
        self.register_instance(config.instance(service, url.into()))
    }

    /// Registers any instance, and keeps it registered.
    ///
    /// # Errors
    ///
    /// Those of [`register`](Self::register).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn register_instance(&self, instance: Instance) -> Result<Registration, ConfigError> {
        let state = self.inner.state.load_full();
        let config = &state.config.registration;
        let registry = state.registry(config.registry.as_deref(), "registration.registry")?;
        registry.register(instance, config.lease.clone())
    }

    /// The layers around a client, with the handles to watch them.
    pub fn client_layer(&self, service: &str, protocol: Protocol) -> ClientLayer {
        self.named(service, protocol).layer
    }

    /// The endpoints of a client as its balancer sees them now.
    pub fn endpoints(&self, service: &str, protocol: Protocol) -> Vec<EndpointView> {
        self.named(service, protocol).balance.endpoints()
    }

    fn named(&self, service: &str, protocol: Protocol) -> Named {
        let inner = &*self.inner;
        let mut clients = inner.clients.lock();
        let key = (service.to_owned(), protocol);
        clients
            .entry(key)
            .or_insert_with(|| inner.make(service, protocol))
            .clone()
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh")
            .field("config", &self.inner.state.get().config)
            .finish_non_exhaustive()
    }
}

// ===== impl Inner =====

impl Inner {
    fn make(&self, service: &str, protocol: Protocol) -> Named {
        const CHECKED: &str = "the state was checked as a whole";
        let name = service.to_owned();
        let section = format!("clients.{service}");
        let config = self
            .state
            .section(&section, move |state| state.config.client(&name));
        let balance = config.section("balance", |config| config.balance.clone());
        let balance = Balance::builder(self.resolver(service))
            .protocol(protocol)
            .endpoints(self.endpoints.clone())
            .config(balance)
            .expect(CHECKED)
            .build();
        Named {
            layer: ClientLayer::live(service, &config).expect(CHECKED),
            balance,
        }
    }

    /// A name that no registry can know gives a client without endpoints, which says so on every call.
    fn resolver(&self, service: &str) -> Resolver {
        if let Err(error) = check_name("service", service) {
            tracing::error!(service, %error, "the service cannot be resolved");
            return Resolver::fixed(service, []);
        }
        Resolver::new(ClientRegistry::new(service, &self.state), service)
    }
}

#[cfg(test)]
mod tests;
