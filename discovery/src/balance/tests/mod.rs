//! A small world of peers on the paused clock, and what must hold in it.

mod arms;
mod behaviour;
mod contract;

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tower_mesh_layers::{CallContext, Rejection, TransportError};
use tower_service::Service;

use super::*;
use crate::{
    endpoint::MakeEndpoint,
    instance::{EndpointUrl, Instance, Status},
    resolve::{Publisher, Watch, snapshot},
};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a peer does with a call.
#[derive(Debug, Clone, Copy)]
enum Does {
    Answer(u16, Duration),
    /// Accepts, and never answers.
    Hang,
    /// `poll_ready` fails: nothing was sent.
    Refuse,
    /// `poll_ready` stays pending.
    Blackhole,
    /// `call` fails to connect.
    RefuseInCall,
    /// As our own breaker under the balancer would.
    Shed,
}

#[derive(Debug)]
struct State {
    does: Mutex<Does>,
    calls: AtomicU64,
    polled: AtomicU64,
    latency_spread: Mutex<fastrand::Rng>,
}

#[derive(Debug, Clone)]
struct Peer(Arc<State>);

impl Peer {
    fn does(&self, does: Does) {
        *self.0.does.lock() = does;
    }

    fn calls(&self) -> u64 {
        self.0.calls.load(Relaxed)
    }
}

impl Service<Request<()>> for Peer {
    type Response = Response<Full<Bytes>>;
    type Error = TransportError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, TransportError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.0.polled.fetch_add(1, Relaxed);
        match *self.0.does.lock() {
            Does::Refuse => Poll::Ready(Err(TransportError::connect("refused"))),
            Does::Blackhole => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        self.0.calls.fetch_add(1, Relaxed);
        let does = *self.0.does.lock();
        // From half to one and a half times the latency: peers in lockstep would be a special case.
        let spread = 0.5 + self.0.latency_spread.lock().f64();
        Box::pin(async move {
            match does {
                Does::Answer(status, after) => {
                    sleep(after.mul_f64(spread)).await;
                    let body = Full::new(Bytes::from_static(b"body"));
                    Ok(Response::builder().status(status).body(body).unwrap())
                }
                Does::RefuseInCall => Err(TransportError::connect("refused")),
                Does::Shed => {
                    let mut response = Response::new(Full::default());
                    *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
                    let reason = tower_mesh_layers::Reason::CircuitOpen;
                    response
                        .extensions_mut()
                        .insert(Rejection::new("breaker", reason, ""));
                    Ok(response)
                }
                Does::Hang | Does::Refuse | Does::Blackhole => std::future::pending().await,
            }
        })
    }
}

/// Peers by instance id, and the registry that names them.
struct World {
    peers: Arc<Mutex<HashMap<String, Peer>>>,
    publisher: Publisher,
    watch: Watch,
}

/// Makes endpoints of peers.
struct Made(Arc<Mutex<HashMap<String, Peer>>>);

impl MakeEndpoint for Made {
    type Service = Peer;
    type Error = std::convert::Infallible;

    fn make_endpoint(&self, instance: &Instance, _: &EndpointUrl) -> Result<Peer, Self::Error> {
        Ok(peer(&self.0, &instance.id))
    }
}

impl World {
    fn new() -> Self {
        let (publisher, watch) = Watch::channel("orders");
        Self {
            peers: Arc::default(),
            publisher,
            watch,
        }
    }

    /// `n` peers that answer after `latency`, all published.
    fn of(n: usize, latency: Duration) -> Self {
        let world = Self::new();
        for i in 0..n {
            world.peer(&id(i)).does(Does::Answer(200, latency));
        }
        world.publish(0..n);
        world
    }

    fn peer(&self, id: &str) -> Peer {
        peer(&self.peers, id)
    }

    fn publish(&self, which: impl IntoIterator<Item = usize>) {
        self.publisher
            .publish(snapshot(which.into_iter().map(instance)));
    }

    fn balance(&self, config: BalanceConfig, picker: impl Into<Picker>) -> Balance<Made> {
        Balance::builder(self.watch.clone())
            .endpoints(Made(self.peers.clone()))
            .picker(picker)
            .config(config)
            .unwrap()
            .build()
    }

    fn calls(&self, n: usize) -> Vec<u64> {
        (0..n).map(|i| self.peer(&id(i)).calls()).collect()
    }
}

fn peer(peers: &Mutex<HashMap<String, Peer>>, id: &str) -> Peer {
    let mut peers = peers.lock();
    let seed = peers.len() as u64;
    let new = || {
        Peer(Arc::new(State {
            does: Mutex::new(Does::Answer(200, ms(1))),
            calls: AtomicU64::new(0),
            polled: AtomicU64::new(0),
            latency_spread: Mutex::new(fastrand::Rng::with_seed(seed)),
        }))
    };
    peers.entry(id.to_owned()).or_insert_with(new).clone()
}

fn id(i: usize) -> String {
    format!("orders-{i:05}")
}

fn instance(i: usize) -> Instance {
    let url = format!("http://10.0.{}.{}:80", i / 200, i % 200 + 1);
    Instance::new("orders", id(i)).with_endpoint(url.parse().unwrap())
}

fn seeded(seed: u64) -> Picker {
    Picker::new(P2cEwma::seeded(seed))
}

fn in_flight(balance: &Balance<Made>) -> u32 {
    balance.endpoints().iter().map(|view| view.in_flight).sum()
}

fn state_of(balance: &Balance<Made>, i: usize) -> EndpointState {
    let endpoints = balance.endpoints();
    let found = endpoints.iter().find(|view| view.instance == id(i));
    found.expect("the endpoint is known").state
}

/// One call, read to its end; the status, or the error.
async fn call(balance: &Balance<Made>) -> Result<u16, TransportError> {
    let response = balance.clone().call(Request::new(())).await?;
    let status = response.status().as_u16();
    let _ = response.into_body().collect().await;
    Ok(status)
}

/// One call with an attempt timeout, as the layers above would make it.
async fn call_within(balance: &Balance<Made>, limit: Duration) -> Option<u16> {
    let mut request = Request::new(());
    let context = CallContext::get_or_insert(request.extensions_mut());
    context.shorten_deadline(Instant::now() + limit);
    let call = async {
        let response = balance.clone().call(request).await.ok()?;
        let status = response.status().as_u16();
        let _ = response.into_body().collect().await;
        Some(status)
    };
    timeout(limit, call).await.ok().flatten()
}

/// Open-loop traffic: a call every `gap`, for `time`.
async fn traffic(balance: &Balance<Made>, gap: Duration, time: Duration, limit: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        let balance = balance.clone();
        tokio::spawn(async move { call_within(&balance, limit).await });
        sleep(gap).await;
    }
}
