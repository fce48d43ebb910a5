//! The client preset.

use std::{fmt, sync::Arc};

use tower_layer::{Identity, Layer};
use tower_mesh_layers::{
    ConfigError, Key, Live,
    body_limit::{BodyLimit, BodyLimitHandle, BodyLimitLayer},
    circuit_breaker::{BreakerHandle, CircuitBreaker, CircuitBreakerLayer},
    concurrency_limit::{ConcurrencyLimit, ConcurrencyLimitHandle, ConcurrencyLimitLayer},
    deadline::{Deadline, DeadlineLayer, Role},
    hedge::{Hedge, HedgeHandle, HedgeLayer},
    metadata::{MetadataLayer, PropagateMetadata},
    rate_limit::{RateLimit, RateLimitHandle, RateLimitLayer},
    request_metrics::{MetricsLayer, RequestMetrics},
    retry::{Retry, RetryHandle, RetryLayer},
    route::{Route, RouteHandle, RouteLayer},
    trace::{Trace, TraceLayer},
};

use super::ClientConfig;

/// The layers around a client, in their fixed order.
///
/// It is one type whatever is configured, so that it can be named, cloned and put anywhere. A layer that
/// is not configured is off, which costs a call a comparison; a change of a [live](Self::live)
/// configuration switches layers on and off.
///
/// ```text
///   outermost*  ►  trace  ►  metrics  ►  metadata  ►  deadline  ►  concurrency limit  ──┐
///                                                                                        │
///                            retry  ◄  hedge  ◄  before_retry*  ◄  route  ◄  rate limit ◄┘
///                              │ for each attempt
///                              └►  trace  ►  before_breaker*  ►  circuit breaker  ──┐
///                                                                                    │
///                                                               peer  ◄  body limit ◄┘
/// ```
///
/// The slots with a star are yours. `mesh.client` puts the preset around a balancer; on its own it goes
/// around any client: a tonic `Channel`, a hyper client.
///
/// ```
/// use tower::ServiceBuilder;
/// use tower_mesh::client::{ClientConfig, ClientLayer};
///
/// # fn wrap<S: Clone>(channel: S) -> Result<(), tower_mesh::layers::ConfigError> {
/// let service = ServiceBuilder::new()
///     .layer(ClientLayer::new("orders", &ClientConfig::default())?)
///     .service(channel);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ClientLayer<O = Identity, R = Identity, B = Identity> {
    layers: Arc<Layers>,
    outermost: O,
    before_retry: R,
    before_breaker: B,
}

/// Ours, behind one pointer: a preset is cloned along with what it is put around.
#[derive(Debug)]
struct Layers {
    trace: TraceLayer,
    metrics: MetricsLayer,
    metadata: MetadataLayer,
    deadline: DeadlineLayer,
    concurrency_limit: ConcurrencyLimitLayer,
    rate_limit: RateLimitLayer,
    route: RouteLayer,
    hedge: HedgeLayer,
    retry: RetryLayer,
    attempt: TraceLayer,
    circuit_breaker: CircuitBreakerLayer,
    body_limit: BodyLimitLayer,
}

/// Within both limits.
type Limited<S> = ConcurrencyLimit<RateLimit<S>>;

// ===== impl ClientLayer =====

impl ClientLayer {
    /// Makes the layers for calls to this service: spans and metrics bear its name.
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names its section and field.
    pub fn new(service: &str, config: &ClientConfig) -> Result<Self, ConfigError> {
        Self::live(service, &Live::new(config.clone()))
    }

    /// Makes the layers from options that may change while they run; each keeps what it has learnt.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn live(service: &str, config: &Live<ClientConfig>) -> Result<Self, ConfigError> {
        let trace = config.section("trace", |config| {
            let spans = config.trace.as_ref()?;
            Some(spans.around(config.metadata.as_ref()))
        });
        let metrics = config.section("metrics", |config| config.metrics.clone());
        let metadata = config.section("metadata", |config| config.metadata.clone());
        let deadline = config.section("deadline", |config| config.deadline.clone());
        let concurrency_limit = config.section("concurrencyLimit", |config| {
            config.concurrency_limit.clone()
        });
        let rate_limit = config.section("rateLimit", |config| config.rate_limit.clone());
        let route = config.section("route", |config| config.route.clone());
        let hedge = config.section("hedge", |config| config.hedge.clone());
        let retry = config.section("retry", |config| config.retry.clone());
        let circuit_breaker = config.section("circuitBreaker", |config| {
            let mut config = config.circuit_breaker.clone()?;
            // One failing operation must not take the others of the service down.
            config.key.get_or_insert_with(Key::operation);
            Some(config)
        });
        let body_limit = config.section("bodyLimit", |config| config.body_limit.clone());
        let retry = RetryLayer::optional(retry)?;
        let layers = Layers {
            trace: TraceLayer::client().peer(service).optional(trace.clone())?,
            metrics: MetricsLayer::client(service).optional(metrics)?,
            metadata: MetadataLayer::optional(metadata)?.role(Role::Client),
            deadline: DeadlineLayer::optional(deadline)?.role(Role::Client),
            concurrency_limit: ConcurrencyLimitLayer::optional(concurrency_limit)?,
            rate_limit: RateLimitLayer::optional(rate_limit)?,
            route: RouteLayer::optional(route)?,
            hedge: HedgeLayer::optional(hedge)?.budget(retry.budget()),
            retry,
            attempt: TraceLayer::attempt().peer(service).optional(trace)?,
            circuit_breaker: CircuitBreakerLayer::optional(circuit_breaker)?,
            body_limit: BodyLimitLayer::optional(body_limit)?,
        };
        Ok(Self {
            layers: Arc::new(layers),
            outermost: Identity::new(),
            before_retry: Identity::new(),
            before_breaker: Identity::new(),
        })
    }
}

impl<O, R, B> ClientLayer<O, R, B> {
    /// Puts a layer around everything: it sees each call once.
    pub fn outermost<L>(self, layer: L) -> ClientLayer<L, R, B> {
        ClientLayer {
            layers: self.layers,
            outermost: layer,
            before_retry: self.before_retry,
            before_breaker: self.before_breaker,
        }
    }

    /// Puts a layer inside the limits and around hedges and retries: it sees each admitted call once.
    pub fn before_retry<L>(self, layer: L) -> ClientLayer<O, L, B> {
        ClientLayer {
            layers: self.layers,
            outermost: self.outermost,
            before_retry: layer,
            before_breaker: self.before_breaker,
        }
    }

    /// Puts a layer inside the retries and around the breaker: it sees each attempt, within its span.
    pub fn before_breaker<L>(self, layer: L) -> ClientLayer<O, R, L> {
        ClientLayer {
            layers: self.layers,
            outermost: self.outermost,
            before_retry: self.before_retry,
            before_breaker: layer,
        }
    }

    /// To watch and force the breakers.
    pub fn breakers(&self) -> BreakerHandle {
        self.layers.circuit_breaker.handle()
    }

    /// To watch the concurrency limit.
    pub fn concurrency_limits(&self) -> ConcurrencyLimitHandle {
        self.layers.concurrency_limit.handle()
    }

    /// To see which bodies were too large.
    pub fn body_limits(&self) -> BodyLimitHandle {
        self.layers.body_limit.handle()
    }

    /// To watch the rate limit.
    pub fn rate_limits(&self) -> RateLimitHandle {
        self.layers.rate_limit.handle()
    }

    /// To watch which arms calls go to.
    pub fn routes(&self) -> RouteHandle {
        self.layers.route.handle()
    }

    /// To watch the hedges.
    pub fn hedges(&self) -> HedgeHandle {
        self.layers.hedge.handle()
    }

    /// To watch the retries.
    pub fn retries(&self) -> RetryHandle {
        self.layers.retry.handle()
    }
}

impl<S, O, R, B> Layer<S> for ClientLayer<O, R, B>
where
    B: Layer<CircuitBreaker<BodyLimit<S>>>,
    B::Service: Clone, // a second attempt goes to a clone
    R: Layer<Hedge<Retry<Trace<B::Service>>>>,
    O: Layer<Trace<RequestMetrics<PropagateMetadata<Deadline<Limited<Route<R::Service>>>>>>>,
{
    type Service = O::Service;

    fn layer(&self, inner: S) -> O::Service {
        // Inside the breaker: a peer that sends too much has failed.
        let service = self.layers.body_limit.layer(inner);
        let service = self.layers.circuit_breaker.layer(service);
        // A user's layer sees each attempt, before the breaker judges the peer.
        let service = self.before_breaker.layer(service);
        // Around it: what a user's layer logs, waits or refuses belongs to the attempt.
        let service = self.layers.attempt.layer(service);
        // Inside the limits: a retry is paid for by the retry budget, not by the caller's quota.
        let service = self.layers.retry.layer(service);
        // Around the retries, whose budget it draws on: an attempt of its own may be retried too.
        let service = self.layers.hedge.layer(service);
        let service = self.before_retry.layer(service);
        // Outside the retries, which so stay in the arm of their call.
        let service = self.layers.route.layer(service);
        let service = self.layers.rate_limit.layer(service);
        // Around it: a call that finds no place costs no quota.
        let service = self.layers.concurrency_limit.layer(service);
        // Around all attempts and their waits.
        let service = self.layers.deadline.layer(service);
        let service = self.layers.metadata.layer(service);
        let service = self.layers.metrics.layer(service);
        let service = self.layers.trace.layer(service);
        self.outermost.layer(service)
    }
}

impl<O, R, B> fmt::Debug for ClientLayer<O, R, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientLayer")
            .field("layers", &self.layers)
            .finish_non_exhaustive()
    }
}
