//! A handler that panics, behind axum, tonic and hyper: its caller gets an answer, and other calls of the connection
//! go on. (How many of ten thousand do is a failure class, R23.)

use axum::Router;
use http::Request;
use http_body_util::BodyExt;
use tokio::task::JoinSet;
use tonic::{
    Code,
    service::Routes,
    transport::{Server as TonicServer, server::TcpIncoming},
};
use tower::Layer;
use tower_mesh::layers::{
    catch_panic::{CatchPanicHandle, CatchPanicLayer},
    test_util::{
        Answer, Scripted, TestBody, clients, grpc,
        servers::{Port, Server},
    },
};

use crate::support::{Body, Connection, channel};

fn panicking(call: u64) -> Answer {
    match call % 4 {
        0 => Answer::panic_in_call(),
        2 => Answer::panic_in_poll().pending_times(1),
        _ => grpc::unary("fine").pending_times(1),
    }
}

/// A server for each host that there is, and what its layer has caught.
fn servers(answer: fn(u64) -> Answer) -> [(Server, CatchPanicHandle); 2] {
    let layer = CatchPanicLayer::default;
    let handler = || Scripted::answering(move |call, _| answer(call)).0;
    let (on_axum, on_hyper) = (layer(), layer());
    let handles = (on_axum.handle(), on_hyper.handle());
    let router = Router::new().fallback_service(handler()).layer(on_axum);
    [
        (Server::axum(router), handles.0),
        (Server::hyper(on_hyper.layer(handler())), handles.1),
    ]
}

fn on_tonic(answer: fn(u64) -> Answer) -> (Server, CatchPanicHandle) {
    let layer = CatchPanicLayer::default();
    let handle = layer.handle();
    let routes = Routes::new(Scripted::answering(move |call, _| answer(call)).0);
    let server = Port::any().serve(move |listener, stop| async move {
        TonicServer::builder()
            .layer(layer)
            .add_routes(routes)
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.requested())
            .await
            .unwrap();
    });
    (server, handle)
}

#[tokio::test]
async fn a_connection_outlives_the_panics_of_its_calls() {
    for (server, panics) in servers(panicking) {
        for mut connection in [
            Connection::h1(server.addr()).await,
            Connection::h2(server.addr()).await,
        ] {
            let mut statuses = Vec::new();
            for _ in 0..4 {
                statuses.push(connection.get("/").await.status().as_u16());
            }
            assert_eq!(statuses, [500, 200, 500, 200]);
        }
        assert_eq!(panics.stats().before_head, 4);
    }
}

#[tokio::test]
async fn a_method_that_panics_is_internal_and_the_others_on_its_channel_go_on() {
    let (server, panics) = on_tonic(panicking);
    let channel = channel(server.addr());
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let mut client = grpc::Client::new(channel.clone());
        calls.spawn(async move { client.unary("Any", "").await.map(drop) });
    }
    let results = calls.join_all().await;
    let failed: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    assert_eq!((failed.len(), panics.stats().before_head), (50, 50));
    for status in failed {
        let said = (status.code(), status.message());
        assert_eq!(said, (Code::Internal, "the handler panicked"));
    }
}

fn broken_stream(_: u64) -> Answer {
    let stream = TestBody::stream().data(grpc::message("first"));
    Answer::grpc(stream.pending_once().panic())
}

#[tokio::test]
async fn a_body_that_panics_breaks_off_and_does_not_look_complete() {
    for (server, panics) in servers(broken_stream) {
        for client in [clients::h1(), clients::h2()] {
            let request = clients::send_to(server.addr(), Request::new(Body::default()));
            let body = client.request(request).await.unwrap().into_body();
            body.collect().await.unwrap_err();
        }
        assert_eq!(panics.stats().in_body, 2);
    }
}

#[tokio::test]
async fn a_grpc_stream_that_panics_ends_with_internal() {
    let (server, panics) = on_tonic(broken_stream);
    let mut client = grpc::Client::new(channel(server.addr()));
    let mut messages = client.stream("Any", "").await.unwrap().into_inner();
    assert_eq!(messages.message().await.unwrap().unwrap(), "first");
    let status = messages.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(panics.stats().in_body, 1);
}
