use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, future::join_all};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use tokio::time::{advance, sleep};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{
    BoxError, CallContext, Counter, Key, Live, Pushback, Reason, Rejection, RequestMatch,
    context::{AuthMethod, Identity},
    grpc::Code,
    test_util::{Answer, Gate, Probe, ProbeError, ProbeHandle, TestBody, grpc},
};

mod answers;
mod calls;

type Boxed = UnsyncBoxBody<Bytes, BoxError>;

/// What a caller gets, read to its end.
#[derive(Debug)]
struct Got {
    status: StatusCode,
    headers: HeaderMap,
    rejection: Option<Rejection>,
    body: Result<Bytes, BoxError>,
    trailers: Option<HeaderMap>,
}

impl Got {
    fn is_replay(&self) -> bool {
        self.headers.contains_key("idempotency-replayed")
    }

    fn reason(&self) -> Option<Reason> {
        self.rejection.as_ref().map(Rejection::reason)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(self.body.as_ref().unwrap()).unwrap()
    }
}

async fn read<B>(response: Response<B>) -> Got
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    let (head, body) = response.into_parts();
    let collected = body.collect().await;
    let trailers = match &collected {
        Ok(collected) => collected.trailers().cloned(),
        Err(_) => None,
    };
    Got {
        status: head.status,
        headers: head.headers,
        rejection: head.extensions.get().cloned(),
        body: collected.map(|collected| collected.to_bytes()),
        trailers,
    }
}

fn post(key: &str, body: &'static str) -> Request<Full<Bytes>> {
    let request = Request::post("/orders").header("idempotency-key", key);
    request.body(Full::from(body)).unwrap()
}

/// A call over a service of its own, as axum makes one per connection.
async fn call<B>(layer: &IdempotencyLayer, probe: &Probe, request: Request<B>) -> Got
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let request: Request<Boxed> = request.map(|body| body.map_err(Into::into).boxed_unsync());
    let service = layer.layer(probe.clone());
    let response = service.oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    read(Response::from_parts(head, body.map_err(Into::into))).await
}

/// Answers that can be told apart.
fn numbered() -> (Probe, ProbeHandle) {
    Probe::answering(|call, _| Answer::ok().body(TestBody::full(format!("answer {call}"))))
}

fn waiting(layer: IdempotencyBuilder) -> IdempotencyLayer {
    layer.wait(Duration::from_secs(10)).build().unwrap()
}
