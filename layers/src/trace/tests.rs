//! What the spans say, as a listener of `tracing` sees them.

use std::{collections::BTreeMap, fmt, sync::Arc};

use http::{Method, Request};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tower::{Service, ServiceBuilder, ServiceExt};
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{
    Registry,
    filter::{LevelFilter, Targets},
    layer::{Context, Layer, SubscriberExt},
    registry::LookupSpan,
};

use super::{TraceConfig, TraceLayer};
use crate::{
    CallContext, Live, Operation, Reason, Rejection,
    context::{RouteArm, RouteDecision, picked},
    retry::RetryLayer,
    test_util::{
        Answer, Gate, Probe, ProbeError, TestBody,
        bodies::{get, grpc_request},
        contract::{Contract, pairs},
        listen,
    },
};

// ===== a listener =====

/// Spans in the order in which they began.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Span>>>);

#[derive(Clone, Debug, Default)]
struct Span {
    id: u64,
    parent: Option<u64>,
    fields: BTreeMap<&'static str, String>,
    closed: bool,
}

impl Span {
    fn get(&self, field: &str) -> &str {
        self.fields.get(field).map_or("", String::as_str)
    }
}

impl Visit for Span {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Seen {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut span = Span {
            id: id.into_u64(),
            parent: context.current_span().id().map(Id::into_u64),
            ..Span::default()
        };
        attributes.record(&mut span);
        self.0.lock().push(span);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        self.with(id, |span| values.record(span));
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        self.with(&id, |span| span.closed = true);
    }
}

impl Seen {
    fn with(&self, id: &Id, change: impl FnOnce(&mut Span)) {
        let mut spans = self.0.lock();
        // The last one: a registry uses ids again.
        let span = spans.iter_mut().rev().find(|span| span.id == id.into_u64());
        change(span.expect("a span that began"));
    }

    fn spans(&self) -> Vec<Span> {
        self.0.lock().clone()
    }

    fn only(&self) -> Span {
        let spans = self.spans();
        assert_eq!(spans.len(), 1, "{spans:?}");
        spans[0].clone()
    }
}

fn seen() -> (Seen, DefaultGuard) {
    let seen = Seen::default();
    let only_ours = Targets::new().with_target("tower_mesh", LevelFilter::TRACE);
    let subscriber = Registry::default().with(seen.clone().with_filter(only_ours));
    (seen, listen(subscriber))
}

/// Calls, reads the answer to its end, and gives the span that there is.
async fn traced(layer: TraceLayer, answer: Answer, request: Request<TestBody>) -> Span {
    let (seen, _listening) = seen();
    let (probe, _) = Probe::always(answer);
    let service = layer_over(layer, probe);
    if let Ok(response) = service.oneshot(request).await {
        let _ = response.into_body().collect().await;
    }
    let span = seen.only();
    assert!(span.closed, "{span:?}");
    span
}

fn layer_over(layer: TraceLayer, probe: Probe) -> super::Trace<Probe> {
    ServiceBuilder::new().layer(layer).service(probe)
}

// ===== what a span says =====

#[tokio::test]
async fn a_span_around_a_handler_says_what_came_and_what_was_answered() {
    let mut request = get("/orders/7?token=secret");
    request
        .extensions_mut()
        .insert(Operation::from_static("get order"));
    request
        .headers_mut()
        .insert("user-agent", "curl".parse().unwrap());
    let span = traced(TraceLayer::server(), Answer::ok(), request).await;
    for (field, value) in [
        ("otel.name", "get order"),
        ("otel.kind", "server"),
        ("http.request.method", "GET"),
        ("http.route", "get order"),
        ("url.path", "/orders/7"),
        ("user_agent.original", "curl"),
        ("http.response.status_code", "200"),
        ("network.protocol.version", "1.1"),
        ("error.type", ""),
        ("otel.status_code", ""),
        ("rpc.system", ""),
    ] {
        assert_eq!(span.get(field), value, "{field} of {span:?}");
    }
}

#[tokio::test]
async fn a_method_that_a_caller_made_up_names_nothing() {
    let mut request = get("/");
    *request.method_mut() = Method::from_bytes(b"FROBNICATE").unwrap();
    let span = traced(TraceLayer::server(), Answer::ok(), request).await;
    assert_eq!(span.get("otel.name"), "HTTP");
    assert_eq!(span.get("http.request.method"), "_OTHER");
}

#[tokio::test]
async fn a_span_around_a_client_says_who_is_called() {
    let request = Request::get("http://user:pass@orders:8080/7").body(TestBody::empty());
    let layer = TraceLayer::client().peer("orders");
    let span = traced(layer, Answer::status(404), request.unwrap()).await;
    for (field, value) in [
        ("otel.name", "GET"),
        ("otel.kind", "client"),
        ("server.address", "orders"),
        ("server.port", "8080"),
        ("peer.service", "orders"),
        ("url.scheme", "http"),
        ("error.type", "404"),
        ("otel.status_code", "ERROR"),
    ] {
        assert_eq!(span.get(field), value, "{field} of {span:?}");
    }
}

#[tokio::test]
async fn a_failure_is_named_and_blamed_on_whose_it_is() {
    let refusal = || {
        let rejection = Rejection::new("rate_limit", Reason::RateLimited, "enough");
        let response = rejection.into_response::<TestBody>(crate::CallKind::HTTP);
        Answer::response(response.map(|_| TestBody::empty()))
    };
    let grpc = Answer::grpc_status;
    let http = Answer::status;
    type Case = (Box<dyn Fn() -> Answer>, bool, &'static str, [bool; 2]);
    let table: Vec<Case> = vec![
        (Box::new(move || http(200)), false, "", [false, false]),
        (Box::new(move || http(404)), false, "404", [false, true]),
        (Box::new(move || http(503)), false, "503", [true, true]),
        (Box::new(move || grpc("0")), true, "", [false, false]),
        (
            Box::new(move || grpc("5")),
            true,
            "NOT_FOUND",
            [false, true],
        ),
        (
            Box::new(move || grpc("14")),
            true,
            "UNAVAILABLE",
            [true, true],
        ),
        (Box::new(refusal), false, "RATE_LIMITED", [false, true]),
        (
            Box::new(|| Answer::fail(ProbeError::refused())),
            false,
            "connect",
            [true, true],
        ),
    ];
    for (answer, is_grpc, error, blamed) in table {
        for (layer, blamed) in [TraceLayer::server(), TraceLayer::client()]
            .into_iter()
            .zip(blamed)
        {
            let request = if is_grpc {
                grpc_request("/shop.Orders/Get", TestBody::empty())
            } else {
                get("/")
            };
            let is_server = format!("{layer:?}").contains("Server");
            let span = traced(layer, answer(), request).await;
            // A caller's mistake is no error of the server's, and so has no type there either.
            let expected = if is_server && error == "404" {
                ""
            } else {
                error
            };
            assert_eq!(span.get("error.type"), expected, "{span:?}");
            assert_eq!(span.get("otel.status_code") == "ERROR", blamed, "{span:?}");
        }
    }
}

#[tokio::test]
async fn a_grpc_stream_lasts_to_its_trailers_and_has_their_status() {
    let (seen, _listening) = seen();
    let gate = Gate::new();
    let body = TestBody::stream()
        .data("one")
        .gate(&gate)
        .trailer("grpc-status", "13");
    let (probe, _) = Probe::always(Answer::grpc(body));
    let service = layer_over(TraceLayer::client(), probe);
    let request = grpc_request("/shop.Orders/Watch", TestBody::empty());
    let mut body = service.oneshot(request).await.unwrap().into_body();
    assert!(body.frame().await.unwrap().unwrap().is_data());
    assert!(!seen.only().closed);
    gate.open();
    assert!(body.frame().await.unwrap().unwrap().is_trailers());

    // Over at the trailers, though the body is still held.
    let span = seen.only();
    assert!(span.closed);
    for (field, value) in [
        ("otel.name", "shop.Orders/Watch"),
        ("rpc.system", "grpc"),
        ("rpc.service", "shop.Orders"),
        ("rpc.method", "Watch"),
        ("rpc.grpc.status_code", "13"),
        ("error.type", "INTERNAL"),
    ] {
        assert_eq!(span.get(field), value, "{field} of {span:?}");
    }
}

#[tokio::test]
async fn a_call_that_its_caller_gave_up_is_cancelled_and_no_error() {
    let (seen, _listening) = seen();
    let (probe, _) = Probe::always(Answer::never());
    let mut call = Box::pin(layer_over(TraceLayer::client(), probe).oneshot(get("/")));
    assert!(futures_util::poll!(&mut call).is_pending());
    drop(call);
    let span = seen.only();
    assert!(span.closed);
    assert_eq!(span.get("error.type"), "cancelled");
    assert_eq!(span.get("otel.status_code"), "");
}

#[tokio::test(start_paused = true)]
async fn every_attempt_has_a_span_within_that_of_the_call() {
    let (seen, _listening) = seen();
    let (probe, _) = Probe::sequence([Answer::status(503), Answer::ok()]);
    let service = ServiceBuilder::new()
        .layer(TraceLayer::client())
        .layer(RetryLayer::default())
        .layer(TraceLayer::attempt())
        .service(probe);
    let mut request = get("/").map(BodyExt::boxed_unsync);
    let arm = RouteArm::new("rollout", "canary");
    CallContext::get_or_insert(request.extensions_mut()).route =
        Some(RouteDecision::new(Arc::new(arm)));
    let response = service.oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap();

    let spans = seen.spans();
    let [call, first, second] = spans.as_slice() else {
        panic!("{spans:?}");
    };
    assert!(spans.iter().all(|span| span.closed));
    assert_eq!(call.get("http.response.status_code"), "200");
    assert_eq!([first.parent, second.parent], [Some(call.id); 2]);
    assert_eq!(first.get("http.response.status_code"), "503");
    assert_eq!(first.get("error.type"), "503");
    assert_eq!(first.get("http.request.resend_count"), "");
    assert_eq!(second.get("http.request.resend_count"), "1");
    assert_eq!(second.get("mesh.route.rule"), "rollout");
    assert_eq!(second.get("mesh.route.arm"), "canary");
}

#[tokio::test]
async fn a_balancer_is_asked_to_say_what_it_picks_only_where_a_span_listens() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let service = {
        let asked = asked.clone();
        tower::service_fn(move |_: Request<TestBody>| {
            asked.lock().push(picked::is_traced());
            tracing::Span::current().record("mesh.endpoint", "http://[::1]:80");
            async { Ok::<_, ProbeError>(http::Response::new(TestBody::empty())) }
        })
    };
    let mut service = ServiceBuilder::new()
        .layer(TraceLayer::attempt())
        .service(service);
    let _ = service.call(get("/")).await.unwrap();
    let (seen, _listening) = seen();
    let _ = service.call(get("/")).await.unwrap();
    assert_eq!(*asked.lock(), [false, true]);
    assert!(!picked::is_traced());
    assert_eq!(seen.only().get("mesh.endpoint"), "http://[::1]:80");
}

#[tokio::test]
async fn there_is_no_span_where_the_layer_or_its_target_is_off() {
    let (seen, _listening) = seen();
    let (probe, _) = Probe::always(Answer::ok());
    let service = layer_over(TraceLayer::client().enabled(false), probe.clone());
    let _ = service.oneshot(get("/")).await.unwrap();
    drop(_listening);

    let filter = Targets::new()
        .with_target("tower_mesh", LevelFilter::INFO)
        .with_target("tower_mesh::trace::attempt", LevelFilter::OFF);
    let _listening = listen(Registry::default().with(seen.clone().with_filter(filter)));
    let _ = layer_over(TraceLayer::attempt(), probe.clone())
        .oneshot(get("/"))
        .await
        .unwrap();
    assert!(seen.spans().is_empty());
    let _ = layer_over(TraceLayer::client(), probe)
        .oneshot(get("/"))
        .await
        .unwrap();
    assert_eq!(seen.spans().len(), 1);
}

#[tokio::test]
async fn options_change_while_the_layer_runs() {
    let (seen, _listening) = seen();
    let (probe, _) = Probe::always(Answer::ok());
    let config = Live::new(Some(TraceConfig::default()));
    let layer = TraceLayer::server().optional(config.clone()).unwrap();
    // One of them set for good, and the others still as live.
    let layer = layer.propagate(false);
    let service = layer_over(layer, probe);
    let spans = async |path: &'static str| {
        let _ = service.clone().oneshot(get(path)).await.unwrap();
        seen.spans().len()
    };
    assert_eq!(spans("/healthz").await, 1);
    let health = r#"{"exclude": [{"path": {"exact": "/healthz"}}, {"method": "TRACE"}]}"#;
    let health: TraceConfig = serde_json::from_str(health).unwrap();
    config.set(Some(health)).unwrap();
    assert_eq!([spans("/healthz").await, spans("/orders").await], [1, 2]);
    config.set(None).unwrap();
    assert_eq!(spans("/orders").await, 2);
    let broken = r#"{"exclude": [{"path": {"regex": "("}}]}"#;
    let refused = config.set(Some(serde_json::from_str(broken).unwrap()));
    assert_eq!(refused.unwrap_err().path(), "exclude[0].path.regex");
    config.set(Some(TraceConfig::default())).unwrap();
    assert_eq!(spans("/healthz").await, 3);
}

// ===== the contract =====

fn contract(layer: fn() -> TraceLayer) -> Contract<TraceLayer> {
    Contract::new(layer).clones_per_call(0)
}

#[test]
fn the_layer_keeps_the_contract_with_a_listener_and_without() {
    contract(TraceLayer::server).check();
    let (seen, _listening) = seen();
    // Every span that begins ends, however its call does.
    contract(TraceLayer::server)
        .held_at_rest({
            let seen = seen.clone();
            move |_| seen.0.lock().iter().filter(|span| !span.closed).count()
        })
        .check();
    assert!(seen.spans().len() > 100);
    let retry = Contract::new(RetryLayer::default);
    pairs!(
        contract(TraceLayer::client),
        retry,
        contract(TraceLayer::attempt)
    );
}
