//! The future: for calls without a key that of the inner service, and for those with one this course.
//!
//! ```text
//!   Reading ──► Claiming ──first──► Calling ──► Collecting ──► answer, and it is kept
//!                │  ▲  └──answered──► the same answer again
//!                ▼  │ the first call is over
//!               Waiting ──too long──► 409
//! ```

use std::{
    fmt,
    future::Future,
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response, response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::{
    sync::futures::OwnedNotified,
    time::{Sleep, sleep},
};

use super::{
    answer::{self, Answer},
    body::AnswerBody,
    claims::{Claim, Claimed},
    layer::{CallResult, Shared},
    read::{Read, Unreadable},
    refusal::Refusal,
    store::Bounds,
};
use crate::vocab::{
    classify::CallKind, config::ByteSize, metrics::Registered, rejection::Rejection,
    tracked::ResponseBody, transport::BoxError,
};

type Answered<B> = Response<ResponseBody<AnswerBody<B>>>;

pin_project! {
    /// The future of [`Idempotency`](super::Idempotency).
    pub struct ResponseFuture<F, B> {
        #[pin]
        state: State<F, B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, B> {
        Inner { #[pin] future: F },
        Keyed { keyed: Pin<Box<Keyed<F, B>>> },
        Rejected { rejection: Option<Box<(CallKind, Rejection)>> },
    }
}

/// What holds for a call with a key, from its beginning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) call: CallKind,
    /// The key, and whose it is.
    pub(super) id: u128,
    pub(super) bounds: Bounds,
    pub(super) max_request: ByteSize,
    pub(super) max_answer: usize,
    pub(super) wait: Option<Duration>,
}

pin_project! {
    /// A call with a key.
    pub(super) struct Keyed<F, B> {
        shared: Arc<Registered<Shared>>,
        terms: Terms,
        fingerprint: u128,
        // `None` once the call is made.
        request: Option<Pin<Box<dyn Read<F> + Send>>>,
        // Runs from the first time that another call was in flight.
        patience: Option<Pin<Box<Sleep>>>,
        #[pin]
        phase: Phase<F, B>,
    }
}

pin_project! {
    #[project = PhaseProj]
    enum Phase<F, B> {
        Reading,
        Claiming,
        Waiting { #[pin] first: OwnedNotified },
        Calling { #[pin] future: F, claim: Option<Claim> },
        Collecting { collecting: Option<Collecting<B>> },
    }
}

/// An answer as far as it is read.
struct Collecting<B> {
    claim: Claim,
    head: response::Parts,
    body: Pin<Box<B>>,
    data: BytesMut,
    trailers: Option<HeaderMap>,
    /// For how many more bytes there is room.
    room: usize,
}

/// How reading an answer ended.
enum End {
    Whole,
    /// More than there is room for; what was read includes the frame with which it became too much.
    TooLarge,
    Broken(BoxError),
}

// ===== impl ResponseFuture =====

impl<F, B> ResponseFuture<F, B> {
    #[inline]
    pub(super) fn inner(future: F) -> Self {
        Self {
            state: State::Inner { future },
        }
    }

    pub(super) fn keyed(keyed: Keyed<F, B>) -> Self {
        let keyed = Box::pin(keyed);
        Self {
            state: State::Keyed { keyed },
        }
    }

    pub(super) fn rejected(call: CallKind, rejection: Rejection) -> Self {
        let rejection = Some(Box::new((call, rejection)));
        Self {
            state: State::Rejected { rejection },
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Answered<B>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Inner { future } => future.poll(cx).map_ok(|response| {
                response.map(|body| ResponseBody::inner(AnswerBody::passing(body)))
            }),
            StateProj::Keyed { keyed } => keyed.as_mut().poll(cx),
            StateProj::Rejected { rejection } => {
                let rejected = rejection.take();
                let (call, rejection) =
                    *rejected.expect("a future must not be polled after it is ready");
                Poll::Ready(Ok(rejection.into_response(call)))
            }
        }
    }
}

impl<F, B> fmt::Debug for ResponseFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("has_key", &matches!(self.state, State::Keyed { .. }))
            .finish_non_exhaustive()
    }
}

// ===== impl Keyed =====

impl<F, B> Keyed<F, B> {
    pub(super) fn new(
        shared: Arc<Registered<Shared>>,
        terms: Terms,
        request: Pin<Box<dyn Read<F> + Send>>,
    ) -> Self {
        Self {
            shared,
            terms,
            fingerprint: 0,
            request: Some(request),
            patience: None,
            phase: Phase::Reading,
        }
    }
}

impl<F, B, E> Future for Keyed<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Answered<B>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let terms = &*this.terms;
        let refuse = |refusal: Refusal<'_>| {
            let rejection = refusal.count(this.shared);
            Poll::Ready(Ok(rejection.into_response(terms.call)))
        };
        loop {
            match this.phase.as_mut().project() {
                PhaseProj::Reading => {
                    let request = this.request.as_mut().expect("it is not called yet");
                    match ready!(request.as_mut().poll_read(cx)) {
                        Ok(fingerprint) => *this.fingerprint = fingerprint,
                        Err(Unreadable::TooLarge) => {
                            return refuse(Refusal::TooLarge(terms.max_request));
                        }
                        Err(Unreadable::BrokeOff) => return refuse(Refusal::BrokeOff),
                    }
                    this.phase.set(Phase::Claiming);
                }
                PhaseProj::Claiming => {
                    let id = terms.id;
                    let next = match Claim::make(this.shared, id, *this.fingerprint, terms.bounds) {
                        Claimed::Made(claim) => {
                            this.shared.count(CallResult::Executed);
                            let mut request = this.request.take().expect("it is called once");
                            let future = request.as_mut().call();
                            let claim = Some(claim);
                            Phase::Calling { future, claim }
                        }
                        Claimed::InFlight(first) if terms.wait.is_some() => {
                            Phase::Waiting { first }
                        }
                        Claimed::InFlight(_) => return refuse(Refusal::InFlight),
                        Claimed::Answered(answer) => {
                            this.shared.count(CallResult::Replayed);
                            return Poll::Ready(Ok(answer.replay()));
                        }
                        Claimed::Refused(refusal) => return refuse(refusal),
                    };
                    this.phase.set(next);
                }
                PhaseProj::Waiting { first } => {
                    if first.poll(cx).is_pending() {
                        let longest = terms.wait.unwrap_or_default();
                        let patience = this
                            .patience
                            .get_or_insert_with(|| Box::pin(sleep(longest)));
                        ready!(patience.as_mut().poll(cx));
                        return refuse(Refusal::InFlight);
                    }
                    this.phase.set(Phase::Claiming);
                }
                PhaseProj::Calling { future, claim } => {
                    let response = ready!(future.poll(cx));
                    // Dropped with an error: nobody knows what was done.
                    let claim = claim.take().expect("a call is answered once");
                    match Collecting::begin(terms, claim, response?) {
                        ControlFlow::Continue(collecting) => {
                            let collecting = Some(collecting);
                            this.phase.set(Phase::Collecting { collecting });
                        }
                        ControlFlow::Break(response) => return Poll::Ready(Ok(response)),
                    }
                }
                PhaseProj::Collecting { collecting } => {
                    let reading = collecting.as_mut().expect("an answer is read once");
                    let end = ready!(reading.poll_end(cx));
                    let read = collecting.take().expect("it is there");
                    return Poll::Ready(Ok(read.into_response(terms, end)));
                }
            }
        }
    }
}

/// The call is made: keeps the key, with the answer where it is whole; unless the answer says that nothing was done.
fn settle(
    terms: &Terms,
    claim: Claim,
    head: &response::Parts,
    whole: Option<(&Bytes, Option<&HeaderMap>)>,
) {
    let trailers = whole.map(|(_, trailers)| trailers);
    if answer::is_final(terms.call, head, trailers) {
        claim.complete(whole.map(|(data, trailers)| Answer::new(head, data, trailers)));
    }
}

fn respond<B>(head: response::Parts, body: AnswerBody<B>) -> Answered<B> {
    Response::from_parts(head, ResponseBody::inner(body))
}

// ===== impl Collecting =====

impl<B> Collecting<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Begins to read an answer; one that is known not to be kept passes.
    fn begin(terms: &Terms, claim: Claim, response: Response<B>) -> ControlFlow<Answered<B>, Self> {
        let (head, body) = response.into_parts();
        let room = terms.max_answer.checked_sub(answer::size_of_head(&head));
        let fits = |room: &usize| body.size_hint().lower() <= *room as u64;
        match room.filter(|_| answer::has_end(&head)).filter(fits) {
            Some(room) => ControlFlow::Continue(Self {
                claim,
                head,
                body: Box::pin(body),
                data: BytesMut::new(),
                trailers: None,
                room,
            }),
            None => {
                settle(terms, claim, &head, None);
                ControlFlow::Break(respond(head, AnswerBody::passing(body)))
            }
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        while !self.body.is_end_stream() {
            let frame = match ready!(self.body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(End::Broken(error.into())),
                None => break,
            };
            let length = match frame.into_data() {
                Ok(data) => {
                    self.data.extend_from_slice(&data);
                    data.len()
                }
                Err(frame) => {
                    self.trailers = frame.into_trailers().ok();
                    self.trailers.as_ref().map_or(0, answer::size)
                }
            };
            match self.room.checked_sub(length) {
                Some(room) => self.room = room,
                None => return Poll::Ready(End::TooLarge),
            }
        }
        Poll::Ready(End::Whole)
    }

    /// Settles the key, and passes on what was read.
    fn into_response(self, terms: &Terms, end: End) -> Answered<B> {
        let (data, trailers) = (self.data.freeze(), self.trailers);
        let body = match end {
            End::Whole => {
                let whole = Some((&data, trailers.as_ref()));
                settle(terms, self.claim, &self.head, whole);
                AnswerBody::whole(data, trailers)
            }
            End::TooLarge => {
                settle(terms, self.claim, &self.head, None);
                match trailers {
                    Some(_) => AnswerBody::whole(data, trailers),
                    None => AnswerBody::with_rest(data, self.body),
                }
            }
            // The claim is dropped: nobody has the answer, and the next caller makes the call.
            End::Broken(error) => AnswerBody::broken(data, error),
        };
        respond(self.head, body)
    }
}
