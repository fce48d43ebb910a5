//! A request that is read before the call is made.

use std::{
    hash::Hasher,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, request};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::digest::Digest;
use crate::vocab::body::{Again, Replay, ReplayLimits};

/// A call whose request is read before it is made.
///
/// The future of the layer holds it as a `dyn`, as queues hold their calls ([`Later`](crate::vocab::later) says why).
pub(super) trait Read<F> {
    /// Reads to the end, and gives the fingerprint of the request.
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<u128, Unreadable>>;

    /// Makes the call, once, after that.
    fn call(self: Pin<&mut Self>) -> F;
}

/// Why a request could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    TooLarge,
    BrokeOff,
}

pin_project! {
    pub(super) struct Reading<S, B>
    where
        B: Replay,
    {
        // Was polled ready.
        service: S,
        head: Option<request::Parts>,
        // `None` where there is nothing to read, or no more.
        #[pin]
        body: Option<B>,
        saved: Option<B::Saved>,
        // What the service gets.
        again: Option<B>,
        digest: Digest,
        left: u64,
    }
}

// ===== impl Reading =====

impl<S, B: Replay> Reading<S, B> {
    /// `digest` has what tells requests apart besides their bodies.
    pub(super) fn new(
        service: S,
        request: Request<B>,
        digest: Digest,
        most: u64,
        limits: &ReplayLimits,
    ) -> Self {
        let (head, body) = request.into_parts();
        let mut reading = Self {
            service,
            head: Some(head),
            body: None,
            saved: None,
            again: None,
            digest,
            left: most,
        };
        if body.is_end_stream() {
            reading.again = Some(body);
        } else {
            let (body, saved) = body.save(limits);
            reading.body = Some(body);
            reading.saved = Some(saved);
        }
        reading
    }
}

impl<S, B> Read<S::Future> for Reading<S, B>
where
    S: Service<Request<B>>,
    B: Replay,
{
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<u128, Unreadable>> {
        let mut this = self.project();
        while let Some(body) = this.body.as_mut().as_pin_mut() {
            let is_over = body.is_end_stream();
            let frame = match is_over {
                true => None,
                false => ready!(body.poll_frame(cx)),
            };
            match frame {
                Some(Ok(frame)) => {
                    let data = frame.data_ref().map_or(&[][..], Bytes::as_ref);
                    let Some(left) = this.left.checked_sub(data.len() as u64) else {
                        return Poll::Ready(Err(Unreadable::TooLarge));
                    };
                    *this.left = left;
                    this.digest.write(data);
                }
                Some(Err(_)) => return Poll::Ready(Err(Unreadable::BrokeOff)),
                None => {
                    // NOTE: before the next line, since it gives back what was read as it is dropped.
                    this.body.set(None);
                    match this.saved.take().as_ref().map(B::again) {
                        Some(Again::Body(again)) => *this.again = Some(again),
                        _ => return Poll::Ready(Err(Unreadable::TooLarge)),
                    }
                }
            }
        }
        Poll::Ready(Ok(this.digest.to_u128()))
    }

    fn call(self: Pin<&mut Self>) -> S::Future {
        let this = self.project();
        let (head, body) = this
            .head
            .take()
            .zip(this.again.take())
            .expect("a call is made once");
        this.service.call(Request::from_parts(head, body))
    }
}
