//! Watching and forcing breakers.

use std::sync::Arc;

use tokio::sync::watch;

use super::{breaker::Breaker, layer::Shared, state::BreakerState, stats::BreakerStats};
use crate::vocab::metrics::Registered;

/// To watch the breakers of a layer, and to force them.
#[derive(Clone)]
pub struct BreakerHandle {
    shared: Arc<Registered<Shared>>,
}

/// One breaker of a layer.
#[derive(Clone)]
pub struct BreakerRef {
    breaker: Arc<Breaker>,
}

// ===== impl BreakerHandle =====

impl BreakerHandle {
    pub(super) fn new(shared: Arc<Registered<Shared>>) -> Self {
        Self { shared }
    }

    /// What the layer has counted, all its breakers together.
    pub fn stats(&self) -> BreakerStats {
        self.shared.stats().read()
    }

    /// All breakers there are: one where the layer has no key; else one for each key seen so far and
    /// the one that the keys above the cap share.
    pub fn breakers(&self) -> Vec<BreakerRef> {
        let mut all = Vec::new();
        self.shared.for_each(|breaker| {
            all.push(BreakerRef {
                breaker: breaker.clone(),
            })
        });
        all
    }

    /// The breaker of a key, such as `/orders/{id}`; the empty key where the layer has none.
    pub fn breaker(&self, key: &str) -> Option<BreakerRef> {
        self.breakers()
            .into_iter()
            .find(|breaker| breaker.key() == key)
    }

    /// Refuses all calls until [`reset`](Self::reset), whatever the key; keys that have not been seen
    /// yet are not affected.
    pub fn force_open(&self) {
        self.breakers().iter().for_each(BreakerRef::force_open);
    }

    /// Lets all calls pass until [`reset`](Self::reset); keys that have not been seen yet are not
    /// affected.
    pub fn force_closed(&self) {
        self.breakers().iter().for_each(BreakerRef::force_closed);
    }

    /// Closes all breakers and forgets what they have seen.
    pub fn reset(&self) {
        self.breakers().iter().for_each(BreakerRef::reset);
    }
}

impl std::fmt::Debug for BreakerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.breakers()).finish()
    }
}

// ===== impl BreakerRef =====

impl BreakerRef {
    /// The key it is kept by; empty where the layer has no key.
    pub fn key(&self) -> &str {
        &self.breaker.key
    }

    /// Its state now. An open breaker whose time is over stays open until a call comes; one that
    /// throttles is open while it refuses any.
    pub fn state(&self) -> BreakerState {
        self.breaker.state()
    }

    /// Its state now and from now on, but for what [`force`](super::BreakerConfig::force) does to it.
    pub fn subscribe(&self) -> watch::Receiver<BreakerState> {
        self.breaker.gate.subscribe()
    }

    /// The failure rate over the window, from 0.0 to 1.0, and the calls it was taken over; `None`
    /// where a foreign policy decides.
    pub fn failure_rate(&self) -> Option<(f64, u64)> {
        self.breaker.failure_rate()
    }

    /// The rate of slow calls over the window, from 0.0 to 1.0, and the calls it was taken over; `None`
    /// where `slowCall` is not set.
    pub fn slow_rate(&self) -> Option<(f64, u64)> {
        self.breaker.slow_rate()
    }

    /// The probability with which the next call is refused; `None` without `adaptive`.
    pub fn drop_ratio(&self) -> Option<f64> {
        self.breaker.drop_ratio()
    }

    /// Refuses calls until [`reset`](Self::reset).
    pub fn force_open(&self) {
        self.breaker.force(BreakerState::ForcedOpen);
    }

    /// Lets calls pass until [`reset`](Self::reset).
    pub fn force_closed(&self) {
        self.breaker.force(BreakerState::ForcedClosed);
    }

    /// Closes it and forgets what it has seen.
    pub fn reset(&self) {
        self.breaker.force(BreakerState::Closed);
    }
}

impl std::fmt::Debug for BreakerRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BreakerRef")
            .field("key", &self.key())
            .field("state", &self.state())
            .field("failure_rate", &self.failure_rate())
            .finish()
    }
}
