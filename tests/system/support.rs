//! What several of the tests use.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tower_mesh::{
    Mesh, client::ClientConfig, discovery::endpoint::http::HttpEndpointConfig,
    layers::test_util::clients,
};

/// How long the tests wait for what must come: on a machine that is busy with other things, the first
/// second of the defaults is too short for a handshake.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The body of requests.
pub(crate) type Body = Full<Bytes>;

/// One TCP connection: unlike a pooled client it never opens a second one.
pub(crate) enum Connection {
    H1(SocketAddr, http1::SendRequest<Body>),
    H2(SocketAddr, http2::SendRequest<Body>),
}

// ===== impl Connection =====

impl Connection {
    pub(crate) async fn h1(addr: SocketAddr) -> Self {
        let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
        let (sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        Self::H1(addr, sender)
    }

    pub(crate) async fn h2(addr: SocketAddr) -> Self {
        let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        Self::H2(addr, sender)
    }

    /// Sends a request that has only a path.
    pub(crate) async fn send(&mut self, request: Request<Body>) -> Response<Incoming> {
        match self {
            Self::H1(addr, sender) => {
                let mut request = clients::send_to(*addr, request);
                let host = addr.to_string().parse().unwrap();
                request.headers_mut().insert(http::header::HOST, host);
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            }
            Self::H2(addr, sender) => {
                sender.ready().await.unwrap();
                let request = clients::send_to(*addr, request);
                sender.send_request(request).await.unwrap()
            }
        }
    }

    /// A GET whose response is read to its end.
    pub(crate) async fn get(&mut self, path: &str) -> Response<Bytes> {
        let request = Request::get(path).body(Body::default()).unwrap();
        read(self.send(request).await).await
    }
}

/// Reads a response to its end.
pub(crate) async fn read<B>(response: Response<B>) -> Response<Bytes>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

/// A mesh with one registry, whose connections may take their time.
pub(crate) fn mesh(registry: impl Into<String>, mut config: ClientConfig) -> Mesh {
    config.balance.connect_timeout = PATIENCE;
    config.balance.wait_for_endpoints = PATIENCE;
    let connections = HttpEndpointConfig {
        connect_timeout: PATIENCE,
        ..HttpEndpointConfig::default()
    };
    Mesh::builder()
        .registry(registry)
        .client_defaults(config)
        .endpoints(connections)
        .build()
        .unwrap()
}

/// A tonic channel that connects with its first call.
pub(crate) fn channel(addr: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{addr}"))
        .unwrap()
        .connect_lazy()
}

/// Waits until something that happens in another task is so.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let came = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(came.is_ok(), "not within {PATIENCE:?}: {what}");
}
