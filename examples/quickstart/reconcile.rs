//! What the client sent against what the instances received.

use std::fmt;

use crate::{
    observer::{Counts, Observer},
    site::Site,
};

/// The comparison, once no call is under way.
pub struct Reconciliation {
    rows: Vec<Row>,
}

struct Row {
    name: String,
    sent: u64,
    received: u64,
    /// How many may be lost: of what was sent to an instance that was killed, what it did not answer.
    may_be_lost: u64,
}

impl Reconciliation {
    /// Compares, instance by instance; one of them was killed.
    pub fn of(observer: &Observer, site: &Site, killed: &str) -> Self {
        let row = |(name, counts): (String, Counts)| Row {
            received: site.tally(&name).received(),
            sent: counts.sent,
            may_be_lost: if name == killed { counts.unanswered } else { 0 },
            name,
        };
        Self {
            rows: observer.counts().into_iter().map(row).collect(),
        }
    }

    /// Requests that one side counted and the other did not, and that were not lost in the kill.
    pub fn unexplained(&self) -> u64 {
        self.rows.iter().map(Row::unexplained).sum()
    }
}

impl Row {
    fn unexplained(&self) -> u64 {
        match self.sent.checked_sub(self.received) {
            Some(lost) => lost.saturating_sub(self.may_be_lost),
            None => self.received - self.sent,
        }
    }
}

impl fmt::Display for Reconciliation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Row {
            name,
            sent,
            received,
            may_be_lost,
        } in &self.rows
        {
            write!(f, "{name}: {sent} requests sent, {received} received")?;
            if *may_be_lost > 0 {
                write!(f, ", {may_be_lost} cut off by the kill")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
