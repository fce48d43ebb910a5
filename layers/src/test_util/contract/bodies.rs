//! The rules about bodies: the matrix, how calls count, and streaming.

use std::time::Duration;

use http::Request;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::{
    Rule, Tally,
    examine::Examination,
    rig::{MOST_POLLS, Rig, describe, differences, post},
};
use crate::test_util::{
    Answer, BodyCase, Gate, Probe, Read, TestBody, Verdict,
    bodies::{get, grpc_request},
    drive::Step,
    exchange::exchange,
};

// ===== impl Examination =====

impl Examination<'_> {
    pub(super) async fn bodies(&mut self) {
        let mut tallied = false;
        for case in BodyCase::ALL {
            let (mut bare, _) = Probe::always(case.answer());
            let expected = exchange(&mut bare, case.request(), case.read()).await;
            let expected = expected.expect("the matrix has no errors before the head");

            let mut rig = Rig::new((self.build)(), move |_| case.answer());
            match rig.call(case.request(), case.read(), MOST_POLLS).await {
                Step::Done(Ok(seen)) => {
                    for difference in differences(&expected, &seen) {
                        self.violate(Rule::Bodies, format!("{case:?}: {difference}"));
                    }
                }
                step => self.violate(Rule::Bodies, format!("{case:?}: {}", describe(&step))),
            }
            if let Some(tally) = rig.subject.tally.as_ref().map(|tally| tally()) {
                tallied = true;
                let verdict = case.verdict();
                if !tally.fits(verdict) {
                    let detail = format!("{case:?} counts as {tally:?}, not as {verdict:?}");
                    self.violate(Rule::Outcomes, detail);
                }
            }
            self.aftermath(Rule::Bodies, &format!("after {case:?}"), rig)
                .await;
        }
        if !tallied {
            self.report.unchecked.push(Rule::Outcomes);
        }
    }

    pub(super) async fn streaming(&mut self) {
        let answer = Answer::ok().body(TestBody::stream().data("first").gate(&Gate::new()));
        self.streams(
            "the first frame of a response, the second is still to come",
            answer,
            get("/"),
        )
        .await;

        let answer = Answer::ok().ignoring_request();
        let body = TestBody::stream().data("first").gate(&Gate::new());
        self.streams(
            "an answer while the request is still being sent",
            answer,
            post(body),
        )
        .await;

        let body = TestBody::stream().data("first").gate(&Gate::new());
        let answer = Answer::grpc(TestBody::echo());
        self.streams(
            "an echo of a stream that stays open",
            answer,
            grpc_request("/kit.T/B", body),
        )
        .await;
    }

    /// The first frame (or the end) of the answer must come although the rest never does.
    async fn streams(&mut self, what: &str, answer: Answer, request: Request<TestBody>) {
        let wanted: &[u8] = match answer.clone().into_response() {
            Some(response) if !response.body().is_end_stream() => b"first",
            _ => b"",
        };
        let mut rig = Rig::new((self.build)(), move |_| answer.clone());
        // Without waiting for a timer: a layer that buffers may have a limit in time as well.
        let started = Instant::now();
        let step = rig.call(request, Read::Frames(1), MOST_POLLS).await;
        match step {
            Step::Done(Ok(seen))
                if seen.data() == wanted && started.elapsed() == Duration::ZERO => {}
            step => {
                self.violate(
                    Rule::Streaming,
                    format!("{what}: held back: {}", describe(&step)),
                );
            }
        }
        self.aftermath(Rule::Streaming, what, rig).await;
    }

    pub(super) async fn large_request(&mut self) {
        const FRAME: usize = 16 * 1024;
        const FRAMES: u8 = 64;
        let body = TestBody::chunks((0..FRAMES).map(|n| vec![n; FRAME])).trailer("x-sum", "7");
        let expected = body
            .clone()
            .collect()
            .await
            .expect("a body without errors")
            .to_bytes();
        let mut rig = Rig::new((self.build)(), |_| Answer::ok());
        let step = rig.call(post(body), Read::LikeHyper, MOST_POLLS).await;
        let received = rig.probe.requests();
        match received.as_slice() {
            [one] if one.body != expected => {
                let detail = format!("a request of 1 MiB: {} bytes arrived", one.body.len());
                self.violate(Rule::Streaming, detail);
            }
            [one] if one.trailers.is_none() => {
                self.violate(Rule::Streaming, "a request of 1 MiB: its trailers are lost");
            }
            [_] => {}
            requests => {
                let (count, end) = (requests.len(), describe(&step));
                let detail = format!("a request of 1 MiB arrived {count} times: {end}");
                self.violate(Rule::Streaming, detail);
            }
        }
        self.aftermath(Rule::Streaming, "a request of 1 MiB", rig)
            .await;
    }
}

// ===== impl Tally =====

impl Tally {
    fn fits(self, verdict: Verdict) -> bool {
        let counted = (self.successes, self.failures);
        match verdict {
            Verdict::Success => counted == (1, 0),
            Verdict::Failure => counted == (0, 1),
            Verdict::Neither => counted == (0, 0),
            Verdict::NoFailure => matches!(counted, (0 | 1, 0)),
        }
    }
}
