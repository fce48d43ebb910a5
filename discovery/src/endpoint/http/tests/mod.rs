//! Over real sockets on the loopback.

mod grpc;
mod http1;
mod http2;
mod server;
mod stress;
mod tls;

use std::{future::poll_fn, pin::Pin, task::Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use tower_mesh_layers::transport::TransportError;
use tower_service::Service;

use super::{HttpEndpoint, HttpEndpointConfig, HttpEndpoints, IncomingBody};
use crate::{
    endpoint::{Body, MakeEndpoint},
    instance::{EndpointUrl, Instance},
};

fn endpoint(url: &str) -> HttpEndpoint {
    endpoint_with(HttpEndpointConfig::default(), url)
}

fn endpoint_with(config: HttpEndpointConfig, url: &str) -> HttpEndpoint {
    made_by(&HttpEndpoints::new(config).unwrap(), url)
}

fn made_by(endpoints: &HttpEndpoints, url: &str) -> HttpEndpoint {
    let url: EndpointUrl = url.parse().unwrap();
    endpoints
        .make_endpoint(&Instance::at("test", url.clone()), &url)
        .unwrap()
}

async fn ready(endpoint: &mut HttpEndpoint) -> Result<(), TransportError> {
    poll_fn(|cx| endpoint.poll_ready(cx)).await
}

/// One call on a clone, as the balancer makes it.
async fn call(
    endpoint: &HttpEndpoint,
    request: Request<Body>,
) -> Result<Response<IncomingBody>, TransportError> {
    let mut endpoint = endpoint.clone();
    ready(&mut endpoint).await?;
    endpoint.call(request).await
}

fn get(uri: &str) -> Request<Body> {
    Request::get(uri).body(Body::empty()).unwrap()
}

fn post(uri: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(uri).body(body.into()).unwrap()
}

/// A call whose whole answer is read.
async fn fetch(endpoint: &HttpEndpoint, request: Request<Body>) -> Result<Bytes, TransportError> {
    Ok(call(endpoint, request)
        .await?
        .into_body()
        .collect()
        .await?
        .to_bytes())
}

/// Polls just once.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}
