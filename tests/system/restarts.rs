//! Servers that stop, are killed and come back, one after the other, under traffic that does not stop.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use http::Request;
use http_body_util::BodyExt;
use tokio::task::JoinSet;
use tonic::service::Routes;
use tower::ServiceExt;
use tower_mesh::{
    Body, Mesh,
    client::ClientConfig,
    layers::{
        Protocol,
        retry::RetryConfig,
        test_util::{
            Answer, Gate, ProbeHandle, Scripted, grpc,
            servers::{Port, Server},
        },
    },
};

use crate::support::{self, eventually};

const CALLERS: usize = 12;

/// Calls in a loop, until it is told to end; says how many calls failed, and what the first of them saw.
struct Traffic {
    done: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    callers: JoinSet<Vec<String>>,
}

impl Traffic {
    fn start<C, Fut>(client: C, call: impl Fn(C) -> Fut + Copy + Send + 'static) -> Self
    where
        C: Clone + Send + 'static,
        Fut: Future<Output = Result<(), String>> + Send,
    {
        let (done, calls) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let (client, done, calls) = (client.clone(), done.clone(), calls.clone());
            callers.spawn(async move {
                let mut failed = Vec::new();
                while !done.load(Relaxed) {
                    failed.extend(call(client.clone()).await.err());
                    calls.fetch_add(1, Relaxed);
                    // A call that is refused at once never waits, and would keep the thread.
                    tokio::task::yield_now().await;
                }
                failed
            });
        }
        Self {
            done,
            calls,
            callers,
        }
    }

    /// Waits until so many more calls were made.
    async fn more(&self, calls: u64) {
        let goal = self.calls.load(Relaxed) + calls;
        eventually("the traffic goes on", || self.calls.load(Relaxed) >= goal).await;
    }

    async fn end(self) {
        self.done.store(true, Relaxed);
        let failed = self.callers.join_all().await.concat();
        let calls = self.calls.load(Relaxed);
        assert!(
            failed.is_empty(),
            "{} of {calls} failed: {:?}",
            failed.len(),
            failed[0]
        );
    }
}

async fn get_root(client: tower_mesh::client::Client) -> Result<(), String> {
    let request = Request::get("/").body(Body::empty()).unwrap();
    let response = client
        .oneshot(request)
        .await
        .map_err(|error| format!("{error:?}"))?;
    if !response.status().is_success() {
        return Err(format!("{response:?}"));
    }
    let body = response.into_body().collect().await;
    body.map(drop).map_err(|error| format!("body: {error:?}"))
}

async fn unary<T>(mut client: grpc::Client<T>) -> Result<(), String>
where
    T: tonic::client::GrpcService<tonic::body::Body>,
    T::Error: Into<tower::BoxError>,
    T::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<tower::BoxError> + Send,
{
    let answered = client.unary("Any", "hello").await;
    answered.map(drop).map_err(|status| format!("{status:?}"))
}

/// A handler that takes a moment, so that there always are calls in flight.
fn over_http(port: Port) -> Server {
    let handler = get(async || {
        tokio::time::sleep(Duration::from_millis(2)).await;
        "done"
    });
    port.axum(Router::new().route("/", handler), false)
}

fn over_grpc(port: Port) -> Server {
    let (handler, _) = Scripted::always(grpc::unary("done").pending_times(3));
    port.tonic(Routes::new(handler))
}

fn mesh(scheme: &str, servers: &[Option<Server>; 2], retry: RetryConfig) -> Mesh {
    let [a, b] = [0, 1].map(|at| servers[at].as_ref().unwrap().addr());
    let config = ClientConfig {
        retry: Some(retry),
        ..ClientConfig::default()
    };
    support::mesh(format!("static:{scheme}://{a},{scheme}://{b}"), config)
}

/// Restarts one server after the other, three times.
async fn restart(traffic: &Traffic, servers: &mut [Option<Server>; 2], start: fn(Port) -> Server) {
    for at in [0, 1, 0, 1, 0, 1] {
        traffic.more(100).await;
        let server = servers[at].take().unwrap();
        let addr = server.addr();
        server.stop().await;
        traffic.more(20).await;
        servers[at] = Some(start(Port::at(addr)));
        traffic.more(100).await;
    }
}

async fn assert_at_rest(mesh: &Mesh, protocol: Protocol) {
    eventually("nothing is in flight", || {
        let endpoints = mesh.endpoints("kit", protocol);
        endpoints.iter().all(|endpoint| endpoint.in_flight == 0)
    })
    .await;
}

#[tokio::test]
async fn no_call_fails_while_http_servers_are_restarted_in_turn() {
    let mut servers = [0, 1].map(|_| Some(over_http(Port::any())));
    let mesh = mesh("http", &servers, RetryConfig::default());
    let traffic = Traffic::start(mesh.client("kit"), get_root);
    restart(&traffic, &mut servers, over_http).await;
    traffic.end().await;
    assert_at_rest(&mesh, Protocol::Http).await;
}

/// Unary calls that nobody called idempotent: what the server did not begin may be sent elsewhere.
#[tokio::test]
async fn no_call_fails_while_grpc_servers_are_restarted_in_turn() {
    let mut servers = [0, 1].map(|_| Some(over_grpc(Port::any())));
    let mesh = mesh("grpc", &servers, RetryConfig::default());
    let traffic = Traffic::start(grpc::Client::new(mesh.channel("kit")), unary);
    restart(&traffic, &mut servers, over_grpc).await;
    traffic.end().await;
    assert_at_rest(&mesh, Protocol::Grpc).await;
}

/// Answers until it is told to hang.
fn until_it_hangs(good: Answer) -> (Scripted, ProbeHandle, Arc<AtomicBool>) {
    let (hangs, gate) = (Arc::<AtomicBool>::default(), Gate::new());
    let told = hangs.clone();
    let (handler, probe) = Scripted::answering(move |_, _| match told.load(Relaxed) {
        true => good.clone().gated(&gate),
        false => good.clone(),
    });
    (handler, probe, hangs)
}

/// Kills the first server with at least 8 calls in flight: by SIGKILL, as far as the clients can tell.
/// Some calls went well before, as always in real life: where most of all calls fail, a breaker opens.
async fn kill(
    traffic: [Traffic; 2],
    servers: &mut [Option<Server>; 2],
    probe: &ProbeHandle,
    hangs: &AtomicBool,
) {
    traffic[0].more(200).await;
    hangs.store(true, Relaxed);
    eventually("at least 8 calls are in flight there", || {
        probe.in_flight() >= 8
    })
    .await;
    servers[0].take().unwrap().kill();
    traffic[0].more(200).await;
    for traffic in traffic {
        traffic.end().await;
    }
}

#[tokio::test]
async fn no_idempotent_call_fails_when_a_server_is_killed_with_calls_in_flight() {
    let (handler, probe, hangs) = until_it_hangs(Answer::ok());
    let mut servers = [Some(Server::hyper(handler)), Some(over_http(Port::any()))];
    let mesh = mesh("http", &servers, RetryConfig::default());
    let traffic = [(); 2].map(|()| Traffic::start(mesh.client("kit"), get_root));
    kill(traffic, &mut servers, &probe, &hangs).await;
    assert_at_rest(&mesh, Protocol::Http).await;
}

#[tokio::test]
async fn no_idempotent_grpc_call_fails_when_a_server_is_killed_with_calls_in_flight() {
    let (handler, probe, hangs) = until_it_hangs(grpc::unary("done"));
    let doomed = Server::tonic(Routes::new(handler));
    let mut servers = [Some(doomed), Some(over_grpc(Port::any()))];
    let retry = RetryConfig {
        non_idempotent: true,
        ..RetryConfig::default()
    };
    let mesh = mesh("grpc", &servers, retry);
    let client = grpc::Client::new(mesh.channel("kit"));
    let traffic = [(); 2].map(|()| Traffic::start(client.clone(), unary));
    kill(traffic, &mut servers, &probe, &hangs).await;
    assert_at_rest(&mesh, Protocol::Grpc).await;
}
