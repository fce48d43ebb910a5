//! The rules, one function each.

use std::{future::poll_fn, sync::Arc, time::Duration};

use http::Request;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    Report, Rule, Script, Subject,
    rig::{MOST_POLLS, Rig, churned, describe, grpc_put, progress, put},
};
use crate::test_util::{
    Answer, Gate, InjectedPanic, ProbeError, ProbeHandle, Read, TestBody,
    bodies::{GRPC_MESSAGE, get},
    drive::{self, Step, Steps},
    exchange::exchange,
};

pub(super) struct Examination<'a> {
    pub(super) report: Report,
    pub(super) build: &'a dyn Fn() -> Subject,
    pub(super) held_in_call: bool,
    pub(super) clones_per_call: Option<u64>,
    pub(super) limit: Option<(Subject, (u64, &'a Answer))>,
    pub(super) scripts: &'a [Script],
    pub(super) waived: &'a [Rule],
    pub(super) churn: usize,
}

// ===== impl Examination =====

impl Examination<'_> {
    pub(super) async fn run(mut self) -> Report {
        // Panics if the clock is not paused; the rules would wait for days.
        tokio::time::advance(Duration::ZERO).await;
        self.readiness().await;
        self.wakeups().await;
        self.cancel().await;
        self.panic().await;
        self.bodies().await;
        self.streaming().await;
        self.large_request().await;
        self.errors().await;
        self.reapplication().await;
        self.churn().await;
        self.clones().await;
        self.report
            .violations
            .retain(|violation| !self.waived.contains(&violation.rule));
        self.report.unchecked.extend(self.waived);
        self.report
    }

    pub(super) fn violate(&mut self, rule: Rule, detail: impl Into<String>) {
        self.report.violate(rule, detail);
    }

    /// What the strict probe noticed.
    fn heed(&mut self, probe: &ProbeHandle) {
        for violation in probe.violations() {
            self.violate(Rule::Readiness, violation);
        }
    }

    pub(super) async fn aftermath(&mut self, rule: Rule, what: &str, rig: Rig) {
        let probe = rig.probe.clone();
        if let Some(problem) = rig.aftermath().await {
            self.violate(rule, format!("{what}: {problem}"));
        }
        self.heed(&probe);
    }

    async fn readiness(&mut self) {
        let mut rig = Rig::new((self.build)(), |_| Answer::ok());
        // Twice on one instance, then on a clone, then on the original after it was cloned.
        for _ in 0..2 {
            self.plain_call(&mut rig).await;
        }
        let clone = rig.service.clone();
        let mut original = std::mem::replace(&mut rig.service, clone);
        self.plain_call(&mut rig).await;
        std::mem::swap(&mut rig.service, &mut original);
        if drive::catch(poll_fn(|cx| rig.service.poll_ready(cx)))
            .await
            .is_ok()
        {
            let _clone = rig.service.clone();
            let call = async { rig.service.call(get("/kit")).await };
            if let Step::Panicked(payload) = Steps::new(call).run(MOST_POLLS).await {
                let message = drive::panic_message(&*payload).to_owned();
                self.violate(Rule::Readiness, format!("ready, cloned, called: {message}"));
            }
        }
        drop(original);
        self.aftermath(Rule::Readiness, "after calls one after the other", rig)
            .await;

        let mut rig = Rig::new((self.build)(), |_| Answer::ok());
        _ = drive::catch(poll_fn(|cx| rig.service.poll_ready(cx))).await;
        self.aftermath(Rule::Readiness, "dropped when ready and never called", rig)
            .await;

        let mut rig = Rig::new((self.build)(), |_| Answer::ok());
        rig.probe.fail_ready(ProbeError::refused());
        match rig.call(get("/kit"), Read::LikeHyper, MOST_POLLS).await {
            Step::Done(_) => {}
            step => {
                let what = describe(&step);
                self.violate(
                    Rule::Readiness,
                    format!("the inner readiness fails: {what}"),
                );
            }
        }
        self.heed(&rig.probe);
    }

    async fn plain_call(&mut self, rig: &mut Rig) {
        match rig.call(get("/kit"), Read::LikeHyper, MOST_POLLS).await {
            Step::Done(Ok(exchange)) if exchange.head.status == 200 => {}
            step => {
                self.violate(
                    Rule::Readiness,
                    format!("a plain call fails: {}", describe(&step)),
                );
            }
        }
    }

    async fn wakeups(&mut self) {
        let mut rig = Rig::new((self.build)(), |_| Answer::ok());
        let gate = Gate::new();
        rig.probe.hold_ready(&gate);
        let mut ready = Steps::new(poll_fn(|cx| rig.service.poll_ready(cx)));
        // A layer may also be ready at once, and wait inside the call.
        if let Step::Pending = ready.poll() {
            self.waits("poll_ready", &mut ready, &gate).await;
        }
        drop(ready);
        gate.open();
        self.aftermath(Rule::Wakeups, "after waiting for readiness", rig)
            .await;

        let gate = Gate::new();
        let answered = gate.clone();
        let mut rig = Rig::new((self.build)(), move |_| Answer::ok().gated(&answered));
        let mut call = Steps::new(exchange(&mut rig.service, get("/kit"), Read::LikeHyper));
        if let Step::Pending = call.poll() {
            if self.held_in_call && rig.subject.held() == 0 {
                self.violate(
                    Rule::Cancel,
                    "the `held` hook shows 0 while a call is under way, so it could show no leak",
                );
            }
            self.waits("the call", &mut call, &gate).await;
        }
        drop(call);
        self.aftermath(Rule::Wakeups, "after waiting for an answer", rig)
            .await;
    }

    /// Something that waits at a shut gate must not be woken until the gate opens.
    async fn waits<F: Future>(&mut self, what: &str, waiting: &mut Steps<F>, gate: &Gate) {
        drive::settle().await;
        if waiting.wakes() > 0 {
            self.violate(
                Rule::Wakeups,
                format!("{what} is pending and wakes itself: it spins"),
            );
        }
        gate.open();
        let opened = Instant::now();
        if !waiting.woken().await || opened.elapsed() > Duration::ZERO {
            // A timer of the layer may have come to the rescue, but late.
            self.violate(
                Rule::Wakeups,
                format!("{what} was pending, and missed the wake-up"),
            );
        }
        match waiting.run(MOST_POLLS).await {
            Step::Done(_) => {}
            step => {
                self.violate(
                    Rule::Wakeups,
                    format!(
                        "{what} was pending, the inner service went on: {}",
                        progress(&step)
                    ),
                );
            }
        }
    }

    async fn cancel(&mut self) {
        let http: Script = Arc::new(|_| {
            let body = TestBody::stream()
                .data("a")
                .pending_once()
                .data("b")
                .pending_once();
            Answer::ok().pending_times(2).body(body)
        });
        let grpc: Script = Arc::new(|_| {
            let body = TestBody::stream().data(GRPC_MESSAGE).pending_once();
            Answer::grpc(body.trailer("grpc-status", "0")).pending_times(2)
        });
        self.cancel_within("a call", put, &http).await;
        self.cancel_within("a gRPC call", grpc_put, &grpc).await;
        for script in self.scripts {
            self.cancel_within("a scripted call", put, script).await;
            self.cancel_within("a scripted gRPC call", grpc_put, script)
                .await;
        }
    }

    async fn cancel_within(&mut self, what: &str, request: fn() -> Request<TestBody>, s: &Script) {
        for polls in 0..MOST_POLLS {
            let script = s.clone();
            let mut rig = Rig::new((self.build)(), move |call| script(call));
            rig.probe.stutter();
            let step = rig.call(request(), Read::LikeHyper, polls).await;
            let done = !matches!(step, Step::Pending);
            match step {
                Step::Pending | Step::Done(Ok(_) | Err(_)) => {}
                step => {
                    self.violate(
                        Rule::Cancel,
                        format!("{what}, not dropped: {}", describe(&step)),
                    );
                }
            }
            let before = self.report.violations.len();
            self.aftermath(
                Rule::Cancel,
                &format!("{what} dropped after {polls} polls"),
                rig,
            )
            .await;
            if done || self.report.violations.len() > before {
                return;
            }
        }
        self.violate(
            Rule::Cancel,
            format!("{what} does not end within {MOST_POLLS} polls"),
        );
    }

    async fn panic(&mut self) {
        let in_body = Answer::ok().body(TestBody::stream().data("a").panic());
        let in_grpc_body = Answer::grpc(TestBody::stream().data(GRPC_MESSAGE).panic());
        for (what, request, answer) in [
            ("a panic in call", put as fn() -> _, Answer::panic_in_call()),
            (
                "a panic in the future",
                put,
                Answer::panic_in_poll().pending_times(1),
            ),
            ("a panic in the body", put, in_body),
            ("a panic in a gRPC body", grpc_put, in_grpc_body),
        ] {
            let mut rig = Rig::new((self.build)(), move |_| answer.clone());
            match rig.call(request(), Read::LikeHyper, MOST_POLLS).await {
                // A layer may catch panics.
                Step::Done(_) => {}
                Step::Panicked(payload) if InjectedPanic::is(&*payload) => {}
                step => self.violate(Rule::Panic, format!("{what}: {}", describe(&step))),
            }
            self.aftermath(Rule::Panic, &format!("after {what}"), rig)
                .await;
        }
    }

    async fn errors(&mut self) {
        let mut rig = Rig::new((self.build)(), |_| Answer::fail(ProbeError::reset()));
        match rig.call(put(), Read::LikeHyper, MOST_POLLS).await {
            Step::Done(Err(error)) if ProbeError::find(&*error).is_some() => {}
            step => self.violate(
                Rule::Errors,
                format!("the inner error does not come through: {}", describe(&step)),
            ),
        }
        self.aftermath(Rule::Errors, "after an error", rig).await;
    }

    async fn reapplication(&mut self) {
        let mut checked = false;
        if self.held_in_call {
            checked = true;
            let rig = Rig::new((self.build)(), |_| Answer::never());
            let mut services = [rig.service.clone(), (rig.subject.apply)(rig.spare.clone())];
            let mut held = Vec::new();
            let mut calls = Vec::new();
            for service in &mut services {
                let mut call = Steps::new(exchange(service, get("/kit"), Read::LikeHyper));
                _ = call.poll();
                calls.push(call);
                held.push(rig.subject.held());
            }
            if held[1] != 2 * held[0] {
                let detail = format!("calls through two applications of the layer hold {held:?}");
                self.violate(Rule::Reapplication, detail);
            }
            drop(calls);
            drop(services);
            self.aftermath(Rule::Reapplication, "after two applications", rig)
                .await;
        }
        if let Some((subject, (limit, answer))) = self.limit.take() {
            checked = true;
            let answer = answer.clone();
            let rig = Rig::new(subject, move |_| answer.clone());
            for _ in 0..20 {
                let mut service = (rig.subject.apply)(rig.spare.clone());
                for _ in 0..10 {
                    // Polled once: a call that queues for the limit is not let through.
                    _ = Steps::new(exchange(&mut service, get("/kit"), Read::LikeHyper)).poll();
                }
            }
            let reached = rig.probe.calls();
            if reached != limit {
                self.violate(
                    Rule::Reapplication,
                    format!("20 applications of a layer that admits {limit} admit {reached}"),
                );
            }
            self.heed(&rig.probe);
        }
        if !checked {
            self.report.unchecked.push(Rule::Reapplication);
        }
    }

    async fn churn(&mut self) {
        const SERVICES: usize = 64;
        const ACTIVE: usize = 32;
        let rig = Rig::new((self.build)(), |call| {
            churned(&mut fastrand::Rng::with_seed(call))
        });
        let mut rng = fastrand::Rng::with_seed(42);
        let services: Vec<_> = (0..SERVICES)
            .map(|n| match n % 2 {
                0 => rig.service.clone(),
                _ => (rig.subject.apply)(rig.spare.clone()),
            })
            .collect();
        let mut active = Vec::with_capacity(ACTIVE);
        let mut started = 0;
        while started < self.churn {
            if active.len() < ACTIVE {
                started += 1;
                let mut service = services[rng.usize(..SERVICES)].clone();
                let request = if rng.bool() { put() } else { grpc_put() };
                let call = async move { exchange(&mut service, request, Read::LikeHyper).await };
                active.push(Steps::new(call));
            }
            let chosen = rng.usize(..active.len());
            let gone = match active[chosen].poll() {
                Step::Pending => rng.u8(..100) < 10 || active[chosen].polls() > 200,
                _ => true,
            };
            if gone {
                active.swap_remove(chosen);
            }
            // Timers of the layer get their turn.
            if started % 64 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        drop(active);
        drop(services);
        self.aftermath(
            Rule::Churn,
            &format!("after {started} interleaved calls"),
            rig,
        )
        .await;
    }

    async fn clones(&mut self) {
        let Some(limit) = self.clones_per_call else {
            self.report.unchecked.push(Rule::Clones);
            return;
        };
        let mut rig = Rig::new((self.build)(), |_| Answer::ok());
        self.plain_call(&mut rig).await;
        let before = rig.probe.clones();
        self.plain_call(&mut rig).await;
        let made = rig.probe.clones() - before;
        if made > limit {
            self.violate(
                Rule::Clones,
                format!("a call makes {made} clones, not {limit}"),
            );
        }
    }
}
