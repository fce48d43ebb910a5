//! What the routes count.

use std::sync::Arc;

use super::table::Table;
use crate::vocab::{
    context::RouteArm,
    metrics::{self, Collect, Registered, Sink},
    shard::Counter,
};

/// The calls of one arm, for as long as the rules have it.
pub(super) struct ArmCount {
    pub(super) rule: Box<str>,
    pub(super) arm: Box<str>,
    pub(super) calls: Counter,
}

/// A reading of the counts of the routes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteStats {
    /// The arms that the rules have now, in their order.
    pub arms: Vec<ArmStats>,
    /// Calls that no rule was for.
    pub unmatched: u64,
}

/// A reading of the count of one arm.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArmStats {
    /// The rule.
    pub rule: Box<str>,
    /// The arm of the rule.
    pub arm: Box<str>,
    /// Calls that were sent to it since the rules have it.
    pub calls: u64,
}

// ===== impl ArmCount =====

impl ArmCount {
    /// The count that an arm had in the rules before, or a new one.
    pub(super) fn of(arm: &RouteArm, previous: Option<&Table>) -> Arc<Registered<Self>> {
        let mut known = previous
            .into_iter()
            .flat_map(Table::arms)
            .map(|arm| &arm.count);
        let same = known.find(|count| count.rule == arm.rule && count.arm == arm.name);
        same.cloned().unwrap_or_else(|| {
            Arc::new(metrics::register(Self {
                rule: arm.rule.clone(),
                arm: arm.name.clone(),
                calls: Counter::new(),
            }))
        })
    }

    pub(super) fn read(&self) -> ArmStats {
        ArmStats {
            rule: self.rule.clone(),
            arm: self.arm.clone(),
            calls: self.calls.sum(),
        }
    }
}

impl Collect for ArmCount {
    fn collect(&self, out: &mut dyn Sink) {
        let labels = [("rule", &*self.rule), ("arm", &*self.arm)];
        let help = "Calls that were sent to an arm of a rule";
        out.counter("mesh_route_calls_total", help, &labels, self.calls.sum());
    }
}

// ===== impl RouteStats =====

impl RouteStats {
    /// The calls that were sent to an arm; 0 for one that the rules do not have.
    pub fn calls(&self, rule: &str, arm: &str) -> u64 {
        let mut arms = self.arms.iter();
        let found = arms.find(|stats| &*stats.rule == rule && &*stats.arm == arm);
        found.map_or(0, |stats| stats.calls)
    }
}
