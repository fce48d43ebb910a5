//! The bare service under every layer: pending once, as I/O is, then one data frame (gRPC: and trailers).
//!
//! It holds nothing shared that is written to, so that its two-thread scaling is the control of the harness.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header, response};
use http_body::{Body, Frame, SizeHint};
use tower::Service;

use super::traffic::{Protocol, RequestBody};

const DOCUMENT: &[u8] = br#"{"id":42,"state":"shipped","lines":3}"#;
const MESSAGE: &[u8] = b"\0\0\0\0\x05\x08\x2a\x10\x02\x18";

/// What the service answers; leaked, because a shared count would be the very cost that the scaling test looks for.
#[derive(Debug)]
struct Answer {
    head: response::Parts,
    data: Bytes,
    trailers: Option<HeaderMap>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    answer: &'static Answer,
}

#[derive(Debug)]
pub(crate) struct OriginFuture {
    answer: &'static Answer,
    polled: bool,
}

#[derive(Debug)]
pub(crate) struct OriginBody {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

// ===== impl Origin =====

impl Origin {
    pub(crate) fn new(protocol: Protocol) -> Self {
        let (kind, data) = match protocol {
            Protocol::Http => ("application/json", DOCUMENT),
            Protocol::Grpc => ("application/grpc", MESSAGE),
        };
        let mut head = Response::new(()).into_parts().0;
        head.headers
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        let mut trailers = None;
        match protocol {
            Protocol::Http => {
                head.headers
                    .insert(header::CONTENT_LENGTH, HeaderValue::from(data.len()));
            }
            Protocol::Grpc => {
                let status = (
                    "grpc-status".parse().unwrap(),
                    HeaderValue::from_static("0"),
                );
                trailers = Some(HeaderMap::from_iter([status]));
            }
        }
        let data = Bytes::from_static(data);
        Self {
            answer: Box::leak(Box::new(Answer {
                head,
                data,
                trailers,
            })),
        }
    }
}

impl Service<Request<RequestBody>> for Origin {
    type Response = Response<OriginBody>;
    type Error = Infallible;
    type Future = OriginFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<RequestBody>) -> OriginFuture {
        OriginFuture {
            answer: self.answer,
            polled: false,
        }
    }
}

// ===== impl OriginFuture =====

impl Future for OriginFuture {
    type Output = Result<Response<OriginBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.polled {
            self.polled = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Answer {
            head,
            data,
            trailers,
        } = self.answer;
        let body = OriginBody {
            data: Some(data.clone()),
            trailers: trailers.clone(),
        };
        Poll::Ready(Ok(Response::from_parts(head.clone(), body)))
    }
}

// ===== impl OriginBody =====

impl Body for OriginBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(data) = self.data.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        Poll::Ready(
            self.trailers
                .take()
                .map(|trailers| Ok(Frame::trailers(trailers))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
}
