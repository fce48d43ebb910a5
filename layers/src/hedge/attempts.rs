//! The attempts of one call: when the next one is made, and what it is sent with.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request, Response};
use tokio::time::Instant;

use super::{
    layer::Outlook,
    policy::{Policy, Then, Verdict},
    service::Core,
    stats::HeldBack,
};
use crate::vocab::{
    body::{Again, Replay},
    classify::{CallKind, Classify},
    context::{CallContext, EndpointId, picked},
    grpc,
    live::Reading,
    snapshot::Snapshot,
    wheel::WheelTimer,
};

/// The attempts of one call.
pub(super) struct Attempts<S, C, B: Replay> {
    /// Until the next one; holds the handle to all that is shared.
    timer: WheelTimer<Core<S, C>>,
    /// What the next attempt is made of; `None` when there will be none.
    kept: Option<Kept<B>>,
    call: CallKind,
    /// How many were made.
    made: u32,
    start: Instant,
    delay: Duration,
    /// Whether the time of the first one is wanted.
    is_timed: bool,
    /// That of the options which the call began with, and goes on with.
    revision: u64,
}

/// What is kept of a request.
pub(super) struct Kept<B: Replay> {
    pub(super) head: Snapshot,
    pub(super) body: B::Saved,
}

// ===== impl Attempts =====

impl<S, C, B: Replay> Attempts<S, C, B> {
    #[inline]
    pub(super) fn begin(
        core: &Core<S, C>,
        call: CallKind,
        outlook: Outlook,
        kept: Option<Kept<B>>,
        start: Instant,
        delay: Option<Duration>,
    ) -> Self {
        Self {
            timer: WheelTimer::new(core.clone(), delay.map(|delay| start + delay)),
            kept,
            call,
            made: 1,
            start,
            delay: delay.unwrap_or_default(),
            is_timed: outlook.has_percentile(),
            revision: core.shared.policy.revision(),
        }
    }

    #[inline]
    pub(super) fn core(&self) -> &Core<S, C> {
        self.timer.owner()
    }

    fn policy(&self) -> Reading<Policy> {
        self.core().shared.policy.get_at(self.revision)
    }

    /// Notes the endpoint that a balancer below picked, also for a layer above that asks.
    #[inline]
    pub(super) fn picked(&mut self, endpoint: Option<EndpointId>) {
        let Some(endpoint) = endpoint else { return };
        picked::record(endpoint);
        if let Some(kept) = &mut self.kept {
            kept.head.tried_mut().push(endpoint);
        }
    }

    /// Whether the next attempt is due.
    #[inline]
    pub(super) fn poll_due(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.timer.deadline().is_none() {
            return Poll::Pending;
        }
        self.timer.poll_expired(cx)
    }

    #[inline]
    pub(super) fn judge<R, E>(&self, answer: &Result<Response<R>, E>) -> Verdict
    where
        C: Classify,
        E: 'static,
    {
        Verdict::of(&self.core().classify, self.call, answer)
    }

    /// The first attempt was answered, or lost: then it would have taken longer than this.
    #[inline]
    pub(super) fn first_took(&self) {
        if self.is_timed {
            self.core().shared.latencies.record(self.start.elapsed());
        }
    }

    /// The call is answered by another attempt than the first.
    #[cold]
    pub(super) fn won_by_other(&self, first_is_running: bool) {
        self.core().shared.stats.won();
        if first_is_running {
            self.first_took();
        }
    }

    /// An attempt failed, and another is under way.
    #[cold]
    pub(super) fn failed(&mut self, then: Then) {
        match then {
            Then::GoOn => {}
            Then::After(wait) => {
                let until = Instant::now() + wait;
                if self.timer.deadline().is_some_and(|due| due < until) {
                    self.timer.reset(Some(until));
                }
            }
            Then::Stop => {
                if self.timer.deadline().is_some() {
                    self.core().shared.stats.held_back(HeldBack::Pushback);
                }
                self.end();
            }
        }
    }

    /// There will be no further attempt.
    fn end(&mut self) {
        self.timer.reset(None);
        self.kept = None;
    }

    /// The next attempt is due: its request, where there may be one.
    #[cold]
    pub(super) fn next(&mut self) -> Option<Request<B>> {
        match self.allow() {
            Ok(request) => {
                self.core().shared.stats.hedged();
                Some(request)
            }
            Err(why) => {
                self.core().shared.stats.held_back(why);
                self.end();
                None
            }
        }
    }

    fn allow(&mut self) -> Result<Request<B>, HeldBack> {
        let now = Instant::now();
        if self.deadline().is_some_and(|deadline| now >= deadline) {
            return Err(HeldBack::Deadline);
        }
        let kept = self.kept.as_ref().ok_or(HeldBack::Body)?;
        let Again::Body(body) = B::again(&kept.body) else {
            return Err(HeldBack::Body);
        };
        let core = self.core();
        if !core.shared.cap.withdraw(now) {
            return Err(HeldBack::ExtraLoad);
        }
        // NOTE: in this order. What the cap has given is lost where the budget is spent; the other way
        // round a cap that is reached would use the retries up.
        if core
            .budget
            .as_ref()
            .is_some_and(|budget| !budget.withdraw(now))
        {
            return Err(HeldBack::Budget);
        }
        Ok(self.request(body, now))
    }

    fn request(&mut self, body: B, now: Instant) -> Request<B> {
        self.made += 1;
        let is_last = self.made >= self.policy().max_attempts;
        self.timer.reset((!is_last).then(|| now + self.delay));
        let kept = self.kept.as_mut().expect("the body is of it");
        let tried = kept.head.tried();
        // NOTE: not taken apart even by the last: what an attempt under way picks is noted in it.
        let mut parts = kept.head.parts().clone();
        let context = CallContext::get_or_insert(&mut parts.extensions);
        context.attempt.number += self.made - 1;
        context.attempt.tried = tried;
        let previous = context.attempt.number - 1;
        // What an outer layer wrote there was true for the first attempt.
        if let Some(deadline) = context.deadline
            && let Some(timeout) = parts.headers.get_mut(grpc::TIMEOUT)
        {
            let left = deadline.saturating_duration_since(now);
            *timeout = grpc::format_timeout(left);
        }
        if self.call.is_grpc() {
            let previous = HeaderValue::from(previous);
            parts.headers.insert(grpc::PREVIOUS_ATTEMPTS, previous);
        }
        Request::from_parts(parts, body)
    }

    /// When the caller will have given up.
    fn deadline(&self) -> Option<Instant> {
        let kept = self.kept.as_ref();
        match kept.and_then(|kept| kept.head.context()) {
            Some(context) => context.deadline,
            None => CallContext::current_deadline(),
        }
    }
}
