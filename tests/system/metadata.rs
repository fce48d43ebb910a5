//! Metadata over three hops: a client, axum, tonic, axum. And what an edge lets through.
//!
//! ```text
//!   client ──http──► front (axum) ──grpc──► middle (tonic) ──spawned task──http──► leaf (axum)
//! ```

mod edge;
mod memory;

use std::{convert::Infallible, pin::Pin, sync::Arc, time::Duration};

use axum::{Router, extract::Path, routing::get};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use tonic::{
    Status,
    server::NamedService,
    service::Routes,
    transport::{Channel, Server as TonicServer, server::TcpIncoming},
};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_mesh::layers::{
    CallContext, Role, Trust,
    context::InContext,
    deadline::{DeadlineLayer, Scope},
    grpc::parse_timeout,
    metadata::{self, CallMetadata, MetadataLayer, RequestMetadata},
    test_util::{
        clients,
        grpc::{BytesCodec, Client},
        servers::{Port, Server},
    },
};

/// What each hop does before it calls the next one.
const WORK: Duration = Duration::from_millis(20);
/// The messages of a stream.
const MESSAGES: usize = 3;

/// What a hop knew of a call.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    hop: &'static str,
    /// `key: value` of all of its metadata, sorted.
    entries: Vec<String>,
    /// The time until its deadline, as the header told it.
    left: Option<Duration>,
}

#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<Seen>>>);

// ===== impl Log =====

impl Log {
    fn note(&self, hop: &'static str, metadata: &metadata::Metadata, headers: &HeaderMap) {
        let entries = metadata.iter();
        let entries = entries.map(|(_, key, value)| format!("{key}: {}", value.to_str().unwrap()));
        let mut entries: Vec<_> = entries.collect();
        entries.sort();
        let left = headers.get("grpc-timeout");
        let left = left.map(|value| parse_timeout(value).expect("our own clients write it well"));
        self.0.lock().push(Seen { hop, entries, left });
    }

    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.0.lock())
    }
}

fn server_layers() -> (MetadataLayer, DeadlineLayer) {
    let trust = Trust::peers(["127.0.0.0/8"], [""; 0]).unwrap();
    let metadata = MetadataLayer::builder().trust(trust).role(Role::Server);
    // Its own timeout: longer than what any caller waits.
    let deadline = DeadlineLayer::builder().timeout(Duration::from_secs(3_600));
    let deadline = deadline.scope(Scope::Call).role(Role::Server);
    (metadata.build().unwrap(), deadline.build().unwrap())
}

/// A client of HTTP that says who it is.
fn http_client(
    caller: &'static str,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<impl http_body::Body<Data = Bytes, Error: std::fmt::Debug>>,
    Error: std::fmt::Debug,
    Future: Send,
> + Clone
+ Send
+ 'static {
    let metadata = MetadataLayer::builder()
        .local("caller", caller)
        .role(Role::Client);
    ServiceBuilder::new()
        .layer(metadata.build().unwrap())
        .layer(DeadlineLayer::client())
        .service(clients::h1())
}

fn get_request(server: &str, path: &str) -> Request<Full<Bytes>> {
    let uri = format!("http://{server}{path}");
    Request::get(uri).body(Full::default()).unwrap()
}

/// Three servers, and what they saw.
struct Chain {
    log: Log,
    front: Server,
    _others: [Server; 2],
}

/// The gRPC hop, a service of tonic's without generated code.
#[derive(Clone)]
struct Middle {
    log: Log,
    leaf: String,
}

// ===== impl Middle =====

impl Middle {
    /// Calls the leaf in a task of its own.
    async fn ask_leaf(self, path: &'static str) -> Result<Bytes, Status> {
        tokio::time::sleep(WORK).await;
        let client = http_client("middle");
        let call = async move {
            let response = client.oneshot(get_request(&self.leaf, path)).await.unwrap();
            response.into_body().collect().await.unwrap().to_bytes()
        };
        Ok(tokio::spawn(call.in_current_context()).await.unwrap())
    }

    fn note(&self, request: &tonic::Request<Bytes>) {
        let headers = request.metadata().clone().into_headers();
        self.log.note("middle", &request.call_metadata(), &headers);
        metadata::append_global("path", "middle").unwrap();
    }
}

impl NamedService for Middle {
    const NAME: &'static str = "kit.Test";
}

impl Service<Request<tonic::body::Body>> for Middle {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let middle = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(BytesCodec);
            Ok(match request.uri().path() {
                "/kit.Test/Unary" => {
                    let handler = service_fn(move |request: tonic::Request<Bytes>| {
                        let middle = middle.clone();
                        middle.note(&request);
                        async { middle.ask_leaf("/unary").await.map(tonic::Response::new) }
                    });
                    grpc.unary(handler, request).await
                }
                _ => {
                    let handler = service_fn(move |request: tonic::Request<Bytes>| {
                        let middle = middle.clone();
                        middle.note(&request);
                        let messages = futures_util::stream::iter(0..MESSAGES)
                            .then(move |_| middle.clone().ask_leaf("/stream"));
                        std::future::ready(Ok::<_, Status>(tonic::Response::new(messages)))
                    });
                    grpc.server_streaming(handler, request).await
                }
            })
        })
    }
}

// ===== impl Chain =====

impl Chain {
    fn start() -> Self {
        let log = Log::default();
        let leaf = leaf(log.clone());
        let middle = middle(log.clone(), leaf.addr().to_string());
        let front = front(log.clone(), middle.uri("/").to_string());
        Self {
            log,
            front,
            _others: [leaf, middle],
        }
    }

    /// Calls the front with two tenants and a deadline.
    async fn call(&self, path: &str) -> String {
        let mut request = get_request(&self.front.addr().to_string(), path);
        request.append_global("tenant", "a").unwrap();
        request.append_global("tenant", "b").unwrap();
        request.set_local("secret", "for the front").unwrap();
        let headers = request.headers_mut();
        headers.insert("grpc-timeout", "30S".parse().unwrap());
        headers.insert("authorization", "Bearer 7".parse().unwrap());
        headers.insert("traceparent", PARENT.parse().unwrap());
        let response = http_client("client").oneshot(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.into()).unwrap()
    }
}

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn leaf(log: Log) -> Server {
    let handler = async move |metadata: CallMetadata, headers: HeaderMap| {
        log.note("leaf", &metadata, &headers);
        assert!(!headers.contains_key("authorization"));
        "leaf,"
    };
    let routes = Router::new().route("/{kind}", get(handler));
    Port::any().axum(routes.layer(server_layers()), true)
}

fn middle(log: Log, leaf: String) -> Server {
    Port::any().serve(async move |listener, stop| {
        TonicServer::builder()
            .layer(server_layers())
            .add_routes(Routes::new(Middle { log, leaf }))
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.requested())
            .await
            .unwrap();
    })
}

fn front(log: Log, middle: String) -> Server {
    let handler =
        async move |metadata: CallMetadata, Path(kind): Path<String>, headers: HeaderMap| {
            log.note("front", &metadata, &headers);
            metadata::append_global("path", "front").unwrap();
            tokio::time::sleep(WORK).await;
            let caller = MetadataLayer::builder()
                .local("caller", "front")
                .role(Role::Client);
            let channel = ServiceBuilder::new()
                .layer(caller.build().unwrap())
                .layer(DeadlineLayer::client())
                .service(Channel::from_shared(middle.clone()).unwrap().connect_lazy());
            let mut client = Client::new(channel);
            if kind == "unary" {
                return client.unary("Unary", "").await.unwrap().into_inner();
            }
            let messages = client.stream("Stream", "").await.unwrap().into_inner();
            let messages: Vec<_> = messages.map(Result::unwrap).collect().await;
            messages.concat().into()
        };
    let routes = Router::new().route("/{kind}", get(handler));
    Port::any().axum(routes.layer(server_layers()), true)
}

fn seen(hop: &'static str, entries: &[&str]) -> (&'static str, Vec<String>) {
    (hop, entries.iter().map(ToString::to_string).collect())
}

/// What each hop is to know, and that its deadline is shorter than that of the hop before by the work
/// done there.
fn check(chain: &Chain, leaves: usize) {
    let trace = format!("traceparent: {PARENT}");
    let expected = [
        seen(
            "front",
            &[
                "caller: client",
                "secret: for the front",
                "tenant: a",
                "tenant: b",
                &trace,
            ],
        ),
        seen(
            "middle",
            &[
                "caller: front",
                "path: front",
                "tenant: a",
                "tenant: b",
                &trace,
            ],
        ),
    ];
    let leaf = [
        "caller: middle",
        "path: front",
        "path: middle",
        "tenant: a",
        "tenant: b",
        &trace,
    ];
    let expected = expected
        .into_iter()
        .chain(std::iter::repeat_n(seen("leaf", &leaf), leaves));
    let log = chain.log.take();
    let known: Vec<_> = log
        .iter()
        .map(|seen| (seen.hop, seen.entries.clone()))
        .collect();
    assert_eq!(known, expected.collect::<Vec<_>>());

    let mut most = Duration::from_secs(30);
    for Seen { hop, left, .. } in log {
        let left = left.unwrap();
        assert!(
            left <= most,
            "{hop} was told {left:?}, and there were {most:?}"
        );
        most = left - WORK;
    }
}

#[tokio::test]
async fn metadata_goes_three_hops_and_through_a_spawned_task() {
    let chain = Chain::start();
    assert_eq!(chain.call("/unary").await, "leaf,");
    check(&chain, 1);
}

#[tokio::test]
async fn a_stream_of_grpc_takes_it_along_with_every_call_that_it_makes() {
    let chain = Chain::start();
    assert_eq!(chain.call("/stream").await, "leaf,".repeat(MESSAGES));
    check(&chain, MESSAGES);
}

#[tokio::test]
async fn calls_at_the_same_time_do_not_see_each_other() {
    let chain = Chain::start();
    let calls = (0..20).map(|n| {
        let mut request = get_request(&chain.front.addr().to_string(), "/unary");
        request.set_global("number", &n.to_string()).unwrap();
        http_client("client").oneshot(request)
    });
    for answered in futures_util::future::join_all(calls).await {
        assert_eq!(answered.unwrap().status(), 200);
    }
    for hop in ["front", "middle", "leaf"] {
        let log = chain.log.0.lock();
        let of_hop = log.iter().filter(|seen| seen.hop == hop);
        let numbers =
            of_hop.flat_map(|seen| seen.entries.iter().filter(|it| it.starts_with("number")));
        let mut numbers: Vec<_> = numbers.cloned().collect();
        numbers.sort();
        numbers.dedup();
        assert_eq!(numbers.len(), 20, "{hop}");
    }
    assert!(CallContext::current().is_none());
}
