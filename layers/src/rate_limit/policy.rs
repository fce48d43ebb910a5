//! All limits of a layer: a call is within each of them, or charged to none.

use std::{sync::Arc, time::Duration};

use http::Request;
use tokio::time::{Instant, Sleep, sleep};

use super::{
    config::RateLimitConfig,
    layer::Seen,
    limit::{Admitted, Charge, Limit, Refused},
};
use crate::vocab::{config::ConfigError, context::CallContext, metrics::Sink};

/// A configuration, and the limits made of it.
pub(super) struct Policy {
    pub(super) config: RateLimitConfig,
    first: Limit,
    also: Box<[Limit]>,
    has_queue: bool,
    is_simple: bool,
}

/// What is decided on a call.
pub(super) enum Verdict<'a> {
    Admitted(Closest<'a>),
    /// It is its turn after this time.
    Waits(Duration, Charges, Closest<'a>),
    Refused(Exceeded<'a>),
}

/// Of the limits of a call, the one with the fewest tokens left.
pub(super) struct Closest<'a> {
    pub(super) config: &'a RateLimitConfig,
    admitted: Admitted<'a>,
}

/// The limit that refused a call.
pub(super) struct Exceeded<'a> {
    pub(super) config: &'a RateLimitConfig,
    pub(super) wait: Duration,
}

/// A call that waits for its turn. One that leaves before gives back what it was charged.
pub(super) struct InLine {
    seen: Arc<Seen>,
    wait: Duration,
    charges: Charges,
}

/// What a call was charged, by the limit: tokens that it may give back.
pub(super) type Charges = Vec<(usize, Charge)>;

// ===== impl Policy =====

impl Policy {
    /// Compiles a configuration. Limits of the same name and kept by the same keys go on from where those
    /// of `previous` were.
    pub(super) fn new(
        config: &RateLimitConfig,
        previous: Option<&Self>,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let compile = |config: &RateLimitConfig, is_first: bool| {
            let previous = previous.and_then(|previous| previous.predecessor(config, is_first));
            Limit::new(config, previous)
        };
        let mut also = Vec::with_capacity(config.also.len());
        for (at, further) in config.also.iter().enumerate() {
            let limit = compile(further, false);
            also.push(limit.map_err(|error| error.at(format_args!("also[{at}]")))?);
        }
        Ok(Self {
            first: compile(config, true)?,
            is_simple: also.is_empty() && config.queue == 0,
            also: also.into(),
            has_queue: config.limits().any(|limit| limit.queue > 0),
            config: config.clone(),
        })
    }

    /// The limit that one of another configuration stands in for, and how that was configured.
    fn predecessor(
        &self,
        config: &RateLimitConfig,
        is_first: bool,
    ) -> Option<(&Limit, &RateLimitConfig)> {
        let mut all = self.limits();
        // The first is the first by whatever name: most layers have no other.
        if is_first {
            return all.next();
        }
        all.skip(1)
            .find(|(_, previous)| previous.name == config.name)
    }

    fn limits(&self) -> impl Iterator<Item = (&Limit, &RateLimitConfig)> {
        std::iter::once(&self.first)
            .chain(&self.also)
            .zip(self.config.limits())
    }

    /// The one limit of most layers, which nobody waits for.
    #[inline]
    pub(super) fn only(&self) -> Option<&Limit> {
        self.is_simple.then_some(&self.first)
    }

    /// Decides on a call.
    #[inline(never)]
    pub(super) fn check<B>(&self, request: &Request<B>) -> Verdict<'_> {
        let mut charges = Charges::new();
        let mut closest: Option<Closest<'_>> = None;
        let mut wait = Duration::ZERO;
        for (at, (limit, config)) in self.limits().enumerate() {
            match limit.charge_kept(request) {
                Ok((admitted, charge)) => {
                    charges.extend(charge.map(|charge| (at, charge)));
                    wait = wait.max(admitted.wait());
                    let this = Closest { config, admitted };
                    if closest
                        .as_ref()
                        .is_none_or(|closest| this.left() < closest.left())
                    {
                        closest = Some(this);
                    }
                }
                Err(Refused { wait }) => {
                    self.give_back(&charges);
                    limit.exceeded.add(1);
                    return Verdict::Refused(Exceeded { config, wait });
                }
            }
        }
        let closest = closest.expect("there is a first limit");
        if wait.is_zero() {
            return Verdict::Admitted(closest);
        }
        let context = CallContext::get(request.extensions());
        let deadline = context.and_then(|context| context.deadline);
        if deadline.is_some_and(|deadline| Instant::now() + wait >= deadline) {
            // Nobody would be there any more when it is its turn.
            self.give_back(&charges);
            let config = closest.config;
            return Verdict::Refused(Exceeded { config, wait });
        }
        Verdict::Waits(wait, charges, closest)
    }

    /// Gives back what a call was charged.
    pub(super) fn give_back(&self, charges: &Charges) {
        for (at, charge) in charges {
            // NOTE: a call that waited may have been charged by an earlier policy, with fewer limits.
            if let Some((limit, _)) = self.limits().nth(*at) {
                limit.give_back(charge);
            }
        }
    }

    /// How many keys have a limit of their own.
    pub(super) fn keys(&self) -> usize {
        let stats = self.limits().filter_map(|(limit, _)| limit.keys());
        stats.map(|stats| stats.len).sum()
    }

    pub(super) fn has_queue(&self) -> bool {
        self.has_queue
    }

    pub(super) fn collect(&self, out: &mut dyn Sink) {
        for (limit, config) in self.limits() {
            let labels = [("policy", config.name.as_str())];
            if !self.also.is_empty() {
                let help = "Calls that a rate limit, of several, refused";
                let count = limit.exceeded.sum();
                out.counter("mesh_rate_limit_exceeded_total", help, &labels, count);
            }
            if let Some(stats) = limit.keys() {
                let help = "Keys that have a limit";
                out.gauge("mesh_rate_limit_keys", help, &labels, stats.len as f64);
                let help = "Calls that shared the limit of the keys above the cap";
                let total = stats.overflowed;
                out.counter("mesh_rate_limit_overflowed_total", help, &labels, total);
            }
        }
    }
}

// ===== impl Closest =====

impl<'a> Closest<'a> {
    pub(super) fn new(config: &'a RateLimitConfig, admitted: Admitted<'a>) -> Self {
        Self { config, admitted }
    }

    /// So many more calls may come at once.
    pub(super) fn left(&self) -> u32 {
        self.admitted.left().unwrap_or(u32::MAX)
    }

    /// Whether any limit is for the call.
    pub(super) fn is_limited(&self) -> bool {
        !matches!(self.admitted, Admitted::Free)
    }
}

// ===== impl InLine =====

impl InLine {
    pub(super) fn new(seen: &Arc<Seen>, charges: Charges, wait: Duration) -> Self {
        seen.shared.waiting.add(1);
        let seen = seen.clone();
        Self {
            seen,
            wait,
            charges,
        }
    }

    /// For as long as it waits.
    pub(super) fn sleep(&self) -> Sleep {
        sleep(self.wait)
    }

    /// It is its turn: what it was charged is spent.
    pub(super) fn serve(&mut self) {
        self.charges.clear();
        self.seen.shared.admitted.add(1);
        self.seen.shared.waits.record(self.wait);
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        self.seen.shared.waiting.sub(1);
        // Whatever the policy is by now: tokens are tokens.
        if let Some(policy) = &*self.seen.shared.policy.get()
            && !self.charges.is_empty()
        {
            policy.give_back(&self.charges);
        }
    }
}
