//! [`Mesh`]: everything that one service needs, from one configuration.

mod builder;
mod config;

use std::{collections::HashMap, fmt, sync::Arc};

use parking_lot::Mutex;
use tower_mesh_discovery::{
    balance::{Balance, EndpointView},
    endpoint::http::HttpEndpoints,
    registry::Registry,
    resolve::Resolver,
};
use tower_mesh_layers::{ConfigError, Protocol};

pub use self::{
    builder::MeshBuilder,
    config::{ClientsConfig, MeshConfig},
};
#[cfg(feature = "tonic")]
use crate::client::Channel;
use crate::{
    client::{Client, ClientConfig, ClientLayer, Endpoints},
    server::ServerLayer,
};

/// Named clients and a server preset from one configuration. A clone is a handle to the same mesh.
#[derive(Clone)]
pub struct Mesh {
    inner: Arc<Inner>,
}

struct Inner {
    config: MeshConfig,
    registries: HashMap<String, Registry>,
    endpoints: HttpEndpoints,
    server: ServerLayer,
    clients: Mutex<HashMap<(String, Protocol), Named>>,
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

    /// The preset for an axum `Router` or a tonic `Server`.
    pub fn server(&self) -> ServerLayer {
        self.inner.server.clone()
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
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}

// ===== impl Inner =====

impl Inner {
    fn make(&self, service: &str, protocol: Protocol) -> Named {
        const CHECKED: &str = "the configuration was checked by `build`";
        let config = self.config.client(service);
        let balance = Balance::builder(self.resolver(service, config))
            .protocol(protocol)
            .endpoints(self.endpoints.clone())
            .config(config.balance.clone())
            .expect(CHECKED)
            .build();
        Named {
            layer: ClientLayer::new(config).expect(CHECKED),
            balance,
        }
    }

    /// A name that cannot be resolved gives a client without endpoints, which says so on every call.
    fn resolver(&self, service: &str, config: &ClientConfig) -> Resolver {
        let name = config
            .registry
            .as_deref()
            .unwrap_or(MeshConfig::DEFAULT_REGISTRY);
        let resolver = match self.registries.get(name) {
            Some(registry) => registry.resolver(service),
            None => Err(ConfigError::new(
                "registries",
                name,
                "a registry of this name",
            )),
        };
        resolver.unwrap_or_else(|error| {
            tracing::error!(service, %error, "the service cannot be resolved");
            Resolver::fixed(service, [])
        })
    }
}

#[cfg(test)]
mod tests;
