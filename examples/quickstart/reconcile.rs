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
    sent: u64,
    received: u64,
    /// How many may be lost: of what was sent to an instance that was killed, what it did not answer.
    may_be_lost: u64,
}

// ===== impl Reconciliation =====

impl Reconciliation {
    /// Compares, instance by instance and altogether; one of them was killed.
    pub fn of(observer: &Observer, traffic: &Traffic, site: &Site, killed: &str) -> Self {
        let row = |(name, counts): (String, Counts)| Row {
            received: site.tally(&name).received(),
            sent: counts.sent,
            may_be_lost: if name == killed { counts.unanswered } else { 0 },
            name,
        };
        Self {
            rows: observer.counts().into_iter().map(row).collect(),
            calls: traffic.finished.load(Relaxed),
            retries: observer.totals().retries,
            punctuality: traffic.punctuality(),
        }
    }

    /// Requests that one side counted and the other did not, and that were not lost in the kill; and
    /// those that neither a call nor a retry accounts for.
    pub fn unexplained(&self) -> u64 {
        let unasked = self.sent().saturating_sub(self.calls + self.retries);
        unasked + self.rows.iter().map(Row::unexplained).sum::<u64>()
    }

    fn sent(&self) -> u64 {
        self.rows.iter().map(|row| row.sent).sum()
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
        writeln!(
            f,
            "{:<12}{:>10}{:>10}{:>10}",
            "requests", "sent", "received", "lost"
        )?;
        for Row {
            name,
            sent,
            received,
            ..
        } in &self.rows
        {
            let lost = sent.saturating_sub(*received);
            writeln!(f, "{name:<12}{sent:>10}{received:>10}{lost:>10}")?;
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
    fn unexplained(&self) -> u64 {
        match self.sent.checked_sub(self.received) {
            Some(lost) => lost.saturating_sub(self.may_be_lost),
            None => self.received - self.sent,
        }
    }
}
