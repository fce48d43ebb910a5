//! What every rule needs: a layer over a scripted probe, requests, and words for what came out.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use http::{Method, Request};

use super::{Driven, Subject};
use crate::test_util::{
    Answer, BoxError, End, Exchange, Probe, ProbeError, ProbeHandle, Read, TestBody,
    bodies::{GRPC_MESSAGE, get, grpc_request},
    drive::{self, Step, Steps},
    exchange::exchange,
};

/// No call of the kit takes more polls, unless it never ends.
pub(super) const MOST_POLLS: usize = 2_000;

/// A layer over a probe that follows a script until it is told to calm down: then it answers 200,
/// so that the next call shows whether the layer came back.
pub(super) struct Rig {
    pub(super) subject: Subject,
    pub(super) service: Driven,
    pub(super) spare: Probe,
    pub(super) probe: ProbeHandle,
    calm: Arc<AtomicBool>,
}

pub(super) type Outcome = Step<Result<Exchange, BoxError>>;

// ===== impl Rig =====

impl Rig {
    pub(super) fn new(
        subject: Subject,
        script: impl Fn(u64) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let calm = Arc::new(AtomicBool::new(false));
        let is_calm = calm.clone();
        let (spare, probe) = Probe::answering(move |call, _| {
            if is_calm.load(SeqCst) {
                Answer::ok()
            } else {
                script(call)
            }
        });
        let service = (subject.apply)(spare.clone());
        Self {
            subject,
            service,
            spare,
            probe,
            calm,
        }
    }

    /// One whole call, for at most `polls` polls; then it is dropped.
    pub(super) async fn call(
        &mut self,
        request: Request<TestBody>,
        read: Read,
        polls: usize,
    ) -> Outcome {
        Steps::new(exchange(&mut self.service, request, read))
            .run(polls)
            .await
    }

    /// What is wrong once all calls are over: `None` if nothing is.
    pub(super) async fn aftermath(self) -> Option<String> {
        let Self {
            subject,
            service,
            spare,
            probe,
            calm,
        } = self;
        drop(service);
        drive::settle().await;
        match (probe.in_flight(), subject.held(), probe.reserved()) {
            (0, 0, 0) => {}
            (0, 0, reserved) => return Some(format!("{reserved} ready instances are kept")),
            (0, held, _) => return Some(format!("the layer still holds {held}")),
            (calls, ..) => return Some(format!("{calls} calls of the inner service are kept")),
        }
        calm.store(true, SeqCst);
        let mut service = (subject.apply)(spare.clone());
        let mut next = Steps::new(exchange(&mut service, get("/kit"), Read::LikeHyper));
        let problem = match next.run(MOST_POLLS).await {
            Step::Done(Ok(exchange)) if exchange.head.status == 200 => None,
            step => Some(format!("the next call fails: {}", describe(&step))),
        };
        drop(next);
        drop(service);
        drive::settle().await;
        problem.or_else(|| match subject.held() {
            0 => None,
            held => Some(format!("after the next call the layer holds {held}")),
        })
    }
}

// ===== requests and answers =====

pub(super) fn put() -> Request<TestBody> {
    let mut request = get("/kit");
    *request.method_mut() = Method::PUT;
    *request.body_mut() = TestBody::stream().data("some").pending_once().data("thing");
    request
}

pub(super) fn post(body: TestBody) -> Request<TestBody> {
    let mut request = get("/kit").map(|_| body);
    *request.method_mut() = Method::POST;
    request
}

pub(super) fn grpc_put() -> Request<TestBody> {
    grpc_request(
        "/kit.Test/Call",
        TestBody::stream().pending_once().data(GRPC_MESSAGE),
    )
}

/// Some answer that takes its time; one in a hundred panics, one in twenty fails. All others are
/// successes of an HTTP call and of a gRPC call alike.
pub(super) fn churned(rng: &mut fastrand::Rng) -> Answer {
    let stream = TestBody::stream().data(GRPC_MESSAGE).pending_once();
    let answer = match rng.u8(..100) {
        0 => match rng.u8(..3) {
            0 => Answer::panic_in_call(),
            1 => Answer::panic_in_poll(),
            _ => Answer::grpc(stream.panic()),
        },
        1..=3 => Answer::fail(ProbeError::reset()),
        4..=5 => Answer::grpc(stream.fail(ProbeError::reset())),
        6..=50 => Answer::grpc(stream.data(GRPC_MESSAGE).trailer("grpc-status", "0")),
        _ => Answer::grpc_status("0"),
    };
    answer.pending_times(rng.usize(..4))
}

pub(super) fn differences(expected: &Exchange, seen: &Exchange) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |what: &str, expected: String, seen: String| {
        if expected != seen {
            found.push(format!("{what} is {seen} instead of {expected}"));
        }
    };
    compare(
        "the status",
        expected.head.status.to_string(),
        seen.head.status.to_string(),
    );
    for (name, value) in &expected.head.headers {
        let seen = seen.head.headers.get(name);
        compare(
            name.as_str(),
            format!("{:?}", Some(value)),
            format!("{seen:?}"),
        );
    }
    compare("the data", text(&expected.data()), text(&seen.data()));
    compare(
        "trailers",
        format!("{:?}", expected.trailers),
        format!("{:?}", seen.trailers),
    );
    compare("the end", ending(&expected.end), ending(&seen.end));
    let hint = |exchange: &Exchange| {
        format!(
            "{:?}, at its end: {}",
            exchange.size_hint, exchange.was_end_stream
        )
    };
    compare("the size hint", hint(expected), hint(seen));
    found
}

fn text(data: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(data))
}

fn ending(end: &End) -> String {
    match end {
        End::Complete => "complete".to_owned(),
        End::Dropped => "dropped".to_owned(),
        End::Failed(error) if ProbeError::find(&**error).is_some() => "the inner error".to_owned(),
        End::Failed(error) => format!("another error: {error}"),
    }
}

pub(super) fn describe(step: &Outcome) -> String {
    match step {
        Step::Done(Err(error)) => format!("error: {error}"),
        Step::Done(Ok(exchange)) => format!("answered {}", exchange.head.status),
        unfinished => progress(unfinished),
    }
}

pub(super) fn progress<T>(step: &Step<T>) -> String {
    match step {
        Step::Pending => "pending for ever".to_owned(),
        Step::Stuck => "pending, and nothing will wake it".to_owned(),
        Step::Panicked(payload) => format!("panicked: {}", drive::panic_message(&**payload)),
        Step::Done(_) => "done".to_owned(),
    }
}
