//! What is counted, under which labels, and that these are few.

use std::time::Duration;

use http::{HeaderValue, Method, Request};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt};

use super::{MetricsConfig, MetricsLayer};
use crate::{
    HistogramSnapshot, Live, Operation,
    metrics::{self, OVERFLOW, Snapshot},
    retry::RetryLayer,
    test_util::{
        Answer, Gate, Probe, ProbeError, TestBody,
        bodies::{get, grpc_request},
        contract::{Contract, pairs},
    },
};

const SERVER: &str = "http_server_request_duration_seconds";
const CLIENT: &str = "http_client_request_duration_seconds";
const RPC: &str = "rpc_client_call_duration_seconds";

async fn call(layer: &MetricsLayer, answer: Answer, request: Request<TestBody>) {
    let (probe, _) = Probe::always(answer);
    if let Ok(response) = layer.layer(probe).oneshot(request).await {
        let _ = response.into_body().collect().await;
    }
}

/// Tests run at once and share the process' metrics, so each client has a name of its own.
fn calls(name: &'static str, labels: &[(&str, &str)]) -> u64 {
    let all = metrics::snapshot().histogram(name, labels);
    all.as_ref().map_or(0, HistogramSnapshot::count)
}

#[tokio::test]
async fn calls_are_told_apart_by_operation_and_by_what_they_came_to() {
    let layer = MetricsLayer::client("told-apart");
    let peer = ("server_address", "told-apart");
    let named = |name| {
        let mut request = get("/orders/7");
        request
            .extensions_mut()
            .insert(Operation::from_static(name));
        request
    };
    for (name, status) in [("get", 200), ("get", 200), ("get", 503), ("list", 404)] {
        call(&layer, Answer::status(status), named(name)).await;
    }
    call(&layer, Answer::fail(ProbeError::refused()), named("get")).await;
    let method = ("http_request_method", "GET");
    for (route, status, error, count) in [
        ("get", "200", "", 2),
        ("get", "503", "503", 1),
        ("list", "404", "404", 1),
        ("get", "", "connect", 1),
    ] {
        let labels = [
            peer,
            method,
            ("http_route", route),
            ("http_response_status_code", status),
            ("error_type", error),
        ];
        assert_eq!(calls(CLIENT, &labels), count, "{labels:?}");
    }
    assert_eq!(calls(CLIENT, &[peer]), 5);
}

#[tokio::test(start_paused = true)]
async fn a_stream_counts_its_first_message_and_the_status_of_its_trailers() {
    let layer = MetricsLayer::client("streams");
    let gate = Gate::new();
    let body = TestBody::stream()
        .gate(&gate)
        .data("one")
        .trailer("grpc-status", "13");
    let (probe, _) = Probe::always(Answer::grpc(body));
    let request = grpc_request("/shop.Orders/Watch", TestBody::empty());
    let mut body = layer
        .layer(probe)
        .oneshot(request)
        .await
        .unwrap()
        .into_body();
    tokio::time::advance(Duration::from_millis(100)).await;
    gate.open();
    assert!(body.frame().await.unwrap().unwrap().is_data());
    assert_eq!(layer.active(), 1);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(body.frame().await.unwrap().unwrap().is_trailers());

    assert_eq!(layer.active(), 0);
    let labels = [
        ("server_address", "streams"),
        ("rpc_system", "grpc"),
        ("rpc_service", "shop.Orders"),
        ("rpc_method", "Watch"),
        ("rpc_grpc_status_code", "13"),
        ("error_type", "INTERNAL"),
    ];
    let seen = metrics::snapshot().histogram(RPC, &labels).unwrap();
    assert_eq!(seen.count(), 1);
    let took = seen.quantile(1.0).unwrap().as_secs_f64();
    assert!((0.09..0.11).contains(&took), "{took}");
}

#[tokio::test]
async fn whatever_callers_make_up_there_are_at_most_200_series_of_a_name() {
    let mut rng = fastrand::Rng::with_seed(7);
    let (server, client) = (MetricsLayer::server(), MetricsLayer::client("made-up"));
    for n in 0..10_000_u32 {
        let path = format!("/{}/{}", rng.u64(..), rng.u64(..));
        let method = format!("M{n}");
        let status = rng.u16(200..=599);
        let mut request = match n % 2 {
            0 => Request::get(path).body(TestBody::empty()).unwrap(),
            _ => {
                let mut request = get("/").map(|_| TestBody::empty());
                *request.uri_mut() = format!("/pkg{n}.S/M{n}").parse().unwrap();
                request
                    .headers_mut()
                    .insert("content-type", HeaderValue::from_static("application/grpc"));
                request
            }
        };
        *request.method_mut() = match n % 4 {
            0 => Method::from_bytes(method.as_bytes()).unwrap(),
            2 => Method::GET,
            _ => Method::POST,
        };
        let host = HeaderValue::from_str(&format!("host-{n}")).unwrap();
        request.headers_mut().insert("host", host);
        let layer = if n % 3 == 0 { &client } else { &server };
        call(layer, Answer::status(status), request).await;
    }

    let seen = metrics::snapshot();
    for name in [SERVER, CLIENT, RPC, "rpc_server_call_duration_seconds"] {
        let series = seen.iter().filter(|sample| sample.name == name).count();
        assert!((1..=200).contains(&series), "{name}: {series}");
    }
    // Nothing is lost over it. Other tests count in the same names.
    let total = |seen: &Snapshot, name| seen.histogram(name, &[]).map_or(0, |all| all.count());
    let all: u64 = [SERVER, CLIENT, RPC, "rpc_server_call_duration_seconds"]
        .map(|name| total(&seen, name))
        .iter()
        .sum();
    assert!(all >= 10_000, "{all}");
    assert!(
        calls(
            "rpc_server_call_duration_seconds",
            &[("rpc_method", OVERFLOW)]
        ) > 1_000
    );
}

#[tokio::test]
async fn a_layer_that_is_off_counts_nothing() {
    let layer = MetricsLayer::client("off").enabled(false);
    call(&layer, Answer::ok(), get("/")).await;
    assert_eq!(calls(CLIENT, &[("server_address", "off")]), 0);
}

#[tokio::test]
async fn options_change_while_the_layer_runs() {
    let config = Live::new(Some(MetricsConfig { max_operations: 1 }));
    let layer = MetricsLayer::client("changing").optional(config.clone());
    let layer = layer.unwrap();
    let count = async |route: &'static str| {
        let mut request = get("/");
        let operation = Operation::from_static(route);
        request.extensions_mut().insert(operation);
        call(&layer, Answer::ok(), request).await;
        let labels = [("server_address", "changing"), ("http_route", route)];
        calls(CLIENT, &labels)
    };
    assert_eq!([count("a").await, count("b").await], [1, 0]);
    let more = MetricsConfig { max_operations: 2 };
    config.set(Some(more.clone())).unwrap();
    assert_eq!([count("a").await, count("b").await], [2, 1]);
    config.set(None).unwrap();
    assert_eq!(count("a").await, 2, "it is off");
    let none = MetricsConfig { max_operations: 0 };
    let refused = config.set(Some(none)).unwrap_err();
    assert_eq!(refused.path(), "maxOperations");
    config.set(Some(more)).unwrap();
    assert_eq!(count("a").await, 3, "it goes on where it was");
}

#[test]
fn the_layer_keeps_the_contract() {
    let contract = || {
        Contract::new(MetricsLayer::server)
            .clones_per_call(0)
            .held(|layer| usize::try_from(layer.active()).unwrap())
    };
    contract().check();
    let retry = Contract::new(RetryLayer::default);
    pairs!(contract(), retry);
}
