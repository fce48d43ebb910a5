//! The order of the presets, as layers in their slots see it: which calls reach a slot, how often, and
//! what the layers around it have done to them.

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

// ===== the client preset =====

#[tokio::test(start_paused = true)]
async fn the_slots_of_the_client_preset_see_a_call_in_the_documented_order() {
    let log = Log::default();
    let config = ClientConfig {
        deadline: with_deadline(),
        rate_limit: one_call(),
        ..ClientConfig::default()
    };
    let client = around(&all_slots(&log, &config), log.peer([Answer::ok()]));
    assert_eq!(answer(&client, get()).await, OK);
    let seen = [
        ("outermost", false), // the deadline is inside it, and around all else
        ("before_retry", true),
        ("before_breaker", true),
        ("peer", true),
    ];
    assert_eq!(log.take_deadlines(), seen);
}

#[tokio::test(start_paused = true)]
async fn slots_inside_the_retries_see_each_attempt_and_those_outside_each_call() {
    let log = Log::default();
    // An attempt is not a call to the limit either: three of them pass a limit of one.
    let config = ClientConfig {
        rate_limit: one_call(),
        ..ClientConfig::default()
    };
    let answers = [Answer::status(503), Answer::status(503), Answer::ok()];
    let client = around(&all_slots(&log, &config), log.peer(answers));
    assert_eq!(answer(&client, get()).await, OK);
    let attempt = ["before_breaker", "peer"];
    let seen = [["outermost", "before_retry"], attempt, attempt, attempt];
    assert_eq!(log.take_places(), seen.concat());
}

#[tokio::test(start_paused = true)]
async fn only_slots_around_the_rate_limit_of_a_client_see_what_it_refuses() {
    let log = Log::default();
    let config = ClientConfig {
        rate_limit: one_call(),
        ..ClientConfig::default()
    };
    let client = around(&all_slots(&log, &config), log.peer([Answer::ok()]));
    assert_eq!(answer(&client, get()).await, OK);
    log.take_places();
    assert_eq!(answer(&client, get()).await, TOO_MANY);
    assert_eq!(log.take_places(), ["outermost"]);
}

#[tokio::test(start_paused = true)]
async fn only_slots_around_the_breaker_see_what_it_refuses() {
    let log = Log::default();
    let preset = all_slots(&log, &ClientConfig::default());
    let client = around(&preset, log.peer([Answer::ok()]));
    assert_eq!(answer(&client, get()).await, OK); // from now on its operation has a breaker
    log.take_places();
    preset.breakers().force_open();
    let refused = answer(&client, get()).await;
    assert_eq!(refused.1, Some(Reason::CircuitOpen));
    let seen = log.take_places();
    assert_eq!(seen[..3], ["outermost", "before_retry", "before_breaker"]);
    assert!(!seen.contains(&"peer"), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_client_that_comes_too_late_costs_no_quota() {
    let log = Log::default();
    let config = ClientConfig {
        rate_limit: one_call(),
        ..ClientConfig::default()
    };
    let client = around(&all_slots(&log, &config), log.peer([Answer::ok()]));
    assert_eq!(answer(&client, expired()).await, EXPIRED);
    assert_eq!(log.take_places(), ["outermost"]);
    assert_eq!(answer(&client, get()).await, OK);
}

#[tokio::test(start_paused = true)]
async fn one_deadline_holds_for_all_attempts() {
    let log = Log::default();
    let config = ClientConfig {
        deadline: with_deadline(),
        ..ClientConfig::default()
    };
    let client = around(
        &all_slots(&log, &config),
        log.peer([Answer::status(503), Answer::never()]),
    );
    let start = Instant::now();
    assert_eq!(answer(&client, get()).await, EXPIRED);
    let took = start.elapsed();
    let limits = Duration::from_secs(1)..Duration::from_millis(1_010);
    assert!(limits.contains(&took), "{took:?}");
    let attempt = ["before_breaker", "peer"];
    let seen = [["outermost", "before_retry"], attempt, attempt];
    assert_eq!(log.take_places(), seen.concat());
}

/// The first attempt hangs; the hedge fails, and is retried.
#[tokio::test(start_paused = true)]
async fn a_hedge_is_inside_the_limits_and_its_attempts_are_retried() {
    let log = Log::default();
    let config = ClientConfig {
        hedge: Some(HedgeConfig {
            delay: Duration::from_millis(20).into(),
            extra_load: Ratio::ONE,
            ..HedgeConfig::default()
        }),
        ..ClientConfig::default()
    };
    let answers = [Answer::never(), Answer::status(503), Answer::ok()];
    let client = around(&all_slots(&log, &config), log.peer(answers));
    assert_eq!(answer(&client, get()).await, OK);
    let attempt = ["before_breaker", "peer"];
    let seen = [["outermost", "before_retry"], attempt, attempt, attempt];
    assert_eq!(log.take_places(), seen.concat());
}

#[tokio::test(start_paused = true)]
async fn a_client_preset_with_nothing_configured_passes_everything_on() {
    let log = Log::default();
    let config = ClientConfig {
        registry: None,
        trace: None,
        metrics: None,
        metadata: None,
        deadline: None,
        concurrency_limit: None,
        rate_limit: None,
        route: None,
        hedge: None,
        retry: None,
        circuit_breaker: None,
        body_limit: None,
        balance: BalanceConfig::default(),
    };
    let answers = [
        Answer::ok().body(TestBody::full("as it was")),
        Answer::status(503),
        Answer::fail(ProbeError::reset()),
    ];
    let preset = all_slots(&log, &config);
    let client = around(&preset, log.peer(answers));
    let every = ["outermost", "before_retry", "before_breaker", "peer"];

    let response = client.clone().oneshot(get()).await.unwrap();
    assert_eq!(support::read(response).await.into_body(), "as it was");
    assert_eq!(log.take_places(), every);
    let failed = (StatusCode::SERVICE_UNAVAILABLE, None);
    assert_eq!(answer(&client, get()).await, failed);
    assert_eq!(log.take_places(), every, "nobody tries again");
    // Neither wrapped nor turned into a response: the caller sees its own client's error.
    let error = client.clone().oneshot(get()).await.err().unwrap();
    let error: &ProbeError = error.downcast_ref().unwrap();
    assert_eq!(error.kind(), ProbeError::reset().kind());
    assert_eq!(log.take_places(), every);
}

#[tokio::test(start_paused = true)]
async fn a_call_has_a_span_inside_the_outermost_slot_and_an_attempt_one_around_its_slot() {
    let _listening = listen(tracing_subscriber::registry());
    let log = Log::default();
    let answers = [Answer::status(503), Answer::ok()];
    let client = around(
        &all_slots(&log, &ClientConfig::default()),
        log.peer(answers),
    );
    assert_eq!(answer(&client, get()).await, OK);
    let attempt = [("before_breaker", "attempt"), ("peer", "attempt")];
    let call = [("outermost", ""), ("before_retry", "client")];
    assert_eq!(log.take_spans(), [call, attempt, attempt].concat());

    let config = ClientConfig {
        trace: None,
        ..ClientConfig::default()
    };
    let client = around(&all_slots(&log, &config), log.peer([Answer::ok()]));
    assert_eq!(answer(&client, get()).await, OK);
    assert!(log.take_spans().iter().all(|(_, span)| span.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn metrics_count_calls_and_not_attempts_and_what_the_layers_inside_refuse() {
    let config = ClientConfig {
        rate_limit: one_call(),
        ..ClientConfig::default()
    };
    let log = Log::default();
    let preset = ClientLayer::new("counted", &config).unwrap();
    let client = forget(preset.layer(log.peer([Answer::status(503), Answer::ok()])));
    assert_eq!(answer(&client, expired()).await, EXPIRED);
    assert_eq!(answer(&client, get()).await, OK);
    assert_eq!(answer(&client, get()).await, TOO_MANY);
    for (error, calls) in [
        ("", 1),
        ("DEADLINE_EXCEEDED", 1),
        ("RATE_LIMITED", 1),
        ("503", 0),
    ] {
        let labels = [("server_address", "counted"), ("error_type", error)];
        assert_eq!(counted(CLIENT_CALLS, &labels), calls, "{error}");
    }
}

/// One call at once, and two before an hour is over.
fn one_at_once() -> (Option<ConcurrencyLimitConfig>, Option<RateLimitConfig>) {
    let rate = RateLimitConfig::new("2/h".parse().unwrap());
    (Some(ConcurrencyLimitConfig::new(1)), Some(rate))
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_client_that_finds_no_place_costs_no_quota() {
    let log = Log::default();
    let (concurrency_limit, rate_limit) = one_at_once();
    let config = ClientConfig {
        concurrency_limit,
        rate_limit,
        ..ClientConfig::default()
    };
    let preset = all_slots(&log, &config);
    let client = around(
        &preset,
        log.peer([Answer::ok().body(TestBody::full("until it is read"))]),
    );
    let first = client.clone().oneshot(get()).await.unwrap();
    log.take_places();
    assert_eq!(answer(&client, get()).await, BUSY);
    assert_eq!(log.take_places(), ["outermost"]);
    assert_eq!(preset.concurrency_limits().stats().in_flight, 1);
    drop(first);
    assert_eq!(answer(&client, get()).await, OK);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_sends_too_much_fails_its_breaker() {
    let config = ClientConfig {
        body_limit: Some(BodyLimitConfig {
            response: Some("4".parse().unwrap()),
            ..BodyLimitConfig::default()
        }),
        retry: None,
        ..ClientConfig::default()
    };
    let preset = ClientLayer::new("orders", &config).unwrap();
    let body = TestBody::chunks(["12", "345"]);
    let client = forget(preset.layer(Log::default().peer([Answer::ok().body(body)])));
    let response = client.oneshot(get()).await.unwrap();
    response.into_body().collect().await.unwrap_err();
    assert_eq!(preset.body_limits().stats().responses, 1);
    assert_eq!(preset.breakers().stats().failures, 1);
}

// ===== the server preset =====

#[tokio::test(start_paused = true)]
async fn the_slots_of_the_server_preset_see_a_call_in_the_documented_order() {
    let log = Log::default();
    let config = ServerConfig {
        deadline: with_deadline(),
        rate_limit: one_call(),
        ..ServerConfig::default()
    };
    let server = around_server(&all_server_slots(&log, &config), log.peer([Answer::ok()]));
    assert_eq!(answer(&server, get()).await, OK);
    let seen = [
        ("outermost", false),
        ("before_limits", true),
        ("before_handler", true),
        ("peer", true),
    ];
    assert_eq!(log.take_deadlines(), seen);

    assert_eq!(answer(&server, get()).await, TOO_MANY);
    assert_eq!(log.take_places(), ["outermost", "before_limits"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_to_a_server_that_comes_too_late_costs_no_quota() {
    let log = Log::default();
    let config = ServerConfig {
        rate_limit: one_call(),
        ..ServerConfig::default()
    };
    let server = around_server(&all_server_slots(&log, &config), log.peer([Answer::ok()]));
    assert_eq!(answer(&server, expired()).await, EXPIRED);
    assert_eq!(log.take_places(), ["outermost"]);
    assert_eq!(answer(&server, get()).await, OK);
}

#[tokio::test(start_paused = true)]
async fn a_call_to_a_server_that_finds_no_place_costs_no_quota() {
    let log = Log::default();
    let (concurrency_limit, rate_limit) = one_at_once();
    let config = ServerConfig {
        concurrency_limit,
        rate_limit,
        ..ServerConfig::default()
    };
    let preset = all_server_slots(&log, &config);
    let server = around_server(
        &preset,
        log.peer([Answer::ok().body(TestBody::full("until it is read"))]),
    );
    let first = server.clone().oneshot(get()).await.unwrap();
    log.take_places();
    assert_eq!(answer(&server, get()).await, BUSY);
    assert_eq!(log.take_places(), ["outermost", "before_limits"]);
    assert_eq!(preset.concurrency_limits().stats().in_flight, 1);
    drop(first);
    assert_eq!(answer(&server, get()).await, OK);
}

#[tokio::test(start_paused = true)]
async fn a_server_preset_with_nothing_configured_passes_everything_on() {
    let log = Log::default();
    let config = ServerConfig {
        catch_panic: None,
        trace: None,
        metrics: None,
        drain: None,
        metadata: None,
        deadline: None,
        concurrency_limit: None,
        body_limit: None,
        rate_limit: None,
    };
    let preset = all_server_slots(&log, &config);
    let server = around_server(
        &preset,
        log.peer([Answer::ok(), Answer::fail(ProbeError::reset())]),
    );
    let every = ["outermost", "before_limits", "before_handler", "peer"];
    // Without the deadline layer even a call that is too late.
    assert_eq!(answer(&server, expired()).await, OK);
    assert_eq!(log.take_places(), every);
    let error = server.clone().oneshot(get()).await.err().unwrap();
    let error: &ProbeError = error.downcast_ref().unwrap();
    assert_eq!(error.kind(), ProbeError::reset().kind());
    assert_eq!(log.take_places(), every);
}

#[tokio::test(start_paused = true)]
async fn a_server_answers_for_a_handler_that_panics_and_its_metrics_know() {
    let server = ServerLayer::new(&ServerConfig::default()).unwrap();
    let panics = server.panics();
    let peer = Log::default().peer([Answer::panic_in_poll(), Answer::ok()]);
    let server = forget(server.layer(peer));
    let panicked = (StatusCode::INTERNAL_SERVER_ERROR, Some(Reason::Panicked));
    let mut request = get();
    let operation = Operation::from_static("panics behind the preset");
    request.extensions_mut().insert(operation);
    assert_eq!(answer(&server, request).await, panicked);
    assert_eq!(answer(&server, get()).await, OK);
    assert_eq!(panics.stats().before_head, 1);
    let labels = [("http_route", "panics behind the preset")];
    assert_eq!(counted(SERVER_CALLS, &labels), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_leaves_refuses_before_it_reads_who_calls() {
    let log = Log::default();
    let preset = all_server_slots(&log, &ServerConfig::default());
    let server = around_server(&preset, log.peer([Answer::ok()]));
    assert_eq!(answer(&server, get()).await, OK);
    log.take_places();
    preset.drain().start();
    let draining = (StatusCode::SERVICE_UNAVAILABLE, Some(Reason::Draining));
    assert_eq!(answer(&server, get()).await, draining);
    assert_eq!(log.take_places(), ["outermost"]);
    preset.drain().drained().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_large_costs_a_server_no_quota() {
    let log = Log::default();
    let config = ServerConfig {
        body_limit: Some(BodyLimitConfig {
            request: Some("4".parse().unwrap()),
            ..BodyLimitConfig::default()
        }),
        rate_limit: one_call(),
        ..ServerConfig::default()
    };
    let server = around_server(&all_server_slots(&log, &config), log.peer([Answer::ok()]));
    let too_large = get().map(|_| Body::from("12345"));
    let refused = (StatusCode::PAYLOAD_TOO_LARGE, Some(Reason::BodyTooLarge));
    assert_eq!(answer(&server, too_large).await, refused);
    assert_eq!(log.take_places(), ["outermost", "before_limits"]);
    assert_eq!(answer(&server, get()).await, OK);
}

/// A server preset that takes requests of 64 bytes.
fn of_64_bytes() -> ServerLayer {
    let config = ServerConfig {
        body_limit: Some(BodyLimitConfig {
            request: Some("64B".parse().unwrap()),
            ..BodyLimitConfig::default()
        }),
        ..ServerConfig::default()
    };
    ServerLayer::new(&config).unwrap()
}

#[tokio::test]
async fn the_server_preset_bounds_requests_on_axum_and_behind_a_map_on_hyper() {
    let app = Router::new().route("/", post(async |body: Bytes| body));
    let handler = Scripted::always(Answer::ok()).0;
    let on_hyper = ServiceBuilder::new()
        .layer(MapRequestLayer::new(|request: Request<Incoming>| {
            request.map(Body::new)
        }))
        .layer(of_64_bytes())
        .service(handler);
    for server in [
        Server::axum(app.layer(of_64_bytes())),
        Server::hyper(on_hyper),
    ] {
        for (bytes, expected) in [(64, StatusCode::OK), (65, StatusCode::PAYLOAD_TOO_LARGE)] {
            let request = Request::post("/").body("x".repeat(bytes)).unwrap();
            let request = clients::send_to(server.addr(), request);
            let answer = clients::h1().request(request).await.unwrap();
            assert_eq!(answer.status(), expected);
        }
    }
}

#[tokio::test]
async fn the_server_preset_bounds_requests_on_tonic() {
    let routes = Routes::new(Scripted::always(grpc::unary("fine")).0);
    let server = Port::any().serve(move |listener, stop| async move {
        TonicServer::builder()
            .layer(of_64_bytes())
            .add_routes(routes)
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.requested())
            .await
            .unwrap();
    });
    let mut client = grpc::Client::new(support::channel(server.addr()));
    let within = "x".repeat(64 - 5); // and the prefix of the message
    client.unary("Any", within.clone()).await.unwrap();
    let refused = client.unary("Any", within + "x").await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_to_a_server_has_a_span_inside_the_outermost_slot() {
    let _listening = listen(tracing_subscriber::registry());
    let log = Log::default();
    let preset = all_server_slots(&log, &ServerConfig::default());
    let server = around_server(&preset, log.peer([Answer::ok()]));
    assert_eq!(answer(&server, get()).await, OK);
    let seen = [
        ("outermost", ""),
        ("before_limits", "server"),
        ("before_handler", "server"),
        ("peer", "server"),
    ];
    assert_eq!(log.take_spans(), seen);
}

#[tokio::test(start_paused = true)]
async fn metrics_of_a_server_count_what_the_layers_inside_refuse() {
    let config = ServerConfig {
        rate_limit: one_call(),
        ..ServerConfig::default()
    };
    let server = ServerLayer::new(&config).unwrap();
    let server = forget(server.layer(Log::default().peer([Answer::ok()])));
    let named = |mut request: Request<Body>| {
        let operation = Operation::from_static("counted by the server");
        request.extensions_mut().insert(operation);
        request
    };
    for (request, expected) in [(expired(), EXPIRED), (get(), OK), (get(), TOO_MANY)] {
        assert_eq!(answer(&server, named(request)).await, expected);
    }
    for error in ["", "DEADLINE_EXCEEDED", "RATE_LIMITED"] {
        let route = ("http_route", "counted by the server");
        assert_eq!(counted(SERVER_CALLS, &[route, ("error_type", error)]), 1);
    }
}

// ===== in the clients of a mesh =====

#[tokio::test]
async fn a_client_of_the_mesh_takes_layers_for_itself_alone() {
    let log = Log::default();
    let (service, probe) = Scripted::answering(|call, _| match call {
        0 => Answer::status(503),
        _ => Answer::ok(),
    });
    let server = Server::hyper(service);
    let registry = format!("static:http://{}", server.addr());
    let mesh = support::mesh(registry, ClientConfig::default());
    let client = forget(mesh.client_with("orders", |preset| {
        preset
            .before_breaker(log.slot("before_breaker"))
            .before_retry(log.slot("before_retry"))
    }));
    let get = || Request::get("/").body(tower_mesh::Body::empty()).unwrap();

    assert_eq!(answer(&client, get()).await, OK);
    let seen = ["before_retry", "before_breaker", "before_breaker"];
    assert_eq!(log.take_places(), seen);
    assert_eq!(probe.calls(), 2);

    // Another client of the name has none of them, and shares all else.
    let plain = forget(mesh.client("orders"));
    assert_eq!(answer(&plain, get()).await, OK);
    assert_eq!(log.take_places(), [""; 0]);
    let preset = mesh.client_layer("orders", Protocol::Http);
    preset.breakers().force_open();
    let open = Some(Reason::CircuitOpen);
    assert_eq!(answer(&plain, get()).await.1, open);
    assert_eq!(answer(&client, get()).await.1, open);
    assert_eq!(probe.calls(), 3);
}

#[tokio::test]
async fn a_channel_of_the_mesh_takes_layers_for_itself_alone() {
    let log = Log::default();
    let (service, probe) = grpc::service();
    let server = Server::tonic(Routes::new(service));
    let registry = format!("static:grpc://{}", server.addr());
    let mesh = support::mesh(registry, ClientConfig::default());
    let own = ServiceBuilder::new()
        .layer(log.slot("first"))
        .layer(log.slot("second"));
    let channel = mesh.channel_with("kit", |preset| preset.outermost(own));

    let answered = grpc::Client::new(channel).unary("Unary", "hello").await;
    assert_eq!(answered.unwrap().into_inner(), "hello");
    assert_eq!(log.take_places(), ["first", "second"]);
    let mut plain = grpc::Client::new(mesh.channel("kit"));
    plain.unary("Unary", "hello").await.unwrap();
    assert_eq!(log.take_places(), [""; 0]);
    assert_eq!(probe.calls(), 2);
    eventually("the calls are over", || {
        let endpoints = mesh.endpoints("kit", Protocol::Grpc);
        endpoints.iter().all(|endpoint| endpoint.in_flight == 0)
    })
    .await;
}
