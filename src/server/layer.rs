//! The server preset as one layer.

use std::{fmt, sync::Arc};

use tower_layer::{Identity, Layer};
use tower_mesh_layers::{
    ConfigError, Live,
    body_limit::{BodyLimit, BodyLimitHandle, BodyLimitLayer},
    catch_panic::{CatchPanic, CatchPanicHandle, CatchPanicLayer},
    concurrency_limit::{ConcurrencyLimit, ConcurrencyLimitHandle, ConcurrencyLimitLayer},
    deadline::{Deadline, DeadlineLayer, Role},
    drain::{Drain, DrainHandle, DrainLayer},
    idempotency::{Idempotency, IdempotencyHandle, IdempotencyLayer},
    metadata::{MetadataLayer, PropagateMetadata},
    rate_limit::{RateLimit, RateLimitHandle, RateLimitLayer},
    request_metrics::{MetricsLayer, RequestMetrics},
    trace::{Trace, TraceLayer},
};

use super::ServerConfig;

/// The layers of a server, in their fixed order.
///
/// It is one type whatever is configured; a layer that is not configured is off, which costs a call a
/// comparison.
///
/// ```text
///   outermost*  ►  catch-panic  ►  trace  ►  metrics  ►  drain  ►  metadata  ►  deadline  ──┐
///                                                                                            │
///                                 body limit  ◄  concurrency limit  ◄  before_limits*  ◄─────┘
///                                   │
///                                   └►  rate limit  ►  idempotency  ►  before_handler*  ►  handler
/// ```
///
/// The slots with a star are yours: authentication belongs before the limits, so that a limit can be
/// kept by the caller's identity.
///
/// # On a server of plain hyper
///
/// axum and tonic have request bodies that can hold another one, which is what the body limit and idempotency keys need of
/// them ([`LimitBody`](tower_mesh_layers::body_limit::LimitBody), [`Replay`](tower_mesh_layers::Replay)), on or off: the
/// preset is one type. hyper's own `Incoming`
/// cannot, so one line in front of the preset puts it into a [`Body`](crate::Body), and that is what the handler gets:
///
/// ```
/// use std::convert::Infallible;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use hyper::body::{Bytes, Incoming};
/// use hyper_util::service::TowerToHyperService;
/// use tower::{ServiceBuilder, service_fn, util::MapRequestLayer};
/// use tower_mesh::{Body, Mesh};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mesh = Mesh::builder().build()?;
/// let handler = service_fn(async |request: Request<Body>| {
///     Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("hello"))))
/// });
/// let service = ServiceBuilder::new()
///     .layer(MapRequestLayer::new(|request: Request<Incoming>| request.map(Body::new)))
///     .layer(mesh.server())
///     .service(handler);
/// let service = TowerToHyperService::new(service); // for `http1::Builder::serve_connection` and its like
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ServerLayer<O = Identity, L = Identity, H = Identity> {
    layers: Arc<Layers>,
    outermost: O,
    before_limits: L,
    before_handler: H,
}

/// Ours, behind one pointer: a router clones its layers again and again.
#[derive(Debug)]
struct Layers {
    catch_panic: CatchPanicLayer,
    trace: TraceLayer,
    metrics: MetricsLayer,
    drain: DrainLayer,
    metadata: MetadataLayer,
    deadline: DeadlineLayer,
    concurrency_limit: ConcurrencyLimitLayer,
    body_limit: BodyLimitLayer,
    rate_limit: RateLimitLayer,
    idempotency: IdempotencyLayer,
}

// ===== impl ServerLayer =====

impl ServerLayer {
    /// Makes the layers.
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names its section and field.
    pub fn new(config: &ServerConfig) -> Result<Self, ConfigError> {
        Self::live(&Live::new(config.clone()))
    }

    /// Makes the layers from options that may change while they run; each keeps what it has learnt.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn live(config: &Live<ServerConfig>) -> Result<Self, ConfigError> {
        let catch_panic = config.section("catchPanic", |config| config.catch_panic.clone());
        let drain = config.section("drain", |config| config.drain.clone());
        let body_limit = config.section("bodyLimit", |config| config.body_limit.clone());
        // One edge: who is no source of metadata is none of traces either.
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
        let idempotency = config.section("idempotency", |config| config.idempotency.clone());
        let layers = Layers {
            catch_panic: CatchPanicLayer::optional(catch_panic)?,
            trace: TraceLayer::server().optional(trace)?,
            metrics: MetricsLayer::server().optional(metrics)?,
            drain: DrainLayer::optional(drain)?,
            metadata: MetadataLayer::optional(metadata)?.role(Role::Server),
            deadline: DeadlineLayer::optional(deadline)?.role(Role::Server),
            concurrency_limit: ConcurrencyLimitLayer::optional(concurrency_limit)?,
            body_limit: BodyLimitLayer::optional(body_limit)?,
            rate_limit: RateLimitLayer::optional(rate_limit)?,
            idempotency: IdempotencyLayer::optional(idempotency)?,
        };
        Ok(Self {
            layers: Arc::new(layers),
            outermost: Identity::new(),
            before_limits: Identity::new(),
            before_handler: Identity::new(),
        })
    }
}

impl<O, L, H> ServerLayer<O, L, H> {
    /// Puts a layer around everything.
    pub fn outermost<N>(self, layer: N) -> ServerLayer<N, L, H> {
        ServerLayer {
            layers: self.layers,
            outermost: layer,
            before_limits: self.before_limits,
            before_handler: self.before_handler,
        }
    }

    /// Puts a layer inside the deadline and around the limits.
    pub fn before_limits<N>(self, layer: N) -> ServerLayer<O, N, H> {
        ServerLayer {
            layers: self.layers,
            outermost: self.outermost,
            before_limits: layer,
            before_handler: self.before_handler,
        }
    }

    /// Puts a layer right around the handler: it sees the calls that everything else let through.
    pub fn before_handler<N>(self, layer: N) -> ServerLayer<O, L, N> {
        ServerLayer {
            layers: self.layers,
            outermost: self.outermost,
            before_limits: self.before_limits,
            before_handler: layer,
        }
    }

    /// To leave: to refuse new calls, and to wait for those in flight.
    pub fn drain(&self) -> DrainHandle {
        self.layers.drain.handle()
    }

    /// To see which panics were caught.
    pub fn panics(&self) -> CatchPanicHandle {
        self.layers.catch_panic.handle()
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

    /// To see which keys are known, and which calls were answered by them.
    pub fn idempotency(&self) -> IdempotencyHandle {
        self.layers.idempotency.handle()
    }
}

impl<S, O, L, H> Layer<S> for ServerLayer<O, L, H>
where
    H: Layer<S>,
    L: Layer<ConcurrencyLimit<BodyLimit<RateLimit<Idempotency<H::Service>>>>>,
    O: Layer<CatchPanic<Trace<RequestMetrics<Drain<PropagateMetadata<Deadline<L::Service>>>>>>>,
{
    type Service = O::Service;

    fn layer(&self, handler: S) -> O::Service {
        let service = self.before_handler.layer(handler);
        // Inside the limits, which a repeated call counts towards as well.
        let service = self.layers.idempotency.layer(service);
        let service = self.layers.rate_limit.layer(service);
        // A limit is cheaper to look at than a token is to give back.
        let service = self.layers.body_limit.layer(service);
        // Around both: a call that finds no place costs no quota.
        let service = self.layers.concurrency_limit.layer(service);
        let service = self.before_limits.layer(service);
        // Around all else, so that expired work costs nothing.
        let service = self.layers.deadline.layer(service);
        // The edge: before anything reads what an outsider must not send.
        let service = self.layers.metadata.layer(service);
        // A process that leaves reads nothing of a call that it refuses.
        let service = self.layers.drain.layer(service);
        // Around whatever refuses, so that refusals are seen as well.
        let service = self.layers.metrics.layer(service);
        let service = self.layers.trace.layer(service);
        // So that a panic passes those, which take note of it.
        let service = self.layers.catch_panic.layer(service);
        self.outermost.layer(service)
    }
}

impl<O, L, H> fmt::Debug for ServerLayer<O, L, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerLayer")
            .field("layers", &self.layers)
            .finish_non_exhaustive()
    }
}
