//! The response body: handed on, or cut off at the deadline.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::{ResponseBody, layer::Handle, limit};
use crate::vocab::{
    classify::CallKind,
    context::{Ambient, Covers},
    transport::{BoxError, TransportError},
    wheel::WheelTimer,
};

pin_project! {
    /// A response body that ends at the deadline of its call.
    ///
    /// At the deadline the inner body is dropped. A gRPC body then gives trailers with
    /// DEADLINE_EXCEEDED, any other an error: a body that just ended would look complete.
    #[derive(Debug)]
    pub struct DeadlineBody<B> {
        #[pin]
        state: State<B>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<B> {
        /// The deadline covered the head.
        Passing { #[pin] inner: B },
        Watched { #[pin] inner: Option<B>, watch: Watch },
    }
}

/// What a deadline means to the body of its call.
#[derive(Debug)]
pub(super) struct Watch {
    timer: Option<WheelTimer<Handle>>,
    ambient: Option<Ambient>,
    rest: Option<Box<Rest>>,
    is_grpc: bool,
    started: bool,
}

/// The limits of a body that has its own.
#[derive(Debug)]
pub(super) struct Rest {
    /// Of the body as a whole.
    deadline: Option<Instant>,
    /// How long a reader may wait for a frame.
    idle: Option<Duration>,
    is_waiting: bool,
}

// ===== impl Watch =====

impl Watch {
    /// Takes over from the future at the response head; `None` where the body passes as it is.
    #[inline]
    pub(super) fn from_head<B: Body>(
        response: &Response<B>,
        call: CallKind,
        timer: &mut Option<WheelTimer<Handle>>,
        ambient: &mut Option<Ambient>,
        covers: Covers,
    ) -> Option<Self> {
        let (timer, ambient) = match covers {
            Covers::Head => {
                // In place: the future is about to be dropped, and to move the timer costs more.
                timer.as_mut()?.cancel();
                // Calls that are made while the body streams have all the time that it has.
                let ambient = ambient.as_mut()?;
                ambient.clear_deadline();
                if ambient.is_empty() {
                    return None;
                }
                (None, Some(ambient.clone()))
            }
            Covers::Call => (timer.take(), ambient.take()),
        };
        // Nobody will poll these, and a timer would wake a task for nothing.
        if call.head || response.body().is_end_stream() {
            return None;
        }
        Some(Self {
            timer,
            ambient,
            rest: None,
            is_grpc: call.is_grpc(),
            started: false,
        })
    }

    /// The same where the body has limits of its own.
    #[cold]
    pub(super) fn with_rest<B: Body>(
        response: &Response<B>,
        call: CallKind,
        timer: &mut Option<WheelTimer<Handle>>,
        ambient: &mut Option<Ambient>,
        rest: Box<Rest>,
    ) -> Option<Self> {
        let mut timer = timer.take()?;
        timer.reset(rest.deadline);
        let mut ambient = ambient.take();
        if rest.deadline.is_none() {
            ambient.as_mut().map(Ambient::clear_deadline);
        }
        if call.head || response.body().is_end_stream() {
            return None;
        }
        let ambient = ambient.filter(|ambient| !ambient.is_empty());
        if rest.deadline.is_none() && rest.idle.is_none() && ambient.is_none() {
            return None;
        }
        Some(Self {
            timer: Some(timer),
            ambient,
            rest: Some(rest),
            is_grpc: call.is_grpc(),
            started: false,
        })
    }

    /// Whether the time is up, after the inner body was polled with this result.
    fn poll_expired<E>(
        &mut self,
        polled: &Poll<Option<Result<Frame<Bytes>, E>>>,
        cx: &Context<'_>,
    ) -> bool {
        let Some(timer) = &mut self.timer else {
            return false;
        };
        if let Some(rest) = &mut self.rest {
            rest.polled(polled.is_pending(), timer);
        }
        let Poll::Ready(frame) = polled else {
            return timer.poll_expired(cx).is_ready();
        };
        if !matches!(frame, Some(Ok(frame)) if frame.is_data()) {
            self.timer = None;
            return false;
        }
        // A body that always has data never gets to the timer. The first frame goes free: most
        // bodies have one, and the clock would cost more than the rest of this.
        mem::replace(&mut self.started, true)
            && timer
                .deadline()
                .is_some_and(|deadline| Instant::now() > deadline)
    }

    /// Ends the body in its protocol's way.
    #[cold]
    fn cut_off(&mut self) -> Result<Frame<Bytes>, BoxError> {
        let mut is_idle = false;
        if let Some(timer) = self.timer.take() {
            let rest = self.rest.as_ref();
            is_idle = rest.is_some_and(|rest| timer.deadline() != rest.deadline);
            let stats = &timer.owner().stats;
            let count = if is_idle { &stats.idle } else { &stats.in_body };
            count.add(1);
        }
        if !self.is_grpc {
            return Err(TransportError::timeout().into());
        }
        let mut trailers = HeaderMap::new();
        limit::cut_off(is_idle).write_grpc_status(&mut trailers);
        Ok(Frame::trailers(trailers))
    }
}

// ===== impl Rest =====

impl Rest {
    pub(super) fn new(deadline: Option<Instant>, idle: Option<Duration>) -> Self {
        Self {
            deadline,
            idle,
            is_waiting: false,
        }
    }

    /// The body was polled: a wait begins, goes on, or is over.
    #[cold]
    fn polled(&mut self, is_pending: bool, timer: &mut WheelTimer<Handle>) {
        let Some(idle) = self.idle.filter(|_| is_pending != self.is_waiting) else {
            return;
        };
        self.is_waiting = is_pending;
        let own = is_pending.then(|| Instant::now() + idle);
        timer.reset([own, self.deadline].into_iter().flatten().min());
    }
}

// ===== impl DeadlineBody =====

impl<B> DeadlineBody<B> {
    /// A body that passes as it is where there is nothing to watch.
    #[inline]
    pub(super) fn new(inner: B, watch: Option<Watch>) -> ResponseBody<B> {
        let state = match watch {
            None => State::Passing { inner },
            Some(watch) => State::Watched {
                inner: Some(inner),
                watch,
            },
        };
        ResponseBody::Inner {
            body: Self { state },
        }
    }

    fn get(&self) -> Option<&B> {
        match &self.state {
            State::Passing { inner } => Some(inner),
            State::Watched { inner, .. } => inner.as_ref(),
        }
    }
}

impl<B> Body for DeadlineBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let (mut inner, watch) = match self.project().state.project() {
            StateProj::Passing { inner } => return inner.poll_frame(cx).map_err(Into::into),
            StateProj::Watched { inner, watch } => (inner, watch),
        };
        let Some(body) = inner.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        let entered = watch.ambient.as_mut().map(Ambient::entered);
        let polled = body.poll_frame(cx);
        drop(entered);
        if watch.poll_expired(&polled, cx) {
            // Before the caller gets to it: what is below stops working at once.
            inner.set(None);
            return Poll::Ready(Some(watch.cut_off()));
        }
        polled.map_err(Into::into)
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.get().is_none_or(Body::is_end_stream)
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        let hint = self.get().map(Body::size_hint);
        hint.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}
