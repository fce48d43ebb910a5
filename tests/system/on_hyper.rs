//! The layers on plain hyper, as server and as client, over both protocols: no framework in between
//! that clones, boxes or renders anything. (The retry layer's own tests have it around these clients.)

use std::{fmt::Debug, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::RETRY_AFTER};
use http_body::Body as HttpBody;
use tower::{Layer, Service, ServiceExt};
use tower_mesh::layers::{
    Rejection,
    circuit_breaker::CircuitBreakerLayer,
    deadline::DeadlineLayer,
    rate_limit::RateLimitLayer,
    test_util::{Answer, ProbeHandle, Scripted, clients, servers::Server},
};

use crate::support::{Body, Connection, eventually, read};

/// How many calls a layer lets through, of [`CALLS`].
const ADMITTED: u32 = 5;
const CALLS: usize = 20;

/// Gives nothing back within the time of a test.
fn limit() -> RateLimitLayer {
    let limit = RateLimitLayer::per_minute(1).burst(ADMITTED);
    limit.build().unwrap()
}

fn breaker() -> CircuitBreakerLayer {
    let breaker = CircuitBreakerLayer::builder().consecutive_failures(ADMITTED);
    breaker.build().unwrap()
}

fn assert_refused(last: &Response<Bytes>, status: StatusCode, reached: &ProbeHandle) {
    assert_eq!(reached.calls(), u64::from(ADMITTED));
    assert_eq!(last.status(), status);
    let after: u64 = last.headers()[RETRY_AFTER]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=60).contains(&after), "after {after} s");
}

// ===== on a server =====

/// Calls over several connections in turn, and gives the last answer.
async fn call_over_connections(server: &Server) -> Response<Bytes> {
    let mut connections = [
        Connection::h1(server.addr()).await,
        Connection::h2(server.addr()).await,
        Connection::h1(server.addr()).await,
        Connection::h2(server.addr()).await,
    ];
    let mut last = Response::default();
    for call in 0..CALLS {
        last = connections[call % connections.len()].get("/").await;
    }
    last
}

#[tokio::test]
async fn a_rate_limit_on_a_server_holds_over_all_connections() {
    let (handler, reached) = Scripted::always(Answer::ok());
    let server = Server::hyper(limit().layer(handler));
    let last = call_over_connections(&server).await;
    assert_refused(&last, StatusCode::TOO_MANY_REQUESTS, &reached);
}

#[tokio::test]
async fn a_breaker_on_a_server_opens_for_all_connections() {
    let (handler, reached) = Scripted::always(Answer::status(500));
    let server = Server::hyper(breaker().layer(handler));
    let last = call_over_connections(&server).await;
    assert_refused(&last, StatusCode::SERVICE_UNAVAILABLE, &reached);
}

// ===== around a client =====

/// Calls by clones of a client, as its users do, and gives the last answer.
async fn call_by_clones<S, B>(client: S, server: &Server) -> Response<Bytes>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Debug> + Clone,
    B: HttpBody<Data = Bytes, Error: Debug>,
{
    let mut last = Response::default();
    for _ in 0..CALLS {
        let request = clients::send_to(server.addr(), Request::new(Body::default()));
        last = read(client.clone().oneshot(request).await.unwrap()).await;
    }
    assert!(last.extensions().get::<Rejection>().is_some());
    last
}

#[tokio::test]
async fn a_rate_limit_around_a_client_holds_for_all_clones() {
    for client in [clients::h1(), clients::h2()] {
        let (handler, reached) = Scripted::always(Answer::ok());
        let server = Server::hyper(handler);
        let last = call_by_clones(limit().layer(client), &server).await;
        assert_refused(&last, StatusCode::TOO_MANY_REQUESTS, &reached);
    }
}

#[tokio::test]
async fn a_breaker_around_a_client_opens_for_all_clones() {
    for client in [clients::h1(), clients::h2()] {
        let (handler, reached) = Scripted::always(Answer::status(500));
        let server = Server::hyper(handler);
        let last = call_by_clones(breaker().layer(client), &server).await;
        assert_refused(&last, StatusCode::SERVICE_UNAVAILABLE, &reached);
    }
}

#[tokio::test]
async fn a_deadline_around_a_client_ends_the_call_on_both_sides() {
    for client in [clients::h1(), clients::h2()] {
        let (handler, reached) = Scripted::always(Answer::never());
        let server = Server::hyper(handler);
        let deadline = DeadlineLayer::builder().timeout(Duration::from_millis(200));
        let client = deadline.build().unwrap().layer(client);
        // A busy machine may not even connect in that time.
        while reached.calls() == 0 {
            let request = clients::send_to(server.addr(), Request::new(Body::default()));
            let late = read(client.clone().oneshot(request).await.unwrap()).await;
            assert_eq!(late.status(), StatusCode::GATEWAY_TIMEOUT);
            assert!(late.extensions().get::<Rejection>().is_some());
        }
        eventually("the server gives up", || reached.in_flight() == 0).await;
    }
}
