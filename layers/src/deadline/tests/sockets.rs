//! Over real sockets, and the real clock.

use axum::{Router, body::Body as AxumBody, routing::get as route};
use http_body::Frame;
use http_body_util::Full;
use tower::ServiceBuilder;

use super::*;
use crate::test_util::{Scripted, clients, grpc as grpc_kit, servers::Server};

const SHORT: Duration = Duration::from_millis(100);

/// One frame, and then nothing for ever.
fn stuck() -> AxumBody {
    let first = futures_util::stream::iter([Ok::<_, Infallible>(Frame::data("abc".into()))]);
    AxumBody::new(StreamBody::new(futures_util::StreamExt::chain(
        first,
        futures_util::stream::pending(),
    )))
}

#[tokio::test]
async fn a_client_of_axum_sees_that_its_body_is_cut() {
    let layer = DeadlineLayer::builder()
        .timeout(SHORT)
        .scope(Scope::Call)
        .role(Role::Server)
        .build()
        .unwrap();
    let router = Router::new()
        .route("/body", route(async || stuck()))
        .route("/head", route(async || pending::<()>().await))
        .layer(layer.clone());
    let server = Server::axum(router);
    for client in [clients::h1::<Full<bytes::Bytes>>(), clients::h2()] {
        let ask = |path| {
            Request::get(server.uri(path))
                .body(Full::default())
                .unwrap()
        };
        let answer = client.request(ask("/head")).await.unwrap();
        assert_eq!(answer.status(), 504);

        let mut body = client.request(ask("/body")).await.unwrap().into_body();
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            "abc"
        );
        assert!(body.frame().await.unwrap().is_err(), "looks complete");
    }
    assert_eq!((layer.stats().before_head, layer.stats().in_body), (2, 2));
    server.stop().await;
}

#[tokio::test]
async fn tonic_reads_the_deadline_out_of_the_trailers() {
    let layer = DeadlineLayer::builder().timeout(SHORT).role(Role::Server);
    let layer = layer.build().unwrap();
    // Answered at once, so that the head is never late, however busy the machine.
    let answer = grpc_kit::open("abc").ignoring_request();
    let (service, probe) = Scripted::always(answer);
    let server = Server::hyper(ServiceBuilder::new().layer(layer.clone()).service(service));
    // The client knows of no deadline: what ends the stream came over the wire.
    let channel = tonic::transport::Channel::builder(server.uri("/")).connect_lazy();
    let stream = grpc_kit::Client::new(channel).stream("Any", "").await;
    let mut stream = stream.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap(), "abc");
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    assert_eq!((layer.stats().in_body, probe.in_flight()), (1, 0));
    server.stop().await;
}
