//! A strict inner service: it checks the layer above it while it answers.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri, request};
use http_body::Body;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tower_service::Service;

use super::{
    Answer, BoxError, Gate, InjectedPanic, ProbeError, TestBody,
    answer::{Act, pending_times},
};

/// An inner service that knows tower's contract and panics where a layer breaks it.
///
/// * Each instance must be polled ready before each call; a clone starts unready, as the clone of a
///   connection does. A call without readiness panics, and is also kept in
///   [`violations`](ProbeHandle::violations), in case something above catches the panic.
/// * It counts calls, clones, instances, calls in flight (up to the end or the drop of the response
///   body), and calls given up before they were answered.
/// * It answers what the test says: see [`Answer`].
///
/// The [`ProbeHandle`] stays with the test:
///
/// ```
/// use tower_mesh_layers::test_util::{Answer, Probe, drive};
///
/// drive::run_paused(async {
///     let (mut service, probe) = Probe::sequence([Answer::status(503), Answer::ok()]);
///     let answered = drive::call(&mut service, http::Request::new("hello".to_owned())).await;
///     assert_eq!(answered.unwrap().status(), 503);
///     assert_eq!(probe.requests()[0].body, "hello");
///     assert_eq!(probe.in_flight(), 0);
/// });
/// ```
pub struct Probe {
    shared: Arc<Shared>,
    ready: bool,
}

/// What the test sees of a [`Probe`] and of all its clones.
#[derive(Clone)]
pub struct ProbeHandle(Arc<Shared>);

/// A request that reached the probe.
///
/// Extensions are not kept: they may hold a guard of the layer under test.
#[derive(Debug, Clone)]
pub struct Received {
    /// The method.
    pub method: Method,
    /// The target.
    pub uri: Uri,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; empty if the answer did not [read it](Answer::ignoring_request).
    pub body: Bytes,
    /// The trailers of the body.
    pub trailers: Option<HeaderMap>,
}

/// The future of a [`Probe`].
pub type ProbeFuture = Pin<Box<dyn Future<Output = Result<Response<TestBody>, BoxError>> + Send>>;

type Script = dyn Fn(u64, &request::Parts) -> Answer + Send + Sync;

struct Shared {
    script: Box<Script>,
    ready_gate: Mutex<Gate>,
    ready_error: Mutex<Option<ProbeError>>,
    stuttering: AtomicBool,
    requests: Mutex<Vec<Received>>,
    violations: Mutex<Vec<&'static str>>,
    calls: AtomicU64,
    clones: AtomicU64,
    ready_polls: AtomicU64,
    given_up: AtomicU64,
    bodies_cut: AtomicU64,
    instances: AtomicUsize,
    reserved: AtomicUsize,
    in_flight: AtomicUsize,
    peak: AtomicUsize,
}

/// Counts one call as in flight, from `call` to the end of the response body.
pub(super) struct InFlight {
    shared: Arc<Shared>,
    answered: bool,
    finished: bool,
}

// ===== impl Probe =====

impl Probe {
    /// A probe that asks `script` for each answer, by the number of the call (from 0, over all
    /// clones) and its head.
    pub fn answering(
        script: impl Fn(u64, &request::Parts) -> Answer + Send + Sync + 'static,
    ) -> (Self, ProbeHandle) {
        let open = Gate::new();
        open.open();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            ready_gate: Mutex::new(open),
            ready_error: Mutex::default(),
            stuttering: AtomicBool::default(),
            requests: Mutex::default(),
            violations: Mutex::default(),
            calls: AtomicU64::default(),
            clones: AtomicU64::default(),
            ready_polls: AtomicU64::default(),
            given_up: AtomicU64::default(),
            bodies_cut: AtomicU64::default(),
            instances: AtomicUsize::new(1),
            reserved: AtomicUsize::default(),
            in_flight: AtomicUsize::default(),
            peak: AtomicUsize::default(),
        });
        (
            Self {
                shared: shared.clone(),
                ready: false,
            },
            ProbeHandle(shared),
        )
    }

    /// A probe that gives these answers in turn, and then the last one for ever.
    ///
    /// # Panics
    ///
    /// Panics if there are no answers.
    pub fn sequence(answers: impl IntoIterator<Item = Answer>) -> (Self, ProbeHandle) {
        let answers: Vec<_> = answers.into_iter().collect();
        assert!(!answers.is_empty(), "a probe needs an answer");
        Self::answering(move |call, _| {
            let call = usize::try_from(call).unwrap_or(usize::MAX);
            answers[call.min(answers.len() - 1)].clone()
        })
    }

    /// A probe that always gives this answer.
    pub fn always(answer: Answer) -> (Self, ProbeHandle) {
        Self::answering(move |_, _| answer.clone())
    }

    fn violate(&self, what: &'static str) -> ! {
        self.shared.violations.lock().push(what);
        // Without the panic hook: the kit reports it, and its own tests provoke it.
        std::panic::resume_unwind(Box::new(what))
    }

    fn set_ready(&mut self, ready: bool) {
        match (self.ready, ready) {
            (false, true) => _ = self.shared.reserved.fetch_add(1, SeqCst),
            (true, false) => _ = self.shared.reserved.fetch_sub(1, SeqCst),
            _ => {}
        }
        self.ready = ready;
    }
}

impl<B> Service<Request<B>> for Probe
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<TestBody>;
    type Error = BoxError;
    type Future = ProbeFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let poll = self.shared.ready_polls.fetch_add(1, SeqCst);
        if let Some(error) = *self.shared.ready_error.lock() {
            return Poll::Ready(Err(error.into()));
        }
        if !self.ready && self.shared.stuttering.load(SeqCst) && poll.is_multiple_of(2) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let gate = self.shared.ready_gate.lock().clone();
        ready!(gate.poll_open(cx));
        self.set_ready(true);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ProbeFuture {
        if !self.ready {
            self.violate("called an instance that was not polled ready");
        }
        self.set_ready(false);
        let number = self.shared.calls.fetch_add(1, SeqCst);
        let in_flight = InFlight::new(self.shared.clone());
        let (parts, body) = request.into_parts();
        let answer = (self.shared.script)(number, &parts);
        if matches!(answer.act, Act::PanicInCall) {
            InjectedPanic::unleash();
        }
        Box::pin(respond(in_flight, parts, body, answer))
    }
}

async fn respond<B>(
    mut in_flight: InFlight,
    parts: request::Parts,
    body: B,
    answer: Answer,
) -> Result<Response<TestBody>, BoxError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut received = Received {
        method: parts.method,
        uri: parts.uri,
        headers: parts.headers,
        body: Bytes::new(),
        trailers: None,
    };
    // The extensions go now, as they do in a server that only looks at them.
    drop(parts.extensions);
    let echoes = matches!(&answer.act, Act::Respond(response) if response.body().echoes());
    let mut body = Some(body);
    if answer.reads_request && !echoes {
        let read = body
            .take()
            .expect("just put there")
            .collect()
            .await
            .map_err(Into::into)?;
        received.trailers = read.trailers().cloned();
        received.body = read.to_bytes();
    }
    in_flight.shared.requests.lock().push(received);
    pending_times(answer.pending_times).await;
    if let Some(gate) = &answer.gate {
        gate.opened().await;
    }
    match answer.act {
        Act::PanicInCall => unreachable!("panicked before there was a future"),
        Act::PanicInPoll => InjectedPanic::unleash(),
        Act::Fail(error) => {
            in_flight.finish();
            Err(error.into())
        }
        Act::Respond(mut response) => {
            in_flight.answered = true;
            if let (true, Some(body)) = (echoes, body.take()) {
                response.body_mut().attach_echo(body);
            }
            if response.body().is_end_stream() {
                in_flight.finish();
            } else {
                response.body_mut().attach(in_flight);
            }
            Ok(*response)
        }
    }
}

impl Clone for Probe {
    fn clone(&self) -> Self {
        self.shared.clones.fetch_add(1, SeqCst);
        self.shared.instances.fetch_add(1, SeqCst);
        Self {
            shared: self.shared.clone(),
            ready: false,
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.set_ready(false);
        self.shared.instances.fetch_sub(1, SeqCst);
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe")
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

// ===== impl ProbeHandle =====

impl ProbeHandle {
    /// Calls that reached the probe.
    pub fn calls(&self) -> u64 {
        self.0.calls.load(SeqCst)
    }

    /// Clones made of the probe.
    pub fn clones(&self) -> u64 {
        self.0.clones.load(SeqCst)
    }

    /// Instances (the probe and its clones) that are alive.
    pub fn instances(&self) -> usize {
        self.0.instances.load(SeqCst)
    }

    /// Instances that were polled ready and are neither called nor dropped yet.
    pub fn reserved(&self) -> usize {
        self.0.reserved.load(SeqCst)
    }

    /// Calls whose response body is neither at its end nor dropped.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.load(SeqCst)
    }

    /// The most calls that were in flight at once.
    pub fn peak_in_flight(&self) -> usize {
        self.0.peak.load(SeqCst)
    }

    /// Calls whose future was dropped, or panicked, before it answered.
    pub fn given_up(&self) -> u64 {
        self.0.given_up.load(SeqCst)
    }

    /// Response bodies that were dropped before their end.
    pub fn bodies_cut(&self) -> u64 {
        self.0.bodies_cut.load(SeqCst)
    }

    /// How often an instance was polled for readiness.
    pub fn ready_polls(&self) -> u64 {
        self.0.ready_polls.load(SeqCst)
    }

    /// What the layer above did that tower forbids.
    pub fn violations(&self) -> Vec<&'static str> {
        self.0.violations.lock().clone()
    }

    /// The requests that arrived, in the order in which they were read.
    pub fn requests(&self) -> Vec<Received> {
        self.0.requests.lock().clone()
    }

    /// Makes readiness wait for `gate`. Instances that are ready stay so.
    pub fn hold_ready(&self, gate: &Gate) {
        *self.0.ready_gate.lock() = gate.clone();
    }

    /// Makes readiness fail, for all instances.
    pub fn fail_ready(&self, error: ProbeError) {
        *self.0.ready_error.lock() = Some(error);
    }

    /// Makes readiness pending once, with a wake-up at once, before every other poll succeeds.
    pub fn stutter(&self) {
        self.0.stuttering.store(true, SeqCst);
    }
}

impl fmt::Debug for ProbeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeHandle")
            .field("calls", &self.calls())
            .field("clones", &self.clones())
            .field("in_flight", &self.in_flight())
            .field("given_up", &self.given_up())
            .field("bodies_cut", &self.bodies_cut())
            .field("violations", &self.violations())
            .finish_non_exhaustive()
    }
}

// ===== impl InFlight =====

impl InFlight {
    fn new(shared: Arc<Shared>) -> Self {
        let now = shared.in_flight.fetch_add(1, SeqCst) + 1;
        shared.peak.fetch_max(now, SeqCst);
        Self {
            shared,
            answered: false,
            finished: false,
        }
    }

    /// The call came to its end.
    pub(super) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.shared.in_flight.fetch_sub(1, SeqCst);
        match (self.finished, self.answered) {
            (true, _) => {}
            (false, true) => _ = self.shared.bodies_cut.fetch_add(1, SeqCst),
            (false, false) => _ = self.shared.given_up.fetch_add(1, SeqCst),
        }
    }
}
