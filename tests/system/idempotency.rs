//! Idempotency keys over sockets: on axum, tonic and hyper, and between clients that go away and come again.

use std::sync::Arc;

use axum::{Router, body::Body as AxumBody, routing::post};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tonic::{
    Code,
    service::Routes,
    transport::{Channel, Server as TonicServer, server::TcpIncoming},
};
use tower::{ServiceBuilder, util::MapRequestLayer};
use tower_mesh::{
    layers::{
        Counter, RequestMatch,
        idempotency::{IdempotencyConfig, IdempotencyLayer},
        rate_limit::RateLimitConfig,
        test_util::{
            Answer, Gate, ProbeHandle, Scripted, TestBody, clients, grpc,
            servers::{Port, Server},
        },
    },
    server::{ServerConfig, ServerLayer},
};

use crate::support::{Body, PATIENCE, channel, eventually, read};

fn request(key: &str, body: &'static str) -> Request<Body> {
    let request = Request::post("/orders").header("idempotency-key", key);
    request.body(Body::from(body)).unwrap()
}

async fn call(server: &Server, over_h2: bool, request: Request<Body>) -> Response<Bytes> {
    let client = if over_h2 {
        clients::h2()
    } else {
        clients::h1()
    };
    let request = clients::send_to(server.addr(), request);
    read(client.request(request).await.unwrap()).await
}

/// A handler that counts, and gives each caller a number with trailers after it.
fn numbered() -> (Scripted, ProbeHandle) {
    Scripted::answering(|call, _| {
        let number = TestBody::chunks([format!("order {call}")]);
        Answer::status(201).body(number.trailer("x-sum", "7"))
    })
}

/// axum as it is; hyper behind a map, since its own body can hold no other.
fn servers(layer: &IdempotencyLayer) -> [(Server, ProbeHandle); 2] {
    let (on_axum, axum_calls) = numbered();
    let (on_hyper, hyper_calls) = numbered();
    let app = Router::new()
        .route_service("/orders", on_axum)
        .layer(layer.clone());
    let on_hyper = ServiceBuilder::new()
        .layer(MapRequestLayer::new(
            |request: Request<hyper::body::Incoming>| request.map(AxumBody::new),
        ))
        .layer(layer.clone())
        .service(on_hyper);
    [
        (Server::axum(app), axum_calls),
        (Server::hyper(on_hyper), hyper_calls),
    ]
}

#[tokio::test]
async fn a_post_that_comes_again_is_answered_again_and_not_made_again() {
    for over_h2 in [false, true] {
        let layers = [IdempotencyLayer::default(), IdempotencyLayer::default()];
        let servers = layers.each_ref().map(servers);
        for (server, calls) in servers.iter().flatten().step_by(3) {
            let key = "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"";
            let first = call(server, over_h2, request(key, "a book")).await;
            let again = call(server, over_h2, request(key, "a book")).await;
            assert_eq!(
                (first.status(), again.status()),
                (StatusCode::CREATED, StatusCode::CREATED)
            );
            assert_eq!(
                (first.body(), again.body()),
                (&"order 0".into(), &"order 0".into())
            );
            assert_eq!(first.headers().get("idempotency-replayed"), None);
            assert_eq!(again.headers()["idempotency-replayed"], "true");
            let other = call(server, over_h2, request(key, "two books")).await;
            assert_eq!(other.status(), StatusCode::UNPROCESSABLE_ENTITY);
            assert!(other.body().starts_with(b"{"), "a problem document");
            let malformed = call(server, over_h2, request("a, b", "a book")).await;
            assert_eq!(malformed.status(), StatusCode::BAD_REQUEST);
            assert_eq!(calls.calls(), 1);
        }
    }
}

#[tokio::test]
async fn a_client_that_goes_away_gives_its_key_back_and_one_that_is_slow_does_not() {
    let (gate, made) = (Gate::new(), Arc::new(Counter::new()));
    let layer = IdempotencyLayer::default();
    let handle = layer.handle();
    let app = {
        let (gate, made) = (gate.clone(), made.clone());
        let handler = async move || {
            gate.opened().await;
            made.add(1);
            "made"
        };
        Router::new().route("/orders", post(handler)).layer(layer)
    };
    let server = Server::axum(app);
    let gone = tokio::spawn({
        let request = clients::send_to(server.addr(), request("a", "a book"));
        clients::h2().request(request)
    });
    eventually("the first call is in flight", || {
        handle.stats().in_flight == 1
    })
    .await;
    assert_eq!(
        call(&server, true, request("a", "a book")).await.status(),
        409
    );
    gone.abort();
    eventually("the key is free", || handle.stats().entries == 0).await;
    assert_eq!(made.sum(), 0);

    gate.open();
    let slow = clients::h1().request(clients::send_to(server.addr(), request("a", "a book")));
    let slow = slow.await.unwrap();
    // Nothing of the body is read yet.
    let again = call(&server, false, request("a", "a book")).await;
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(read(slow).await.body(), again.body());
    assert_eq!(made.sum(), 1);
}

#[tokio::test]
async fn unary_calls_on_tonic_are_made_once() {
    let (service, handle) = grpc::service();
    let layer = IdempotencyLayer::builder()
        .grpc()
        .matching(RequestMatch::grpc_method("kit.Test", "Unary"))
        .matching(RequestMatch::grpc_method("kit.Test", "Failed"))
        .build()
        .unwrap();
    let server = Port::any().serve(move |listener, stop| async move {
        TonicServer::builder()
            .layer(layer)
            .add_routes(Routes::new(service))
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.requested())
            .await
            .unwrap();
    });
    let with_key = ServiceBuilder::new()
        .map_request(|mut request: Request<tonic::body::Body>| {
            request
                .headers_mut()
                .insert("idempotency-key", "a".parse().unwrap());
            request
        })
        .service::<Channel>(channel(server.addr()));
    let mut client = grpc::Client::new(with_key);
    let first = client.unary("Unary", "hello").await.unwrap();
    let again = client.unary("Unary", "hello").await.unwrap();
    assert_eq!(
        (first.get_ref(), again.get_ref()),
        (&"hello".into(), &"hello".into())
    );
    assert!(again.metadata().contains_key("idempotency-replayed"));
    let status = client.unary("Unary", "another").await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(handle.calls(), 1);
    for code in [Code::NotFound, Code::NotFound] {
        assert_eq!(client.unary("Failed", "5").await.unwrap_err().code(), code);
    }
    assert_eq!(handle.calls(), 2);
    // A stream, which nothing here is for.
    for _ in 0..2 {
        let stream = client.stream("Stream", "x").await.unwrap();
        assert!(!stream.metadata().contains_key("idempotency-replayed"));
    }
    assert_eq!(handle.calls(), 4);
}

#[tokio::test]
async fn in_the_server_preset_a_repeated_call_counts_towards_the_limits_and_is_not_made() {
    let config = ServerConfig {
        rate_limit: Some(RateLimitConfig {
            burst: Some(3),
            ..RateLimitConfig::new("1/h".parse().unwrap())
        }),
        idempotency: Some(IdempotencyConfig {
            wait: Some(PATIENCE),
            ..IdempotencyConfig::default()
        }),
        ..ServerConfig::default()
    };
    let preset = ServerLayer::new(&config).unwrap();
    let keys = preset.idempotency();
    let (handler, calls) = Scripted::answering(|_, _| Answer::ok().pending_times(3).body("made"));
    let app = Router::new()
        .route_service("/orders", handler)
        .layer(preset);
    let server = Server::axum(app);
    let answers = [(); 3].map(|()| {
        let request = clients::send_to(server.addr(), request("a", "a book"));
        tokio::spawn(clients::h1().request(request))
    });
    for answer in answers {
        let answer = tokio::time::timeout(PATIENCE, answer)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(read(answer.unwrap()).await.body(), "made");
    }
    assert_eq!(
        call(&server, false, request("a", "a book")).await.status(),
        429
    );
    assert_eq!(calls.calls(), 1);
    assert_eq!((keys.stats().executed, keys.stats().replayed), (1, 2));
}
