//! One state for all connections: wherever a layer is put, its limit holds for the whole server.
//!
//! axum calls `layer()` for every connection when it is given a plain router, so a layer that makes its
//! state there has as many limits as there are connections. [`PerConnection`] does that on purpose: the
//! bounds that hold with our layers must break with it, or these tests would prove nothing.

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::get};
use http::{Request, StatusCode};
use parking_lot::Mutex;
use tokio::{task::JoinSet, time::Instant};
use tonic::{
    Code,
    service::Routes,
    transport::{Server as TonicServer, server::TcpIncoming},
};
use tower::{Layer, ServiceBuilder, util::MapRequestLayer};
use tower_mesh::layers::{
    circuit_breaker::CircuitBreakerLayer,
    rate_limit::RateLimitLayer,
    test_util::{
        Scripted, grpc,
        servers::{Port, Server},
    },
};

use crate::support::{Connection, channel};

const CONNECTIONS: usize = 20;
const CALLS_PER_CONNECTION: usize = 10;
const CONSECUTIVE_FAILURES: u32 = 10;
const PER_SECOND: u32 = 50;
const FAILED: StatusCode = StatusCode::INTERNAL_SERVER_ERROR;

/// How many ways [`on_axum`] knows.
const PLACES: usize = 5;

/// Held while a rate is measured: two at once would take the processors from each other.
static MEASURING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// When calls came somewhere.
type Arrivals = Arc<Mutex<Vec<Instant>>>;

fn breaker() -> CircuitBreakerLayer {
    CircuitBreakerLayer::builder()
        .consecutive_failures(CONSECUTIVE_FAILURES)
        .build()
        .unwrap()
}

fn limit() -> RateLimitLayer {
    RateLimitLayer::per_second(PER_SECOND)
        .burst(1)
        .build()
        .unwrap()
}

/// A layer that is made anew by every `layer()`: what a layer must not be.
#[derive(Clone)]
struct PerConnection<F>(F);

impl<S, L: Layer<S>, F: Fn() -> L> Layer<S> for PerConnection<F> {
    type Service = L::Service;

    fn layer(&self, inner: S) -> L::Service {
        (self.0)().layer(inner)
    }
}

/// Puts a layer around a handler in one of the ways that axum has; gives the path to call, too.
///
/// A macro, since the bounds of these methods differ, and no user writes them down.
macro_rules! on_axum {
    ($place:expr, $layer:expr, $status:expr) => {{
        let (layer, status, arrivals) = ($layer, $status, Arrivals::default());
        let handler = {
            let arrivals = arrivals.clone();
            // No service but a handler: only then does axum put the layer off until a connection comes.
            get(async move || {
                arrivals.lock().push(Instant::now());
                status
            })
        };
        let plain = Router::new().route("/call", handler.clone());
        let routers: [(&str, &str, Router); PLACES] = [
            ("Router::layer", "/call", plain.clone().layer(layer.clone())),
            (
                "Router::route_layer",
                "/call",
                plain.clone().route_layer(layer.clone()),
            ),
            (
                "MethodRouter::layer",
                "/call",
                Router::new().route("/call", handler.layer(layer.clone())),
            ),
            (
                "in a nested router",
                "/nested/call",
                Router::new().nest("/nested", plain.clone().layer(layer.clone())),
            ),
            (
                "around a nested router",
                "/nested/call",
                Router::new().nest("/nested", plain).layer(layer),
            ),
        ];
        let (place, path, router) = routers.into_iter().nth($place).unwrap();
        (place, path, router, arrivals)
    }};
}

/// Serves a handler that always gives this answer by tonic, with the layer around it.
macro_rules! on_tonic {
    ($layer:expr, $answer:expr) => {{
        let (layer, answer, arrivals) = ($layer, $answer, Arrivals::default());
        let noted = arrivals.clone();
        let (handler, _) = Scripted::answering(move |_, _| {
            noted.lock().push(Instant::now());
            answer.clone()
        });
        let routes = Routes::new(handler);
        let server = Port::any().serve(move |listener, stop| async move {
            TonicServer::builder()
                .layer(layer)
                .add_routes(routes)
                .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.requested())
                .await
                .unwrap();
        });
        (server, arrivals)
    }};
}

async fn connections(server: &Server) -> Vec<Connection> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Connection::h1(server.addr()).await);
    }
    connections
}

fn grpc_clients(server: &Server) -> Vec<grpc::Client<tonic::transport::Channel>> {
    let channels = (0..CONNECTIONS).map(|_| channel(server.addr()));
    channels.map(grpc::Client::new).collect()
}

// ===== the circuit breaker =====

/// One failing call at a time, over all connections in turn.
async fn fail_in_turn(router: Router, path: &str) {
    let server = Server::axum(router);
    let mut connections = connections(&server).await;
    for _ in 0..CALLS_PER_CONNECTION {
        for connection in &mut connections {
            assert!(connection.get(path).await.status().is_server_error());
        }
    }
}

#[tokio::test]
async fn a_breaker_on_axum_opens_for_all_connections() {
    for place in 0..PLACES {
        let (place, path, router, arrivals) = on_axum!(place, breaker(), FAILED);
        fail_in_turn(router, path).await;
        let reached = arrivals.lock().len();
        assert_eq!(reached, CONSECUTIVE_FAILURES as usize, "{place}");
    }
}

#[tokio::test]
async fn a_breaker_that_is_made_per_connection_does_not_open() {
    let (_, path, router, arrivals) = on_axum!(0, PerConnection(breaker), FAILED);
    fail_in_turn(router, path).await;
    let reached = arrivals.lock().len();
    assert_eq!(reached, CONNECTIONS * CALLS_PER_CONNECTION);
}

#[tokio::test]
async fn a_breaker_on_tonic_opens_for_all_connections() {
    // The head of the answer says nothing: it fails in the trailers of a stream.
    let answer = grpc::stream("abc", 2, "14");
    let layer = breaker();
    let breakers = layer.handle();
    let (server, arrivals) = on_tonic!(layer, answer);
    let mut clients = grpc_clients(&server);
    for _ in 0..CALLS_PER_CONNECTION {
        for client in &mut clients {
            let failed = match client.stream("Any", "").await {
                Ok(response) => {
                    let mut stream = response.into_inner();
                    while let Ok(Some(_)) = stream.message().await {}
                    stream.trailers().await.map(drop)
                }
                Err(refused) => Err(refused),
            };
            if let Err(status) = failed {
                assert_eq!(status.code(), Code::Unavailable);
            }
        }
    }
    let reached = arrivals.lock().len();
    assert_eq!(reached, CONSECUTIVE_FAILURES as usize);
    let stats = breakers.stats();
    assert_eq!(stats.failures, reached as u64);
    let calls = CONNECTIONS * CALLS_PER_CONNECTION;
    assert_eq!(stats.rejected, (calls - reached) as u64);
}

// ===== the rate limit =====

/// What a rate limit did in its first second.
struct FirstSecond {
    admitted: usize,
    /// What a perfect limit would have admitted of the calls that came, when they came.
    ideal: usize,
}

impl FirstSecond {
    fn new(offered: &Arrivals, admitted: &Arrivals) -> Self {
        let mut offered = offered.lock().clone();
        offered.sort_unstable();
        // Noted before the limit decided on it: so the upper bound is exact.
        let start = offered[0];
        let end = start + Duration::from_secs(1);
        let admitted = admitted.lock().iter().filter(|at| **at <= end).count();
        let (mut ideal, mut next) = (0, start);
        for at in offered.into_iter().filter(|at| *at <= end) {
            if at >= next {
                ideal += 1;
                next = at + Duration::from_secs(1) / PER_SECOND;
            }
        }
        Self { admitted, ideal }
    }
}

/// Notes when a call comes to the layer below, before that decides.
fn noting<B>(
    arrivals: &Arrivals,
) -> MapRequestLayer<impl Fn(Request<B>) -> Request<B> + Clone + use<B>> {
    let arrivals = arrivals.clone();
    MapRequestLayer::new(move |request| {
        arrivals.lock().push(Instant::now());
        request
    })
}

/// Has all callers call again and again, for a second and a little more.
async fn call_for_a_second<C, Fut>(callers: Vec<C>, call: impl Fn(C) -> Fut + Copy + Send + 'static)
where
    C: Send + 'static,
    Fut: Future<Output = C> + Send,
{
    let _alone = MEASURING.lock().await;
    let start = Instant::now();
    let mut calling = JoinSet::new();
    for mut caller in callers {
        calling.spawn(async move {
            while start.elapsed() < Duration::from_millis(1_010) {
                caller = call(caller).await;
            }
        });
    }
    calling.join_all().await;
}

async fn over_axum(router: Router, path: &'static str) {
    let server = Server::axum(router);
    let connections = connections(&server).await;
    call_for_a_second(connections, move |mut connection| async move {
        let status = connection.get(path).await.status();
        assert!([StatusCode::OK, StatusCode::TOO_MANY_REQUESTS].contains(&status));
        connection
    })
    .await;
}

async fn over_tonic(server: &Server) {
    call_for_a_second(grpc_clients(server), |mut client| async move {
        if let Err(status) = client.unary("Any", "").await {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        }
        client
    })
    .await;
}

/// 48 to 51 calls are admitted in the first second. The upper bound holds always; a machine that is
/// too busy to make enough calls may miss the lower one, but not what its calls allow.
async fn assert_rate(measure: impl AsyncFn() -> (&'static str, FirstSecond)) {
    for _ in 0..3 {
        let (place, FirstSecond { admitted, ideal }) = measure().await;
        assert!(admitted <= 51, "{place}: {admitted} admitted");
        if admitted >= 48 {
            return;
        }
        assert!(
            admitted + 2 >= ideal,
            "{place}: {admitted} admitted of {ideal}"
        );
        println!("{place}: {admitted} admitted, as calls came too late for more than {ideal}");
    }
}

#[tokio::test]
async fn a_rate_limit_on_axum_holds_over_all_connections() {
    for place in 0..PLACES {
        assert_rate(async || {
            let offered = Arrivals::default();
            let layer = ServiceBuilder::new().layer(noting(&offered)).layer(limit());
            let (place, path, router, admitted) = on_axum!(place, layer, StatusCode::OK);
            over_axum(router, path).await;
            (place, FirstSecond::new(&offered, &admitted))
        })
        .await;
    }
}

#[tokio::test]
async fn a_rate_limit_that_is_made_per_connection_does_not_hold() {
    let (_, path, router, admitted) = on_axum!(0, PerConnection(limit), StatusCode::OK);
    over_axum(router, path).await;
    // Of calls that all connections make at the same time, each admits one: more than a limit for the
    // whole server would have, however slow this machine is.
    let FirstSecond { admitted, ideal } = FirstSecond::new(&admitted, &admitted);
    assert!(admitted > ideal + 2, "{admitted} admitted of {ideal}");
}

#[tokio::test]
async fn a_rate_limit_on_tonic_holds_over_all_connections() {
    assert_rate(async || {
        let offered = Arrivals::default();
        let layer = ServiceBuilder::new().layer(noting(&offered)).layer(limit());
        let (server, admitted) = on_tonic!(layer, grpc::unary("done"));
        over_tonic(&server).await;
        ("tonic's server", FirstSecond::new(&offered, &admitted))
    })
    .await;
}
