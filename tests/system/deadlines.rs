//! One deadline over three hops: a client, axum, tonic, axum.
//!
//! ```text
//!   client ──http──► front (axum) ──grpc──► middle (tonic) ──http──► leaf (axum)
//! ```

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, extract::Request as AxumRequest, routing::get};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::{
    Code,
    server::NamedService,
    service::Routes,
    transport::{Server as TonicServer, server::TcpIncoming},
};
use tower::{Service, ServiceExt};
use tower_mesh::{
    Body, Mesh,
    client::{Client, ClientConfig},
    layers::{
        CallContext, Reason, Rejection,
        deadline::DeadlineConfig,
        grpc::parse_timeout,
        test_util::{
            Answer, Gate, TestBody, grpc,
            servers::{Port, Server},
        },
    },
};

use crate::support::{self, eventually};

/// What each hop does before it calls the next one.
const WORK: Duration = Duration::from_millis(60);

/// What a hop saw of the deadline when its handler began.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// As the header told it.
    told: Option<Duration>,
    /// As the handler could ask for it.
    left: Option<Duration>,
}

/// What all hops saw, by their names.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(&'static str, Seen)>>>);

impl Log {
    fn note(&self, hop: &'static str, headers: &HeaderMap) {
        let told = headers.get("grpc-timeout");
        let told = told.map(|value| parse_timeout(value).expect("our own clients write it well"));
        let left = CallContext::current().and_then(|handler| handler.remaining(Instant::now()));
        self.0.lock().push((hop, Seen { told, left }));
    }

    fn hops(&self) -> Vec<&'static str> {
        self.0.lock().iter().map(|(hop, _)| *hop).collect()
    }
}

/// Three servers, and the log that they write.
struct Chain {
    log: Log,
    client: Client,
    /// The leaf's handler waits for it.
    gate: Gate,
    /// Handlers of the leaf that are under way.
    leaves: Arc<AtomicUsize>,
    servers: [Server; 3],
}

struct Leaf(Arc<AtomicUsize>);

impl Leaf {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count.clone())
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// The gRPC hop: a service that is called, and calls over HTTP.
#[derive(Clone)]
struct Middle {
    log: Log,
    leaf: Client,
}

impl NamedService for Middle {
    const NAME: &'static str = "kit.Test";
}

impl Service<Request<tonic::body::Body>> for Middle {
    type Response = Response<TestBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let Self { log, leaf } = self.clone();
        Box::pin(async move {
            log.note("middle", request.headers());
            tokio::time::sleep(WORK).await;
            let answer = match leaf.oneshot(get_request("/")).await {
                Ok(response) if response.status().is_success() => {
                    grpc::unary(response.into_body().collect().await.unwrap().to_bytes())
                }
                Ok(response) if response.status() == StatusCode::GATEWAY_TIMEOUT => {
                    Answer::grpc_status("4")
                }
                _ => Answer::grpc_status("14"),
            };
            Ok(answer.into_response().unwrap())
        })
    }
}

fn get_request(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

/// A mesh that knows one address, and gives calls this much time.
fn mesh(url: String, timeout: Option<Duration>) -> Mesh {
    let deadline = DeadlineConfig {
        timeout,
        ..DeadlineConfig::default()
    };
    let config = ClientConfig {
        deadline: Some(deadline),
        ..ClientConfig::default()
    };
    support::mesh(url, config)
}

// ===== impl Chain =====

impl Chain {
    fn start(timeout: Duration) -> Self {
        let (log, gate) = (Log::default(), Gate::new());
        let leaves = Arc::<AtomicUsize>::default();
        // The servers have no timeout of their own: all they know came over the wire.
        let preset = || Mesh::builder().build().unwrap().server();

        let handler = {
            let (log, gate, leaves) = (log.clone(), gate.clone(), leaves.clone());
            async move |request: AxumRequest| {
                log.note("leaf", request.headers());
                let _leaf = Leaf::new(&leaves);
                gate.opened().await;
                "from the leaf"
            }
        };
        let leaf = Server::axum(Router::new().route("/", get(handler)).layer(preset()));

        let url = format!("static:http://{}", leaf.addr());
        let layer = preset();
        let middle_log = log.clone();
        let middle = Port::any().serve(async move |listener, stop| {
            let leaf = mesh(url, None).client("leaf");
            let middle = Middle {
                log: middle_log,
                leaf,
            };
            TonicServer::builder()
                .layer(layer)
                .add_routes(Routes::new(middle))
                .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.requested())
                .await
                .unwrap();
        });

        let url = format!("static:grpc://{}", middle.addr());
        let (layer, front_log) = (preset(), log.clone());
        let front = Port::any().serve(async move |listener, stop| {
            let channel = mesh(url, None).channel("middle");
            let handler = async move |request: AxumRequest| {
                front_log.note("front", request.headers());
                tokio::time::sleep(WORK).await;
                let answered = grpc::Client::new(channel).unary("Any", "").await;
                match answered {
                    Ok(message) => Ok(message.into_inner()),
                    Err(status) if status.code() == Code::DeadlineExceeded => {
                        Err(StatusCode::GATEWAY_TIMEOUT)
                    }
                    Err(_) => Err(StatusCode::BAD_GATEWAY),
                }
            };
            let router = Router::new().route("/", get(handler)).layer(layer);
            axum::serve(listener, router)
                .with_graceful_shutdown(stop.requested())
                .await
                .unwrap();
        });

        let url = format!("static:http://{}", front.addr());
        Self {
            client: mesh(url, Some(timeout)).client("front"),
            log,
            gate,
            leaves,
            servers: [leaf, middle, front],
        }
    }
}

#[tokio::test]
async fn a_deadline_shrinks_from_hop_to_hop() {
    const TIMEOUT: Duration = Duration::from_secs(30);
    let chain = Chain::start(TIMEOUT);
    chain.gate.open();
    let response = chain.client.oneshot(get_request("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "from the leaf");

    assert_eq!(chain.log.hops(), ["front", "middle", "leaf"]);
    let mut most = TIMEOUT;
    for (hop, seen) in chain.log.0.lock().iter() {
        let (told, left) = (seen.told.unwrap(), seen.left.unwrap());
        assert!(
            told <= most,
            "{hop} was told {told:?}, and there were {most:?}"
        );
        assert!(left <= told, "{hop} thinks there are {left:?} of {told:?}");
        most = told - WORK;
    }
}

#[tokio::test]
async fn at_the_deadline_the_whole_chain_stops_and_the_caller_is_told() {
    let chain = Chain::start(Duration::from_millis(600));
    let start = Instant::now();
    let response = chain.client.oneshot(get_request("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(
        start.elapsed() >= Duration::from_millis(590),
        "{:?}",
        start.elapsed()
    );
    eventually("nobody works for it any more", || {
        chain.leaves.load(SeqCst) == 0
    })
    .await;
}

#[tokio::test]
async fn a_client_that_goes_away_stops_the_whole_chain() {
    let chain = Chain::start(Duration::from_secs(300));
    let call = tokio::spawn(chain.client.clone().oneshot(get_request("/")));
    eventually("the leaf works", || chain.leaves.load(SeqCst) == 1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    eventually("the leaf stops", || chain.leaves.load(SeqCst) == 0).await;
    // Nobody made another attempt for a caller that is gone.
    assert_eq!(chain.log.hops(), ["front", "middle", "leaf"]);
}

#[tokio::test]
async fn expired_work_is_refused_before_it_is_done() {
    let chain = Chain::start(Duration::from_secs(300));
    // As an edge that is late would: the time is over, and the work still comes.
    let late = |path| {
        let mut request = get_request(path);
        let value = http::HeaderValue::from_static("0n");
        request.headers_mut().insert("grpc-timeout", value);
        request
    };
    let response = chain.client.clone().oneshot(late("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    let rejection = response.extensions().get::<Rejection>().unwrap();
    assert_eq!(rejection.reason(), Reason::DeadlineExceeded);
    assert_eq!(response.headers()["x-mesh-retry"], "never");

    // The same when only the server knows.
    let front = chain.servers[2].addr();
    let mut connection = crate::support::Connection::h1(front).await;
    let request = late("/").map(|_| crate::support::Body::default());
    let response = connection.send(request).await;
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(response.headers()["x-mesh-retry"], "never");
    assert!(chain.log.hops().is_empty(), "{:?}", chain.log.hops());
}
