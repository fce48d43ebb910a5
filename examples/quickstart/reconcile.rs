//! What the client sent against what the instances received.

use std::{fmt, sync::atomic::Ordering::Relaxed};

use crate::{
    observer::{Counts, Observer},
    site::Site,
    traffic::Traffic,
};

/// The comparison, once no call is under way.
pub struct Reconciliation {
    rows: Vec<Row>,
    calls: u64,
    retries: u64,
    /// From 0 to 1.
    punctuality: f64,
}

struct Row {
    name: String,
    counts: Counts,
    received: u64,
}

// ===== impl Reconciliation =====

impl Reconciliation {
    /// Compares, instance by instance and altogether.
    pub fn of(observer: &Observer, traffic: &Traffic, site: &Site) -> Self {
        let row = |(name, counts): (String, Counts)| Row {
            received: site.tally(&name).received(),
            counts,
            name,
        };
        Self {
            rows: observer.counts().into_iter().map(row).collect(),
            calls: traffic.finished.load(Relaxed),
            retries: observer.totals().retries,
            punctuality: traffic.punctuality(),
        }
    }

    /// Requests that one side counted and the other did not, and those that neither a call nor a
    /// retry accounts for.
    pub fn unexplained(&self) -> u64 {
        let unasked = self.sent().saturating_sub(self.calls + self.retries);
        unasked + self.rows.iter().map(Row::unexplained).sum::<u64>()
    }

    fn sent(&self) -> u64 {
        self.rows.iter().map(|row| row.counts.sent).sum()
    }
}

impl fmt::Display for Reconciliation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            calls,
            retries,
            punctuality,
            ..
        } = self;
        let [sent, received, failed] = ["sent", "received", "failed"];
        writeln!(f, "requests    {sent:>10}{received:>10}{failed:>10}")?;
        for row in &self.rows {
            let (name, received, Counts { sent, failed }) = (&row.name, row.received, &row.counts);
            writeln!(f, "{name:<12}{sent:>10}{received:>10}{failed:>10}")?;
        }
        let (sent, asked) = (self.sent(), calls + retries);
        writeln!(
            f,
            "{calls} calls and {retries} retries, {} of them not sent",
            asked.saturating_sub(sent)
        )?;
        writeln!(
            f,
            "{:.1}% of the calls started on time",
            punctuality * 100.0
        )
    }
}

// ===== impl Row =====

impl Row {
    /// A request that did not arrive must have failed: it was lost when its instance was killed, or
    /// given up before a busy one took it.
    fn unexplained(&self) -> u64 {
        let Counts { sent, failed } = self.counts;
        let lost = sent.saturating_sub(self.received);
        lost.saturating_sub(failed) + self.received.saturating_sub(sent)
    }
}
