//! The concurrency limit over sockets: how many are in a handler, or in a client, over all connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use axum::{Router, routing::get};
use http::{Request, StatusCode};
use tokio::task::JoinSet;
use tonic::{
    Code,
    service::Routes,
    transport::{Server as TonicServer, server::TcpIncoming},
};
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_mesh::layers::{
    concurrency_limit::ConcurrencyLimitLayer,
    test_util::{
        Answer, Gate, Scripted, TestBody, clients, grpc,
        servers::{Port, Server},
    },
};

use crate::support::{Body, Connection, PATIENCE, channel, eventually, read};

/// Two are in, one more may wait.
fn limit() -> ConcurrencyLimitLayer {
    let limit = ConcurrencyLimitLayer::builder(2).queue(1);
    limit.queue_timeout(PATIENCE).build().unwrap()
}

fn router(gate: &Gate) -> Router {
    let gate = gate.clone();
    let handler = async move || {
        gate.opened().await;
        "done"
    };
    Router::new().route("/", get(handler))
}

/// A handler whose answers wait for the gate.
fn scripted(gate: &Gate, answer: fn() -> Answer) -> Scripted {
    let gate = gate.clone();
    Scripted::answering(move |_, _| answer().gated(&gate)).0
}

fn done() -> Answer {
    Answer::ok().body(TestBody::full("done"))
}

fn tonic_server(layer: ConcurrencyLimitLayer, handler: Scripted) -> Server {
    let routes = Routes::new(handler);
    Port::any().serve(move |listener, stop| async move {
        TonicServer::builder()
            .layer(layer)
            .add_routes(routes)
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.requested())
            .await
            .unwrap();
    })
}

/// Whether a call was admitted, over a connection of its own.
async fn over_h1(addr: SocketAddr) -> bool {
    is_admitted(Connection::h1(addr).await.get("/").await.status())
}

async fn over_h2(addr: SocketAddr) -> bool {
    is_admitted(Connection::h2(addr).await.get("/").await.status())
}

async fn over_grpc(addr: SocketAddr) -> bool {
    is_admitted_by_grpc(grpc::Client::new(channel(addr)).unary("Any", "").await)
}

fn is_admitted(status: StatusCode) -> bool {
    let expected = [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE];
    assert!(expected.contains(&status), "{status}");
    status == StatusCode::OK
}

fn is_admitted_by_grpc<T>(answer: Result<T, tonic::Status>) -> bool {
    if let Err(status) = &answer {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.metadata().contains_key("grpc-retry-pushback-ms"));
    }
    answer.is_ok()
}

/// Two calls are in, the third waits, the fourth is refused; then the gate opens, and all three end.
async fn assert_limits<F>(layer: &ConcurrencyLimitLayer, gate: &Gate, call: impl Fn() -> F)
where
    F: Future<Output = bool> + Send + 'static,
{
    let mut calls = JoinSet::new();
    calls.spawn(call());
    calls.spawn(call());
    assert_held(layer, 2, 0).await;
    calls.spawn(call());
    assert_held(layer, 2, 1).await;
    assert!(!call().await, "a fourth is admitted");
    gate.open();
    assert_eq!(calls.join_all().await, [true; 3]);
    assert_held(layer, 0, 0).await;
    assert_eq!(layer.handle().stats().full, 1);
}

async fn assert_held(layer: &ConcurrencyLimitLayer, in_flight: usize, waiting: usize) {
    let what = format!("{in_flight} in flight and {waiting} waiting");
    let limits = layer.handle();
    let holds = || {
        let stats = limits.stats();
        (stats.in_flight, stats.waiting) == (in_flight, waiting)
    };
    eventually(&what, holds).await;
}

// ===== on servers =====

#[tokio::test]
async fn on_axum_it_holds_over_all_connections() {
    let (layer, gate) = (limit(), Gate::new());
    let server = Server::axum(router(&gate).layer(layer.clone()));
    let addr = server.addr();
    assert_limits(&layer, &gate, || over_h1(addr)).await;

    let (layer, gate) = (limit(), Gate::new());
    let server = Server::axum(router(&gate).layer(layer.clone()));
    let addr = server.addr();
    assert_limits(&layer, &gate, || over_h2(addr)).await;
}

/// axum applies a layer to each connection, so tower's limit has a new semaphore for each of them. This
/// is what the test above would see if ours did.
#[tokio::test]
async fn towers_limit_on_axum_holds_for_each_connection_alone() {
    let (inside, gate) = (Arc::new(AtomicUsize::new(0)), Gate::new());
    let (entered, waits) = (inside.clone(), gate.clone());
    let handler = async move || {
        entered.fetch_add(1, SeqCst);
        waits.opened().await;
        "done"
    };
    let router = Router::new().route("/", get(handler));
    let server = Server::axum(router.layer(tower::limit::ConcurrencyLimitLayer::new(2)));
    let mut calls = JoinSet::new();
    for _ in 0..4 {
        calls.spawn(over_h1(server.addr()));
    }
    eventually("four are in", || inside.load(SeqCst) == 4).await;
    gate.open();
    calls.join_all().await;
}

#[tokio::test]
async fn on_tonic_it_holds_over_all_connections() {
    let (layer, gate) = (limit(), Gate::new());
    let handler = scripted(&gate, || grpc::unary("done"));
    let server = tonic_server(layer.clone(), handler);
    let addr = server.addr();
    assert_limits(&layer, &gate, || over_grpc(addr)).await;
}

#[tokio::test]
async fn on_hyper_it_holds_over_all_connections() {
    let (layer, gate) = (limit(), Gate::new());
    let server = Server::hyper(layer.layer(scripted(&gate, done)));
    let addr = server.addr();
    assert_limits(&layer, &gate, || over_h1(addr)).await;
}

#[tokio::test]
async fn a_caller_who_hangs_up_leaves_the_handler_and_the_queue() {
    let (layer, gate) = (limit(), Gate::new());
    let server = Server::axum(router(&gate).layer(layer.clone()));
    let mut calls: Vec<_> = (0..2)
        .map(|_| tokio::spawn(over_h1(server.addr())))
        .collect();
    assert_held(&layer, 2, 0).await;
    calls.push(tokio::spawn(over_h1(server.addr())));
    assert_held(&layer, 2, 1).await;

    // The connection goes with its task. The one that waits takes the place.
    calls[0].abort();
    assert_held(&layer, 2, 0).await;
    calls.push(tokio::spawn(over_h1(server.addr())));
    assert_held(&layer, 2, 1).await;
    calls[3].abort();
    assert_held(&layer, 2, 0).await;
    gate.open();
    for call in calls.drain(1..3) {
        assert!(call.await.unwrap());
    }
    assert_held(&layer, 0, 0).await;
}

#[tokio::test]
async fn a_stream_holds_its_place_until_it_ends_or_is_dropped() {
    let layer = ConcurrencyLimitLayer::builder(1).build().unwrap();
    let (handler, _) = Scripted::always(grpc::open("an event"));
    let server = tonic_server(layer.clone(), handler);
    let mut client = grpc::Client::new(channel(server.addr()));
    let mut stream = client.stream("Any", "").await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());

    assert!(!over_grpc(server.addr()).await, "the stream is in flight");
    drop(stream);
    assert_held(&layer, 0, 0).await;
    client.stream("Any", "").await.unwrap();
}

// ===== around clients =====

#[tokio::test]
async fn around_a_hyper_client_it_holds_for_all_clones() {
    for client in [clients::h1(), clients::h2()] {
        let (layer, gate) = (limit(), Gate::new());
        let server = Server::hyper(scripted(&gate, done));
        let client = layer.layer(client);
        let call = || {
            let request = clients::send_to(server.addr(), Request::new(Body::default()));
            let called = client.clone().oneshot(request);
            async { is_admitted(read(called.await.unwrap()).await.status()) }
        };
        assert_limits(&layer, &gate, call).await;
    }
}

#[tokio::test]
async fn around_a_tonic_channel_it_holds_for_all_clients() {
    let (layer, gate) = (limit(), Gate::new());
    let server = Server::tonic(Routes::new(scripted(&gate, || grpc::unary("done"))));
    let limited = ServiceBuilder::new()
        .layer(layer.clone())
        .service(channel(server.addr()));
    let call = || {
        let mut client = grpc::Client::new(limited.clone());
        async move { is_admitted_by_grpc(client.unary("Any", "").await) }
    };
    assert_limits(&layer, &gate, call).await;
}
