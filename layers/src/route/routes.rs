//! The rules in force, and the way of a call through them.

use fastrand::Rng;
use http::Request;
use parking_lot::Mutex;

use super::{
    config::RouteConfig,
    stats::{ArmCount, RouteStats},
    table::{FindService, Table},
};
use crate::vocab::{
    config::ConfigError,
    context::CallContext,
    live::{Glance, Live},
    metrics::{Collect, Sink},
    shard::Counter,
};

/// What all clones of a layer or a split share.
pub(super) struct Routes {
    table: Live<Option<Table>>,
    glance: Glance,
    unmatched: Counter,
    /// The thread's own generator where there is none.
    seeded: Option<Mutex<Rng>>,
}

// ===== impl Routes =====

impl Routes {
    pub(super) fn new(
        config: &Live<Option<RouteConfig>>,
        seed: Option<u64>,
        service: impl Fn(&str) -> Result<usize, ConfigError> + Send + Sync + 'static,
    ) -> Result<Self, ConfigError> {
        let table = config.derive_with(move |config, previous: Option<&Option<Table>>| {
            let previous = previous.and_then(Option::as_ref);
            let service: FindService<'_> = &service;
            let compile = |config| Table::compile(config, previous, service);
            config.as_ref().map(compile).transpose()
        })?;
        Ok(Self {
            table,
            glance: Glance::default(),
            unmatched: Counter::new(),
            seeded: seed.map(|seed| Mutex::new(Rng::with_seed(seed))),
        })
    }

    /// Whether there is any rule.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        let has_rules =
            |table: &Option<Table>| table.as_ref().is_some_and(|table| !table.is_empty());
        self.glance
            .bits(&self.table, |table| has_rules(table).into())
            != 0
    }

    /// Decides for a call, writes that into its context, and gives the service of the arm; `None`
    /// where no rule matches, or somebody decided before.
    #[inline]
    pub(super) fn route<B>(&self, request: &mut Request<B>) -> Option<usize> {
        let context = CallContext::get(request.extensions());
        if context.is_some_and(|context| context.route.is_some()) {
            return None;
        }
        let table = self.table.get();
        let decided = table.as_ref()?.decide(request, || self.random());
        let Some((arm, hash)) = decided else {
            self.unmatched.add(1);
            return None;
        };
        arm.count.calls.add(1);
        CallContext::get_or_insert(request.extensions_mut()).route = Some(arm.decision(hash));
        Some(arm.service)
    }

    fn random(&self) -> u64 {
        match &self.seeded {
            None => fastrand::u64(..),
            Some(rng) => rng.lock().u64(..),
        }
    }

    pub(super) fn stats(&self) -> RouteStats {
        let table = self.table.get();
        let arms = table.iter().flat_map(Table::arms);
        RouteStats {
            arms: arms.map(|arm| ArmCount::read(&arm.count)).collect(),
            unmatched: self.unmatched.sum(),
        }
    }
}

impl Collect for Routes {
    fn collect(&self, out: &mut dyn Sink) {
        let help = "Calls that no rule of the routes was for";
        out.counter(
            "mesh_route_unmatched_total",
            help,
            &[],
            self.unmatched.sum(),
        );
    }
}
