//! The attempts of one call: what is kept for the next one, and what it is sent with.

use std::task::{Context, Poll};

use http::{Extensions, HeaderValue, Request, Response};
use http_body::Body;
use tokio::time::Instant;

use super::{
    layer::{Outlook, Shared},
    policy::{Failed, GaveUp, Policy, Progress, Trouble, Wait},
    service::Core,
    snapshot::Snapshot,
};
use crate::vocab::{
    body::{Again, Replay},
    classify::{CallKind, Classify, RETRY_MARK},
    context::{Attempt, CallContext, Covers, EndpointId},
    grpc,
    live::Reading,
    rejection::{Reason, Rejection},
    tracked::ResponseBody,
    wheel::WheelTimer,
};

/// The attempts of one call.
pub(super) struct Attempts<S, C, B: Replay> {
    /// For the present attempt; holds the handle to all that is shared.
    timer: WheelTimer<Core<S, C>>,
    /// What the next attempt is made of; `None` when there will be none.
    kept: Option<Kept<B>>,
    /// Which attempt this is, from 1.
    number: u32,
    refused_once: bool,
    call: CallKind,
    /// That of the options which the call began with, and goes on with.
    revision: u64,
}

/// What is kept of a request: as it came, before an attempt's own deadline was written into it.
pub(super) struct Kept<B: Replay> {
    pub(super) head: Snapshot,
    pub(super) body: B::Saved,
}

/// How an attempt came out.
pub(super) enum Ended<R, E> {
    Answered(Result<R, E>),
    TimedOut,
}

/// What comes next.
pub(super) enum Next<B> {
    /// The answer is passed up.
    Done,
    /// Another attempt is made after this. Its body is `None` when it is not free yet: an attempt that
    /// was dropped may still hold it, on a task that has not run since.
    Retry(Wait, Option<B>),
}

// ===== impl Attempts =====

impl<S, C, B: Replay> Attempts<S, C, B> {
    /// `None` when there will be one attempt, and nothing limits its time.
    #[inline]
    pub(super) fn begin(
        core: &Core<S, C>,
        call: CallKind,
        outlook: Outlook,
        kept: Option<Kept<B>>,
        request: &mut Request<B>,
    ) -> Option<Self> {
        let mut deadline = None;
        if outlook.has_timeout() {
            deadline = core.shared.limit(request.extensions_mut());
        }
        if kept.is_none() && deadline.is_none() {
            return None;
        }
        Some(Self {
            timer: WheelTimer::new(core.clone(), deadline),
            kept,
            number: 1,
            refused_once: false,
            call,
            revision: core.shared.policy.revision(),
        })
    }

    fn policy(&self) -> Reading<Policy> {
        self.core().shared.policy.get_at(self.revision)
    }

    #[inline]
    pub(super) fn core(&self) -> &Core<S, C> {
        self.timer.owner()
    }

    /// Notes the endpoint that a balancer below picked.
    #[inline]
    pub(super) fn picked(&mut self, endpoint: Option<EndpointId>) {
        if let (Some(endpoint), Some(kept)) = (endpoint, &mut self.kept) {
            kept.head.tried_mut().push(endpoint);
        }
    }

    /// Whether the present attempt has taken too long.
    #[inline]
    pub(super) fn poll_timeout(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.timer.deadline().is_none() {
            return Poll::Pending;
        }
        self.timer.poll_expired(cx)
    }

    /// Judges an answer: `None` for one that is passed up.
    #[inline]
    pub(super) fn judge<R, E>(&self, answer: &Result<Response<R>, E>) -> Option<Failed>
    where
        C: Classify,
        E: 'static,
    {
        let core = self.core();
        let failed = match answer {
            Ok(response) => Trouble::of(&core.classify, self.call, response).and_then(|trouble| {
                let policy = self.policy();
                policy.failed(trouble, response.headers())
            }),
            Err(error) => {
                let policy = self.policy();
                policy.failed_with(&core.classify, self.call, error)
            }
        };
        if failed.is_none() && self.number > 1 && answer.is_ok() {
            core.shared.stats.recovered();
        }
        failed
    }

    /// Judges an attempt that took too long. `unsent`: the inner service had not become ready.
    pub(super) fn timed_out(&self, unsent: bool) -> Option<Failed> {
        self.policy().timed_out(unsent)
    }

    /// What follows on a failed attempt. `release` drops what is left of it, so that it gives its body
    /// back; where it did not come as far as to send it, `release` returns the body.
    #[cold]
    pub(super) fn after<R, E>(
        &mut self,
        failed: &Failed,
        ended: &mut Ended<Response<R>, E>,
        release: impl FnOnce() -> Option<B>,
    ) -> Next<B> {
        self.try_again(failed, release).unwrap_or_else(|why| {
            self.gave_up(why, ended);
            Next::Done
        })
    }

    fn try_again(
        &mut self,
        failed: &Failed,
        release: impl FnOnce() -> Option<B>,
    ) -> Result<Next<B>, GaveUp> {
        let now = Instant::now();
        let deadline = self.deadline();
        let shared = &self.timer.owner().shared;
        let policy = self.policy();
        let progress = Progress {
            parts: self.kept.as_mut().map(|kept| kept.head.parts()),
            attempts: self.number - u32::from(self.refused_once),
            refused_once: self.refused_once,
            deadline,
        };
        let wait = policy.decide(failed, progress, now, &mut shared.rng.lock())?;
        let body = match (release(), &self.kept) {
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
        Ok(Next::Retry(wait, body))
    }

    /// Looks again for a body that was not free.
    pub(super) fn body(&self) -> Option<B> {
        match B::again(&self.kept.as_ref()?.body) {
            Again::Body(body) => Some(body),
            Again::InUse | Again::Lost => None,
        }
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
        let timeout = self.policy().attempt_timeout;
        let deadline = timeout.map(|timeout| {
            let own = Instant::now() + timeout;
            self.deadline().map_or(own, |deadline| deadline.min(own))
        });
        self.timer.reset(deadline);
    }

    /// The request of the present attempt.
    pub(super) fn request(&mut self, body: B) -> Request<B> {
        let most = self.policy().max_attempts;
        let is_last = self.number - u32::from(self.refused_once) >= most;
        let kept = self.kept.as_mut().expect("what another attempt is made of");
        let tried = kept.head.tried();
        let mut parts = if is_last {
            let kept = self.kept.take().expect("just seen");
            kept.head.into_parts()
        } else {
            kept.head.parts().clone()
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
            tried,
        };
        shorten(context, self.timer.deadline());
        // What an outer layer wrote there was true for the first attempt.
        if let Some(deadline) = context.deadline
            && let Some(timeout) = parts.headers.get_mut(grpc::TIMEOUT)
        {
            let left = deadline.saturating_duration_since(Instant::now());
            *timeout = grpc::format_timeout(left);
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

    /// What the caller gets.
    pub(super) fn finish<R: Body, E>(
        &self,
        ended: Ended<Response<R>, E>,
    ) -> Result<Response<ResponseBody<R>>, E> {
        match ended {
            Ended::Answered(answer) => answer.map(|response| response.map(ResponseBody::inner)),
            Ended::TimedOut => {
                let detail = "no answer within the time of an attempt";
                let rejection = Rejection::new("retry", Reason::DeadlineExceeded, detail);
                Ok(rejection.into_response(self.call))
            }
        }
    }
}

impl Shared {
    /// Limits the time of a first attempt: writes its deadline into its context, and gives it.
    #[cold]
    pub(super) fn limit(&self, extensions: &mut Extensions) -> Option<Instant> {
        let own = Instant::now() + self.policy.get().attempt_timeout?;
        let context = CallContext::get_or_insert(extensions);
        shorten(context, Some(own));
        context.deadline
    }
}

/// An attempt's own timeout is for its response head; the deadline of a call says itself what it is for.
fn shorten(context: &mut CallContext, deadline: Option<Instant>) {
    let Some(deadline) = deadline else { return };
    if context.deadline.is_none_or(|of_call| deadline < of_call) {
        context.deadline = Some(deadline);
        context.deadline_covers = Covers::Head;
    }
}
