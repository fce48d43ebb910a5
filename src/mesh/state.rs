//! What a mesh runs on: its configuration, and the registries that are open under it.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tower_mesh_discovery::{
    endpoint::http::HttpEndpoints,
    registry::{Registry, RegistryUrl},
    resolve::{Answers, FailStatic, Resolve, ResolveError},
};
use tower_mesh_layers::{ConfigError, Live};

use crate::{
    client::{ClientConfig, ClientLayer},
    config::MeshConfig,
    server::ServerLayer,
};

/// A configuration that was checked as a whole, and its open registries. Made anew for every change.
#[derive(Debug)]
pub(super) struct State {
    pub(super) config: MeshConfig,
    registries: HashMap<String, Registry>,
}

/// The registry of one client, whichever that is at a time.
///
/// When it becomes another one, the stream of answers ends, and whoever follows it opens the next; until
/// that has answered the instances of the old one stay in use.
pub(super) struct ClientRegistry {
    service: Arc<str>,
    state: Live<State>,
}

// ===== impl State =====

impl State {
    /// Checks a configuration and opens its registries; those that `previous` has open stay so.
    pub(super) fn new(
        config: &MeshConfig,
        custom: &HashMap<String, Registry>,
        previous: Option<&Self>,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let mut registries = custom.clone();
        for (name, url) in &config.registries {
            let open = previous
                .filter(|previous| previous.config.registries.get(name) == Some(url))
                .and_then(|previous| previous.registries.get(name).cloned());
            let registry = open.map_or_else(|| Self::open(name, url), Ok)?;
            registries.insert(name.clone(), registry);
        }
        let state = Self {
            config: config.clone(),
            registries,
        };
        state.check_clients()?;
        if let Some(registry) = &config.registration.registry {
            state.registry(Some(registry), "registration.registry")?;
        }
        ServerLayer::new(&config.server).map_err(|error| error.at("server"))?;
        match previous {
            Some(previous) => state.check_fixed(&previous.config)?,
            None => drop(
                HttpEndpoints::new(config.endpoints.clone())
                    .map_err(|error| error.at("endpoints"))?,
            ),
        }
        Ok(state)
    }

    fn open(name: &str, url: &str) -> Result<Registry, ConfigError> {
        let url: Result<RegistryUrl, ConfigError> = url.parse();
        url.map(|url| url.open())
            .map_err(|error| error.at(format_args!("registries.{name}")))
    }

    fn check_clients(&self) -> Result<(), ConfigError> {
        let clients = &self.config.clients;
        self.check_client("defaults", &clients.defaults)
            .map_err(|error| error.at("clients.defaults"))?;
        for name in clients.named.keys() {
            self.check_client(name, &clients.of(name))
                .map_err(|error| error.at(format_args!("clients.{name}")))?;
        }
        Ok(())
    }

    fn check_client(&self, name: &str, config: &ClientConfig) -> Result<(), ConfigError> {
        ClientLayer::new(name, config)?;
        let balance = config.balance.validate();
        balance.map_err(|error| error.at("balance"))?;
        if let Some(name) = &config.registry {
            self.registry(Some(name), "registry")?;
        }
        Ok(())
    }

    /// A registry by its name, or the one without; `path` is where the name is written.
    pub(super) fn registry(
        &self,
        name: Option<&str>,
        path: &str,
    ) -> Result<&Registry, ConfigError> {
        let name = name.unwrap_or(MeshConfig::DEFAULT_REGISTRY);
        self.registries.get(name).ok_or_else(|| {
            let mut known: Vec<_> = self.registries.keys().map(String::as_str).collect();
            known.sort_unstable();
            let expected = format!("the name of a registry: {}", known.join(", "));
            ConfigError::new(path, name, expected)
        })
    }

    /// Refuses a change of what was used up when the mesh was built.
    fn check_fixed(&self, previous: &MeshConfig) -> Result<(), ConfigError> {
        const EXPECTED: &str = "what it was when the mesh was built: a change needs a restart";
        let given = &self.config;
        if given.service != previous.service {
            let service = given.service.as_deref().unwrap_or_default();
            return Err(ConfigError::new("service", service, EXPECTED));
        }
        if given.endpoints != previous.endpoints {
            return Err(ConfigError::new("endpoints", "another value", EXPECTED));
        }
        if given.telemetry != previous.telemetry {
            return Err(ConfigError::new("telemetry", "another value", EXPECTED));
        }
        Ok(())
    }

    fn registry_of(&self, service: &str) -> Option<&Registry> {
        let registry = self.config.client(service).registry;
        let name = registry.as_deref();
        self.registries
            .get(name.unwrap_or(MeshConfig::DEFAULT_REGISTRY))
    }
}

// ===== impl ClientRegistry =====

impl ClientRegistry {
    pub(super) fn new(service: &str, state: &Live<State>) -> Self {
        Self {
            service: service.into(),
            state: state.clone(),
        }
    }

    fn now(&self) -> Option<Registry> {
        self.state.get().registry_of(&self.service).cloned()
    }

    /// Returns when it is not `registry` any more.
    async fn until_replaced(self, registry: Option<Registry>) {
        let mut changes = self.state.changes();
        loop {
            let is_same = match (self.now(), &registry) {
                (Some(now), Some(then)) => now.is_same(then),
                (None, None) => true,
                _ => false,
            };
            if !is_same {
                return;
            }
            changes.changed().await;
        }
    }
}

impl Resolve for ClientRegistry {
    fn resolve(&self, service: &str) -> Answers {
        let registry = self.now();
        let known = match &registry {
            Some(registry) => registry.check(service).map(|()| registry),
            None => Err(ConfigError::new(
                "registries",
                "",
                "one that is named `default`",
            )),
        };
        let answers: Answers = match known {
            Ok(registry) => registry.resolve(service),
            Err(error) => {
                let error = Err(ResolveError::invalid(error));
                Box::pin(stream::iter([error]).chain(stream::pending()))
            }
        };
        let this = Self::new(&self.service, &self.state);
        Box::pin(answers.take_until(this.until_replaced(registry)))
    }

    fn grace(&self) -> Duration {
        self.now()
            .map_or(FailStatic::DEFAULT_GRACE, |registry| registry.grace())
    }
}

impl fmt::Debug for ClientRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientRegistry")
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}
