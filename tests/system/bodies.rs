//! Bodies that are too large, over sockets: what the sender sees, and how much was read.

use axum::{Router, body::Body as AxumBody, routing::post};
use bytes::Bytes;
use futures_util::stream;
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::{
    Code,
    service::Routes,
    transport::{Server as TonicServer, server::TcpIncoming},
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, util::MapRequestLayer};
use tower_mesh::layers::{
    BoxError, Rejection,
    body_limit::{BodyLimitLayer, BodyTooLarge, ByteSize},
    test_util::{
        Answer, Scripted, TestBody, clients, grpc,
        servers::{Port, Server},
    },
};

use crate::support::{PATIENCE, channel};

const LIMIT: ByteSize = ByteSize::kib(64);
const CHUNK: usize = 16 * 1024;

type Streamed = UnsyncBoxBody<Bytes, BoxError>;

fn requests() -> BodyLimitLayer {
    BodyLimitLayer::builder().request(LIMIT).build().unwrap()
}

fn responses() -> BodyLimitLayer {
    BodyLimitLayer::builder().response(LIMIT).build().unwrap()
}

/// So many chunks, without a length.
fn streamed(chunks: usize) -> Streamed {
    let chunk = Bytes::from(vec![b'x'; CHUNK]);
    let frames = (0..chunks).map(move |_| Ok(Frame::data(chunk.clone())));
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

/// axum as it is; hyper behind a map, since its own body can hold no other.
fn servers(layer: &BodyLimitLayer) -> [Server; 2] {
    let length = async |body: AxumBody| match body.collect().await {
        Ok(body) => (StatusCode::OK, body.to_bytes().len().to_string()),
        Err(error) => (StatusCode::IM_A_TEAPOT, error.to_string()),
    };
    let (handler, _) = Scripted::always(Answer::ok().body(TestBody::full("read")));
    let on_hyper = ServiceBuilder::new()
        .layer(MapRequestLayer::new(
            |request: Request<hyper::body::Incoming>| request.map(AxumBody::new),
        ))
        .layer(layer.clone())
        .service(handler);
    [
        Server::axum(Router::new().route("/", post(length)).layer(layer.clone())),
        Server::hyper(on_hyper),
    ]
}

#[tokio::test]
async fn a_streamed_request_is_413_above_the_limit_and_read_to_its_end_within() {
    for server in servers(&requests()) {
        for over_h2 in [false, true] {
            for (chunks, expected) in [(4, 200), (5, 413)] {
                let client = if over_h2 {
                    clients::h2()
                } else {
                    clients::h1()
                };
                let request = Request::post("/").body(streamed(chunks)).unwrap();
                let answer = client
                    .request(clients::send_to(server.addr(), request))
                    .await;
                let status = answer.unwrap().status();
                assert_eq!(status, expected, "{chunks} chunks, over HTTP/2: {over_h2}");
            }
        }
    }
}

#[tokio::test]
async fn a_request_that_announces_too_much_is_not_even_sent() {
    for server in servers(&requests()) {
        let mut stream = TcpStream::connect(server.addr()).await.unwrap();
        let head = "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 1073741824\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        // Until the server closes the connection, of which no other request can come.
        let mut answer = Vec::new();
        let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        read.expect("the connection is closed").unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(answer.contains("BODY_TOO_LARGE"), "{answer}");
    }
}

#[tokio::test]
async fn a_message_on_tonic_is_resource_exhausted_above_the_limit() {
    let routes = Routes::new(Scripted::always(grpc::unary("fine")).0);
    // Small, since the client of the kit sends its message as a header as well.
    let limit = ByteSize::kib(1);
    let layer = BodyLimitLayer::builder().request(limit).build().unwrap();
    let server = Port::any().serve(move |listener, stop| async move {
        TonicServer::builder()
            .layer(layer)
            .add_routes(routes)
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.requested())
            .await
            .unwrap();
    });
    let mut client = grpc::Client::new(channel(server.addr()));
    let within = "x".repeat(limit.bytes() as usize - 5);
    client.unary("Any", within.clone()).await.unwrap();
    let status = client.unary("Any", within + "x").await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
}

/// How a client fares with a peer that sends for ever.
async fn endless<S, B>(client: S, server: &Server)
where
    S: Service<Request<Streamed>, Response = http::Response<B>>,
    S::Error: std::fmt::Debug,
    B: http_body::Body<Data = Bytes, Error = BoxError> + Unpin,
{
    let request = clients::send_to(server.addr(), Request::new(streamed(0)));
    let mut response = client.oneshot(request).await.unwrap();
    assert!(response.extensions().get::<Rejection>().is_none());
    let mut bytes = 0;
    let error = loop {
        match response.frame().await.expect("a body that was cut says so") {
            Ok(frame) => bytes += frame.data_ref().map_or(0, Bytes::len) as u64,
            Err(error) => break error,
        }
    };
    assert!(
        error.is::<BodyTooLarge>() && bytes <= LIMIT.bytes(),
        "{bytes}: {error}"
    );
}

#[tokio::test]
async fn a_client_is_safe_from_a_peer_that_sends_for_ever() {
    let body = TestBody::stream().endless(vec![b'x'; CHUNK]);
    let (handler, reached) = Scripted::always(Answer::ok().body(body));
    let server = Server::hyper(handler);
    for client in [clients::h1(), clients::h2()] {
        endless(responses().layer(client), &server).await;
    }
    crate::support::eventually("the peer hears of it", || reached.in_flight() == 0).await;
}

#[tokio::test]
async fn a_tonic_client_is_safe_from_such_a_stream() {
    let (handler, reached) = Scripted::always(grpc::endless("x".repeat(1_000)));
    let server = Server::tonic(Routes::new(handler));
    let channel = responses().layer(channel(server.addr()));
    let mut stream = grpc::Client::new(channel)
        .stream("Any", "")
        .await
        .unwrap()
        .into_inner();
    let status = loop {
        match timeout(PATIENCE, stream.message()).await.unwrap() {
            Ok(message) => assert!(message.is_some(), "it does not look complete"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    drop(stream);
    crate::support::eventually("the peer hears of it", || reached.in_flight() == 0).await;
}
