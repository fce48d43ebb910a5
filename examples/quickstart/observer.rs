//! What the mesh shows of its endpoints and counts of its calls, remembered for a second.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use tower_mesh::{
    Mesh,
    discovery::balance::{EndpointState, EndpointView},
    layers::{HistogramSnapshot, Protocol},
    prometheus::Prometheus,
};

use crate::cluster::{GREETER, ORDERS};

/// How often the mesh is looked at.
pub const PERIOD: Duration = Duration::from_millis(50);
/// What the screen calls "now" is this long.
const LATELY: Duration = Duration::from_secs(1);

/// Looks at a mesh.
pub struct Observer {
    mesh: Mesh,
    prometheus: Prometheus,
    endpoints: Mutex<BTreeMap<String, Observed>>,
}

/// An endpoint, also after it has left the registry.
struct Observed {
    service: &'static str,
    view: EndpointView,
    is_listed: bool,
    past: VecDeque<Moment>,
}

struct Moment {
    at: Instant,
    sent: u64,
    latency: HistogramSnapshot,
}

/// An endpoint as the screen shows it: what changes fast is of the last second.
pub struct Row {
    pub name: String,
    pub scheme: &'static str,
    pub sent: u64,
    pub share: f64,
    pub p50: Option<Duration>,
    pub p99: Option<Duration>,
    pub in_flight: u32,
    /// `None` once it has left the registry.
    pub state: Option<EndpointState>,
}

/// Requests to one endpoint.
pub struct Counts {
    pub sent: u64,
    /// Those that were reset, timed out, cancelled, or answered with an error.
    pub failed: u64,
}

/// What the mesh has counted, by its own metrics.
pub struct Totals {
    pub retries: u64,
    pub ejections: u64,
    pub rejections: u64,
}

// ===== impl Observer =====

impl Observer {
    pub fn new(mesh: Mesh, prometheus: Prometheus) -> Self {
        Self {
            mesh,
            prometheus,
            endpoints: Mutex::default(),
        }
    }

    /// Looks at every endpoint.
    pub fn look(&self) {
        let now = Instant::now();
        let mut endpoints = self.endpoints.lock();
        for observed in endpoints.values_mut() {
            observed.is_listed = false;
        }
        for (service, protocol) in [(ORDERS, Protocol::Http), (GREETER, Protocol::Grpc)] {
            for view in self.mesh.endpoints(service, protocol) {
                match endpoints.get_mut(&view.instance) {
                    Some(observed) => observed.update(view, now),
                    None => {
                        let name = view.instance.clone();
                        endpoints.insert(name, Observed::new(service, view));
                    }
                }
            }
        }
    }

    /// The names and addresses that the mesh knows now.
    pub fn listed(&self) -> Vec<String> {
        self.look();
        let endpoints = self.endpoints.lock();
        let listed = endpoints.values().filter(|observed| observed.is_listed);
        listed
            .map(|Observed { view, .. }| format!("{} {}", view.instance, view.url))
            .collect()
    }

    /// An endpoint as the mesh saw it last.
    pub fn endpoint(&self, name: &str) -> Option<EndpointView> {
        self.look();
        Some(self.endpoints.lock().get(name)?.view.clone())
    }

    /// The requests to every endpoint that there ever was.
    pub fn counts(&self) -> BTreeMap<String, Counts> {
        self.look();
        let endpoints = self.endpoints.lock();
        let counts = |observed: &Observed| Counts {
            sent: sent(&observed.view),
            failed: observed.view.failures + observed.view.abandoned,
        };
        endpoints
            .iter()
            .map(|(name, observed)| (name.clone(), counts(observed)))
            .collect()
    }

    /// How many requests were sent to each endpoint that a service ever had.
    pub fn sent(&self, service: &str) -> BTreeMap<String, u64> {
        self.look();
        let endpoints = self.endpoints.lock();
        let of_service = endpoints
            .iter()
            .filter(|(_, observed)| observed.service == service);
        of_service
            .map(|(name, observed)| (name.clone(), sent(&observed.view)))
            .collect()
    }

    /// All endpoints for the screen.
    pub fn rows(&self) -> Vec<Row> {
        let endpoints = self.endpoints.lock();
        let mut lately: BTreeMap<&str, u64> = BTreeMap::new();
        for observed in endpoints.values() {
            *lately.entry(observed.service).or_default() += observed.sent_lately();
        }
        let row = |observed: &Observed| observed.row(lately[observed.service]);
        endpoints.values().map(row).collect()
    }

    /// What the mesh has counted.
    pub fn totals(&self) -> Totals {
        let metrics = self.prometheus.render();
        let sum = |name: &str, label: &str| -> u64 {
            let of_name = metrics.lines().filter(|line| line.starts_with(name));
            let of_label = of_name.filter(|line| line.contains(label));
            let values = of_label.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
            values.sum()
        };
        Totals {
            retries: sum("mesh_retry_retries_total", ""),
            ejections: sum("mesh_balance_ejections_total", ""),
            rejections: sum("mesh_breaker_calls_total", r#"outcome="rejected""#)
                + sum("mesh_rate_limit_calls_total", r#"decision="refused""#)
                + sum("mesh_balance_no_endpoint_total", "")
                + sum("mesh_deadline_exceeded_total", r#"at="arrival""#),
        }
    }
}

// ===== impl Observed =====

impl Observed {
    fn new(service: &'static str, view: EndpointView) -> Self {
        Self {
            service,
            view,
            is_listed: true,
            past: VecDeque::new(),
        }
    }

    fn update(&mut self, view: EndpointView, now: Instant) {
        self.past.push_back(Moment {
            at: now,
            sent: sent(&view),
            latency: view.latency.clone(),
        });
        while self
            .past
            .front()
            .is_some_and(|moment| now - moment.at > LATELY)
        {
            self.past.pop_front();
        }
        self.view = view;
        self.is_listed = true;
    }

    fn sent_lately(&self) -> u64 {
        let before = self.past.front().map_or(0, |moment| moment.sent);
        if self.is_listed {
            sent(&self.view).saturating_sub(before)
        } else {
            0
        }
    }

    fn row(&self, of_service: u64) -> Row {
        let view = &self.view;
        let lately = match self.past.front() {
            Some(moment) => view.latency.since(&moment.latency),
            None => view.latency.clone(),
        };
        Row {
            name: view.instance.clone(),
            scheme: view.url.scheme().as_str(),
            sent: sent(view),
            share: self.sent_lately() as f64 / of_service.max(1) as f64,
            p50: lately.quantile(0.5),
            p99: lately.quantile(0.99),
            in_flight: view.in_flight,
            state: self.is_listed.then_some(view.state),
        }
    }
}

/// Requests that were sent to an endpoint, or are about to be.
fn sent(view: &EndpointView) -> u64 {
    view.calls + view.abandoned + u64::from(view.in_flight)
}
