//! What a hedge layer counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::vocab::metrics::Sink;

/// Counts of one layer. A call whose first attempt answers in time touches none of them: those its
/// cap counts.
#[derive(Debug, Default)]
pub(super) struct Stats {
    hedges: AtomicU64,
    won: AtomicU64,
    held_back: [AtomicU64; HeldBack::ALL.len()],
}

/// A reading of the counts of a hedge layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HedgeStats {
    /// Calls through the layer, whether they may be hedged or not.
    pub calls: u64,
    /// Attempts that were made beside another one.
    pub hedges: u64,
    /// Calls that were answered by one of them.
    pub won: u64,
    /// Bytes of request bodies that are kept now.
    pub kept_bytes: usize,
}

/// Why a slow call got no further attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeldBack {
    /// `extraLoad`: there were too many lately.
    ExtraLoad,
    /// The budget that is shared with retries was spent.
    Budget,
    /// The peer said that it must not be called again, or not so soon; or it is too busy.
    Pushback,
    /// The request's body was too long to be kept, failed, or was still being sent.
    Body,
    /// The call's deadline had passed.
    Deadline,
}

// ===== impl Stats =====

impl Stats {
    pub(super) fn hedged(&self) {
        self.hedges.fetch_add(1, Relaxed);
    }

    pub(super) fn won(&self) {
        self.won.fetch_add(1, Relaxed);
    }

    pub(super) fn held_back(&self, why: HeldBack) {
        self.held_back[why as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn held_back_for(&self, why: HeldBack) -> u64 {
        self.held_back[why as usize].load(Relaxed)
    }

    pub(super) fn read(&self) -> HedgeStats {
        HedgeStats {
            hedges: self.hedges.load(Relaxed),
            won: self.won.load(Relaxed),
            ..HedgeStats::default()
        }
    }

    pub(super) fn collect(&self, policy: &str, calls: u64, out: &mut dyn Sink) {
        let labels = [("policy", policy)];
        let help = "Calls through hedge layers, whether they may be hedged or not";
        out.counter("mesh_hedge_calls_total", help, &labels, calls);
        let help = "Attempts that were made beside another one";
        let hedges = self.hedges.load(Relaxed);
        out.counter("mesh_hedge_attempts_total", help, &labels, hedges);
        let help = "Calls that were answered by an attempt that was made beside another one";
        let won = self.won.load(Relaxed);
        out.counter("mesh_hedge_won_total", help, &labels, won);
        for why in HeldBack::ALL {
            let labels = [("policy", policy), ("reason", why.label())];
            let help = "Slow calls that got no further attempt, by why";
            let total = self.held_back_for(why);
            out.counter("mesh_hedge_held_back_total", help, &labels, total);
        }
    }
}

// ===== impl HeldBack =====

impl HeldBack {
    pub(super) const ALL: [Self; 5] = [
        Self::ExtraLoad,
        Self::Budget,
        Self::Pushback,
        Self::Body,
        Self::Deadline,
    ];

    /// The label of the metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ExtraLoad => "extra_load",
            Self::Budget => "budget",
            Self::Pushback => "pushback",
            Self::Body => "body",
            Self::Deadline => "deadline",
        }
    }
}
