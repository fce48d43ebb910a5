//! Everybody agrees on what a failed call is: the breakers on both sides, the balancer, the metrics.

use std::net::SocketAddr;

use axum::{
    Router,
    routing::{get, head},
};
use http::{Method, Request, StatusCode};
use tonic::{
    Code,
    service::Routes,
    transport::{Server as TonicServer, server::TcpIncoming},
};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_mesh::{
    Mesh,
    client::ClientConfig,
    discovery::balance::{BalanceConfig, EndpointState, EndpointView},
    layers::{
        Protocol,
        circuit_breaker::{BreakerConfig, BreakerStats, CircuitBreakerLayer},
        metrics,
        test_util::{
            Answer, Scripted, clients, grpc,
            servers::{Port, Server},
        },
    },
};

use crate::support::{self, Body, Connection, eventually, read};

/// A breaker that counts under a name of its own, and never opens here.
fn counting(name: &str) -> CircuitBreakerLayer {
    CircuitBreakerLayer::builder().name(name).build().unwrap()
}

fn counts(successes: u64, failures: u64, cancelled: u64) -> [u64; 4] {
    [successes, failures, cancelled, 0]
}

fn seen(stats: BreakerStats) -> [u64; 4] {
    let rest = stats.overloads + stats.ignored + stats.rejected;
    [stats.successes, stats.failures, stats.cancelled, rest]
}

/// The same from the metrics, by the name of the breaker.
fn published(name: &str) -> [u64; 4] {
    ["success", "failure", "cancelled", "rejected"].map(|outcome| {
        let labels = [("policy", name), ("outcome", outcome)];
        let total = metrics::snapshot().counter("mesh_breaker_calls_total", &labels);
        total.expect("a breaker that is alive is in the metrics")
    })
}

// ===== ordinary answers =====

/// Answers with every kind of body that hyper treats in a way of its own.
fn ordinary() -> Router {
    const LENGTH: usize = 300_000;
    let streamed = || async {
        let chunks = (0..3).map(|_| Ok::<_, std::io::Error>(vec![b'x'; LENGTH]));
        axum::body::Body::from_stream(futures_util::stream::iter(chunks))
    };
    Router::new()
        .route("/full", get(|| async { "a full body" }))
        .route("/long", get(|| async { "x".repeat(LENGTH) }))
        .route("/empty", get(|| async {}))
        .route("/none", get(|| async { StatusCode::NO_CONTENT }))
        .route("/streamed", get(streamed))
        .route("/head", head(|| async { "only its length" }))
}

const ORDINARY: [(Method, &str); 8] = [
    (Method::GET, "/full"),
    (Method::GET, "/long"),
    (Method::GET, "/empty"),
    (Method::GET, "/none"),
    (Method::GET, "/streamed"),
    (Method::GET, "/absent"),
    (Method::HEAD, "/full"),
    (Method::HEAD, "/head"),
];

fn requests(addr: SocketAddr) -> impl Iterator<Item = Request<Body>> {
    ORDINARY.into_iter().map(move |(method, path)| {
        let request = Request::builder().method(method).uri(path);
        clients::send_to(addr, request.body(Body::default()).unwrap())
    })
}

async fn ordinary_answers_are_successes(
    name: &str,
    client: hyper_util::client::legacy::Client<
        hyper_util::client::legacy::connect::HttpConnector,
        Body,
    >,
) {
    let (server_name, client_name) = (format!("{name} server"), format!("{name} client"));
    let (on_server, on_client) = (counting(&server_name), counting(&client_name));
    let server = Server::axum(ordinary().layer(on_server.clone()));
    let mut client = ServiceBuilder::new()
        .layer(on_client.clone())
        .service(client);
    for (count, request) in (1..).zip(requests(server.addr())) {
        let what = format!("{} {}", request.method(), request.uri());
        let response = client.ready().await.unwrap().call(request).await.unwrap();
        read(response).await;
        assert_eq!(
            seen(on_client.handle().stats()),
            counts(count, 0, 0),
            "{what}"
        );
        // The server may learn of the end a moment after the client did.
        eventually(&what, || {
            seen(on_server.handle().stats()) == counts(count, 0, 0)
        })
        .await;
    }
    let all = counts(ORDINARY.len() as u64, 0, 0);
    assert_eq!([published(&server_name), published(&client_name)], [all; 2]);
}

#[tokio::test]
async fn ordinary_answers_are_successes_over_http1() {
    ordinary_answers_are_successes("ordinary h1", clients::h1()).await;
}

#[tokio::test]
async fn ordinary_answers_are_successes_over_http2() {
    ordinary_answers_are_successes("ordinary h2", clients::h2()).await;
}

#[tokio::test]
async fn a_server_error_whose_body_nobody_reads_is_a_failure() {
    let layer = counting("unread");
    let failing = get(|| async { (StatusCode::BAD_GATEWAY, "x".repeat(300_000)) });
    let server = Server::axum(Router::new().route("/", failing).layer(layer.clone()));
    for (count, mut connection) in [
        (1, Connection::h1(server.addr()).await),
        (2, Connection::h2(server.addr()).await),
    ] {
        let request = Request::get("/").body(Body::default()).unwrap();
        let response = connection.send(request).await;
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        drop((response, connection));
        eventually("a failure", || {
            seen(layer.handle().stats()) == counts(0, count, 0)
        })
        .await;
    }
}

// ===== gRPC streams =====

/// A tonic server with a counting breaker around its handler.
fn grpc_server(layer: &CircuitBreakerLayer, handler: Scripted) -> Server {
    let (layer, routes) = (layer.clone(), Routes::new(handler));
    Port::any().serve(move |listener, stop| async move {
        TonicServer::builder()
            .layer(layer)
            .add_routes(routes)
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.requested())
            .await
            .unwrap();
    })
}

/// A mesh whose only breaker counts under this name, and whose failed endpoints are avoided for long.
fn mesh(breaker: &str, servers: &[&Server]) -> Mesh {
    let addresses: Vec<_> = servers
        .iter()
        .map(|server| format!("grpc://{}", server.addr()))
        .collect();
    let breaker = BreakerConfig {
        name: breaker.to_owned(),
        ..BreakerConfig::default()
    };
    let balance = BalanceConfig {
        penalty: std::time::Duration::from_secs(60),
        ..BalanceConfig::default()
    };
    let config = ClientConfig {
        retry: None,
        circuit_breaker: Some(breaker),
        balance,
        ..ClientConfig::default()
    };
    support::mesh(format!("static:{}", addresses.join(",")), config)
}

fn on_client(mesh: &Mesh) -> [u64; 4] {
    let preset = mesh.client_layer("kit", Protocol::Grpc);
    seen(preset.breakers().stats())
}

fn endpoint(mesh: &Mesh, server: &Server) -> EndpointView {
    let url = format!("grpc://{}", server.addr());
    let mut endpoints = mesh.endpoints("kit", Protocol::Grpc).into_iter();
    endpoints
        .find(|endpoint| endpoint.url.to_string() == url)
        .unwrap()
}

#[tokio::test]
async fn a_stream_that_fails_in_its_trailers_is_a_failure_everywhere() {
    let on_server = counting("trailers server");
    let (handler, broken) = Scripted::always(grpc::stream("abc", 2, "14"));
    let server = grpc_server(&on_server, handler);
    let (handler, healthy) = Scripted::always(grpc::stream("abc", 2, "0"));
    let other = grpc_server(&counting("trailers other"), handler);
    let mesh = mesh("trailers client", &[&server, &other]);
    let mut client = grpc::Client::new(mesh.channel("kit"));

    let (mut failed, mut calls) = (0, 0);
    while failed == 0 {
        calls += 1;
        assert!(calls < 100, "the broken server is never called");
        let mut stream = client.stream("Any", "").await.unwrap().into_inner();
        for _ in 0..2 {
            assert_eq!(stream.message().await.unwrap().unwrap(), "abc");
        }
        match stream.message().await {
            Ok(end) => assert_eq!(end, None),
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable);
                failed += 1;
            }
        }
    }
    let expected = counts(calls - 1, 1, 0);
    assert_eq!(on_client(&mesh), expected);
    assert_eq!(published("trailers client"), expected);
    eventually("the server counts it", || {
        seen(on_server.handle().stats()) == counts(0, 1, 0)
    })
    .await;
    assert_eq!(published("trailers server"), counts(0, 1, 0));

    let view = endpoint(&mesh, &server);
    assert_eq!((view.failures, view.state), (1, EndpointState::Penalised));
    let labels = [("endpoint", &*view.url.to_string())];
    let failures = metrics::snapshot().counter("mesh_endpoint_failures_total", &labels);
    assert_eq!(failures, Some(1));
    // That is the penalty's purpose: the calls go elsewhere.
    let before = healthy.calls();
    for _ in 0..20 {
        let mut stream = client.stream("Any", "").await.unwrap().into_inner();
        while stream.message().await.unwrap().is_some() {}
    }
    assert_eq!((broken.calls(), healthy.calls() - before), (1, 20));
}

#[tokio::test]
async fn a_stream_that_the_client_drops_is_neither_failure_nor_success() {
    let on_server = counting("dropped server");
    let (handler, probe) = grpc::service();
    let server = grpc_server(&on_server, handler);
    let mesh = mesh("dropped client", &[&server]);
    let mut client = grpc::Client::new(mesh.channel("kit"));

    for (count, method, message) in [(1, "Open", &b"abc"[..]), (2, "Endless", &grpc::ENDLESS)] {
        let mut stream = client.stream(method, "").await.unwrap().into_inner();
        assert_eq!(stream.message().await.unwrap().unwrap(), message);
        assert_eq!(endpoint(&mesh, &server).in_flight, 1);
        assert_eq!(on_client(&mesh), counts(0, 0, count - 1));
        drop(stream);
        assert_eq!(on_client(&mesh), counts(0, 0, count), "{method}");
        eventually(method, || {
            seen(on_server.handle().stats()) == counts(0, 0, count) && probe.in_flight() == 0
        })
        .await;
    }
    assert_eq!(published("dropped client"), counts(0, 0, 2));
    assert_eq!(published("dropped server"), counts(0, 0, 2));
    let view = endpoint(&mesh, &server);
    assert_eq!(
        (view.failures, view.in_flight, view.state),
        (0, 0, EndpointState::Ready)
    );
}

#[tokio::test]
async fn a_stream_without_a_status_is_a_failure_everywhere() {
    let on_server = counting("missing server");
    let (handler, _) = Scripted::always(grpc::without_status("abc", 1));
    let server = grpc_server(&on_server, handler);
    let mesh = mesh("missing client", &[&server]);
    let mut client = grpc::Client::new(mesh.channel("kit"));
    let mut stream = client.stream("Any", "").await.unwrap().into_inner();
    while let Ok(Some(_)) = stream.message().await {}
    drop(stream);
    assert_eq!(on_client(&mesh), counts(0, 1, 0));
    assert_eq!(endpoint(&mesh, &server).failures, 1);
    eventually("the server counts it", || {
        seen(on_server.handle().stats()) == counts(0, 1, 0)
    })
    .await;
}

#[tokio::test]
async fn a_call_that_fails_in_its_head_is_a_failure_everywhere() {
    let on_server = counting("head server");
    let (handler, _) = Scripted::always(Answer::grpc_status("13"));
    let server = grpc_server(&on_server, handler);
    let mesh = mesh("head client", &[&server]);
    let mut client = grpc::Client::new(mesh.channel("kit"));
    let status = client.unary("Any", "").await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(on_client(&mesh), counts(0, 1, 0));
    assert_eq!(endpoint(&mesh, &server).failures, 1);
    eventually("the server counts it", || {
        seen(on_server.handle().stats()) == counts(0, 1, 0)
    })
    .await;
}
