//! Adapters to and from [`tower::discover::Discover`]: our registries feed other balancers, and
//! other sources of services feed ours.
//!
//! | from | to | by |
//! |---|---|---|
//! | a [`Resolver`](crate::resolve::Resolver) or [`Watch`](crate::resolve::Watch), and a [`MakeEndpoint`] | a `Discover` | [`Changes`] |
//! | a `Discover`, and a function that names the instance behind a service | a [`Resolve`] | [`FromDiscover`] |
//!
//! Both know an endpoint by the id of its instance and its URL, as [`Balance`](crate::balance) does,
//! and both keep the fail-static rules: an outage of the registry removes nothing.
//!
//! # A registry for tower's balancer
//!
//! ```
//! use std::convert::Infallible;
//!
//! use tower::{
//!     Service, ServiceExt,
//!     balance::p2c::Balance,
//!     load::{CompleteOnResponse, PendingRequestsDiscover},
//!     service_fn,
//! };
//! use tower_mesh_discovery::{discover::Changes, instance::Instance, registry::resolver};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let orders = resolver("static:http://10.0.0.1:8080,http://10.0.0.2:8080", "orders")?;
//! let endpoints = Changes::new(orders, |instance: &Instance| {
//!     let id = instance.id.clone();
//!     service_fn(move |_: ()| std::future::ready(Ok::<_, Infallible>(id.clone())))
//! });
//!
//! // tower's balancer wants each endpoint's load.
//! let loaded = PendingRequestsDiscover::new(endpoints, CompleteOnResponse::default());
//! let mut balance = Balance::new(loaded);
//! let answer = balance.ready().await?.call(()).await?;
//! assert!(answer.starts_with("http://10.0.0."));
//! # Ok(())
//! # }
//! ```
//!
//! # Another source for our balancer
//!
//! ```
//! use tower::{ServiceExt, discover::ServiceList, service_fn};
//! use tower_mesh_discovery::{
//!     discover::FromDiscover,
//!     instance::Instance,
//!     resolve::Resolver,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # async fn call(_: ()) -> Result<(), std::convert::Infallible> { Ok(()) }
//! let source = FromDiscover::new(
//!     |_service| ServiceList::new::<()>([service_fn(call), service_fn(call)]),
//!     |service, key, _| Instance::new(service, format!("{service}-{key}")),
//! );
//! let mut watch = Resolver::new(source, "orders").watch();
//! assert_eq!(watch.changed().await[1].id, "orders-1");
//! # Ok(())
//! # }
//! ```

use std::{
    collections::{HashMap, HashSet, VecDeque},
    convert::Infallible,
    fmt,
    hash::Hash,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use futures_util::stream;
use tower::discover::{Change, Discover};
use tower_mesh_layers::{Protocol, transport::BoxError};

use crate::{
    balance::Source,
    endpoint::MakeEndpoint,
    instance::{EndpointUrl, Instance, Status},
    resolve::{Answers, Resolve, ResolveError, Snapshot, snapshot},
};

/// What tells an endpoint from the others of its service: the id of its instance, and its URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointKey {
    id: Arc<str>,
    url: EndpointUrl,
}

/// The endpoints of a service as a [`Discover`], for balancers that are not ours.
///
/// | in the registry | change |
/// |---|---|
/// | a new instance | `Insert` |
/// | an instance is gone, or its status is [`Down`](Status::Down) | `Remove` |
/// | an instance has another URL | `Insert` of the new one, then `Remove` of the old one |
/// | an instance starts [`Draining`](Status::Draining) | `Remove`, unless no other one is up |
/// | anything else about an instance | none: its service is kept |
///
/// Inserts come before removals, so that a consumer that takes one change at a time is not left
/// without endpoints while a service moves. An instance whose endpoint cannot be made is left out
/// with a warning, as by our own balancer: tower's balancers end for good with the first error, so
/// there is none, and the stream never ends.
///
/// The registry is followed from the first poll, which must be inside of a tokio runtime, until this
/// is dropped.
#[must_use = "streams do nothing unless polled"]
pub struct Changes<M: MakeEndpoint> {
    service: Arc<str>,
    sets: Pin<Box<dyn Stream<Item = Snapshot> + Send>>,
    make: M,
    protocol: Option<Protocol>,
    /// What the consumer knows, or will once it has taken `pending`.
    known: HashSet<EndpointKey>,
    /// Those that could not be made, so that it is said once.
    unmade: HashSet<EndpointKey>,
    pending: VecDeque<Change<EndpointKey, M::Service>>,
}

/// A [`Discover`] as a registry: see [`FromDiscover::new`].
#[derive(Clone)]
pub struct FromDiscover<O, F> {
    open: O,
    instance: Arc<F>,
}

/// One open `Discover`, and what it has told so far.
struct Followed<D: Discover, F> {
    service: String,
    discover: Pin<Box<D>>,
    instance: Arc<F>,
    known: HashMap<D::Key, Arc<Instance>>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// It ended: what is known stays.
    Complete,
    Failed,
}

// ===== impl EndpointKey =====

impl EndpointKey {
    fn new(instance: &Instance, url: &EndpointUrl) -> Self {
        Self {
            id: instance.id.as_str().into(),
            url: url.clone(),
        }
    }

    /// The [`id`](Instance::id) of the instance.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The address that is called.
    pub fn url(&self) -> &EndpointUrl {
        &self.url
    }
}

// ===== impl Changes =====

impl<M: MakeEndpoint> Changes<M> {
    /// The instances of `source`, a [`Resolver`](crate::resolve::Resolver) or a
    /// [`Watch`](crate::resolve::Watch), as the services that `make` makes for them.
    pub fn new(source: impl Into<Source>, make: M) -> Self {
        let source = source.into();
        let service = source.service().into();
        let sets = stream::unfold(source, async |source: Source| {
            let mut watch = source.watch();
            let set = watch.changed().await;
            Some((set, Source::from(watch)))
        });
        Self {
            service,
            sets: Box::pin(sets),
            make,
            protocol: None,
            known: HashSet::new(),
            unmade: HashSet::new(),
            pending: VecDeque::new(),
        }
    }

    /// Takes the first address of each instance that speaks this protocol, and leaves instances
    /// without one out. By default the first address is taken, whatever it speaks.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = Some(protocol);
        self
    }

    fn apply(&mut self, set: &Snapshot) {
        let wanted = self.wanted(set);
        let before = std::mem::take(&mut self.known);
        let mut unmade = HashSet::new();
        for (key, instance) in wanted {
            if !before.contains(&key) {
                match self.make.make_endpoint(instance, &key.url) {
                    Ok(made) => self.pending.push_back(Change::Insert(key.clone(), made)),
                    Err(error) => {
                        self.warn(&key, error.into());
                        unmade.insert(key);
                        continue;
                    }
                }
            }
            self.known.insert(key);
        }
        self.unmade = unmade;
        for key in before {
            if !self.known.contains(&key) {
                self.pending.push_back(Change::Remove(key));
            }
        }
    }

    fn wanted<'a>(&self, set: &'a Snapshot) -> Vec<(EndpointKey, &'a Instance)> {
        let with = |status| {
            set.iter()
                .filter(move |instance| instance.status == status)
                .filter_map(|instance| {
                    let url = instance.address(self.protocol)?;
                    Some((EndpointKey::new(instance, url), &**instance))
                })
                .collect::<Vec<_>>()
        };
        let up = with(Status::Up);
        // Better one that is about to go than none.
        if up.is_empty() {
            return with(Status::Draining);
        }
        up
    }

    fn warn(&self, key: &EndpointKey, error: BoxError) {
        if self.unmade.contains(key) {
            return;
        }
        tracing::warn!(
            service = %self.service,
            instance = %key.id,
            endpoint = %key.url,
            error = %error,
            "endpoint left out: it cannot be made"
        );
    }
}

/// Nothing of it is pinned in place: the stream of sets is in a box.
impl<M: MakeEndpoint> Unpin for Changes<M> {}

impl<M: MakeEndpoint> Stream for Changes<M> {
    type Item = Result<Change<EndpointKey, M::Service>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Poll::Ready(Some(Ok(change)));
            }
            match ready!(self.sets.as_mut().poll_next(cx)) {
                Some(set) => self.apply(&set),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl<M: MakeEndpoint> fmt::Debug for Changes<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes")
            .field("service", &self.service)
            .field("protocol", &self.protocol)
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

// ===== impl FromDiscover =====

impl<O, F> FromDiscover<O, F> {
    /// A registry that opens the [`Discover`] of a service with `open`, and learns from `instance`,
    /// which is given the service's name, the key and the tower service, which instance is behind a
    /// key. The tower service itself is not called: our balancer makes its own endpoints.
    ///
    /// All changes that are there at once are one answer. Instances need ids of their own; of
    /// several with one id, one is kept. A `Discover` that ends has told all: its last set stays, as
    /// with tower's balancers. After an error it is given up and opened anew, with growing delays.
    pub fn new<D>(open: O, instance: F) -> Self
    where
        O: Fn(&str) -> D,
        D: Discover,
        F: Fn(&str, &D::Key, D::Service) -> Instance,
    {
        Self {
            open,
            instance: Arc::new(instance),
        }
    }
}

impl<O, D, F> Resolve for FromDiscover<O, F>
where
    O: Fn(&str) -> D + Send + Sync + 'static,
    D: Discover + Send + 'static,
    D::Key: Hash + Send,
    D::Error: Into<BoxError>,
    F: Fn(&str, &D::Key, D::Service) -> Instance + Send + Sync + 'static,
{
    fn resolve(&self, service: &str) -> Answers {
        let mut followed = Followed {
            service: service.to_owned(),
            discover: Box::pin((self.open)(service)),
            instance: Arc::clone(&self.instance),
            known: HashMap::new(),
            state: State::Open,
        };
        Box::pin(stream::poll_fn(move |cx| followed.poll(cx)))
    }
}

impl<O, F> fmt::Debug for FromDiscover<O, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromDiscover").finish_non_exhaustive()
    }
}

// ===== impl Followed =====

impl<D, F> Followed<D, F>
where
    D: Discover,
    D::Key: Hash,
    D::Error: Into<BoxError>,
    F: Fn(&str, &D::Key, D::Service) -> Instance,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Snapshot, ResolveError>>> {
        match self.state {
            State::Open => {}
            State::Complete => return Poll::Pending,
            State::Failed => return Poll::Ready(None),
        }
        let mut news = false;
        loop {
            match self.discover.as_mut().poll_discover(cx) {
                Poll::Ready(Some(Ok(Change::Insert(key, made)))) => {
                    let instance = (self.instance)(&self.service, &key, made);
                    self.known.insert(key, Arc::new(instance));
                }
                Poll::Ready(Some(Ok(Change::Remove(key)))) => {
                    self.known.remove(&key);
                }
                Poll::Ready(Some(Err(error))) => {
                    self.state = State::Failed;
                    return Poll::Ready(Some(Err(ResolveError::unavailable(error))));
                }
                Poll::Ready(None) => {
                    self.state = State::Complete;
                    return Poll::Ready(Some(Ok(self.set())));
                }
                Poll::Pending if news => return Poll::Ready(Some(Ok(self.set()))),
                Poll::Pending => return Poll::Pending,
            }
            news = true;
        }
    }

    fn set(&self) -> Snapshot {
        snapshot(self.known.values().cloned())
    }
}

#[cfg(test)]
#[path = "discover_tests.rs"]
mod tests;
