//! A body that does what the test says, frame by frame.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use parking_lot::Mutex;

use super::{BoxError, Gate, InjectedPanic, ProbeError, probe::InFlight};

/// A scripted body: `http_body::Body<Data = Bytes, Error = BoxError>`.
///
/// [`full`](Self::full) and [`empty`](Self::empty) know their length and say so; everything else is
/// a stream of unknown length, as a chunked or an HTTP/2 response is.
///
/// ```
/// use tower_mesh_layers::test_util::{Gate, TestBody};
///
/// let gate = Gate::new();
/// let body = TestBody::stream().data("first").gate(&gate).data("second").trailer("grpc-status", "0");
/// # drop(body);
/// ```
///
/// A clone starts where the original is now, and is not counted by the probe that gave the original.
#[derive(Default)]
pub struct TestBody {
    steps: VecDeque<Step>,
    /// The length still to come, where it is known.
    exact: Option<u64>,
    ended: bool,
    /// The request's body, for [`Step::Echo`]. In a lock only to be `Sync`, which some boxes want.
    echo: Option<Mutex<UnsyncBoxBody<Bytes, BoxError>>>,
    in_flight: Option<InFlight>,
}

#[derive(Clone)]
enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    Yield,
    Gate(Gate),
    Fail(ProbeError),
    Panic,
    Endless(Bytes),
    Echo,
}

// ===== impl TestBody =====

impl TestBody {
    /// A body without data that knows it has none.
    pub fn empty() -> Self {
        Self {
            exact: Some(0),
            ..Self::default()
        }
    }

    /// One data frame of known length.
    pub fn full(data: impl Into<Bytes>) -> Self {
        let data = data.into();
        let exact = Some(data.len() as u64);
        let steps = if data.is_empty() {
            VecDeque::new()
        } else {
            [Step::Data(data)].into()
        };
        Self {
            steps,
            exact,
            ..Self::default()
        }
    }

    /// A stream of unknown length, for the methods below to fill.
    pub fn stream() -> Self {
        Self::default()
    }

    /// A stream of these data frames.
    pub fn chunks<T: Into<Bytes>>(chunks: impl IntoIterator<Item = T>) -> Self {
        chunks
            .into_iter()
            .fold(Self::stream(), |body, chunk| body.data(chunk))
    }

    /// Sends the request's body back as it comes in. Only in the answer of a
    /// [`Probe`](super::Probe): elsewhere it is an empty stream.
    pub fn echo() -> Self {
        Self::stream().step(Step::Echo)
    }

    /// Then a data frame.
    #[must_use]
    pub fn data(self, data: impl Into<Bytes>) -> Self {
        self.step(Step::Data(data.into()))
    }

    /// Then trailers with one field.
    ///
    /// # Panics
    ///
    /// Panics if `name` is not a valid header name.
    #[must_use]
    pub fn trailer(self, name: &'static str, value: &'static str) -> Self {
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(name, http::HeaderValue::from_static(value));
        self.trailers(trailers)
    }

    /// Then these trailers.
    #[must_use]
    pub fn trailers(self, trailers: HeaderMap) -> Self {
        self.step(Step::Trailers(trailers))
    }

    /// Then pending once. The task is woken at once.
    #[must_use]
    pub fn pending_once(self) -> Self {
        self.step(Step::Yield)
    }

    /// Then pending until `gate` is open.
    #[must_use]
    pub fn gate(self, gate: &Gate) -> Self {
        self.step(Step::Gate(gate.clone()))
    }

    /// Then an error, which ends the body.
    #[must_use]
    pub fn fail(self, error: ProbeError) -> Self {
        self.step(Step::Fail(error))
    }

    /// Then an injected panic.
    #[must_use]
    pub fn panic(self) -> Self {
        self.step(Step::Panic)
    }

    /// Then the same data frame for ever, pending once before each.
    #[must_use]
    pub fn endless(self, data: impl Into<Bytes>) -> Self {
        self.step(Step::Endless(data.into()))
    }

    fn step(mut self, step: Step) -> Self {
        // A script of more than one frame is a stream: it no longer knows its length.
        self.exact = None;
        self.steps.push_back(step);
        self
    }

    pub(super) fn attach(&mut self, in_flight: InFlight) {
        self.in_flight = Some(in_flight);
    }

    /// Whether the script wants the request's body.
    pub(super) fn echoes(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Echo))
    }

    pub(super) fn attach_echo<B>(&mut self, body: B)
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.echo = Some(Mutex::new(body.map_err(Into::into).boxed_unsync()));
    }

    fn finish(&mut self) {
        self.steps.clear();
        self.ended = true;
        if let Some(in_flight) = self.in_flight.take() {
            in_flight.finish();
        }
    }
}

impl Body for TestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        loop {
            let Some(step) = this.steps.front() else {
                this.finish();
                return Poll::Ready(None);
            };
            let frame = match step {
                Step::Data(data) => {
                    let data = data.clone();
                    this.exact = this.exact.map(|left| left - data.len() as u64);
                    Frame::data(data)
                }
                Step::Trailers(trailers) => Frame::trailers(trailers.clone()),
                Step::Gate(gate) => {
                    ready!(gate.poll_open(cx));
                    this.steps.pop_front();
                    continue;
                }
                Step::Yield => {
                    this.steps.pop_front();
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Step::Endless(data) => {
                    let data = data.clone();
                    this.steps.push_front(Step::Data(data));
                    this.steps.push_front(Step::Yield);
                    continue;
                }
                Step::Echo => {
                    let next = match &mut this.echo {
                        Some(echo) => ready!(Pin::new(echo.get_mut()).poll_frame(cx)),
                        None => None,
                    };
                    match next {
                        // HTTP/2 may end a body by an empty frame. Sent back, which is before the
                        // end here, a hundred of them make h2 close the connection.
                        Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => {
                            continue;
                        }
                        Some(Ok(frame)) => return Poll::Ready(Some(Ok(frame))),
                        Some(Err(error)) => {
                            this.finish();
                            return Poll::Ready(Some(Err(error)));
                        }
                        None => {
                            this.steps.pop_front();
                            continue;
                        }
                    }
                }
                Step::Fail(error) => {
                    let error = *error;
                    this.finish();
                    return Poll::Ready(Some(Err(error.into())));
                }
                Step::Panic => {
                    this.steps.pop_front();
                    InjectedPanic::unleash();
                }
            };
            this.steps.pop_front();
            if this.is_end_stream() || frame.is_trailers() {
                // Nobody need poll again, so the probe must not wait for it either.
                this.finish();
            }
            return Poll::Ready(Some(Ok(frame)));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.exact == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        match self.exact {
            Some(left) => SizeHint::with_exact(left),
            None if self.ended => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}

impl Clone for TestBody {
    fn clone(&self) -> Self {
        Self {
            steps: self.steps.clone(),
            exact: self.exact,
            ended: self.ended,
            echo: None,
            in_flight: None,
        }
    }
}

impl fmt::Debug for TestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestBody")
            .field("steps", &self.steps.len())
            .field("exact", &self.exact)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl From<Bytes> for TestBody {
    fn from(data: Bytes) -> Self {
        Self::full(data)
    }
}

impl From<&'static str> for TestBody {
    fn from(data: &'static str) -> Self {
        Self::full(data)
    }
}
