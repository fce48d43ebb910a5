//! The order of the presets, as layers in their slots see it: which calls reach a slot, how often, and
//! what the layers around it have done to them.

mod client;
mod mesh;
mod server;

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, routing::post};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::{
    Code,
    service::Routes,
    transport::{Server as TonicServer, server::TcpIncoming},
};
use tower::{
    BoxError, Layer, Service, ServiceBuilder, ServiceExt,
    util::{BoxCloneSyncService, MapRequestLayer},
};
use tower_mesh::{
    Body,
    client::{ClientConfig, ClientLayer},
    discovery::balance::BalanceConfig,
    layers::{
        CallContext, Operation, Protocol, Ratio, Reason, Rejection,
        body_limit::BodyLimitConfig,
        concurrency_limit::ConcurrencyLimitConfig,
        deadline::DeadlineConfig,
        hedge::HedgeConfig,
        metrics,
        rate_limit::RateLimitConfig,
        test_util::{
            Answer, Probe, ProbeError, Scripted, TestBody, bodies, clients, grpc, listen,
            servers::{Port, Server},
        },
    },
    server::{ServerConfig, ServerLayer},
};

use tracing::Span;

use crate::support::{self, eventually};

const OK: Answered = (StatusCode::OK, None);
const BUSY: Answered = (
    StatusCode::SERVICE_UNAVAILABLE,
    Some(Reason::ConcurrencyLimit),
);
const TOO_MANY: Answered = (StatusCode::TOO_MANY_REQUESTS, Some(Reason::RateLimited));
const EXPIRED: Answered = (StatusCode::GATEWAY_TIMEOUT, Some(Reason::DeadlineExceeded));

const CLIENT_CALLS: &str = "http_client_request_duration_seconds";
const SERVER_CALLS: &str = "http_server_request_duration_seconds";

/// The status, and why this process refused the call, if it did.
type Answered = (StatusCode, Option<Reason>);

/// A preset around its peer.
type Wrapped = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// Who saw a request, in order.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<Seen>>>);

/// A request as somebody saw it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    place: &'static str,
    has_deadline: bool,
    /// The span that it was seen in.
    span: &'static str,
}

/// A layer that notes the requests it sees, and nothing else.
#[derive(Debug, Clone)]
struct Recorder {
    slot: &'static str,
    log: Log,
}

#[derive(Debug, Clone)]
struct Recording<S> {
    recorder: Recorder,
    inner: S,
}

// ===== impl Log =====

impl Log {
    fn slot(&self, slot: &'static str) -> Recorder {
        let log = self.clone();
        Recorder { slot, log }
    }

    fn note(&self, place: &'static str, extensions: &http::Extensions) {
        let context = CallContext::get(extensions);
        self.0.lock().push(Seen {
            place,
            has_deadline: context.is_some_and(|context| context.deadline.is_some()),
            span: Span::current().metadata().map_or("", |span| span.name()),
        });
    }

    /// What was noted since it was last asked.
    fn take<T>(&self, show: impl FnMut(Seen) -> T) -> Vec<T> {
        let seen = std::mem::take(&mut *self.0.lock());
        seen.into_iter().map(show).collect()
    }

    fn take_places(&self) -> Vec<&'static str> {
        self.take(|seen| seen.place)
    }

    fn take_deadlines(&self) -> Vec<(&'static str, bool)> {
        self.take(|seen| (seen.place, seen.has_deadline))
    }

    fn take_spans(&self) -> Vec<(&'static str, &'static str)> {
        self.take(|seen| (seen.place, seen.span))
    }

    /// What the preset goes around: notes that it was reached, and gives these answers in turn.
    fn peer(&self, answers: impl IntoIterator<Item = Answer>) -> Probe {
        let (log, answers) = (self.clone(), Vec::from_iter(answers));
        let (probe, _) = Probe::answering(move |call, head| {
            log.note("peer", &head.extensions);
            answers[usize::try_from(call).unwrap().min(answers.len() - 1)].clone()
        });
        probe
    }
}

// ===== impl Recorder =====

impl<S> Layer<S> for Recorder {
    type Service = Recording<S>;

    fn layer(&self, inner: S) -> Recording<S> {
        let recorder = self.clone();
        Recording { recorder, inner }
    }
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for Recording<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let Recorder { slot, log } = &self.recorder;
        log.note(slot, request.extensions());
        self.inner.call(request)
    }
}

fn get() -> Request<Body> {
    bodies::get("/orders").map(Body::new)
}

/// A call whose time is over before it is made.
fn expired() -> Request<Body> {
    let mut request = get();
    CallContext::get_or_insert(request.extensions_mut()).shorten_deadline(Instant::now());
    request
}

async fn answer<S>(service: &S, request: Request<Body>) -> Answered
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone,
{
    let response = support::read(service.clone().oneshot(request).await.unwrap()).await;
    let rejection = response.extensions().get::<Rejection>();
    (response.status(), rejection.map(Rejection::reason))
}

/// Forgets the type of a preset around its peer. Proving that such a type is a service takes the compiler
/// seconds, in each function that names it.
fn forget<S, R>(service: S) -> Wrapped
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let service = service.map_err(Into::into);
    BoxCloneSyncService::new(service.map_response(|response| response.map(Body::new)))
}

fn around(preset: &ClientLayer<Recorder, Recorder, Recorder>, peer: Probe) -> Wrapped {
    forget(preset.layer(peer))
}

fn around_server(preset: &ServerLayer<Recorder, Recorder, Recorder>, peer: Probe) -> Wrapped {
    forget(preset.layer(peer))
}

/// How many calls a metric has, of those with these labels.
fn counted(name: &'static str, labels: &[(&str, &str)]) -> u64 {
    let calls = metrics::snapshot().histogram(name, labels);
    calls.map_or(0, |calls| calls.count())
}

fn with_deadline() -> Option<DeadlineConfig> {
    Some(DeadlineConfig {
        timeout: Some(Duration::from_secs(1)),
        ..DeadlineConfig::default()
    })
}

/// A single call, and then none for as long as a test takes.
fn one_call() -> Option<RateLimitConfig> {
    Some(RateLimitConfig::new("1/h".parse().unwrap()))
}

fn all_slots(log: &Log, config: &ClientConfig) -> ClientLayer<Recorder, Recorder, Recorder> {
    // Not in the order of the slots: the order in which they are filled says nothing.
    ClientLayer::new("orders", config)
        .unwrap()
        .before_breaker(log.slot("before_breaker"))
        .outermost(log.slot("outermost"))
        .before_retry(log.slot("before_retry"))
}

fn all_server_slots(log: &Log, config: &ServerConfig) -> ServerLayer<Recorder, Recorder, Recorder> {
    ServerLayer::new(config)
        .unwrap()
        .before_handler(log.slot("before_handler"))
        .outermost(log.slot("outermost"))
        .before_limits(log.slot("before_limits"))
}

/// One call at once, and two before an hour is over.
fn one_at_once() -> (Option<ConcurrencyLimitConfig>, Option<RateLimitConfig>) {
    let rate = RateLimitConfig::new("2/h".parse().unwrap());
    (Some(ConcurrencyLimitConfig::new(1)), Some(rate))
}
