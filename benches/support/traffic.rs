//! What is sent: the protocol, and what the request carries when it reaches the layers.

use std::net::{Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, MatchedPath};
use axum::routing::get;
use axum::{Extension, Router};
use bytes::Bytes;
use http::{Method, Request, header, request};
use http_body_util::Full;
use tower::ServiceExt;

use super::ours;

/// A body that can be cloned, since the peers' retries need that.
pub(crate) type RequestBody = Full<Bytes>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http,
    Grpc,
}

/// What the request's extensions hold on arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extensions {
    /// Nothing: the extension map itself is yet to be allocated.
    Empty,
    /// What axum or tonic put there (matched path, peer address), but no call context yet.
    Host,
    /// The same and our call context, as under another layer of ours.
    Context,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scenario {
    pub(crate) protocol: Protocol,
    pub(crate) extensions: Extensions,
}

/// The order here is the order of the rows.
pub(crate) const SCENARIOS: [Scenario; 5] = [
    Scenario {
        protocol: Protocol::Http,
        extensions: Extensions::Host,
    },
    Scenario {
        protocol: Protocol::Http,
        extensions: Extensions::Context,
    },
    Scenario {
        protocol: Protocol::Http,
        extensions: Extensions::Empty,
    },
    Scenario {
        protocol: Protocol::Grpc,
        extensions: Extensions::Host,
    },
    Scenario {
        protocol: Protocol::Grpc,
        extensions: Extensions::Context,
    },
];

const SPARE_HEADERS: usize = 8;

/// A request to clone from; each thread has its own, so that the clones share no count.
#[derive(Debug)]
pub(crate) struct Template {
    head: request::Parts,
    body: RequestBody,
}

// ===== impl Scenario =====

impl Scenario {
    pub(crate) fn name(self) -> &'static str {
        match (self.protocol, self.extensions) {
            (Protocol::Http, Extensions::Empty) => "http-empty",
            (Protocol::Http, Extensions::Host) => "http",
            (Protocol::Http, Extensions::Context) => "http-context",
            (Protocol::Grpc, Extensions::Empty) => "grpc-empty",
            (Protocol::Grpc, Extensions::Host) => "grpc",
            (Protocol::Grpc, Extensions::Context) => "grpc-context",
        }
    }
}

// ===== impl Template =====

impl Template {
    pub(crate) fn new(scenario: Scenario) -> Self {
        let (mut head, body) = match scenario.protocol {
            Protocol::Http => http_request(),
            Protocol::Grpc => grpc_request(),
        };
        if scenario.extensions != Extensions::Empty {
            let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000));
            head.extensions.insert(ConnectInfo(peer));
            if scenario.protocol == Protocol::Http {
                head.extensions.insert(matched_path());
            }
        }
        if scenario.extensions == Extensions::Context {
            ours::insert_context(&mut head.extensions);
        }
        Self { head, body }
    }

    pub(crate) fn request(&self) -> Request<RequestBody> {
        let mut head = self.head.clone();
        // A clone is cut to size. A request from hyper or from a builder has room for more headers; asking for less
        // than the next size of the map would not make any.
        head.headers.reserve(SPARE_HEADERS);
        Request::from_parts(head, self.body.clone())
    }
}

fn http_request() -> (request::Parts, RequestBody) {
    Request::builder()
        .method(Method::GET)
        .uri("/orders/42")
        .header(header::HOST, "shop.example")
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, "bench")
        .body(Full::default())
        .expect("a valid request")
        .into_parts()
}

fn grpc_request() -> (request::Parts, RequestBody) {
    Request::builder()
        .method(Method::POST)
        .uri("http://shop.example/shop.v1.Orders/Get")
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "bench")
        .body(Full::new(Bytes::from_static(b"\0\0\0\0\x02\x08\x2a")))
        .expect("a valid request")
        .into_parts()
}

/// axum's matched path has no constructor: a router makes one.
fn matched_path() -> MatchedPath {
    async fn echo(path: MatchedPath) -> Extension<MatchedPath> {
        Extension(path)
    }
    let router = Router::new().route("/orders/{id}", get(echo));
    let request = Request::get("/orders/42")
        .body(axum::body::Body::empty())
        .expect("valid");
    let response = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
        .block_on(router.oneshot(request))
        .unwrap_or_else(|never| match never {});
    response
        .extensions()
        .get::<MatchedPath>()
        .expect("the route matched")
        .clone()
}
