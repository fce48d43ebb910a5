//! The response that is still to come.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use tower_mesh_layers::transport::TransportError;

use super::{
    super::Body,
    error,
    lane::{Lane, Speaks},
    pool::{Pool, Reservation},
    response::IncomingBody,
};

/// How often a request that was handed back unsent is tried on another connection. Each time, an old
/// connection has turned out to be closed, or a new one was closed before it took a request; a peer
/// that keeps doing that is broken.
const MAX_RESENDS: u8 = 8;

/// The future of [`HttpEndpoint`](super::HttpEndpoint).
///
/// Dropping it cancels the request: an HTTP/2 stream is reset, an HTTP/1 connection is closed.
pub struct ResponseFuture {
    pool: Arc<Pool>,
    state: State,
    resends: u8,
}

enum State {
    Sent(Lane),
    /// The request came back unsent and waits for another lane. Rare, so it is boxed to keep the
    /// future small.
    Unsent(Box<Unsent>),
    Done,
}

struct Unsent {
    request: Request<Body>,
    reservation: Reservation,
}

// ===== impl ResponseFuture =====

impl ResponseFuture {
    pub(super) fn new(pool: Arc<Pool>, mut lane: Lane, mut request: Request<Body>) -> Self {
        pool.target().prepare(&mut request, lane.speaks());
        lane.send(request);
        Self {
            pool,
            state: State::Sent(lane),
            resends: 0,
        }
    }

    /// The answer has come; the lane goes with its body, or back if there is none.
    fn answer(&self, lane: Lane, response: Response<Incoming>) -> Response<IncomingBody> {
        let (head, body) = response.into_parts();
        let upgraded = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let body = if upgraded && lane.speaks() == Speaks::Http1 {
            drop(lane); // the connection is no longer HTTP
            IncomingBody::complete(body)
        } else if body.is_end_stream() {
            self.pool.put(lane);
            IncomingBody::complete(body)
        } else {
            IncomingBody::streaming(body, lane, self.pool.clone())
        };
        Response::from_parts(head, body)
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<IncomingBody>, TransportError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Sent(lane) => {
                    let exchanged = ready!(lane.poll_response(cx));
                    let State::Sent(lane) = std::mem::replace(&mut this.state, State::Done) else {
                        unreachable!("matched above");
                    };
                    let mut failed = match exchanged {
                        Ok(response) => return Poll::Ready(Ok(this.answer(lane, response))),
                        Err(failed) => failed,
                    };
                    let request = failed.take_message();
                    this.pool.put(lane);
                    match request {
                        Some(request) if this.resends < MAX_RESENDS => {
                            this.resends += 1;
                            let reservation = Reservation::default();
                            this.state = State::Unsent(Box::new(Unsent {
                                request,
                                reservation,
                            }));
                        }
                        request => {
                            let unsent = request.is_some();
                            return Poll::Ready(Err(error::of_call(failed.into_error(), unsent)));
                        }
                    }
                }
                State::Unsent(unsent) => {
                    ready!(unsent.reservation.poll_hold(&this.pool, cx))?;
                    let State::Unsent(unsent) = std::mem::replace(&mut this.state, State::Done)
                    else {
                        unreachable!("matched above");
                    };
                    let Unsent {
                        mut request,
                        mut reservation,
                    } = *unsent;
                    let Some(mut lane) = reservation.take() else {
                        unreachable!("held after poll_hold");
                    };
                    this.pool.target().prepare(&mut request, lane.speaks());
                    lane.send(request);
                    this.state = State::Sent(lane);
                }
                State::Done => panic!("polled after it was ready"),
            }
        }
    }
}

impl Drop for ResponseFuture {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Sent(mut lane) => {
                lane.cancel();
                match lane.speaks() {
                    // It carries half an exchange.
                    Speaks::Http1 => self.pool.forget(lane),
                    Speaks::Http2 => self.pool.put(lane),
                }
            }
            State::Unsent(mut unsent) => unsent.reservation.release(&self.pool),
            State::Done => {}
        }
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
