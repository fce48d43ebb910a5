//! A lane: what carries one request at a time to its response.
//!
//! An HTTP/1 connection is one lane. An HTTP/2 connection has as many lanes as it may have streams.
//! The pool hands out lanes and takes them back without minding which of the two they are.
//!
//! The future that hyper returns for a sent request has no name, so it could not be part of a named
//! future without a box for every request. A lane is that box, and it is used again: it is
//! allocated once per connection (or stream slot), and each request only resets what is inside.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::{super::Body, handover::Handover};

/// A lane unused for longer is looked at before it is used again. Servers close connections that were
/// idle for seconds; a lane in steady use is taken again within a few milliseconds and pays nothing.
const QUIET: Duration = Duration::from_millis(5);

/// What a request came to: an answer, or an error that hands back a request that was not sent.
pub(super) type Exchanged = Result<Response<Incoming>, TrySendError<Request<Body>>>;

/// Which HTTP a lane speaks, which decides how a request's head must look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    Http1,
    Http2,
}

/// One request at a time. See the [module](self).
pub(super) struct Lane {
    /// Only ever reached through `get_mut`: the mutex makes the lane `Sync`, which the services that
    /// hold it must be, although hyper's future is not.
    exchange: Mutex<Pin<Box<dyn Exchange>>>,
    /// The HTTP/2 connection that this is a lane of; an HTTP/1 connection needs no name.
    connection: Option<u64>,
    /// The reaper's round in which the lane was last put back: see the pool.
    pub(super) epoch: u32,
    /// When it was last taken.
    used: Instant,
}

// ===== impl Lane =====

impl Lane {
    /// The one lane of an HTTP/1 connection.
    pub(super) fn http1(sender: http1::SendRequest<Body>, handover: Arc<Handover>) -> Self {
        let exchange = line(sender, handover, http1::SendRequest::try_send_request);
        Self {
            exchange,
            connection: None,
            epoch: 0,
            used: Instant::now(),
        }
    }

    /// One more lane of the HTTP/2 connection `connection`.
    pub(super) fn http2(
        sender: http2::SendRequest<Body>,
        handover: Arc<Handover>,
        connection: u64,
    ) -> Self {
        let exchange = line(sender, handover, http2::SendRequest::try_send_request);
        Self {
            exchange,
            connection: Some(connection),
            epoch: 0,
            used: Instant::now(),
        }
    }

    pub(super) fn speaks(&self) -> Speaks {
        if self.connection.is_some() {
            Speaks::Http2
        } else {
            Speaks::Http1
        }
    }

    pub(super) fn connection(&self) -> Option<u64> {
        self.connection
    }

    /// Whether a request can be sent at once.
    pub(super) fn is_ready(&mut self) -> bool {
        self.exchange.get_mut().is_ready()
    }

    /// Notes that the lane is taken at `now`, and says whether it was left alone before for so long
    /// that the peer may have closed the connection meanwhile.
    pub(super) fn was_quiet(&mut self, now: Instant) -> bool {
        let used = std::mem::replace(&mut self.used, now);
        now.saturating_duration_since(used) >= QUIET
    }

    /// Whether the connection is gone.
    pub(super) fn is_closed(&mut self) -> bool {
        self.exchange.get_mut().is_closed()
    }

    /// Waits until a request can be sent; `false` when the connection is gone instead.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.exchange.get_mut().as_mut().poll_ready(cx)
    }

    pub(super) fn send(&mut self, request: Request<Body>) {
        self.exchange.get_mut().as_mut().send(request);
    }

    pub(super) fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Exchanged> {
        self.exchange.get_mut().as_mut().poll_response(cx)
    }

    /// Gives up the request that is on its way: an HTTP/2 stream is reset, an HTTP/1 connection
    /// closes.
    pub(super) fn cancel(&mut self) {
        self.exchange.get_mut().as_mut().cancel();
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("connection", &self.connection)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

trait Exchange: Send {
    fn is_ready(&self) -> bool;
    fn is_closed(&self) -> bool;
    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool>;
    fn send(self: Pin<&mut Self>, request: Request<Body>);
    fn poll_response(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Exchanged>;
    fn cancel(self: Pin<&mut Self>);
}

/// What the two `SendRequest` types of hyper have in common.
trait Sender: Send + 'static {
    fn is_ready(&self) -> bool;
    fn is_closed(&self) -> bool;
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>>;
}

macro_rules! impl_sender {
    ($($sender:ty),*) => {$(
        impl Sender for $sender {
            fn is_ready(&self) -> bool {
                self.is_ready()
            }

            fn is_closed(&self) -> bool {
                self.is_closed()
            }

            fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
                self.poll_ready(cx)
            }
        }
    )*};
}

impl_sender!(http1::SendRequest<Body>, http2::SendRequest<Body>);

pin_project! {
    struct Line<T, M, F> {
        sender: T,
        handover: Arc<Handover>,
        send: M,
        #[pin]
        response: Option<F>,
    }
}

/// Boxes a sender together with room for the future that `send` returns.
fn line<T, M, F>(sender: T, handover: Arc<Handover>, send: M) -> Mutex<Pin<Box<dyn Exchange>>>
where
    T: Sender,
    M: FnMut(&mut T, Request<Body>) -> F + Send + 'static,
    F: Future<Output = Exchanged> + Send + 'static,
{
    Mutex::new(Box::pin(Line {
        sender,
        handover,
        send,
        response: None,
    }))
}

impl<T, M, F> Exchange for Line<T, M, F>
where
    T: Sender,
    M: FnMut(&mut T, Request<Body>) -> F + Send,
    F: Future<Output = Exchanged> + Send,
{
    fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        self.project()
            .sender
            .poll_ready(cx)
            .map(|ready| ready.is_ok())
    }

    fn send(self: Pin<&mut Self>, request: Request<Body>) {
        let mut this = self.project();
        let response = this.handover.send(|| (this.send)(this.sender, request));
        this.response.set(Some(response));
    }

    fn poll_response(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Exchanged> {
        let mut this = self.project();
        let response = this
            .response
            .as_mut()
            .as_pin_mut()
            .expect("a request was sent");
        let exchanged = ready!(response.poll(cx));
        this.response.set(None);
        Poll::Ready(exchanged)
    }

    fn cancel(self: Pin<&mut Self>) {
        self.project().response.set(None);
    }
}
