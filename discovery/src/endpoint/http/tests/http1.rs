use std::{sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Barrier, mpsc},
};
use tower_mesh_layers::{
    outcome::FailureKind,
    transport::{BoxError, TransportError},
};
use tower_service::Service;

use super::{
    server::{Behaviour, Server, handler, sent, serve},
    *,
};
use crate::endpoint::Connectivity;

/// Answers each request that ends in an empty line with `answer`, one connection after another.
async fn raw_server(answer: &'static str) -> (String, mpsc::UnboundedReceiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (closed, closes) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let closed = closed.clone();
            tokio::spawn(async move {
                while read_head(&mut stream).await.is_some() {
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        break;
                    }
                }
                let _ = closed.send(());
            });
        }
    });
    (url, closes)
}

/// Reads up to an empty line; `None` at the end of the connection.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

#[tokio::test]
async fn requests_one_after_another_share_a_connection() {
    let server = Server::start(Behaviour::default()).await;
    let endpoint = endpoint(&server.url("http"));
    for i in 0..100 {
        let answer = fetch(&endpoint, post("http://orders/a?b=c", format!("body {i}"))).await;
        let expected = format!("HTTP/1.1 POST /a?b=c orders body {i}");
        assert_eq!(answer.unwrap(), expected);
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn requests_at_the_same_time_have_a_connection_each_and_leave_it_to_the_next() {
    let together = Arc::new(Barrier::new(10));
    let barrier = together.clone();
    let meet = handler(move |_| {
        let barrier = barrier.clone();
        async move {
            barrier.wait().await;
            Response::new(sent("met"))
        }
    });
    let server = Server::start(Behaviour {
        handler: meet,
        ..Behaviour::default()
    })
    .await;
    let endpoint = endpoint(&server.url("http"));
    for _ in 0..5 {
        let calls = (0..10).map(|_| fetch(&endpoint, get("/")));
        for answer in futures_util::future::join_all(calls).await {
            assert_eq!(answer.unwrap(), "met");
        }
    }
    assert_eq!(server.connections(), 10);
}

#[tokio::test]
async fn a_refused_connection_is_an_error_of_poll_ready_and_the_next_poll_tries_again() {
    let addr = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let mut endpoint = endpoint(&format!("http://{addr}"));
    assert_eq!(endpoint.connectivity(), Connectivity::Idle);
    for _ in 0..3 {
        let error = ready(&mut endpoint).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.is_unsent()),
            (FailureKind::Connect, true)
        );
        assert_eq!(endpoint.connectivity(), Connectivity::TransientFailure);
    }
    let _server = Server::on(addr, Behaviour::default()).await;
    ready(&mut endpoint).await.unwrap();
    assert_eq!(endpoint.connectivity(), Connectivity::Ready);
    endpoint.call(get("/")).await.unwrap();
}

#[tokio::test]
async fn every_caller_in_line_hears_of_the_refusal() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let endpoint = endpoint(&url);
    let calls = (0..20).map(|_| call(&endpoint, get("/")));
    for answer in futures_util::future::join_all(calls).await {
        assert!(answer.unwrap_err().is_unsent());
    }
}

/// The peer closes every connection while it is idle, and the client's thread is held up until that
/// has happened: neither the runtime nor hyper has noticed when the next request comes.
#[tokio::test]
async fn a_connection_closed_between_requests_never_surfaces() {
    use std::io::{Read, Write};

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (close, closing) = std::sync::mpsc::channel();
    let (closed, closes) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        loop {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).unwrap();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .unwrap();
            if closing.recv().is_err() {
                return;
            }
            drop(stream);
            closed.send(()).unwrap();
        }
    });
    let endpoint = endpoint(&url);
    for i in 0..1000 {
        let answer = fetch(&endpoint, post("/", "not idempotent")).await;
        assert!(answer.is_ok(), "request {i}: {answer:?}");
        // As if the connection had been idle for a while.
        tokio::time::pause();
        tokio::time::advance(Duration::from_millis(100)).await;
        tokio::time::resume();
        close.send(()).unwrap();
        closes.recv().unwrap();
    }
}

#[tokio::test]
async fn a_request_for_a_connection_that_just_closed_goes_to_another_one() {
    let server = Server::start(Behaviour {
        close_after: 1,
        ..Behaviour::default()
    })
    .await;
    let mut endpoint = endpoint(&server.url("http"));
    fetch(&endpoint, get("/")).await.unwrap();
    // Reserved while the old connection still looks fine, sent when it is gone.
    ready(&mut endpoint).await.unwrap();
    while endpoint.connectivity() == Connectivity::Ready {
        tokio::task::yield_now().await;
    }
    let answer = endpoint.call(post("/", "not idempotent")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_body_dropped_half_read_closes_the_connection() {
    let (url, mut closed) =
        raw_server("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nonly the beginning").await;
    let endpoint = endpoint(&url);
    for _ in 0..3 {
        let mut body = call(&endpoint, get("/")).await.unwrap().into_body();
        assert!(body.frame().await.unwrap().unwrap().is_data());
        assert!(!body.is_end_stream());
        drop(body);
        closed.recv().await.unwrap();
    }
}

#[tokio::test]
async fn a_call_dropped_before_its_answer_closes_the_connection() {
    let (url, mut closed) = raw_server("").await;
    let endpoint = endpoint(&url);
    let mut call = Box::pin(call(&endpoint, get("/")));
    while endpoint.connectivity() != Connectivity::Ready {
        assert!(poll_once(call.as_mut()).await.is_pending());
        tokio::task::yield_now().await;
    }
    assert!(poll_once(call.as_mut()).await.is_pending());
    drop(call);
    closed.recv().await.unwrap();
}

#[tokio::test]
async fn a_body_of_known_length_frees_its_connection_without_a_last_poll() {
    let server = Server::start(Behaviour::default()).await;
    let endpoint = endpoint(&server.url("http"));
    for _ in 0..10 {
        let mut body = call(&endpoint, get("/")).await.unwrap().into_body();
        let _ = body.frame().await.unwrap().unwrap();
        assert!(body.is_end_stream());
        drop(body);
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn answers_without_a_body_free_their_connection_at_the_head() {
    let empty = handler(|request: Request<_>| async move {
        let mut response = Response::new(sent(""));
        if request.uri() == "/204" {
            *response.status_mut() = StatusCode::NO_CONTENT;
        } else {
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, 1000.into());
        }
        response
    });
    let server = Server::start(Behaviour {
        handler: empty,
        ..Behaviour::default()
    })
    .await;
    let endpoint = endpoint(&server.url("http"));
    let mut kept = Vec::new();
    for _ in 0..5 {
        kept.push(call(&endpoint, get("/204")).await.unwrap());
        let head = Request::head("/").body(Body::empty()).unwrap();
        let response = call(&endpoint, head).await.unwrap();
        assert!(response.body().is_end_stream());
        kept.push(response);
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_connection_nobody_waits_for_any_more_serves_the_next_call() {
    let server = Server::start(Behaviour::default()).await;
    let endpoint = endpoint(&server.url("http"));
    let mut impatient = endpoint.clone();
    let polled = poll_once(std::pin::pin!(ready(&mut impatient))).await;
    assert!(matches!(polled, Poll::Pending));
    drop(impatient);
    while endpoint.connectivity() != Connectivity::Ready {
        tokio::task::yield_now().await;
    }
    fetch(&endpoint, get("/")).await.unwrap();
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_reservation_that_is_not_used_goes_back() {
    let server = Server::start(Behaviour::default()).await;
    let endpoint = endpoint(&server.url("http"));
    for _ in 0..5 {
        let mut undecided = endpoint.clone();
        ready(&mut undecided).await.unwrap();
        ready(&mut undecided).await.unwrap();
        let mut other = undecided.clone();
        drop(undecided);
        ready(&mut other).await.unwrap();
    }
    fetch(&endpoint, get("/")).await.unwrap();
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn an_early_answer_keeps_the_connection_from_the_pool_until_the_request_is_out() {
    let early = handler(|request: Request<hyper::body::Incoming>| async move {
        // The request's body is read on, after the answer.
        tokio::spawn(request.into_body().collect());
        Response::new(sent("early"))
    });
    let server = Server::start(Behaviour {
        handler: early,
        ..Behaviour::default()
    })
    .await;
    let endpoint = endpoint(&server.url("http"));
    let (frames, mut source) = mpsc::unbounded_channel::<Bytes>();
    let stream = futures_util::stream::poll_fn(move |cx| {
        source
            .poll_recv(cx)
            .map(|bytes| bytes.map(|b| Ok::<_, BoxError>(Frame::data(b))))
    });
    frames.send("first".into()).unwrap();
    let request = Request::post("/")
        .body(Body::new(StreamBody::new(stream)))
        .unwrap();
    assert_eq!(fetch(&endpoint, request).await.unwrap(), "early");
    fetch(&endpoint, get("/")).await.unwrap();
    assert_eq!(server.connections(), 2, "the first one is still busy");
    frames.send("last".into()).unwrap();
    drop(frames);
    while endpoint.pool.idle() < 2 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn unused_connections_close() {
    let (url, mut closed) = raw_server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    // Shorter than the configuration allows, since real sockets need real time.
    let config = HttpEndpointConfig {
        idle_timeout: Duration::from_millis(20),
        ..HttpEndpointConfig::default()
    };
    let endpoints = HttpEndpoints {
        config: Arc::new(config),
        ..HttpEndpoints::default()
    };
    let endpoint = made_by(&endpoints, &url);
    for _ in 0..2 {
        assert_eq!(fetch(&endpoint, get("/")).await.unwrap(), "ok");
        closed.recv().await.unwrap();
    }
    while endpoint.connectivity() == Connectivity::Ready {
        tokio::task::yield_now().await;
    }
    assert_eq!(endpoint.connectivity(), Connectivity::Idle);
}

#[tokio::test]
async fn a_dropped_endpoint_closes_its_connections() {
    let (url, mut closed) = raw_server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let endpoint = endpoint(&url);
    fetch(&endpoint, get("/")).await.unwrap();
    drop(endpoint);
    closed.recv().await.unwrap();
}

#[tokio::test]
async fn an_answer_cut_off_is_a_reset_that_may_have_been_processed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = read_head(&mut stream).await.unwrap();
            if head.starts_with("GET /body") {
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut")
                    .await;
            }
        }
    });
    let endpoint = endpoint(&url);
    let error = call(&endpoint, get("/head")).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.is_unsent()),
        (FailureKind::Reset, false)
    );
    let body = call(&endpoint, get("/body")).await.unwrap().into_body();
    let error: TransportError = body.collect().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.is_unsent()),
        (FailureKind::Reset, false)
    );
}

#[tokio::test]
async fn a_protocol_upgrade_hands_the_connection_over() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await.unwrap();
        let answer =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let mut byte = [0; 4];
        stream.read_exact(&mut byte).await.unwrap();
        stream.write_all(&byte).await.unwrap();
    });
    let endpoint = endpoint(&url);
    let mut request = get("/");
    request
        .headers_mut()
        .insert(header::CONNECTION, "upgrade".parse().unwrap());
    request
        .headers_mut()
        .insert(header::UPGRADE, "x".parse().unwrap());
    let response = call(&endpoint, request).await.unwrap();
    let upgraded = hyper::upgrade::on(response).await.unwrap();
    let mut io = hyper_util::rt::TokioIo::new(upgraded);
    io.write_all(b"ping").await.unwrap();
    let mut back = [0; 4];
    io.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"ping");
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_is_called_as_localhost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orders.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, Behaviour::default()));
        }
    });
    let endpoint = endpoint(&format!("unix://{}", path.display()));
    assert_eq!(
        fetch(&endpoint, get("/a")).await.unwrap(),
        "HTTP/1.1 GET /a localhost "
    );
    let grpc = super::endpoint(&format!("grpc+unix://{}", path.display()));
    let answer = fetch(&grpc, get("/a")).await.unwrap();
    assert_eq!(answer, "HTTP/2.0 GET http://localhost/a - ");
}
