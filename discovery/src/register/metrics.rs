//! How the registrations of this process fare, as metrics.

use tokio::sync::watch;
use tower_mesh_layers::{
    Counter,
    metrics::{Collect, Sink},
};

use super::State;

/// What is counted of one registration. Those of equal services are summed.
pub(super) struct Stats {
    service: String,
    state: watch::Receiver<State>,
    pub(super) lapses: Counter,
    pub(super) failures: Counter,
}

// ===== impl Stats =====

impl Stats {
    pub(super) fn new(service: String, state: watch::Receiver<State>) -> Self {
        let (lapses, failures) = (Counter::new(), Counter::new());
        Self {
            service,
            state,
            lapses,
            failures,
        }
    }
}

impl Collect for Stats {
    fn collect(&self, out: &mut dyn Sink) {
        let now = self.state.borrow().as_str();
        for state in State::NAMES {
            let labels = [("service_name", &*self.service), ("state", state)];
            let help = "Registrations in each state";
            let is = f64::from(u8::from(state == now));
            out.gauge("mesh_registration_state", help, &labels, is);
        }
        let labels = [("service_name", &*self.service)];
        let help = "Times that a record was gone although its instance was there";
        out.counter(
            "mesh_registration_lapses_total",
            help,
            &labels,
            self.lapses.sum(),
        );
        let help = "Writes to the registry that failed";
        out.counter(
            "mesh_registration_failures_total",
            help,
            &labels,
            self.failures.sum(),
        );
    }
}
