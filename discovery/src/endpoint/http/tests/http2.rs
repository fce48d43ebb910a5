use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::{Barrier, Notify};
use tower_mesh_layers::outcome::FailureKind;
use tower_service::Service;

use super::{
    server::{Behaviour, Sent, Server, handler, sent},
    *,
};
use crate::endpoint::{Connectivity, http::Http2Config};

/// A body whose end never comes.
fn endless() -> Sent {
    let first = futures_util::stream::iter([Ok(Frame::data("first".into()))]);
    let stream = futures_util::StreamExt::chain(first, futures_util::stream::pending());
    StreamBody::new(stream).boxed_unsync()
}

fn one_connection() -> HttpEndpointConfig {
    let http2 = Http2Config {
        max_connections: 1,
        ..Http2Config::default()
    };
    HttpEndpointConfig {
        http2,
        ..HttpEndpointConfig::default()
    }
}

#[tokio::test]
async fn calls_share_one_connection() {
    let server = Server::start(Behaviour::default()).await;
    for scheme in ["h2c", "grpc"] {
        let endpoint = endpoint(&server.url(scheme));
        let before = server.connections();
        for _ in 0..3 {
            let calls = (0..50).map(|i| fetch(&endpoint, post("/a?b", format!("{i}"))));
            for (i, answer) in futures_util::future::join_all(calls)
                .await
                .into_iter()
                .enumerate()
            {
                let expected = format!("HTTP/2.0 POST http://{}/a?b - {i}", server.addr);
                assert_eq!(answer.unwrap(), expected);
            }
        }
        assert_eq!(server.connections() - before, 1);
    }
}

#[tokio::test]
async fn http2_can_be_forced_on_an_http_url() {
    let server = Server::start(Behaviour::default()).await;
    let config = HttpEndpointConfig {
        protocol: crate::endpoint::http::HttpProtocol::Http2,
        authority: Some("orders".into()),
        ..HttpEndpointConfig::default()
    };
    let endpoint = endpoint_with(config, &server.url("http"));
    let answer = fetch(&endpoint, get("http://elsewhere/")).await.unwrap();
    assert_eq!(answer, "HTTP/2.0 GET http://orders/ - ");
}

#[tokio::test]
async fn trailers_come_through() {
    let trailing = handler(|_| async {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let frames = [Ok(Frame::data("x".into())), Ok(Frame::trailers(trailers))];
        Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync())
    });
    let server = Server::start(Behaviour {
        handler: trailing,
        ..Behaviour::default()
    })
    .await;
    let endpoint = endpoint(&server.url("grpc"));
    let body = call(&endpoint, get("/"))
        .await
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
}

/// Answers when let go, and records how many calls there are at once.
fn gate(open: &Arc<Notify>, most: &Arc<AtomicUsize>) -> Behaviour {
    let (open, most, now) = (open.clone(), most.clone(), Arc::new(AtomicUsize::new(0)));
    let wait = handler(move |_| {
        let (open, most, now) = (open.clone(), most.clone(), now.clone());
        async move {
            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            open.notified().await;
            now.fetch_sub(1, SeqCst);
            Response::new(sent("done"))
        }
    });
    Behaviour {
        handler: wait,
        max_streams: Some(3),
        ..Behaviour::default()
    }
}

#[tokio::test]
async fn callers_wait_for_a_stream_when_no_further_connection_is_allowed() {
    let (open, most) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let server = Server::start(gate(&open, &most)).await;
    let endpoint = endpoint_with(one_connection(), &server.url("h2c"));
    let mut calls: Vec<_> = (0..10)
        .map(|_| Box::pin(fetch(&endpoint, get("/"))))
        .collect();
    for call in &mut calls {
        assert!(poll_once(call.as_mut()).await.is_pending());
    }
    let opener = tokio::spawn(async move {
        loop {
            open.notify_one();
            tokio::task::yield_now().await;
        }
    });
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.unwrap(), "done");
    }
    opener.abort();
    assert!(most.load(SeqCst) <= 3, "{most:?} streams at once");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn another_connection_is_opened_when_every_stream_is_in_use() {
    let together = Arc::new(Barrier::new(8));
    let meet = handler(move |_| {
        let together = together.clone();
        async move {
            together.wait().await;
            Response::new(sent("met"))
        }
    });
    let behaviour = Behaviour {
        handler: meet,
        max_streams: Some(2),
        ..Behaviour::default()
    };
    let server = Server::start(behaviour).await;
    let endpoint = endpoint(&server.url("h2c"));
    let calls = (0..8).map(|_| fetch(&endpoint, get("/")));
    // On one connection alone they would never meet.
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.unwrap(), "met");
    }
    assert_eq!(server.connections(), 4);
}

#[tokio::test]
async fn a_body_or_call_dropped_half_way_leaves_the_connection_open() {
    let stream = handler(|request: Request<_>| async move {
        if request.uri().path() == "/hang" {
            std::future::pending::<()>().await;
        }
        Response::new(endless())
    });
    let server = Server::start(Behaviour {
        handler: stream,
        ..Behaviour::default()
    })
    .await;
    let endpoint = endpoint_with(one_connection(), &server.url("h2c"));
    // More than the default limit of streams: each must give its own back.
    for _ in 0..300 {
        let mut body = call(&endpoint, get("/")).await.unwrap().into_body();
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            "first"
        );
        drop(body);
        let mut hanging = Box::pin(call(&endpoint, get("/hang")));
        assert!(poll_once(hanging.as_mut()).await.is_pending());
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_says_goaway_is_replaced_without_an_error() {
    let server = Server::start(Behaviour {
        close_after: 7,
        ..Behaviour::default()
    })
    .await;
    let endpoint = endpoint(&server.url("grpc"));
    for i in 0..1000 {
        let answer = fetch(&endpoint, post("/", format!("{i}"))).await;
        assert!(answer.is_ok(), "request {i}: {answer:?}");
    }
    assert!(server.connections() > 100, "{}", server.connections());
}

#[tokio::test]
async fn a_restarted_server_is_found_again() {
    let server = Server::start(Behaviour::default()).await;
    let addr = server.addr;
    let endpoint = endpoint(&server.url("grpc"));
    for _ in 0..5 {
        fetch(&endpoint, get("/")).await.unwrap();
    }
    server.kill().await;
    while endpoint.connectivity() == Connectivity::Ready {
        tokio::task::yield_now().await;
    }
    let refused = ready(&mut endpoint.clone()).await.unwrap_err();
    assert_eq!(
        (refused.kind(), refused.is_unsent()),
        (FailureKind::Connect, true)
    );
    let _server = Server::on(addr, Behaviour::default()).await;
    fetch(&endpoint, get("/")).await.unwrap();
    assert_eq!(endpoint.connectivity(), Connectivity::Ready);
}

#[tokio::test]
async fn a_refused_stream_counts_as_unsent_and_a_cancelled_one_does_not() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("h2c://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let refuse = request.uri().path() == "/refused";
            respond.send_reset(match refuse {
                true => h2::Reason::REFUSED_STREAM,
                false => h2::Reason::INTERNAL_ERROR,
            });
        }
    });
    let endpoint = endpoint(&url);
    for (path, unsent) in [("/refused", true), ("/failed", false)] {
        let error = call(&endpoint, get(path)).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.is_unsent()),
            (FailureKind::Reset, unsent),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_reserved_connection_that_goes_away_is_replaced() {
    let server = Server::start(Behaviour::default()).await;
    let addr = server.addr;
    let mut endpoint = endpoint(&server.url("h2c"));
    ready(&mut endpoint).await.unwrap();
    server.kill().await;
    let server = Server::on(addr, Behaviour::default()).await;
    while endpoint.connectivity() == Connectivity::Ready {
        tokio::task::yield_now().await;
    }
    let response = endpoint.call(post("/", "not idempotent")).await.unwrap();
    assert!(!response.body().is_end_stream());
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_peer_that_does_not_speak_http2_is_an_error_of_poll_ready() {
    use tokio::io::AsyncWriteExt;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("grpc://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for answer in ["", "HTTP/1.1 400 Bad Request\r\n\r\n", "hang"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            if answer == "hang" {
                std::future::pending::<()>().await;
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let config = HttpEndpointConfig {
        connect_timeout: Duration::from_millis(100),
        ..HttpEndpointConfig::default()
    };
    let mut endpoint = endpoint_with(config, &url);
    for _ in 0..3 {
        let error = ready(&mut endpoint).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.is_unsent()),
            (FailureKind::Connect, true)
        );
    }
}
