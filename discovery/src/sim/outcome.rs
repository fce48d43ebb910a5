//! What came of a run.

use std::time::Duration;

use super::world::Arrived;

/// What came of a run, without its warm-up.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Calls that did not get a good answer.
    pub failed: u64,
    /// Calls that servers have seen; a repeated one counts twice.
    pub arrived: u64,
    /// Those of them at servers that were slow, failing or gone.
    pub troubled: u64,
    /// How long good answers took, in ascending order.
    latencies: Vec<Duration>,
}

// ===== impl Outcome =====

impl Outcome {
    pub(super) fn answered(&mut self, after: Duration) {
        self.latencies.push(after);
    }

    pub(super) fn finished(mut self, Arrived { all, troubled }: Arrived) -> Self {
        (self.arrived, self.troubled) = (all, troubled);
        self.latencies.sort_unstable();
        self
    }

    /// Calls with a good answer.
    pub fn answers(&self) -> usize {
        self.latencies.len()
    }

    /// The latency that a share of the good answers did not exceed: `0.99` for the 99th percentile. Zero without answers.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = (share * self.latencies.len() as f64).ceil() as usize;
        let at = rank.clamp(1, self.latencies.len().max(1)) - 1;
        self.latencies.get(at).copied().unwrap_or_default()
    }

    /// The share of calls that went to servers in trouble, from 0 to 1.
    pub fn troubled_share(&self) -> f64 {
        self.troubled as f64 / self.arrived.max(1) as f64
    }

    /// The share of calls that failed, from 0 to 1.
    pub fn failed_share(&self) -> f64 {
        self.failed as f64 / (self.failed + self.latencies.len() as u64).max(1) as f64
    }
}
