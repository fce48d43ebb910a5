//! hyper clients for tests over real sockets.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Uri, uri};
use http_body::Body;
use hyper_util::{
    client::legacy::{Builder, Client, connect::HttpConnector},
    rt::TokioExecutor,
};

use super::BoxError;

/// A pooled HTTP/1.1 client. It does not send a request again by itself when a pooled connection
/// turns out to be dead, so that a test sees every failure.
pub fn h1<B>() -> Client<HttpConnector, B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    builder().build(connector())
}

/// The same for HTTP/2 with prior knowledge: one connection for each authority.
pub fn h2<B>() -> Client<HttpConnector, B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    builder().http2_only(true).build(connector())
}

/// Sends a request that has only a path to this server.
///
/// # Panics
///
/// Panics if the request's URI does not fit behind an authority.
pub fn send_to<B>(addr: SocketAddr, mut request: Request<B>) -> Request<B> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(uri::Scheme::HTTP);
    parts.authority = Some(
        addr.to_string()
            .parse()
            .expect("an address is an authority"),
    );
    *request.uri_mut() = Uri::from_parts(parts).expect("a path fits behind an authority");
    request
}

fn builder() -> Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder.retry_canceled_requests(false);
    builder
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector
}
