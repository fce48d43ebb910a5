//! The attempts of one call: what is kept for the next one, and what it is sent with.

use std::task::{Context, Poll};

use http::{HeaderValue, Request, Response, request};
use http_body::Body;
use tokio::time::Instant;

use super::{
    policy::{Failed, GaveUp, Policy, Progress, Wait},
    service::Core,
};
use crate::vocab::{
    body::{Again, Replay},
    classify::{CallKind, Classify, RETRY_MARK},
    context::{Attempt, CallContext, Covers, EndpointId, Tried},
    grpc,
    rejection::{Reason, Rejection},
    tracked::ResponseBody,
    wheel::WheelTimer,
};

/// The attempts of one call.
pub(super) struct Attempts<S, C, B: Replay> {
    /// For the present attempt; holds the handle to all that is shared.
    timer: WheelTimer<Core<S, C>>,
    call: CallKind,
    /// What the next attempt is made of; `None` when there will be none.
    kept: Option<Kept<B>>,
    /// The body of the next attempt, taken out of what is kept.
    body: Option<B>,
    /// Which attempt this is, from 1.
    number: u32,
    refused_once: bool,
    tried: Tried,
}

struct Kept<B: Replay> {
    /// As they came, before an attempt's own deadline was written into them.
    parts: request::Parts,
    body: B::Saved,
}

/// How an attempt came out.
pub(super) enum Ended<R, E> {
    Answered(Result<R, E>),
    TimedOut {
        /// The inner service had not become ready.
        unsent: bool,
    },
}

/// What comes next.
pub(super) enum Next {
    /// The answer is passed up.
    Done,
    /// The next attempt has its body, and is made after this.
    Retry(Wait),
    /// The same, but its body is not free yet: an attempt that was dropped may still hold it, on a
    /// task that has not run since. The answer is kept in case that it never lets go.
    RetryIfFree(Wait),
}

// ===== impl Attempts =====

impl<S, C, B: Replay> Attempts<S, C, B> {
    /// Keeps what another attempt needs, if there can be one, and limits the first one's time.
    pub(super) fn begin(
        core: &Core<S, C>,
        call: CallKind,
        mut request: Request<B>,
    ) -> (Request<B>, Option<Self>) {
        let policy = core.shared.policy.get();
        let retries = policy.max_attempts > 1 && !call.connect;
        if !retries && policy.attempt_timeout.is_none() {
            return (request, None);
        }
        let mut kept = None;
        if retries {
            let (parts, body) = request.into_parts();
            let (body, saved) = body.save(&policy.limits);
            request = Request::from_parts(parts.clone(), body);
            kept = Some(Kept { parts, body: saved });
        }
        let deadline = limit(&policy, || {
            CallContext::get_or_insert(request.extensions_mut())
        });
        let attempts = Self {
            timer: WheelTimer::new(core.clone(), deadline),
            call,
            kept,
            body: None,
            number: 1,
            refused_once: false,
            tried: Tried::default(),
        };
        (request, Some(attempts))
    }

    pub(super) fn core(&self) -> &Core<S, C> {
        self.timer.owner()
    }

    /// Notes the endpoint that a balancer below picked.
    pub(super) fn picked(&mut self, endpoint: Option<EndpointId>) {
        if let Some(endpoint) = endpoint {
            self.tried.push(endpoint);
        }
    }

    /// Whether the present attempt has taken too long.
    pub(super) fn poll_timeout(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.timer.poll_expired(cx)
    }

    /// Judges how an attempt ended. `release` drops what is left of it, so that it gives its body back.
    pub(super) fn judge<R, E>(
        &mut self,
        ended: &mut Ended<Response<R>, E>,
        release: impl FnOnce(),
    ) -> Next
    where
        C: Classify,
        E: 'static,
    {
        let core = self.core();
        let policy = core.shared.policy.get();
        let failed = match &*ended {
            Ended::Answered(Ok(response)) => policy.failed(&core.classify, self.call, response),
            Ended::Answered(Err(error)) => policy.failed_with(&core.classify, self.call, error),
            Ended::TimedOut { unsent } => policy.timed_out(*unsent),
        };
        let Some(failed) = failed else {
            if self.number > 1 && matches!(ended, Ended::Answered(Ok(_))) {
                core.shared.stats.recovered();
            }
            return Next::Done;
        };
        match self.try_again(&policy, &failed, release) {
            Ok(next) => next,
            Err(why) => {
                self.gave_up(why, ended);
                Next::Done
            }
        }
    }

    fn try_again(
        &mut self,
        policy: &Policy,
        failed: &Failed,
        release: impl FnOnce(),
    ) -> Result<Next, GaveUp> {
        let now = Instant::now();
        let progress = Progress {
            parts: self.kept.as_ref().map(|kept| &kept.parts),
            attempts: self.number - u32::from(self.refused_once),
            refused_once: self.refused_once,
            deadline: self.deadline(),
        };
        let shared = &self.timer.owner().shared;
        let wait = policy.decide(failed, progress, now, &mut shared.rng.lock())?;
        release();
        let body = match (self.body.take(), &self.kept) {
            // The last attempt did not come as far as to send it.
            (Some(body), _) => Some(body),
            (None, Some(kept)) => match B::again(&kept.body) {
                Again::Body(body) => Some(body),
                Again::InUse => None,
                Again::Lost => return Err(GaveUp::Body),
            },
            (None, None) => return Err(GaveUp::Body),
        };
        let is_free = wait == Wait::Free;
        if !is_free && !shared.budget.withdraw(policy.budget, now) {
            return Err(GaveUp::Budget);
        }
        shared.stats.retried(failed.condition, is_free);
        self.refused_once |= is_free;
        let next = if body.is_some() {
            Next::Retry
        } else {
            Next::RetryIfFree
        };
        self.body = body;
        Ok(next(wait))
    }

    /// Looks again for a body that was not free.
    pub(super) fn is_body_free(&mut self) -> bool {
        if self.body.is_none()
            && let Some(kept) = &self.kept
            && let Again::Body(body) = B::again(&kept.body)
        {
            self.body = Some(body);
        }
        self.body.is_some()
    }

    /// The last answer is passed up. Where it is for want of budget it says so, or every hop above
    /// would multiply the retries of this one.
    pub(super) fn gave_up<R, E>(&self, why: GaveUp, ended: &mut Ended<Response<R>, E>) {
        // A call that nothing was kept of was never meant to be retried.
        if self.kept.is_some() || self.number > 1 {
            self.core().shared.stats.gave_up(why);
        }
        if let (GaveUp::Budget, Ended::Answered(Ok(response))) = (why, ended) {
            let headers = response.headers_mut();
            if self.call.is_grpc() {
                headers.insert(grpc::RETRY_PUSHBACK, HeaderValue::from_static("-1"));
            } else {
                headers.insert(RETRY_MARK, HeaderValue::from_static("never"));
            }
        }
    }

    /// The next attempt begins: its time runs from here, the wait for readiness included.
    pub(super) fn advance(&mut self) {
        self.number += 1;
        let timeout = self.core().shared.policy.get().attempt_timeout;
        let deadline = timeout.map(|timeout| {
            let own = Instant::now() + timeout;
            self.deadline().map_or(own, |deadline| deadline.min(own))
        });
        self.timer.reset(deadline);
    }

    /// The request of the present attempt; `None` if it has no body.
    pub(super) fn request(&mut self) -> Option<Request<B>> {
        let body = self.body.take()?;
        let most = self.core().shared.policy.get().max_attempts;
        let is_last = self.number - u32::from(self.refused_once) >= most;
        let mut parts = if is_last {
            self.kept.take()?.parts
        } else {
            self.kept.as_ref()?.parts.clone()
        };
        let previous = self.number - 1 - u32::from(self.refused_once);
        if self.call.is_grpc() && previous > 0 {
            parts
                .headers
                .insert(grpc::PREVIOUS_ATTEMPTS, previous.into());
        }
        let context = CallContext::get_or_insert(&mut parts.extensions);
        context.attempt = Attempt {
            number: self.number,
            tried: self.tried,
        };
        shorten(context, self.timer.deadline());
        // What an outer layer wrote there was true for the first attempt.
        if let Some(deadline) = context.deadline
            && let Some(timeout) = parts.headers.get_mut(grpc::TIMEOUT)
        {
            let left = deadline.saturating_duration_since(Instant::now());
            *timeout = grpc::format_timeout(left);
        }
        Some(Request::from_parts(parts, body))
    }

    /// When the caller will have given up.
    fn deadline(&self) -> Option<Instant> {
        let own = self.kept.as_ref().map(|kept| &kept.parts.extensions);
        match own.and_then(CallContext::get) {
            Some(context) => context.deadline,
            None => CallContext::current_deadline(),
        }
    }

    /// What the caller gets.
    pub(super) fn finish<R: Body, E>(
        &self,
        ended: Ended<Response<R>, E>,
    ) -> Result<Response<ResponseBody<R>>, E> {
        match ended {
            Ended::Answered(answer) => answer.map(|response| response.map(ResponseBody::inner)),
            Ended::TimedOut { .. } => {
                let detail = "no answer within the time of an attempt";
                let rejection = Rejection::new("retry", Reason::DeadlineExceeded, detail);
                Ok(rejection.into_response(self.call))
            }
        }
    }
}

/// Writes the first attempt's deadline into its context, which is inserted only if there is one.
fn limit<'a>(policy: &Policy, context: impl FnOnce() -> &'a mut CallContext) -> Option<Instant> {
    let own = Instant::now() + policy.attempt_timeout?;
    let context = context();
    shorten(context, Some(own));
    context.deadline
}

/// An attempt's own timeout is for its response head; the deadline of a call says itself what it is for.
fn shorten(context: &mut CallContext, deadline: Option<Instant>) {
    let Some(deadline) = deadline else { return };
    if context.deadline.is_none_or(|of_call| deadline < of_call) {
        context.deadline = Some(deadline);
        context.deadline_covers = Covers::Head;
    }
}
