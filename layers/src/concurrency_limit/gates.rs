//! The gates of a layer: one, or one for each key.

use std::sync::Arc;

use http::Request;

use super::{
    config::ConcurrencyLimitConfig,
    gate::{Gate, Limits},
};
use crate::vocab::{classify::CallKind, key::Key, keyed::Keyed};

/// All gates under one `key`, and the limits that they share.
pub(super) struct Gates {
    limits: Arc<Limits>,
    kept: Kept,
}

enum Kept {
    /// One for all calls.
    One(Arc<Gate>),
    /// One for each key.
    Keyed { key: Key, gates: Keyed<Gate> },
}

/// What is in all gates together.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Held {
    pub(super) in_flight: usize,
    pub(super) waiting: usize,
}

// ===== impl Gates =====

impl Gates {
    pub(super) fn new(config: &ConcurrencyLimitConfig) -> Self {
        let limits = Arc::new(Limits::new(config.limit, config.queue));
        let gate = || Gate::new(limits.clone());
        let kept = if config.key.is_global() {
            Kept::One(Arc::new(gate()))
        } else {
            Kept::Keyed {
                key: config.key.clone(),
                gates: Keyed::new(config.most_keys(), gate()),
            }
        };
        Self { limits, kept }
    }

    /// The gate of a call.
    #[inline]
    pub(super) fn of<B>(&self, call: CallKind, request: &Request<B>) -> Arc<Gate> {
        match &self.kept {
            Kept::One(gate) => gate.clone(),
            Kept::Keyed { key, gates } => {
                let key = key.extract_for(call, request);
                gates.of(&key, Gate::is_idle, || Gate::new(self.limits.clone()))
            }
        }
    }

    /// Other limits from now on.
    pub(super) fn follow(&self, config: &ConcurrencyLimitConfig) {
        self.limit(config.limit, config.queue);
    }

    /// No limit from now on, and nobody waits.
    pub(super) fn open(&self) {
        self.limit(u32::MAX, 0);
    }

    fn limit(&self, in_flight: u32, waiting: u32) {
        self.limits.set(in_flight, waiting);
        self.for_each(Gate::let_in);
    }

    /// How many keys have a gate of their own.
    pub(super) fn keys(&self) -> usize {
        match &self.kept {
            Kept::One(_) => 0,
            Kept::Keyed { gates, .. } => gates.len(),
        }
    }

    /// How many calls had a key that found no room.
    pub(super) fn overflowed(&self) -> u64 {
        match &self.kept {
            Kept::One(_) => 0,
            Kept::Keyed { gates, .. } => gates.stats().overflowed,
        }
    }

    pub(super) fn is_keyed(&self) -> bool {
        matches!(self.kept, Kept::Keyed { .. })
    }

    pub(super) fn held(&self) -> Held {
        let mut held = Held::default();
        self.for_each(|gate| {
            held.in_flight += gate.in_flight() as usize;
            held.waiting += gate.waiting() as usize;
        });
        held
    }

    fn for_each(&self, mut visit: impl FnMut(&Gate)) {
        match &self.kept {
            Kept::One(gate) => visit(gate),
            Kept::Keyed { gates, .. } => {
                visit(gates.overflow());
                gates.for_each(|_, gate| visit(gate));
            }
        }
    }
}
