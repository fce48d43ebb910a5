//! The future of one balanced call.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::{
    sync::futures::OwnedNotified,
    time::{Instant, Sleep},
};
use tower_mesh_layers::{
    CallContext, CallKind, Classify, FailureKind, Outcome, Pending, Reason, Rejection,
    ResponseBody, Tracked, transport,
};
use tower_service::Service;

use super::{
    endpoint::{EndpointGuard, Member},
    set::{Picked, Plan, Shared},
};

/// How long a call waits for the endpoint that it picked, before it looks whether another one is
/// ready. Longer than connecting takes in one zone: leaving early would favour endpoints that
/// happen to have connections.
const PATIENCE: Duration = Duration::from_millis(50);
/// A call that met so many refusals has found out that most are dead. The error then surfaces.
const MAX_REPICKS: u32 = 16;

pin_project! {
    /// The response of [`Balance`](super::Balance).
    pub struct ResponseFuture<S, B, C>
    where
        S: Service<Request<B>>,
        S: Send,
        S: Sync,
        S: 'static,
    {
        #[pin]
        state: State<S, B, S::Future, S::Error>,
        kind: CallKind,
        classify: C,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, B, F, E>
    where
        S: Send,
        S: Sync,
        S: 'static,
    {
        InFlight {
            #[pin]
            future: F,
            call: Option<Pending<EndpointGuard<S>>>,
        },
        Seeking {
            request: Option<Request<B>>,
            // Boxed: few calls get here, and all would carry it.
            seek: Box<Seek<S, E>>,
        },
        Done,
    }
}

/// A call that has no ready endpoint yet, with the request in hand.
pub(super) struct Seek<S: Send + Sync + 'static, E> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) plan: Plan,
    pub(super) deadline: Option<Instant>,
    pub(super) start: Instant,
    pub(super) candidate: Option<Candidate<S>>,
    pub(super) error: Option<E>,
    repicks: u32,
    looked_around: bool,
    timer: Option<Pin<Box<Sleep>>>,
    changed: Option<Pin<Box<OwnedNotified>>>,
}

/// A picked endpoint that is not ready yet.
pub(super) struct Candidate<S: Send + Sync + 'static> {
    pub(super) service: S,
    pub(super) call: Pending<EndpointGuard<S>>,
    pub(super) since: Instant,
}

/// What a search ends with.
enum Found<S: Send + Sync + 'static, E> {
    Ready(Candidate<S>),
    Failed(E),
    Rejected(Rejection),
}

// ===== impl ResponseFuture =====

impl<S, B, C> ResponseFuture<S, B, C>
where
    S: Service<Request<B>> + Send + Sync + 'static,
{
    pub(super) fn in_flight(
        future: S::Future,
        call: Pending<EndpointGuard<S>>,
        kind: CallKind,
        classify: C,
    ) -> Self {
        let call = Some(call);
        Self {
            state: State::InFlight { future, call },
            kind,
            classify,
        }
    }

    pub(super) fn seeking(
        request: Request<B>,
        seek: Box<Seek<S, S::Error>>,
        kind: CallKind,
        classify: C,
    ) -> Self {
        let request = Some(request);
        Self {
            state: State::Seeking { request, seek },
            kind,
            classify,
        }
    }
}

impl<S, B, C, ResB> Future for ResponseFuture<S, B, C>
where
    S: Service<Request<B>, Response = Response<ResB>> + Clone + Send + Sync + 'static,
    S::Error: 'static,
    B: 'static,
    ResB: Body<Data = Bytes>,
    C: Classify,
{
    type Output = Result<Response<ResponseBody<Tracked<ResB, C::End, EndpointGuard<S>>>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::InFlight { future, call } => {
                    let pending = call.as_mut().expect("polled after it was ready");
                    let result = ready!(pending.run(|| future.poll(cx)));
                    let call = call.take().expect("just polled");
                    return Poll::Ready(match result {
                        Ok(response) => Ok(call
                            .track(this.classify, *this.kind, response)
                            .map(ResponseBody::inner)),
                        Err(error) => {
                            let diagnosis = transport::diagnose(&error);
                            call.end(this.classify.error(*this.kind, diagnosis));
                            Err(error)
                        }
                    });
                }
                StateProj::Seeking { request, seek } => {
                    let found = {
                        let request = request.as_ref().expect("polled after it was ready");
                        ready!(seek.poll(request, cx))
                    };
                    match found {
                        Found::Ready(Candidate {
                            mut service,
                            mut call,
                            ..
                        }) => {
                            let request = request.take().expect("just looked at");
                            let future = call.run(|| service.call(request));
                            this.state.set(State::InFlight {
                                future,
                                call: Some(call),
                            });
                        }
                        Found::Failed(error) => {
                            this.state.set(State::Done);
                            return Poll::Ready(Err(error));
                        }
                        Found::Rejected(rejection) => {
                            this.state.set(State::Done);
                            return Poll::Ready(Ok(rejection.into_response(*this.kind)));
                        }
                    }
                }
                StateProj::Done => panic!("polled after it was ready"),
            }
        }
    }
}

impl<S, B, C> fmt::Debug for ResponseFuture<S, B, C>
where
    S: Service<Request<B>> + Send + Sync + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

// ===== impl Seek =====

impl<S: Send + Sync + 'static, E> Seek<S, E> {
    pub(super) fn new(
        shared: Arc<Shared<S>>,
        plan: Plan,
        deadline: Option<Instant>,
        start: Instant,
        candidate: Option<Candidate<S>>,
    ) -> Self {
        Self {
            shared,
            plan,
            deadline,
            start,
            candidate,
            error: None,
            repicks: 0,
            looked_around: false,
            timer: None,
            changed: None,
        }
    }

    fn poll<B>(&mut self, request: &Request<B>, cx: &mut Context<'_>) -> Poll<Found<S, E>>
    where
        S: Service<Request<B>, Error = E> + Clone,
        E: 'static,
        B: 'static,
    {
        loop {
            let Some(candidate) = &mut self.candidate else {
                if let Some(found) = ready!(self.poll_pick(request, cx)) {
                    return Poll::Ready(found);
                }
                continue;
            };
            if candidate.call.guard().member().endpoint.removed() {
                self.leave(Outcome::Ignored);
                continue;
            }
            let Candidate {
                service,
                call,
                since,
            } = candidate;
            match call.run(|| service.poll_ready(cx)) {
                Poll::Ready(Ok(())) => {
                    let candidate = self.candidate.take().expect("just polled");
                    return Poll::Ready(Found::Ready(candidate));
                }
                Poll::Ready(Err(error)) => {
                    self.failed::<B>(error);
                    continue;
                }
                Poll::Pending => {}
            }
            let limit = *since + self.shared.settings.get().config.connect_timeout;
            let until = if self.looked_around {
                limit
            } else {
                limit.min(*since + PATIENCE)
            };
            ready!(self.poll_timer(until, cx));
            if Instant::now() >= limit {
                self.refused::<B>();
            } else if let Some(ready) = self.look_around(request, cx) {
                return Poll::Ready(Found::Ready(ready));
            }
        }
    }

    /// Picks a candidate (`None`), or ends the search.
    fn poll_pick<B>(
        &mut self,
        request: &Request<B>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Found<S, E>>>
    where
        S: Clone,
    {
        loop {
            if let Some(Picked { member, trial }) = self.pick(request) {
                let again = self.plan.tried.contains(member.endpoint.id());
                if self.repicks > 0 && (again || self.repicks > MAX_REPICKS) {
                    return Poll::Ready(Some(self.nothing_left()));
                }
                self.candidate = Some(Candidate::new(member, trial, self.deadline, Instant::now()));
                self.timer = None;
                return Poll::Ready(None);
            }
            if self.repicks > 0 {
                return Poll::Ready(Some(self.nothing_left()));
            }
            let armed = self.changed.is_some();
            let changed = self
                .changed
                .get_or_insert_with(|| Box::pin(self.shared.changed.clone().notified_owned()));
            if changed.as_mut().poll(cx).is_ready() {
                self.changed = None;
                continue;
            }
            if !armed {
                continue; // a set may have come between the look and the listening
            }
            ready!(self.poll_timer(self.give_up(), cx));
            return Poll::Ready(Some(self.nothing_left()));
        }
    }

    fn pick<B>(&self, request: &Request<B>) -> Option<Picked<S>> {
        let route =
            CallContext::get(request.extensions()).and_then(|context| context.route.as_deref());
        self.shared.pick(&self.plan, route, Instant::now())
    }

    /// Until when a call waits for an endpoint to be known.
    fn give_up(&self) -> Instant {
        let settings = self.shared.settings.get();
        let bound = self.start + settings.config.wait_for_endpoints;
        match self.deadline {
            Some(deadline) if settings.config.wait_for_ready => deadline,
            Some(deadline) => deadline.min(bound),
            None => bound,
        }
    }

    fn nothing_left(&mut self) -> Found<S, E> {
        if let Some(error) = self.error.take() {
            return Found::Failed(error);
        }
        self.shared.counts.no_endpoint.add(1);
        let service = &self.shared.service;
        let detail = if self.repicks > 0 {
            format!("no endpoint of `{service}` accepts a connection")
        } else {
            format!("no endpoint of `{service}` is known")
        };
        Found::Rejected(Rejection::new("balance", Reason::NoEndpoint, detail))
    }

    fn poll_timer(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx)
    }

    /// Ends the call to the candidate, which was sent nothing.
    fn leave(&mut self, outcome: Outcome) -> Option<(Arc<Member<S>>, S)> {
        let Candidate {
            service, mut call, ..
        } = self.candidate.take()?;
        let member = call.guard().member().clone();
        self.plan.tried.push(member.endpoint.id());
        self.plan.first = false;
        call.end(outcome);
        Some((member, service))
    }

    /// The candidate's `poll_ready` failed.
    pub(super) fn failed<B>(&mut self, error: E)
    where
        S: Service<Request<B>, Error = E> + Clone,
        E: 'static,
        B: 'static,
    {
        self.error = Some(error);
        self.refused::<B>();
    }

    /// The candidate cannot be reached: it is out, and a task tries it until it can be.
    fn refused<B>(&mut self)
    where
        S: Service<Request<B>, Error = E> + Clone,
        E: 'static,
        B: 'static,
    {
        self.repicks += 1;
        self.shared.counts.repicked.add(1);
        let Some(mut candidate) = self.candidate.take() else {
            return;
        };
        let member = candidate.call.guard().member().clone();
        let wait = self.shared.refused_unsent(&member, Instant::now());
        // NOTE: told after it is out, so that the guard finds nothing left to do.
        self.candidate = Some(candidate);
        self.leave(Outcome::Failure(FailureKind::Connect));
        if let Some(wait) = wait {
            spawn(probe::<S, B>(Arc::downgrade(&self.shared), member, wait));
        }
    }

    /// Takes another endpoint that is ready now, if there is one; the candidate goes on connecting in
    /// the background, so that a later call finds it connected.
    fn look_around<B>(&mut self, request: &Request<B>, cx: &mut Context<'_>) -> Option<Candidate<S>>
    where
        S: Service<Request<B>, Error = E> + Clone,
        E: 'static,
        B: 'static,
    {
        self.looked_around = true;
        let mut around = self.plan;
        around.first = false;
        let slow = self.candidate.as_mut()?.call.guard().member().endpoint.id();
        around.tried.push(slow);
        let context = CallContext::get(request.extensions());
        let route = context.and_then(|context| context.route.as_deref());
        let now = Instant::now();
        let Picked { member, .. } = self.shared.pick(&around, route, now)?;
        let same = around.tried.contains(member.endpoint.id());
        let mut other = Candidate::new(member, false, self.deadline, now);
        let Candidate { service, call, .. } = &mut other;
        if same || !matches!(call.run(|| service.poll_ready(cx)), Poll::Ready(Ok(()))) {
            other.call.end(Outcome::Ignored);
            tower_mesh_layers::context::picked::record(slow);
            return None;
        }
        let (member, service) = self.leave(Outcome::Ignored)?;
        spawn(connect::<S, B>(
            Arc::downgrade(&self.shared),
            member,
            service,
        ));
        Some(other)
    }
}

// ===== impl Candidate =====

impl<S: Clone + Send + Sync + 'static> Candidate<S> {
    pub(super) fn new(
        member: Arc<Member<S>>,
        trial: bool,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Self {
        let service = member.service.clone();
        Self {
            service,
            call: Pending::new(EndpointGuard::new(member, now, trial), deadline),
            since: now,
        }
    }
}

// ===== background =====

/// Runs a task where there is a runtime; without one, the endpoint is tried again by calls.
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(task);
    }
}

/// Polls an endpoint until it is ready, refuses, or has taken too long.
async fn is_reachable<S, B>(service: &mut S, limit: Duration) -> bool
where
    S: Service<Request<B>>,
{
    let ready = std::future::poll_fn(|cx| service.poll_ready(cx).map(|ready| ready.is_ok()));
    tokio::time::timeout(limit, ready).await.unwrap_or(false)
}

/// Tries to connect to an endpoint that refused, until it accepts or is removed.
async fn probe<S, B>(shared: Weak<Shared<S>>, member: Arc<Member<S>>, mut wait: Duration)
where
    S: Service<Request<B>> + Clone + Send + Sync + 'static,
    B: 'static,
{
    loop {
        tokio::time::sleep(wait).await;
        let Some(limit) = connect_timeout(&shared, &member) else {
            return;
        };
        let reached = is_reachable::<S, B>(&mut member.service.clone(), limit).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        if member.endpoint.is_in() {
            return; // a call reached it, when nothing else was left
        }
        if reached {
            return shared.reachable(&member, Instant::now());
        }
        wait = shared.still_refused(&member, Instant::now());
    }
}

/// Lets an endpoint finish to connect, for the calls to come.
async fn connect<S, B>(shared: Weak<Shared<S>>, member: Arc<Member<S>>, mut service: S)
where
    S: Service<Request<B>> + Clone + Send + Sync + 'static,
    B: 'static,
{
    let Some(limit) = connect_timeout(&shared, &member) else {
        return;
    };
    let reached = is_reachable::<S, B>(&mut service, limit).await;
    drop(service);
    let wait = match shared.upgrade() {
        Some(shared) if !reached => shared.refused_unsent(&member, Instant::now()),
        _ => None,
    };
    if let Some(wait) = wait {
        probe::<S, B>(shared, member, wait).await;
    }
}

/// `None` once nobody needs the endpoint any more.
fn connect_timeout<S: Send + Sync + 'static>(
    shared: &Weak<Shared<S>>,
    member: &Member<S>,
) -> Option<Duration> {
    let shared = shared.upgrade()?;
    (!member.endpoint.removed()).then(|| shared.settings.get().config.connect_timeout)
}
