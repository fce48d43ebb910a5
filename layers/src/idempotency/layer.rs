//! The layer: its shared state, and the ways to make it.

use std::{fmt, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{
    Idempotency,
    claims::Claims,
    config::{IdempotencyConfig, Policy},
    digest::Seed,
    handle::{IdempotencyHandle, IdempotencyStats},
};
use crate::vocab::{
    config::{ByteSize, ConfigError},
    key::Key,
    live::{self, Live},
    metrics::{self, Collect, Registered, Sink},
    request_match::MatchConfig,
    shard::Counter,
};

/// Makes a call with an idempotency key once, however often it comes. The [module](super) is the page.
///
/// The keys belong to the layer: however often [`layer`](Layer::layer) is called (axum does for every connection), all
/// services share them.
#[derive(Clone)]
pub struct IdempotencyLayer {
    seen: Arc<Seen>,
}

/// Makes an [`IdempotencyLayer`] step by step.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct IdempotencyBuilder {
    config: IdempotencyConfig,
}

/// What all clones share.
pub(super) struct Shared {
    pub(super) policy: Live<Option<Policy>>,
    pub(super) claims: Claims,
    pub(super) seed: Seed,
    counts: [Counter; RESULTS.len()],
}

/// What became of a call with a key, or of one that should have had one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallResult {
    Executed,
    Replayed,
    InFlight,
    Reused,
    NotKept,
    Invalid,
    TooLarge,
    Full,
}

/// Their labels, in the same order.
const RESULTS: [&str; 8] = [
    "executed",
    "replayed",
    "in_flight",
    "reused",
    "not_kept",
    "invalid",
    "too_large",
    "full",
];

/// What all clones share, and the policy as it was seen last: a service keeps the one that it was made with.
pub(super) struct Seen {
    pub(super) shared: Arc<Registered<Shared>>,
    policy: live::Seen<Option<Policy>>,
}

// ===== impl IdempotencyLayer =====

impl IdempotencyLayer {
    /// Makes the layer from its options.
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names it.
    pub fn new(config: IdempotencyConfig) -> Result<Self, ConfigError> {
        Self::live(config.into())
    }

    /// Makes the layer from options that may change while it runs. Keys and answers stay; other bounds and another
    /// `ttl` hold from the next call on.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn live(config: Live<IdempotencyConfig>) -> Result<Self, ConfigError> {
        Self::optional(config.some())
    }

    /// Makes the layer from options that may come and go as well: without options keys mean nothing, and calls pass as
    /// they are. What is known stays known for when they come back.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn optional(config: Live<Option<IdempotencyConfig>>) -> Result<Self, ConfigError> {
        let policy = config.derive(|config| config.as_ref().map(Policy::new).transpose())?;
        let shared = metrics::register(Shared {
            policy,
            claims: Claims::new(),
            seed: Seed::default(),
            counts: std::array::from_fn(|_| Counter::new()),
        });
        Ok(Self {
            seen: Arc::new(Seen::now(Arc::new(shared))),
        })
    }

    /// Starts with the defaults.
    pub fn builder() -> IdempotencyBuilder {
        IdempotencyBuilder::default()
    }

    /// To see what is kept, and what became of calls.
    pub fn handle(&self) -> IdempotencyHandle {
        IdempotencyHandle::new(self.seen.shared.clone())
    }
}

impl Default for IdempotencyLayer {
    fn default() -> Self {
        Self::new(IdempotencyConfig::default()).expect("the defaults are valid")
    }
}

impl fmt::Debug for IdempotencyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = self.seen.shared.policy.get();
        f.debug_struct("IdempotencyLayer")
            .field("config", &policy.as_ref().map(|policy| &policy.config))
            .field("stats", &self.seen.shared.stats())
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Idempotency<S> {
        let seen = match self.seen.policy() {
            Ok(_) => self.seen.clone(),
            Err(_) => Arc::new(Seen::now(self.seen.shared.clone())),
        };
        Idempotency::new(inner, seen)
    }
}

// ===== impl Shared =====

impl Shared {
    pub(super) fn count(&self, result: CallResult) {
        self.counts[result as usize].add(1);
    }

    pub(super) fn stats(&self) -> IdempotencyStats {
        let held = self.claims.held();
        let count = |result: CallResult| self.counts[result as usize].sum();
        IdempotencyStats {
            executed: count(CallResult::Executed),
            replayed: count(CallResult::Replayed),
            in_flight_conflicts: count(CallResult::InFlight),
            reused: count(CallResult::Reused),
            refused: [
                CallResult::NotKept,
                CallResult::Invalid,
                CallResult::TooLarge,
                CallResult::Full,
            ]
            .map(count)
            .iter()
            .sum(),
            evicted: held.evicted,
            entries: held.entries,
            in_flight: held.in_flight,
            bytes: held.bytes,
        }
    }
}

impl Collect for Shared {
    fn collect(&self, out: &mut dyn Sink) {
        let policy = self.policy.get();
        let Some(policy) = &*policy else {
            return;
        };
        let name = policy.config.name.as_str();
        for (result, count) in RESULTS.iter().zip(&self.counts) {
            let labels = [("policy", name), ("result", result)];
            let help = "Calls that idempotency keys decided on";
            out.counter("mesh_idempotency_calls_total", help, &labels, count.sum());
        }
        let held = self.claims.held();
        let completed = held.entries - held.in_flight;
        for (state, keys) in [("in_flight", held.in_flight), ("completed", completed)] {
            let labels = [("policy", name), ("state", state)];
            let help = "Idempotency keys that are known";
            out.gauge("mesh_idempotency_keys", help, &labels, keys as f64);
        }
        let labels = [("policy", name)];
        let help = "Bytes of answers that are kept under idempotency keys";
        out.gauge(
            "mesh_idempotency_answer_bytes",
            help,
            &labels,
            held.bytes as f64,
        );
        let help = "Idempotency keys that had to make room before their time";
        out.counter(
            "mesh_idempotency_evicted_total",
            help,
            &labels,
            held.evicted,
        );
    }
}

// ===== impl Seen =====

impl Seen {
    fn now(shared: Arc<Registered<Shared>>) -> Self {
        let policy = live::Seen::now(&shared.policy);
        Self { shared, policy }
    }

    /// The policy; or where to read it, if it has changed since.
    #[inline]
    pub(super) fn policy(&self) -> Result<&Option<Policy>, &Live<Option<Policy>>> {
        let live = &self.shared.policy;
        self.policy.still(live).ok_or(live)
    }
}

// ===== impl IdempotencyBuilder =====

impl IdempotencyBuilder {
    /// Calls that match this, or another one that is given, may have a key. Default: POST and PATCH.
    pub fn matching(mut self, calls: MatchConfig) -> Self {
        self.config.matches.push(calls);
        self
    }

    /// Calls must have a key.
    pub fn required(mut self) -> Self {
        self.config.required = true;
        self
    }

    /// gRPC calls are meant as well. Those that match must be unary.
    pub fn grpc(mut self) -> Self {
        self.config.grpc = true;
        self
    }

    /// Whose keys are kept apart. Default: each operation's, and in it each caller's.
    pub fn key(mut self, key: Key) -> Self {
        self.config.key = key;
        self
    }

    /// How long a call waits for the first one with its key. Default: not at all.
    pub fn wait(mut self, longest: Duration) -> Self {
        self.config.wait = Some(longest);
        self
    }

    /// How long after its answer a key is known. Default 24 h.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.config.ttl = ttl;
        self
    }

    /// The most bytes of a request that has a key. Default 64 KiB.
    pub fn max_request(mut self, size: ByteSize) -> Self {
        self.config.max_request = size;
        self
    }

    /// The most bytes of an answer that is kept. Default 64 KiB.
    pub fn max_answer(mut self, size: ByteSize) -> Self {
        self.config.max_answer = size;
        self
    }

    /// The most keys that are known at a time. Default 10,000.
    pub fn max_entries(mut self, keys: usize) -> Self {
        self.config.max_entries = keys;
        self
    }

    /// The most bytes of all answers together. Default 64 MiB.
    pub fn max_bytes(mut self, size: ByteSize) -> Self {
        self.config.max_bytes = size;
        self
    }

    /// The label `policy` of the metrics. Default `default`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names it.
    pub fn build(self) -> Result<IdempotencyLayer, ConfigError> {
        IdempotencyLayer::new(self.config)
    }
}
