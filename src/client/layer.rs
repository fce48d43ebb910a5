//! The client preset.

use std::fmt;

use tower_layer::{Identity, Layer};
use tower_mesh_layers::{
    ConfigError, Key,
    circuit_breaker::{BreakerConfig, BreakerHandle, CircuitBreaker, CircuitBreakerLayer},
    deadline::{Deadline, DeadlineLayer},
    rate_limit::{RateLimit, RateLimitHandle, RateLimitLayer},
    retry::{Retry, RetryLayer},
};

use super::ClientConfig;
use crate::slot::{Slot, SlotService};

/// The layers around a client, in their fixed order; one value whatever is configured.
///
/// ```text
///   outermost*  ►  deadline  ►  rate limit  ►  before_retry*  ►  retry
///                                                                  │ for each attempt
///                                                 before_breaker* ◄┘  ►  circuit breaker  ►  peer
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
///     .layer(ClientLayer::new(&ClientConfig::default())?)
///     .service(channel);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ClientLayer<O = Identity, R = Identity, B = Identity> {
    outermost: O,
    deadline: Slot<DeadlineLayer>,
    rate_limit: Slot<RateLimitLayer>,
    before_retry: R,
    retry: Slot<RetryLayer>,
    before_breaker: B,
    circuit_breaker: Slot<CircuitBreakerLayer>,
}

// ===== impl ClientLayer =====

impl ClientLayer {
    /// Makes every layer that is configured.
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names its section and field.
    pub fn new(config: &ClientConfig) -> Result<Self, ConfigError> {
        // One failing operation must not take the others of the service down.
        let breaker = |mut config: BreakerConfig| {
            config.key.get_or_insert_with(Key::operation);
            CircuitBreakerLayer::new(config)
        };
        Ok(Self {
            outermost: Identity::new(),
            deadline: Slot::configured("deadline", &config.deadline, DeadlineLayer::new)?,
            rate_limit: Slot::configured("rateLimit", &config.rate_limit, RateLimitLayer::new)?,
            before_retry: Identity::new(),
            retry: Slot::configured("retry", &config.retry, RetryLayer::new)?,
            before_breaker: Identity::new(),
            circuit_breaker: Slot::configured("circuitBreaker", &config.circuit_breaker, breaker)?,
        })
    }
}

impl<O, R, B> ClientLayer<O, R, B> {
    /// Puts a layer around everything: it sees each call once.
    pub fn outermost<L>(self, layer: L) -> ClientLayer<L, R, B> {
        ClientLayer {
            outermost: layer,
            deadline: self.deadline,
            rate_limit: self.rate_limit,
            before_retry: self.before_retry,
            retry: self.retry,
            before_breaker: self.before_breaker,
            circuit_breaker: self.circuit_breaker,
        }
    }

    /// Puts a layer inside the limits and around the retries: it sees each admitted call once.
    pub fn before_retry<L>(self, layer: L) -> ClientLayer<O, L, B> {
        ClientLayer {
            outermost: self.outermost,
            deadline: self.deadline,
            rate_limit: self.rate_limit,
            before_retry: layer,
            retry: self.retry,
            before_breaker: self.before_breaker,
            circuit_breaker: self.circuit_breaker,
        }
    }

    /// Puts a layer inside the retries and around the breaker: it sees each attempt.
    pub fn before_breaker<L>(self, layer: L) -> ClientLayer<O, R, L> {
        ClientLayer {
            outermost: self.outermost,
            deadline: self.deadline,
            rate_limit: self.rate_limit,
            before_retry: self.before_retry,
            retry: self.retry,
            before_breaker: layer,
            circuit_breaker: self.circuit_breaker,
        }
    }

    /// To watch and force the breakers, where there are any.
    pub fn breakers(&self) -> Option<BreakerHandle> {
        self.circuit_breaker.get().map(CircuitBreakerLayer::handle)
    }

    /// To watch the rate limit, where there is one.
    pub fn rate_limits(&self) -> Option<RateLimitHandle> {
        self.rate_limit.get().map(RateLimitLayer::handle)
    }

    /// The retry layer, where there is one.
    pub fn retry(&self) -> Option<&RetryLayer> {
        self.retry.get()
    }
}

/// What a slot makes of the service below it. Written out, since the compiler does not see through
/// `<CircuitBreakerLayer as Layer<S>>::Service` in the bounds below.
type BreakerSlot<S> = SlotService<CircuitBreaker<S>, S>;
type RetrySlot<S> = SlotService<Retry<S>, S>;
type RateLimitSlot<S> = SlotService<RateLimit<S>, S>;
type DeadlineSlot<S> = SlotService<Deadline<S>, S>;

impl<S, O, R, B> Layer<S> for ClientLayer<O, R, B>
where
    B: Layer<BreakerSlot<S>>,
    B::Service: Clone, // a second attempt goes to a clone
    R: Layer<RetrySlot<B::Service>>,
    O: Layer<DeadlineSlot<RateLimitSlot<R::Service>>>,
{
    type Service = O::Service;

    fn layer(&self, inner: S) -> O::Service {
        let service = self.circuit_breaker.layer(inner);
        // A user's layer sees each attempt, before the breaker judges the peer.
        let service = self.before_breaker.layer(service);
        // Inside the limits: a retry is paid for by the retry budget, not by the caller's quota.
        let service = self.retry.layer(service);
        let service = self.before_retry.layer(service);
        let service = self.rate_limit.layer(service);
        // Around all attempts and their waits.
        let service = self.deadline.layer(service);
        self.outermost.layer(service)
    }
}

impl<O, R, B> fmt::Debug for ClientLayer<O, R, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientLayer")
            .field("deadline", &self.deadline)
            .field("rate_limit", &self.rate_limit)
            .field("retry", &self.retry)
            .field("circuit_breaker", &self.circuit_breaker)
            .finish_non_exhaustive()
    }
}
