//! The attempts of one call: what is kept for the next one, and what it is sent with.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Extensions, HeaderValue, Request, Response};
use http_body::Body;
use tokio::time::Instant;

use super::{
    layer::{Plan, Shared},
    peek::{PeekedBody, Seen},
    policy::{Failed, GaveUp, Policy, Progress, Sight, Trouble, Verdict, Wait},
    service::Core,
};
use crate::vocab::{
    body::{Again, Replay},
    classify::{CallKind, Classify, RETRY_MARK, pushback},
    context::{CallContext, Covers, EndpointId, picked},
    grpc,
    live::Reading,
    rejection::{Reason, Rejection},
    snapshot::Snapshot,
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
    /// Whether a gRPC status may be looked for behind the head.
    peeks: bool,
    /// The rule that counts.
    rule: u8,
    /// How many attempts were made when the peer last said when to come back.
    pushed_back_at: u32,
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

/// What the caller gets.
pub(super) type Answer<R, E> = Result<Response<ResponseBody<PeekedBody<R>>>, E>;

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
        plan: Plan,
        kept: Option<Kept<B>>,
        request: &mut Request<B>,
    ) -> Option<Self> {
        let mut deadline = None;
        if plan.outlook.has_timeout() {
            deadline = core.shared.limit(plan.rule, request.extensions_mut());
        }
        if kept.is_none() && deadline.is_none() {
            return None;
        }
        Some(Self {
            timer: WheelTimer::new(core.clone(), deadline),
            kept,
            number: 1,
            refused_once: false,
            peeks: call.is_grpc() && plan.outlook.has_grpc(),
            rule: plan.rule,
            pushed_back_at: 0,
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

    /// Notes the endpoint that a balancer below picked, also for a layer above that asks (hedging).
    #[inline]
    pub(super) fn picked(&mut self, endpoint: Option<EndpointId>) {
        let Some(endpoint) = endpoint else { return };
        picked::record(endpoint);
        if let Some(kept) = &mut self.kept {
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

    /// Judges an answer: `None` for one that is passed up. What it had to see of the body for that is
    /// put into `seen`.
    #[inline]
    pub(super) fn judge<R, E>(
        &self,
        answer: &mut Result<Response<R>, E>,
        seen: &mut Seen<R::Error>,
        cx: &mut Context<'_>,
    ) -> Option<Failed>
    where
        C: Classify,
        R: Body<Data = Bytes> + Unpin,
        E: 'static,
    {
        let core = self.core();
        let verdict = match answer {
            Ok(response) => match Sight::of(&core.classify, self.call, response) {
                Sight::Bad(trouble) => {
                    let policy = self.policy();
                    policy.response(self.rule, trouble, response.headers())
                }
                // NOTE: not for the last attempt, whose status nobody would act on.
                Sight::Open if self.peeks && self.kept.is_some() => {
                    *seen = Seen::of(response.body_mut(), cx);
                    self.judge_seen(response, seen)
                }
                Sight::Open | Sight::Fine => Verdict::Fine,
            },
            Err(error) => {
                let policy = self.policy();
                policy.error(self.rule, &core.classify, self.call, error)
            }
        };
        match verdict {
            Verdict::Failed(failed) => return Some(failed),
            Verdict::Warned => core.shared.budget.failed(),
            Verdict::Fine => core.shared.budget.succeeded(),
            Verdict::Unlisted => {}
        }
        if self.number > 1 && answer.is_ok() {
            core.shared.stats.recovered();
        }
        None
    }

    /// Judges a gRPC status that came without a message before it.
    #[inline]
    fn judge_seen<R: Body>(&self, response: &Response<R>, seen: &Seen<R::Error>) -> Verdict
    where
        C: Classify,
    {
        let Some(trailers) = seen.trailers() else {
            return Verdict::Fine;
        };
        let trouble = Trouble::of_trailers(&self.core().classify, self.call, response, trailers);
        trouble.map_or(Verdict::Fine, |trouble| {
            self.policy().response(self.rule, trouble, trailers)
        })
    }

    /// Judges an attempt that took too long. `unsent`: the inner service had not become ready.
    pub(super) fn timed_out(&self, unsent: bool) -> Option<Failed> {
        self.policy().timed_out(self.rule, unsent)
    }

    /// What follows on a failed attempt. `release` drops what is left of it, so that it gives its body
    /// back; where it did not come as far as to send it, `release` returns the body.
    #[cold]
    pub(super) fn after<R: Body, E>(
        &mut self,
        failed: &Failed,
        ended: &mut Ended<Response<PeekedBody<R>>, E>,
        release: impl FnOnce() -> Option<B>,
    ) -> Next<B> {
        self.core().shared.budget.failed();
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
        let attempts = self.number - u32::from(self.refused_once);
        let progress = Progress {
            parts: self.kept.as_mut().map(|kept| kept.head.parts()),
            attempts,
            pushed_back_at: self.pushed_back_at,
            refused_once: self.refused_once,
            deadline,
        };
        let wait = policy.decide(self.rule, failed, progress, now, &mut shared.rng.lock())?;
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
        if !is_free && !shared.budget.withdraw(now) {
            return Err(GaveUp::Budget);
        }
        shared.stats.retried(failed.condition, is_free);
        self.refused_once |= is_free;
        if failed.is_pushed_back() {
            self.pushed_back_at = attempts;
        }
        Ok(Next::Retry(wait, body))
    }

    /// Looks again for a body that was not free.
    pub(super) fn body(&self) -> Option<B> {
        match B::again(&self.kept.as_ref()?.body) {
            Again::Body(body) => Some(body),
            Again::InUse | Again::Lost => None,
        }
    }

    /// The last answer is passed up.
    pub(super) fn gave_up<R, E>(&self, why: GaveUp, ended: &mut Ended<Response<PeekedBody<R>>, E>)
    where
        R: Body,
    {
        // A call that nothing was kept of was never meant to be retried.
        if self.kept.is_some() || self.number > 1 {
            self.core().shared.stats.gave_up(why);
        }
        if let Ended::Answered(Ok(response)) = ended {
            self.mark(why, response);
        }
    }

    /// Says that nobody above may try it again where that is why it was given up: the budget is spent,
    /// or the peer is too busy and did not say until when. Or every hop would multiply the attempts
    /// that this one held back.
    fn mark<R: Body>(&self, why: GaveUp, response: &mut Response<PeekedBody<R>>) {
        let headers = if response.body().has_trailers() {
            let trailers = response.body_mut().trailers_mut();
            trailers.expect("just seen")
        } else {
            response.headers_mut()
        };
        let is_over = match why {
            GaveUp::Budget => true,
            GaveUp::Pushback => pushback(headers).is_none(),
            _ => false,
        };
        if is_over && self.call.is_grpc() {
            headers.insert(grpc::RETRY_PUSHBACK, HeaderValue::from_static("-1"));
        } else if is_over {
            headers.insert(RETRY_MARK, HeaderValue::from_static("never"));
        }
    }

    /// The next attempt begins: its time runs from here, the wait for readiness included.
    pub(super) fn advance(&mut self) {
        self.number += 1;
        let timeout = self.policy().rules.of(self.rule).attempt_timeout;
        let deadline = timeout.map(|timeout| {
            let own = Instant::now() + timeout;
            self.deadline().map_or(own, |deadline| deadline.min(own))
        });
        self.timer.reset(deadline);
    }

    /// The request of the present attempt.
    pub(super) fn request(&mut self, body: B) -> Request<B> {
        let policy = self.policy();
        let most = policy.rules.of(self.rule).max_attempts;
        let before = self.number - 1 - u32::from(self.refused_once);
        let kept = self.kept.as_mut().expect("what another attempt is made of");
        let mut tried = kept.head.tried();
        if !before.is_multiple_of(policy.at_each) {
            tried.stay();
        }
        let mut parts = if before + 1 >= most {
            let kept = self.kept.take().expect("just seen");
            kept.head.into_parts()
        } else {
            kept.head.parts().clone()
        };
        let context = CallContext::get_or_insert(&mut parts.extensions);
        // A call may itself be an attempt of an outer layer's.
        let outer = context.attempt.number - 1;
        context.attempt.number = outer + self.number;
        context.attempt.tried = tried;
        shorten(context, self.timer.deadline());
        // What an outer layer wrote there was true for the first attempt.
        if let Some(deadline) = context.deadline
            && let Some(timeout) = parts.headers.get_mut(grpc::TIMEOUT)
        {
            let left = deadline.saturating_duration_since(Instant::now());
            *timeout = grpc::format_timeout(left);
        }
        if self.call.is_grpc() && outer + before > 0 {
            let previous = HeaderValue::from(outer + before);
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

    /// What the caller gets.
    pub(super) fn finish<R: Body<Data = Bytes>, E>(
        &self,
        ended: Ended<Response<PeekedBody<R>>, E>,
    ) -> Answer<R, E> {
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
    pub(super) fn limit(&self, rule: u8, extensions: &mut Extensions) -> Option<Instant> {
        let own = Instant::now() + self.policy.get().rules.of(rule).attempt_timeout?;
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
