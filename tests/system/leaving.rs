//! Servers that leave: what callers on their connections see, over axum, tonic and hyper.

use std::time::Duration;

use axum::{Router, routing::get};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tokio::time::timeout;
use tonic::{
    Code,
    service::Routes,
    transport::{Server as TonicServer, server::TcpIncoming},
};
use tower::Layer;
use tower_mesh::{
    layers::{
        drain::{DrainLayer, DrainState},
        test_util::{
            Answer, Gate, Scripted, TestBody, clients, grpc,
            servers::{Port, Server},
        },
    },
    serve::GracefulShutdown,
};

use crate::support::{Body, Connection, PATIENCE, channel, eventually};

/// Answers at `/`, and at `/slow` once the gate is open.
fn app(layer: DrainLayer, gate: &Gate) -> Router {
    let gate = gate.clone();
    let slow = get(async move || {
        gate.opened().await;
        "slow"
    });
    Router::new()
        .route("/", get(async || "quick"))
        .route("/slow", slow)
        .layer(layer)
}

#[tokio::test]
async fn a_kept_connection_of_http_1_is_told_to_close_and_then_refused() {
    let layer = DrainLayer::builder().lame_duck(PATIENCE).build().unwrap();
    let (drain, gate) = (layer.handle(), Gate::new());
    let server = Server::axum(app(layer, &gate));
    let mut connection = Connection::h1(server.addr()).await;
    let answer = connection.get("/").await;
    assert_eq!(answer.headers().get("connection"), None);
    drain.start();
    let answer = connection.get("/").await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["connection"]),
        (200, &"close".parse().unwrap())
    );
    drain.refuse();
    let refused = Connection::h1(server.addr()).await.get("/").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["connection"], "close");
}

#[tokio::test]
async fn over_http_2_calls_are_refused_and_the_connection_stays_the_servers() {
    let layer = DrainLayer::default();
    let (drain, gate) = (layer.handle(), Gate::new());
    let server = Server::axum(app(layer, &gate));
    let mut connection = Connection::h2(server.addr()).await;
    assert_eq!(connection.get("/").await.status(), 200);
    drain.start();
    for _ in 0..2 {
        let refused = connection.get("/").await;
        assert_eq!(refused.status(), 503);
        assert_eq!(refused.headers().get("connection"), None);
    }
}

#[tokio::test]
async fn a_stream_on_hyper_is_finished_while_new_calls_are_refused() {
    let layer = DrainLayer::default();
    let (drain, gate) = (layer.handle(), Gate::new());
    let body = TestBody::stream().data("first").gate(&gate).data("last");
    let (handler, _) = Scripted::always(Answer::ok().body(body));
    let server = Server::hyper(layer.layer(handler));
    for client in [clients::h1::<Body>(), clients::h2()] {
        let drain = drain.clone();
        let request = || clients::send_to(server.addr(), Request::new(Body::default()));
        let open = client.request(request()).await;
        if drain.state() == DrainState::Serving {
            drain.start();
            assert_eq!(
                (drain.state(), drain.in_flight()),
                (DrainState::Draining, 1)
            );
            assert_eq!(client.request(request()).await.unwrap().status(), 503);
            gate.open();
            let read = open
                .unwrap()
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes();
            assert_eq!(read, "firstlast");
            timeout(PATIENCE, drain.drained()).await.unwrap().unwrap();
        } else {
            assert_eq!(open.unwrap().status(), 503);
        }
    }
}

#[tokio::test]
async fn a_method_on_tonic_is_unavailable_while_the_stream_before_it_is_finished() {
    let layer = DrainLayer::default();
    let (drain, gate) = (layer.handle(), Gate::new());
    let stream = TestBody::stream().data(grpc::message("first")).gate(&gate);
    let stream = stream
        .data(grpc::message("last"))
        .trailer("grpc-status", "0");
    let routes = Routes::new(Scripted::always(Answer::grpc(stream)).0);
    let server = Port::any().serve(move |listener, stop| async move {
        TonicServer::builder()
            .layer(layer)
            .add_routes(routes)
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.requested())
            .await
            .unwrap();
    });
    let mut client = grpc::Client::new(channel(server.addr()));
    let mut open = client.stream("Any", "").await.unwrap().into_inner();
    assert_eq!(open.message().await.unwrap().unwrap(), "first");
    drain.start();
    let refused = client.unary("Any", "").await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::Unavailable, "this instance is shutting down")
    );
    gate.open();
    assert_eq!(open.message().await.unwrap().unwrap(), "last");
    assert_eq!(open.message().await.unwrap(), None::<Bytes>);
    timeout(PATIENCE, drain.drained()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_is_bound_ends_with_its_calls_or_with_the_limit() {
    for (limit, finishes) in [(PATIENCE, true), (Duration::from_millis(100), false)] {
        let layer = DrainLayer::builder().limit(limit).build().unwrap();
        let (drain, gate) = (layer.handle(), Gate::new());
        let app = app(layer, &gate);
        let (ends, ended) = tokio::sync::oneshot::channel();
        let served = drain.clone();
        let server = Port::any().serve(move |listener, stop| async move {
            let told = served.until(stop.requested());
            let server = axum::serve(listener, app).with_graceful_shutdown(told);
            let _ = ends.send(served.bound(server).await.map(Result::unwrap));
        });
        let addr = server.addr();
        let slow = tokio::spawn(async move { Connection::h1(addr).await.get("/slow").await });
        eventually("the call is in flight", || drain.in_flight() == 1).await;
        let stopping = tokio::spawn(server.stop());
        eventually("new calls are refused", || {
            drain.state() >= DrainState::Draining
        })
        .await;
        if finishes {
            gate.open();
            assert_eq!(slow.await.unwrap().body(), "slow");
            assert_eq!(ended.await.unwrap(), Ok(()));
        } else {
            assert_eq!(ended.await.unwrap().unwrap_err().calls, 1);
            assert!(slow.await.is_err(), "it was cut");
        }
        stopping.await.unwrap();
    }
}
