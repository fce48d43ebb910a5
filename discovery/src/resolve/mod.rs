//! From the name of a service to its instances, for as long as someone listens.
//!
//! ```text
//! Resolve (a registry) --stream of answers--> driver --fail static--> Watch --> Balance
//! ```
//!
//! A registry implements [`Resolve`]: it answers with full [`Snapshot`]s, or errors. A [`Resolver`]
//! names one service of one registry. [`Resolver::watch`] starts the *driver*, one task that keeps
//! the registry's stream open for ever, and passes every answer through the [fail-static
//! rules](cache): an error or an outage never shrinks the set of instances, and an answer that lost
//! most of them is believed only after a grace time. A [`Watch`] hands the set that came out to a
//! consumer, latest first.
//!
//! ```
//! use tower_mesh_discovery::{instance::Instance, resolve::Resolver};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let orders = [
//!     Instance::at("orders", "http://10.0.0.2:8080".parse()?),
//!     Instance::at("orders", "http://10.0.0.1:8080".parse()?),
//! ];
//! let mut watch = Resolver::fixed("orders", orders).watch();
//!
//! let set = watch.changed().await;
//! assert_eq!(set[0].id, "http://10.0.0.1:8080", "sorted by id");
//! # Ok(())
//! # }
//! ```
//!
//! # Metrics
//!
//! | name | kind | labels |
//! |---|---|---|
//! | `mesh_resolve_staleness_seconds` | gauge | `server_address` |
//!
//! It is [`Health::staleness`]: how long the registry has not confirmed the set that is served, 0
//! while it does. Where several watches follow a service of one name, it is the longest of theirs; it
//! leaves with the last of them. A watch that is fed [by hand](Watch::channel) has none.

pub(crate) mod backoff;
pub mod cache;
mod driver;
mod metrics;
mod resolver;
#[cfg(feature = "file")]
mod saved;
mod watch;

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use futures_core::Stream;
use tower_mesh_layers::{config::ConfigError, transport::BoxError};

pub use self::{
    cache::{FailStatic, Verdict},
    resolver::Resolver,
    watch::{Health, Publisher, Watch},
};
use crate::instance::Instance;

/// All instances of a service at one time, sorted by id, every id once.
///
/// An instance that did not change keeps its `Arc` from one snapshot to the next, so two snapshots
/// are compared by pointers.
pub type Snapshot = Arc<[Arc<Instance>]>;

/// What a registry answers, over time: see [`Resolve::resolve`].
pub type Answers = Pin<Box<dyn Stream<Item = Result<Snapshot, ResolveError>> + Send>>;

/// A source of instances: a registry.
///
/// It only answers. Keeping the last good set through errors, doubting answers that lost most
/// instances, and opening the stream again are the work of the [`Resolver`] that drives it.
///
/// ```
/// use futures_util::{StreamExt, stream};
/// use tower_mesh_discovery::{
///     instance::Instance,
///     resolve::{Answers, Resolve, snapshot},
/// };
///
/// /// Every service at one address.
/// struct Gateway;
///
/// impl Resolve for Gateway {
///     fn resolve(&self, service: &str) -> Answers {
///         let url = "http://gateway.internal:80".parse().expect("a valid URL");
///         let answer = snapshot([Instance::at(service, url)]);
///         Box::pin(stream::iter([Ok(answer)]).chain(stream::pending()))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a registry",
    note = "`resolver(\"file:./registry.yaml\", \"orders\")` names one by its URL; \
            `Resolver::fixed` takes a list of instances"
)]
pub trait Resolve: Send + Sync + 'static {
    /// Opens a stream of all instances of `service`: the present ones first, then all of them again
    /// after every change.
    ///
    /// A service that is not known yet is an empty answer, not an error. After an error the stream
    /// may go on, in which case it sets its own pace, or end; one that ends is opened again after a
    /// random delay that grows while nothing but errors come. The stream is polled inside a tokio
    /// runtime and dropped when nobody listens any more.
    fn resolve(&self, service: &str) -> Answers;

    /// Refuses the name of a service that this registry cannot have; takes every name by default.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] for `service`, with what is allowed.
    fn check(&self, service: &str) -> Result<(), ConfigError> {
        let _ = service;
        Ok(())
    }

    /// How long an answer that lost most instances is doubted; asked whenever the stream is opened.
    /// Default 30 s. Zero believes every answer at once.
    fn grace(&self) -> Duration {
        FailStatic::DEFAULT_GRACE
    }
}

impl<R: Resolve + ?Sized> Resolve for Arc<R> {
    fn resolve(&self, service: &str) -> Answers {
        (**self).resolve(service)
    }

    fn check(&self, service: &str) -> Result<(), ConfigError> {
        (**self).check(service)
    }

    fn grace(&self) -> Duration {
        (**self).grace()
    }
}

/// Puts instances into the order of a [`Snapshot`]. Of several with one id the first is kept.
pub fn snapshot<I>(instances: I) -> Snapshot
where
    I: IntoIterator,
    I::Item: Into<Arc<Instance>>,
{
    let mut all: Vec<Arc<Instance>> = instances.into_iter().map(Into::into).collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all.dedup_by(|later, first| later.id == first.id);
    all.into()
}

/// Whether nothing changed from one snapshot to the other.
pub(crate) fn is_same(a: &Snapshot, b: &Snapshot) -> bool {
    a.len() == b.len() && a.iter().zip(&**b).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// Why a registry could not answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The registry cannot be reached or read.
    #[error("the registry is unavailable: {0}")]
    Unavailable(#[source] SharedError),
    /// The registry was read, and its content was refused.
    #[error("the registry has an invalid record: {0}")]
    Invalid(#[source] SharedError),
}

// ===== impl ResolveError =====

impl ResolveError {
    /// The registry cannot be reached or read, because of `error`.
    pub fn unavailable(error: impl Into<BoxError>) -> Self {
        Self::Unavailable(SharedError::new(error))
    }

    /// The content of the registry was refused, because of `error`.
    pub fn invalid(error: impl Into<BoxError>) -> Self {
        Self::Invalid(SharedError::new(error))
    }
}

/// The cause of a [`ResolveError`] or [`RegisterError`](crate::register::RegisterError): shared, since
/// every consumer is told of it.
#[derive(Clone)]
pub struct SharedError(Arc<dyn std::error::Error + Send + Sync>);

// ===== impl SharedError =====

impl SharedError {
    pub(crate) fn new(error: impl Into<BoxError>) -> Self {
        Self(error.into().into())
    }

    /// The error itself, for a downcast.
    pub fn get_ref(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.0
    }
}

impl fmt::Debug for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for SharedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
