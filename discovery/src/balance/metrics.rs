//! What a balancer counts.

use std::{
    fmt,
    sync::{
        Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tower_mesh_layers::{
    Counter, Histogram,
    metrics::{Collect, Sink},
};

use super::view::EndpointState;
use crate::instance::EndpointUrl;

/// What happened to the endpoints of one service.
pub(super) struct Counts {
    service: Box<str>,
    pub(super) ejected: Counter,
    pub(super) refused: Counter,
    pub(super) returned: Counter,
    pub(super) repicked: Counter,
    pub(super) no_endpoint: Counter,
    pub(super) fell_back: Counter,
    /// The present state; weak, since the balancer's state owns this.
    present: Weak<dyn Present + Send + Sync>,
}

/// What a balancer shows of the present.
pub(super) trait Present {
    fn present(&self) -> Now;
}

/// The gauges of one service.
#[derive(Debug, Default)]
pub(super) struct Now {
    pub(super) states: [u32; EndpointState::ALL.len()],
    pub(super) in_flight: u64,
    pub(super) panic: bool,
}

/// What calls to one endpoint came to.
pub(super) struct EndpointStats {
    service: Box<str>,
    endpoint: Box<str>,
    /// Of every call that was sent and has an outcome, until its response head or its end.
    pub(super) latency: Histogram,
    pub(super) failures: AtomicU64,
    /// Calls that were sent and cancelled before a response head, or refused on the way.
    pub(super) unmeasured: AtomicU64,
}

// ===== impl Counts =====

impl Counts {
    pub(super) fn new(service: &str, present: Weak<dyn Present + Send + Sync>) -> Self {
        Self {
            service: service.into(),
            ejected: Counter::new(),
            refused: Counter::new(),
            returned: Counter::new(),
            repicked: Counter::new(),
            no_endpoint: Counter::new(),
            fell_back: Counter::new(),
            present,
        }
    }
}

impl Collect for Counts {
    fn collect(&self, out: &mut dyn Sink) {
        let labels = [("server_address", &*self.service)];
        for (name, help, counter) in [
            (
                "mesh_balance_ejections_total",
                "Endpoints taken out because they failed",
                &self.ejected,
            ),
            (
                "mesh_balance_refusals_total",
                "Endpoints taken out because they refused a connection",
                &self.refused,
            ),
            (
                "mesh_balance_returns_total",
                "Endpoints that took calls again after they were out",
                &self.returned,
            ),
            (
                "mesh_balance_repicks_total",
                "Endpoints left for another one before a call was sent",
                &self.repicked,
            ),
            (
                "mesh_balance_no_endpoint_total",
                "Calls refused because there was no endpoint",
                &self.no_endpoint,
            ),
            (
                "mesh_balance_fallbacks_total",
                "Endpoints picked outside of a call's arm, which had none ready",
                &self.fell_back,
            ),
        ] {
            out.counter(name, help, &labels, counter.sum());
        }
        let Some(present) = self.present.upgrade() else {
            return;
        };
        let now = present.present();
        for (state, count) in EndpointState::ALL.iter().zip(now.states) {
            let labels = [
                ("server_address", &*self.service),
                ("state", state.as_str()),
            ];
            let help = "Endpoints in each state";
            out.gauge("mesh_balance_endpoints", help, &labels, count.into());
        }
        let help = "Calls whose response body has not ended";
        out.gauge(
            "mesh_balance_in_flight",
            help,
            &labels,
            now.in_flight as f64,
        );
        let help = "1 while so few endpoints are left that all are called";
        out.gauge(
            "mesh_balance_panic",
            help,
            &labels,
            f64::from(u8::from(now.panic)),
        );
    }
}

// ===== impl EndpointStats =====

impl EndpointStats {
    pub(super) fn new(service: String, url: &EndpointUrl) -> Self {
        Self {
            service: service.into(),
            endpoint: url.to_string().into(),
            latency: Histogram::unsharded(),
            failures: AtomicU64::new(0),
            unmeasured: AtomicU64::new(0),
        }
    }
}

impl Collect for EndpointStats {
    fn collect(&self, out: &mut dyn Sink) {
        let labels = [
            ("server_address", &*self.service),
            ("endpoint", &*self.endpoint),
        ];
        let help = "Time from sending a call to its response head, or to its failure";
        let latency = self.latency.snapshot();
        out.histogram("mesh_endpoint_latency_seconds", help, &labels, &latency);
        let help = "Calls that failed, or were turned away as too many";
        let failures = self.failures.load(Relaxed);
        out.counter("mesh_endpoint_failures_total", help, &labels, failures);
        let help =
            "Calls that ended without an answer that counts: cancelled, or refused on the way";
        let unmeasured = self.unmeasured.load(Relaxed);
        out.counter("mesh_endpoint_abandoned_total", help, &labels, unmeasured);
    }
}

impl fmt::Debug for EndpointStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointStats")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}
