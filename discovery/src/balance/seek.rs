//! A call with no ready endpoint yet: the request is in hand, so another one can be picked.
//!
//! ```text
//!           no endpoint known            not ready in 50 ms, and another one is
//!   pick ───────────────────► wait     ┌──────────────────────────────────────┐
//!    ▲ └──► ask whether ready ─────────┴─► send                               ▼
//!    └────────────┘ refused, too slow, removed                connecting goes on in a task
//! ```

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::Request;
use tokio::{
    sync::futures::OwnedNotified,
    time::{Instant, Sleep},
};
use tower_mesh_layers::{CallContext, Outcome, Pending, Reason, Rejection, context::RouteDecision};
use tower_service::Service;

use super::{
    choice::{Nothing, Picked, Plan},
    endpoint::{EndpointGuard, Member},
    probe,
    set::Shared,
};

/// How long a call waits for the endpoint that it picked, before it looks whether another one is
/// ready. Longer than connecting takes in one zone: leaving early would favour endpoints that
/// happen to have connections.
const PATIENCE: Duration = Duration::from_millis(50);
/// A call that met so many refusals has found out that most are dead. The error then surfaces.
const MAX_REPICKS: u32 = 16;

/// A call that has no ready endpoint yet, with the request in hand.
pub(super) struct Seek<S: Send + Sync + 'static, E> {
    shared: Arc<Shared<S>>,
    plan: Plan,
    deadline: Option<Instant>,
    start: Instant,
    candidate: Option<Candidate<S>>,
    error: Option<E>,
    repicks: u32,
    looked_around: bool,
    timer: Option<Pin<Box<Sleep>>>,
    changed: Option<Pin<Box<OwnedNotified>>>,
}

/// A picked endpoint that is not ready yet.
pub(super) struct Candidate<S: Send + Sync + 'static> {
    pub(super) service: S,
    pub(super) call: Pending<EndpointGuard<S>>,
    since: Instant,
}

/// What a search ends with.
pub(super) enum Found<S: Send + Sync + 'static, E> {
    Ready(Candidate<S>),
    Failed(E),
    Rejected(Rejection),
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

    pub(super) fn poll<B>(
        &mut self,
        request: &Request<B>,
        cx: &mut Context<'_>,
    ) -> Poll<Found<S, E>>
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
            let nothing = match self.pick(request) {
                Ok(picked) => {
                    let again = self.plan.tried.contains(picked.member.endpoint.id());
                    if self.repicks > 0 && (again || self.repicks > MAX_REPICKS) {
                        return Poll::Ready(Some(self.nothing_left(request)));
                    }
                    self.candidate = Some(Candidate::new(picked, self.deadline));
                    self.timer = None;
                    return Poll::Ready(None);
                }
                Err(nothing) => nothing,
            };
            // Where the service is known and the arm is not, it is the rules that are wrong or early.
            let waits =
                nothing == Nothing::Known || self.shared.settings.get().config.wait_for_ready;
            if self.repicks > 0 || !waits {
                return Poll::Ready(Some(self.nothing_left(request)));
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
            return Poll::Ready(Some(self.nothing_left(request)));
        }
    }

    fn pick<B>(&self, request: &Request<B>) -> Result<Picked<S>, Nothing> {
        self.shared.pick(&self.plan, route(request), Instant::now())
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

    fn nothing_left<B>(&mut self, request: &Request<B>) -> Found<S, E> {
        if let Some(error) = self.error.take() {
            return Found::Failed(error);
        }
        self.shared.counts.no_endpoint.add(1);
        let service = &self.shared.service;
        let known = !self.shared.set.load().members.is_empty();
        let detail = match route(request).map(RouteDecision::arm) {
            _ if self.repicks > 0 => format!("no endpoint of `{service}` accepts a connection"),
            Some(arm) if known => format!(
                "no endpoint of `{service}` is in the subset {}, where arm `{}` of rule `{}` goes",
                arm.subset, arm.name, arm.rule
            ),
            _ => format!("no endpoint of `{service}` is known"),
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
        // NOTE: told after it is out, so that the end of a trial finds nothing left to do.
        self.candidate = Some(candidate);
        self.leave(Outcome::Ignored);
        if let Some(wait) = wait {
            probe::spawn(probe::probe::<S, B>(
                Arc::downgrade(&self.shared),
                member,
                wait,
            ));
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
        let slow = self.candidate.as_mut()?.call.guard().member().clone();
        around.tried.push(slow.endpoint.id());
        let now = Instant::now();
        let picked = self.shared.pick(&around, route(request), now).ok()?;
        let same = around.tried.contains(picked.member.endpoint.id());
        let mut other = Candidate::new(picked, self.deadline);
        let Candidate { service, call, .. } = &mut other;
        if same || !matches!(call.run(|| service.poll_ready(cx)), Poll::Ready(Ok(()))) {
            other.call.end(Outcome::Ignored);
            slow.endpoint.note_pick();
            return None;
        }
        let (member, service) = self.leave(Outcome::Ignored)?;
        probe::spawn(probe::connect::<S, B>(
            Arc::downgrade(&self.shared),
            member,
            service,
        ));
        Some(other)
    }
}

/// What a routing layer decided for a call.
fn route<B>(request: &Request<B>) -> Option<&RouteDecision> {
    CallContext::get(request.extensions())?.route.as_ref()
}

// ===== impl Candidate =====

impl<S: Clone + Send + Sync + 'static> Candidate<S> {
    pub(super) fn new(picked: Picked<S>, deadline: Option<Instant>) -> Self {
        Self {
            service: picked.member.service.clone(),
            since: picked.at,
            call: Pending::new(EndpointGuard::new(picked), deadline),
        }
    }
}
