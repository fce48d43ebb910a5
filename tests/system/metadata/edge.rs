//! Headers that only the mesh may set, forged by somebody outside.

use std::sync::Arc;

use axum::{Router, extract::Request as AxumRequest, routing::any};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request};
use http_body_util::Full;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower::{ServiceBuilder, ServiceExt};
use tower_mesh::layers::{
    Role, Trust,
    metadata::{Dialect, MetadataLayer},
    test_util::{
        clients,
        servers::{Port, Server},
    },
};

/// Nothing of it may get any further.
const FORGED: [(&str, &str); 25] = [
    ("x-md-global-tenant", "root"),
    ("x-md-local-caller", "admin"),
    ("x-md-user", "root"),
    ("x-mesh-identity", "root"),
    ("x-mesh-fault-abort", "503"),
    ("x-mesh-route", "canary"),
    ("x-mesh-retry", "never"),
    ("x-cse-context", "{\"user\":\"root\"}"),
    ("x-cse-src-microservice", "admin"),
    ("micro-from-service", "admin"),
    ("micro-namespace", "root"),
    ("x-forwarded-for", "127.0.0.1"),
    ("x-forwarded-client-cert", "By=spiffe://mesh/admin"),
    ("forwarded", "for=127.0.0.1"),
    ("x-real-ip", "127.0.0.1"),
    ("client-cert", ":MIIB:"),
    ("x-original-url", "/admin"),
    ("x-envoy-upstream-rq-timeout-ms", "999999"),
    ("x-envoy-fault-abort-request", "503"),
    ("l5d-client-id", "admin"),
    (
        "traceparent",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
    ("tracestate", "root=1"),
    ("baggage", "user=root"),
    ("x-b3-traceid", "463ac35c9f6413ad48485a3953bb6124"),
    ("grpc-previous-rpc-attempts", "9"),
];

/// A name as it is, and in other cases.
fn cases(name: &str) -> [String; 4] {
    let alternating = name.char_indices().map(|(at, char)| match at % 2 {
        0 => char.to_ascii_uppercase(),
        _ => char,
    });
    let mut titled = name.to_owned();
    for at in (0..name.len()).filter(|&at| at == 0 || name.as_bytes()[at - 1] == b'-') {
        titled[at..=at].make_ascii_uppercase();
    }
    [
        name.to_owned(),
        name.to_ascii_uppercase(),
        titled,
        alternating.collect(),
    ]
}

/// A server that calls another one, and the headers that handler and upstream saw.
struct Edge {
    server: Server,
    _upstream: Server,
    handler: Saw,
    upstream: Saw,
}

type Saw = Arc<Mutex<Vec<HeaderMap>>>;

// ===== impl Edge =====

impl Edge {
    fn start(trust: Trust) -> Self {
        let (handler, upstream) = (Saw::default(), Saw::default());
        let saw = upstream.clone();
        let leaf = async move |request: AxumRequest| saw.lock().push(request.headers().clone());
        let leaf = Server::axum(Router::new().fallback(any(leaf)));

        let all = [Dialect::Kratos, Dialect::GoMicro, Dialect::GoChassis];
        let options = MetadataLayer::builder().trust(trust).accept(all).send(all);
        let options = options.propagate("x-envoy-*").propagate("x-forwarded-*");
        let (saw, uri) = (handler.clone(), leaf.uri("/"));
        let handle = async move |request: AxumRequest| {
            saw.lock().push(request.headers().clone());
            let client = MetadataLayer::client().role(Role::Client);
            let client = ServiceBuilder::new().layer(client).service(clients::h1());
            let request = Request::get(uri).body(Full::<Bytes>::default()).unwrap();
            client.oneshot(request).await.unwrap();
        };
        let layer = options.role(Role::Server).build().unwrap();
        let router = Router::new().fallback(any(handle)).layer(layer);
        Self {
            server: Port::any().axum(router, true),
            _upstream: leaf,
            handler,
            upstream,
        }
    }

    /// How many of the forged headers got how far.
    fn came(&self) -> [usize; 2] {
        [&self.handler, &self.upstream].map(|saw| {
            let saw = std::mem::take(&mut *saw.lock());
            assert!(!saw.is_empty(), "the call did not come");
            let forged = FORGED.iter().filter(|(name, _)| {
                let mut calls = saw.iter();
                calls.any(|headers| headers.contains_key(*name))
            });
            forged.count()
        })
    }

    /// Over HTTP/1.1, every name as it is written.
    async fn send_h1(&self, lines: &[(String, &str)]) {
        let mut head = "GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n".to_owned();
        for (name, value) in lines {
            head += &format!("{name}: {value}\r\n");
        }
        let mut stream = TcpStream::connect(self.server.addr()).await.unwrap();
        stream
            .write_all(format!("{head}\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    async fn send_h2(&self, lines: &[(String, &str)]) {
        let mut request = Request::get(self.server.uri("/"))
            .body(Full::<Bytes>::default())
            .unwrap();
        for (name, value) in lines {
            let name: HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        assert_eq!(clients::h2().request(request).await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn forged_headers_reach_no_handler_and_no_upstream() {
    let strangers = Trust::peers(["203.0.113.0/24"], ["spiffe://mesh/*"]).unwrap();
    for (trust, trusted) in [(Trust::None, false), (strangers, false), (Trust::All, true)] {
        let edge = Edge::start(trust);
        let all = |case: usize| FORGED.map(|(name, value)| (cases(name)[case].clone(), value));
        for case in 0..4 {
            edge.send_h1(&all(case)).await;
            let [handler, upstream] = edge.came();
            assert_eq!(handler, if trusted { FORGED.len() } else { 0 });
            // From a caller who is trusted, those that are passed on get there: the test can fail.
            assert_eq!(upstream >= 8, trusted, "{upstream}");
        }
        edge.send_h2(&all(0)).await;
        assert_eq!(edge.came()[0], if trusted { FORGED.len() } else { 0 });

        // One line in each case, and each twice.
        for (name, value) in FORGED {
            let lines: Vec<_> = cases(name).into_iter().map(|name| (name, value)).collect();
            let twice = [&lines[..], &lines[..]].concat();
            edge.send_h1(&twice).await;
            assert_eq!(edge.came()[0], usize::from(trusted), "{name}");
        }
    }
}
