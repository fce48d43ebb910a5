//! A `/metrics` endpoint for Prometheus.
//!
//! ```no_run
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! use axum::Router;
//! use tower_mesh::prometheus::Prometheus;
//!
//! let prometheus = Prometheus::install()?;
//! let app: Router = Router::new().route_service("/metrics", prometheus.service());
//! # Ok(())
//! # }
//! ```
//!
//! The layers count from the moment they are built, so it does not matter whether this is installed
//! before or after them.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::task::JoinHandle;
use tower_mesh_layers::metrics;
use tower_service::Service;

/// The upper bounds of histograms, in seconds: those of OpenTelemetry's `http.server.request.duration`,
/// and two below, since calls within a cluster are often over sooner.
const BUCKETS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// How the names begin of the histograms that are ours; what others record is as the exporter has it.
const OUR_HISTOGRAMS: [&str; 5] = [
    "mesh_",
    "http_server_request_",
    "http_client_request_",
    "rpc_server_call_",
    "rpc_client_call_",
];

/// How often old histogram samples are folded: the exporter would keep them until the next scrape.
const UPKEEP: Duration = Duration::from_secs(5);

/// Prometheus' text exposition format.
const TEXT_FORMAT: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// The recorder of this process, and its rendering for Prometheus. A clone is a handle to the same.
#[derive(Debug, Clone)]
pub struct Prometheus {
    handle: PrometheusHandle,
    _upkeep: Arc<Upkeep>,
}

/// Answers GET and HEAD with the metrics as they are now, whatever the path; other methods are not
/// allowed (405).
#[derive(Debug, Clone)]
pub struct PrometheusService {
    prometheus: Prometheus,
}

/// Ends the upkeep task with the last handle.
#[derive(Debug)]
struct Upkeep(JoinHandle<()>);

// ===== impl Prometheus =====

impl Prometheus {
    /// Installs a Prometheus recorder for the `metrics` facade in this process.
    ///
    /// Histograms of ours have buckets, from 1 ms to 10 s, so that those of several instances can be
    /// added up.
    ///
    /// # Errors
    ///
    /// When a recorder is installed already.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn install() -> Result<Self, BuildError> {
        let builder =
            OUR_HISTOGRAMS
                .into_iter()
                .try_fold(PrometheusBuilder::new(), |builder, prefix| {
                    builder.set_buckets_for_metric(Matcher::Prefix(prefix.to_owned()), &BUCKETS)
                })?;
        let handle = builder.install_recorder()?;
        Ok(Self::with_handle(handle))
    }

    /// Renders a recorder that you have installed yourself.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn with_handle(handle: PrometheusHandle) -> Self {
        let upkeep = tokio::spawn({
            let handle = handle.clone();
            async move {
                let mut ticks = tokio::time::interval(UPKEEP);
                loop {
                    ticks.tick().await;
                    handle.run_upkeep();
                }
            }
        });
        Self {
            handle,
            _upkeep: Arc::new(Upkeep(upkeep)),
        }
    }

    /// All metrics of the process in Prometheus' text format.
    pub fn render(&self) -> String {
        metrics::publish();
        self.handle.render()
    }

    /// A service for the route `/metrics`.
    pub fn service(&self) -> PrometheusService {
        PrometheusService {
            prometheus: self.clone(),
        }
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// ===== impl PrometheusService =====

impl<B> Service<Request<B>> for PrometheusService {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ready(Ok(match *request.method() {
            // The server leaves out the body of an answer to HEAD.
            Method::GET | Method::HEAD => self.metrics(),
            _ => not_allowed(),
        }))
    }
}

impl PrometheusService {
    fn metrics(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(self.prometheus.render()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, TEXT_FORMAT);
        response
    }
}

fn not_allowed() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    let headers = response.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}
