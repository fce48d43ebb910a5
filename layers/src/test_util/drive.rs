//! Driving futures by hand: one poll at a time, dropped anywhere, across panics, on a paused clock.

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use http::{Request, Response};
use tokio::sync::Notify;
use tower_layer::Layer;
use tower_service::Service;

/// How long, on the paused clock, a future may go without a wake-up before it counts as stuck.
///
/// Longer than any timeout of a layer, so that whoever has a timer gets to use it.
pub const STUCK_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

// ===== the paused clock =====

/// Runs a future to its end on a runtime of its own, with one thread and a paused clock: sleeps
/// cost no time, and the clock moves on by itself once everything waits for it.
///
/// The whole future runs without tokio's budget per poll, so that a test may poll by hand as often
/// as it likes.
///
/// # Panics
///
/// Panics if it is called inside a runtime, or if the runtime cannot be built.
pub fn run_paused<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime with a paused clock")
        .block_on(tokio::task::unconstrained(future))
}

/// Moves the paused clock on by `by`, and lets the tasks run that this wakes.
///
/// `tokio::time::advance` alone returns before they ran.
///
/// # Panics
///
/// Panics if the clock is not paused.
pub async fn advance(by: Duration) {
    tokio::time::advance(by).await;
    settle().await;
}

/// Lets all other tasks run until they can be expected to wait for something.
pub async fn settle() {
    for _ in 0..32 {
        tokio::task::yield_now().await;
    }
}

// ===== wake-ups =====

/// A waker that counts.
#[derive(Debug, Default)]
pub struct Wakes {
    count: AtomicU64,
    notify: Notify,
}

impl Wakes {
    /// A counter that was not woken yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// How often it was woken.
    pub fn count(&self) -> u64 {
        self.count.load(SeqCst)
    }

    /// The waker to poll with.
    pub fn waker(self: &Arc<Self>) -> Waker {
        self.clone().into()
    }

    /// Waits for a wake-up after the last that was waited for; `false` if none comes for
    /// [`STUCK_AFTER`].
    pub async fn woken(&self) -> bool {
        tokio::time::timeout(STUCK_AFTER, self.notify.notified())
            .await
            .is_ok()
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.count.fetch_add(1, SeqCst);
        self.notify.notify_one();
    }
}

// ===== one poll at a time =====

/// A future that is polled only when the test says so, and that catches panics.
pub struct Steps<F> {
    future: Pin<Box<F>>,
    wakes: Arc<Wakes>,
    polls: usize,
}

/// What a step came to.
#[derive(Debug)]
pub enum Step<T> {
    /// The future is pending.
    Pending,
    /// The future is ready.
    Done(T),
    /// The future panicked with this payload.
    Panicked(Box<dyn Any + Send>),
    /// The future is pending and nobody will ever wake it.
    Stuck,
}

impl<F: Future> Steps<F> {
    /// Takes a future under control without polling it.
    pub fn new(future: F) -> Self {
        Self {
            future: Box::pin(future),
            wakes: Wakes::new(),
            polls: 0,
        }
    }

    /// Polls once, at once.
    pub fn poll(&mut self) -> Step<F::Output> {
        self.polls += 1;
        let waker = self.wakes.waker();
        let mut cx = Context::from_waker(&waker);
        match catch_unwind(AssertUnwindSafe(|| self.future.as_mut().poll(&mut cx))) {
            Ok(Poll::Ready(output)) => Step::Done(output),
            Ok(Poll::Pending) => Step::Pending,
            Err(payload) => Step::Panicked(payload),
        }
    }

    /// Polls once; then, if pending, waits for the wake-up that makes another poll worth while.
    pub async fn step(&mut self) -> Step<F::Output> {
        match self.poll() {
            Step::Pending if !self.wakes.woken().await => Step::Stuck,
            step => step,
        }
    }

    /// Goes on until the future is done, panics or is stuck, but for at most `polls` polls: then
    /// the answer is [`Step::Pending`].
    pub async fn run(&mut self, polls: usize) -> Step<F::Output> {
        for _ in 0..polls {
            match self.step().await {
                Step::Pending => {}
                step => return step,
            }
        }
        Step::Pending
    }

    /// Waits for a wake-up that was not waited for yet; `false` if none comes for [`STUCK_AFTER`].
    pub async fn woken(&self) -> bool {
        self.wakes.woken().await
    }

    /// How often the future was polled.
    pub fn polls(&self) -> usize {
        self.polls
    }

    /// How often the future was woken.
    pub fn wakes(&self) -> u64 {
        self.wakes.count()
    }
}

impl<F> std::fmt::Debug for Steps<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steps")
            .field("polls", &self.polls)
            .finish_non_exhaustive()
    }
}

/// Starts the same work again and again, dropping it after 0, 1, 2, ... polls, until it completes.
/// After each drop (and after the completion) `after` is told the number of polls, and asserts.
/// Returns how many polls the whole work takes.
///
/// ```
/// use tower_mesh_layers::test_util::{Answer, Probe, drive};
///
/// drive::run_paused(async {
///     let (service, probe) = Probe::always(Answer::ok().pending_times(3));
///     let polls = drive::cancel_everywhere(
///         || {
///             let mut service = service.clone();
///             async move { drive::call(&mut service, http::Request::new(String::new())).await }
///         },
///         async |_| assert_eq!(probe.in_flight(), 0),
///     )
///     .await;
///     assert_eq!(polls, 4);
/// });
/// ```
///
/// # Panics
///
/// Panics if the work panics, gets stuck, or takes more than 100,000 polls.
pub async fn cancel_everywhere<Fut: Future>(
    mut start: impl FnMut() -> Fut,
    mut after: impl AsyncFnMut(usize),
) -> usize {
    for polls in 0..100_000 {
        let mut work = Steps::new(start());
        let step = work.run(polls).await;
        drop(work);
        match step {
            Step::Pending => after(polls).await,
            Step::Done(_) => {
                after(polls).await;
                return polls;
            }
            Step::Stuck => panic!("stuck after {polls} polls: pending, and nothing will wake it"),
            Step::Panicked(payload) => std::panic::resume_unwind(payload),
        }
    }
    panic!("not complete after 100,000 polls");
}

/// Runs a future to its end, and gives the payload if it panics.
///
/// # Errors
///
/// Fails with the payload of the panic.
pub async fn catch<F: Future>(future: F) -> Result<F::Output, Box<dyn Any + Send>> {
    let mut future = pin!(future);
    poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(payload) => Poll::Ready(Err(payload)),
        },
    )
    .await
}

/// The message of a caught panic, as far as it has one.
pub fn panic_message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .or_else(|| {
            payload
                .is::<super::InjectedPanic>()
                .then_some("injected panic")
        })
        .unwrap_or("a panic without a message")
}

// ===== services =====

/// Waits until the service is ready, and calls it.
///
/// # Errors
///
/// Fails with the error of the service.
pub async fn call<S, B, R>(service: &mut S, request: Request<B>) -> Result<Response<R>, S::Error>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    poll_fn(|cx| service.poll_ready(cx)).await?;
    service.call(request).await
}

/// Applies a layer `times` times, as axum does for each connection, and calls each service that
/// comes out of it `calls` times, one after the other. What reached the inner service, or what the
/// layer counted, must be as if it had been applied once.
///
/// # Errors
///
/// Fails with the first error of a service.
pub async fn reapply<L, I, B, R>(
    layer: &L,
    inner: &I,
    times: usize,
    calls: usize,
    mut request: impl FnMut() -> Request<B>,
) -> Result<(), <L::Service as Service<Request<B>>>::Error>
where
    L: Layer<I>,
    I: Clone,
    L::Service: Service<Request<B>, Response = Response<R>>,
{
    for _ in 0..times {
        let mut service = layer.layer(inner.clone());
        for _ in 0..calls {
            call(&mut service, request()).await?;
        }
    }
    Ok(())
}
