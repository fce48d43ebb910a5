//! Building a balancer.

use std::{convert::Infallible, fmt};

use tower_mesh_layers::{Classifier, ConfigError, Live, Protocol};

use super::{
    Balance,
    config::{BalanceConfig, Settings},
    pick::Picker,
    set::{Shared, Start},
    update::Updater,
};
use crate::{
    endpoint::MakeEndpoint,
    instance::{EndpointUrl, Instance},
    resolve::{Resolver, Watch},
};

/// Where a balancer learns of instances: a [`Resolver`] or a [`Watch`].
#[derive(Debug)]
pub struct Source(Inner);

#[derive(Debug)]
enum Inner {
    Resolver(Resolver),
    Watch(Watch),
}

/// Builds a [`Balance`].
#[must_use]
pub struct Builder<M, C = Classifier> {
    source: Source,
    make: M,
    classify: C,
    protocol: Option<Protocol>,
    picker: Option<Picker>,
    settings: Live<Settings>,
}

/// A builder that was not told yet how endpoints are made.
#[derive(Debug, Clone, Copy)]
pub struct Unset(());

// ===== impl Source =====

impl Source {
    pub(crate) fn service(&self) -> &str {
        match &self.0 {
            Inner::Resolver(resolver) => resolver.service(),
            Inner::Watch(watch) => watch.service(),
        }
    }

    /// Needs a runtime.
    pub(crate) fn watch(self) -> Watch {
        match self.0 {
            Inner::Resolver(resolver) => resolver.watch(),
            Inner::Watch(watch) => watch,
        }
    }
}

impl From<Resolver> for Source {
    fn from(resolver: Resolver) -> Self {
        Self(Inner::Resolver(resolver))
    }
}

impl From<Watch> for Source {
    fn from(watch: Watch) -> Self {
        Self(Inner::Watch(watch))
    }
}

// ===== impl Builder =====

impl Builder<Unset> {
    pub(super) fn new(source: Source) -> Self {
        let settings = BalanceConfig::default()
            .compile()
            .expect("the defaults are in range");
        Self {
            source,
            make: Unset(()),
            classify: Classifier,
            protocol: None,
            picker: None,
            settings: Live::new(settings),
        }
    }
}

impl<M, C> Builder<M, C> {
    /// How endpoints are made: `HttpEndpoints`, `TonicEndpoints`, a closure
    /// `|instance: &Instance| service`, or your own [`MakeEndpoint`].
    pub fn endpoints<N: MakeEndpoint>(self, make: N) -> Builder<N, C> {
        Builder {
            source: self.source,
            make,
            classify: self.classify,
            protocol: self.protocol,
            picker: self.picker,
            settings: self.settings,
        }
    }

    /// How an endpoint is picked, instead of what the configuration says.
    pub fn picker(mut self, picker: impl Into<Picker>) -> Self {
        self.picker = Some(picker.into());
        self
    }

    /// Calls the first address of each instance that speaks this protocol, and leaves instances
    /// without one out. By default the first address is called, whatever it speaks.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = Some(protocol);
        self
    }

    /// What counts as a failure.
    pub fn classify<D>(self, classify: D) -> Builder<M, D> {
        Builder {
            source: self.source,
            make: self.make,
            classify,
            protocol: self.protocol,
            picker: self.picker,
            settings: self.settings,
        }
    }

    /// All other options: a [`BalanceConfig`], or a [`Live`] one that may change later.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] for the first option that is out of range.
    pub fn config(mut self, config: impl Into<Live<BalanceConfig>>) -> Result<Self, ConfigError> {
        self.settings = config.into().derive(BalanceConfig::compile)?;
        Ok(self)
    }
}

impl<M: MakeEndpoint, C> Builder<M, C> {
    /// Builds the balancer, and starts to follow the registry: at once inside a tokio runtime,
    /// otherwise with the first call.
    pub fn build(self) -> Balance<M, C> {
        let service = self.source.service().into();
        let updater = Updater::new(self.make, self.protocol);
        let start: Start<M::Service> = Box::new(|shared, runtime| {
            let watch = self.source.watch();
            runtime.spawn(updater.run(shared, watch)).abort_handle()
        });
        let shared = Shared::new(service, self.settings, self.picker, start);
        Balance::new(shared, self.classify)
    }
}

impl<M, C> fmt::Debug for Builder<M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("source", &self.source)
            .field("protocol", &self.protocol)
            .field("picker", &self.picker)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// So that `Balance::builder` needs no type: it is never used to make anything.
#[doc(hidden)]
impl MakeEndpoint for Unset {
    type Service = Infallible;
    type Error = Infallible;

    fn make_endpoint(&self, _: &Instance, _: &EndpointUrl) -> Result<Infallible, Infallible> {
        unreachable!("a builder that was not told how endpoints are made cannot be built")
    }
}
