//! The layer: its shared state, and the ways to make it.

use std::{sync::Arc, time::Duration};

use fastrand::Rng;
use http::Request;
use parking_lot::Mutex;
use tokio::time::Instant;
use tower_layer::Layer;

use super::{
    Retry,
    condition::Condition,
    config::{BackoffConfig, BudgetConfig, RetryConfig, RetryRule},
    handle::RetryHandle,
    policy::Policy,
    rules::Rules,
    stats::Stats,
};
use crate::vocab::{
    body::ReplayLimits,
    budget::Budget,
    classify::{Classifier, Classify},
    config::{ConfigError, Ratio},
    live::{Glance, Live},
    metrics::{self, Collect, Registered, Sink},
    request_match::MatchConfig,
    wheel::Wheel,
};

/// Tries calls again. The [module](super) is the page.
///
/// The budget belongs to the layer: however often [`layer`](Layer::layer) is called, all services
/// share it. So make one layer per peer, or the failing of one peer uses up the retries of another.
#[derive(Clone)]
pub struct RetryLayer<C = Classifier> {
    pub(super) shared: Arc<Registered<Shared>>,
    classify: C,
}

/// Makes a [`RetryLayer`] step by step.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct RetryBuilder {
    config: RetryConfig,
    seed: Option<u64>,
}

/// What all clones share.
pub(super) struct Shared {
    pub(super) policy: Live<Policy>,
    glance: Glance,
    pub(super) limits: ReplayLimits,
    pub(super) budget: Budget,
    pub(super) wheel: Wheel,
    pub(super) stats: Stats,
    pub(super) rng: Mutex<Rng>,
}

/// What the beginning of a call needs of the policy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outlook(u8);

/// What counts for one call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) outlook: Outlook,
    /// The number of its rule.
    pub(super) rule: u8,
}

// ===== impl RetryLayer =====

impl RetryLayer {
    /// Makes the layer from its options.
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names it.
    pub fn new(config: RetryConfig) -> Result<Self, ConfigError> {
        Self::live(config.into())
    }

    /// Makes the layer from options that may change while it runs.
    ///
    /// What was spent of the budget stays spent over a change, and bodies that are kept stay kept. A
    /// call that has begun goes on with the options it began with, unless it lasts over two changes.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn live(config: Live<RetryConfig>) -> Result<Self, ConfigError> {
        Self::build(&config.some(), None)
    }

    /// Makes the layer from options that may come and go as well: without options there are no retries,
    /// and calls pass untouched.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn optional(config: Live<Option<RetryConfig>>) -> Result<Self, ConfigError> {
        Self::build(&config, None)
    }

    /// Starts with the default options.
    pub fn builder() -> RetryBuilder {
        RetryBuilder::default()
    }

    fn build(config: &Live<Option<RetryConfig>>, seed: Option<u64>) -> Result<Self, ConfigError> {
        let shared = Shared {
            policy: config.derive(Policy::compile)?,
            glance: Glance::default(),
            limits: ReplayLimits::default(),
            budget: Budget::new(),
            wheel: Wheel::new(),
            stats: Stats::default(),
            rng: Mutex::new(seed.map_or_else(Rng::new, Rng::with_seed)),
        };
        Ok(Self {
            shared: Arc::new(metrics::register(shared)),
            classify: Classifier,
        })
    }
}

impl<C> RetryLayer<C> {
    /// Judges answers by another classifier: it says which are failures, `retryOn` which of them are
    /// retried.
    pub fn classifier<D: Classify>(self, classify: D) -> RetryLayer<D> {
        RetryLayer {
            shared: self.shared,
            classify,
        }
    }

    /// The budget of the retries, for others that are to stay within it too: `HedgeLayer::budget`.
    pub fn budget(&self) -> Budget {
        self.shared.outlook(); // sets its terms
        self.shared.budget.clone()
    }

    /// To watch the retries.
    pub fn handle(&self) -> RetryHandle {
        RetryHandle::new(self.shared.clone())
    }
}

impl Default for RetryLayer {
    fn default() -> Self {
        Self::new(RetryConfig::default()).expect("the default options are valid")
    }
}

impl<C> std::fmt::Debug for RetryLayer<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RetryLayer")
            .field("policy", &self.shared.policy.get().name)
            .field("stats", &self.handle().stats())
            .finish()
    }
}

impl<S: Clone, C: Clone> Layer<S> for RetryLayer<C> {
    type Service = Retry<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry::new(inner, self.shared.clone(), self.classify.clone())
    }
}

// ===== impl Shared =====

impl Shared {
    /// What a call that begins now may come to.
    #[inline]
    pub(super) fn outlook(&self) -> Outlook {
        Outlook(self.glance.bits(&self.policy, |policy| {
            self.limits.set(policy.replay.per_call, policy.replay.total);
            self.budget.set_terms(policy.on.then_some(policy.budget));
            Outlook::new(policy).0
        }))
    }

    /// What counts for a call where there are rules.
    pub(super) fn plan<B>(&self, request: &Request<B>) -> Plan {
        let policy = self.policy.get();
        let rule = policy.rules.find(request);
        Plan {
            outlook: Outlook::under(&policy, rule),
            rule,
        }
    }

    /// How many retries the budget would allow now.
    pub(super) fn remaining(&self) -> u64 {
        self.outlook(); // sets its terms
        self.budget.remaining(Instant::now())
    }
}

impl Collect for Shared {
    fn collect(&self, out: &mut dyn Sink) {
        let policy = self.policy.get();
        self.stats.collect(&policy.name, self.budget.calls(), out);
        let labels = [("policy", policy.name.as_str())];
        let remaining = self.remaining();
        let help = "Retries that the budget would allow now";
        out.gauge(
            "mesh_retry_budget_remaining",
            help,
            &labels,
            remaining as f64,
        );
        let kept = self.limits.kept();
        let help = "Bytes of request bodies that are kept to send them again";
        out.gauge("mesh_retry_kept_bytes", help, &labels, kept as f64);
    }
}

// ===== impl Outlook =====

impl Outlook {
    const ON: u8 = 1;
    const RETRIES: u8 = 2;
    const TIMEOUT: u8 = 4;
    const GRPC: u8 = 8;
    const RULES: u8 = 16;

    fn new(policy: &Policy) -> Self {
        if !policy.on {
            return Self(0);
        }
        let rules = u8::from(!policy.rules.is_empty()) * Self::RULES;
        Self(Self::under(policy, Rules::OTHERS).0 | rules)
    }

    fn under(policy: &Policy, rule: u8) -> Self {
        let of_rule = policy.rules.of(rule);
        let retries = u8::from(of_rule.max_attempts > 1) * Self::RETRIES;
        let timeout = u8::from(of_rule.attempt_timeout.is_some()) * Self::TIMEOUT;
        let grpc = u8::from(of_rule.retry_on.has_grpc()) * Self::GRPC;
        Self(Self::ON | timeout | retries | grpc)
    }

    /// Whether the layer does anything at all.
    #[inline]
    pub(super) fn is_on(self) -> bool {
        self.0 & Self::ON != 0
    }

    /// Whether there can be a second attempt.
    #[inline]
    pub(super) fn has_retries(self) -> bool {
        self.0 & Self::RETRIES != 0
    }

    /// Whether a gRPC status can be a reason to try again.
    #[inline]
    pub(super) fn has_grpc(self) -> bool {
        self.0 & Self::GRPC != 0
    }

    /// Whether it depends on the request what counts.
    #[inline]
    pub(super) fn has_rules(self) -> bool {
        self.0 & Self::RULES != 0
    }

    /// Whether the time of an attempt is limited.
    #[inline]
    pub(super) fn has_timeout(self) -> bool {
        self.0 & Self::TIMEOUT != 0
    }
}

// ===== impl Plan =====

impl Plan {
    /// Where no rule matches, or there is none.
    #[inline]
    pub(super) fn of_others(outlook: Outlook) -> Self {
        Self {
            outlook,
            rule: Rules::OTHERS,
        }
    }
}

// ===== impl RetryBuilder =====

impl RetryBuilder {
    /// How often a call is tried, the first attempt included. Default 3.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.config.max_attempts = attempts;
        self
    }

    /// How long an attempt may take to its response head. Default unlimited.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.config.attempt_timeout = Some(timeout);
        self
    }

    /// What is retried, instead of [`Condition::DEFAULT`].
    pub fn retry_on(mut self, conditions: impl IntoIterator<Item = Condition>) -> Self {
        self.config.retry_on = conditions.into_iter().collect();
        self
    }

    /// Adds requests that are safe to repeat although their method does not say so.
    pub fn idempotent(mut self, requests: MatchConfig) -> Self {
        self.config.idempotent.push(requests);
        self
    }

    /// Repeats every request, whatever its method.
    pub fn non_idempotent(mut self) -> Self {
        self.config.non_idempotent = true;
        self
    }

    /// The upper bounds of the first pause (default 25 ms) and of all (default 250 ms).
    pub fn backoff(mut self, base: Duration, max: Duration) -> Self {
        self.config.backoff = BackoffConfig { base, max };
        self
    }

    /// Retries for each call of the last 10 s (default 20%), and retries per second that are there
    /// without any calls (default 10).
    pub fn budget(mut self, ratio: Ratio, reserve: u32) -> Self {
        self.config.budget = BudgetConfig::Ratio { ratio, reserve };
        self
    }

    /// Instead of that, gRPC's throttling: an attempt that fails costs one of `max_tokens`, one that
    /// succeeds gives `token_ratio` of one back, and while half of them or fewer are there, there are no
    /// retries.
    pub fn throttling(mut self, max_tokens: u32, token_ratio: Ratio) -> Self {
        self.config.budget = BudgetConfig::Tokens {
            max_tokens,
            token_ratio,
        };
        self
    }

    /// Tries each endpoint `on_same` times more before it goes on, and goes on `on_next` times: go-chassis'
    /// `retryOnSame` and `retryOnNext`. Sets the greatest number of attempts to what that comes to.
    pub fn same_then_next(mut self, on_same: u32, on_next: u32) -> Self {
        self.config.retry_on_same = on_same;
        self.config.max_attempts = on_same
            .saturating_add(1)
            .saturating_mul(on_next.saturating_add(1));
        self
    }

    /// Adds a rule: what counts instead for the requests that it matches, where none before it does.
    pub fn rule(mut self, rule: RetryRule) -> Self {
        self.config.rules.push(rule);
        self
    }

    /// The label `policy` of the metrics. Default `default`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Seeds the jitter of the pauses, for a reproducible run.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names it.
    pub fn build(self) -> Result<RetryLayer, ConfigError> {
        RetryLayer::build(&Live::new(Some(self.config)), self.seed)
    }
}
