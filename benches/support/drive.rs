//! One call through a service, as its host makes it: clone, ready, call, drain the body.

use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use http::{Request, Response, StatusCode};
use http_body::Body;
use tower::Service;

use super::traffic::{RequestBody, Template};

/// A service whose type was erased around the loop, not around the call.
pub(crate) trait Ops: Send {
    /// Makes `ops` calls one after another.
    ///
    /// # Panics
    ///
    /// If a call was not answered by the origin: refusals are cheap and would flatter the layer.
    fn run(&self, template: &Template, ops: u32);

    /// The same service for another thread; what the layers share stays shared.
    fn fork(&self) -> Box<dyn Ops>;
}

/// A call that hangs is an error, not a bench that never ends; many, since a lock's holder may be off its core.
const MOST_POLLS: u32 = 100_000_000;

#[derive(Debug)]
struct Driven<S>(S);

/// Erases a service.
pub(crate) fn drive<S, B>(service: S) -> Box<dyn Ops>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Debug,
    B: Body<Data = Bytes> + 'static,
    B::Error: Debug,
{
    Box::new(Driven(service))
}

// ===== impl Driven =====

impl<S, B> Ops for Driven<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Debug,
    B: Body<Data = Bytes> + 'static,
    B::Error: Debug,
{
    fn run(&self, template: &Template, ops: u32) {
        for _ in 0..ops {
            let (status, bytes) = measured_op(&self.0, template.request());
            assert!(
                status == StatusCode::OK && bytes > 0,
                "answered {status} with {bytes} bytes"
            );
        }
    }

    fn fork(&self) -> Box<dyn Ops> {
        drive(self.0.clone())
    }
}

/// The part that is counted: callgrind collects only inside functions of this name.
///
/// The caller never sleeps: a pending call is polled again at once.
#[inline(never)]
fn measured_op<S, B>(service: &S, request: Request<RequestBody>) -> (StatusCode, usize)
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone,
    S::Error: Debug,
    B: Body<Data = Bytes>,
    B::Error: Debug,
{
    let mut cx = Context::from_waker(Waker::noop());
    let mut service = service.clone();
    let mut polls = 0..MOST_POLLS;
    while service
        .poll_ready(&mut cx)
        .map(|ready| ready.expect("ready"))
        .is_pending()
    {
        polls.next().expect("a service gets ready");
    }
    let response = {
        let mut call = pin!(service.call(request));
        loop {
            if let Poll::Ready(response) = call.as_mut().poll(&mut cx) {
                break response.expect("an answer");
            }
            polls.next().expect("a call is answered");
        }
    };
    let status = response.status();
    let mut body = pin!(response.into_body());
    let mut bytes = 0;
    // As hyper does: a body that says it is at its end is not polled again.
    while !body.is_end_stream() {
        match body.as_mut().poll_frame(&mut cx) {
            Poll::Ready(Some(frame)) => {
                bytes += frame
                    .expect("a frame")
                    .data_ref()
                    .map_or(0, |data| data.remaining());
            }
            Poll::Ready(None) => break,
            Poll::Pending => polls.next().map(drop).expect("a body ends"),
        }
    }
    (status, bytes)
}
