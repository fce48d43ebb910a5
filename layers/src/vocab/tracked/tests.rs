use std::{
    cell::RefCell,
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};

use super::*;
use crate::vocab::{classify::Classifier, grpc, outcome::FailureKind};

/// Notes everything it is told.
#[derive(Clone, Default)]
struct Notes(Rc<RefCell<Vec<String>>>);

impl Notes {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.borrow_mut())
    }
}

impl CallGuard for Notes {
    fn head(&mut self, outcome: Option<Outcome>) {
        self.0
            .borrow_mut()
            .push(format!("head {}", outcome.map_or("open", Outcome::label)));
    }

    fn first_frame(&mut self) {
        self.0.borrow_mut().push("frame".to_owned());
    }

    fn end(self, outcome: Outcome) {
        self.0.borrow_mut().push(format!("end {outcome:?}"));
    }
}

/// Plays frames; panics when it runs out and `panics` is set.
#[derive(Default)]
struct Script {
    frames: VecDeque<Result<Frame<Bytes>, &'static str>>,
    panics: bool,
    knows_its_end: bool,
}

impl Script {
    fn data(mut self, bytes: &'static [u8]) -> Self {
        self.frames
            .push_back(Ok(Frame::data(Bytes::from_static(bytes))));
        self
    }

    fn trailers(mut self, status: &'static str) -> Self {
        let trailers = HeaderMap::from_iter([(grpc::STATUS, status.parse().unwrap())]);
        self.frames.push_back(Ok(Frame::trailers(trailers)));
        self
    }

    fn error(mut self) -> Self {
        self.frames.push_back(Err("cut"));
        self
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        let next = self.frames.pop_front();
        assert!(next.is_some() || !self.panics, "the body panics");
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.knows_its_end && self.frames.is_empty()
    }
}

type Body_ = Tracked<Script, <Classifier as Classify>::End, Notes>;

fn track(call: CallKind, response: http::response::Builder, body: Script) -> (Body_, Notes) {
    let notes = Notes::default();
    let response = response.body(body).unwrap();
    let body = Pending::new(notes.clone(), None)
        .track(&Classifier, call, response)
        .into_body();
    (body, notes)
}

fn ok() -> http::response::Builder {
    Response::builder()
}

#[tokio::test]
async fn a_body_read_to_its_end_ends_the_call_once() {
    let (body, notes) = track(
        CallKind::HTTP,
        ok(),
        Script::default().data(b"a").data(b"b"),
    );
    body.collect().await.unwrap();
    assert_eq!(notes.take(), ["head success", "frame", "end Success"]);
}

#[test]
fn responses_without_a_body_end_at_the_head() {
    let head = CallKind {
        head: true,
        ..CallKind::HTTP
    };
    for (call, response) in [
        (head, ok().header("content-length", 5)),
        (CallKind::HTTP, ok().status(204)),
        (CallKind::HTTP, ok().status(304)),
        (CallKind::HTTP, ok().header("content-length", 0)),
    ] {
        let (body, notes) = track(call, response, Script::default().data(b"never polled"));
        assert_eq!(notes.take(), ["head success", "end Success"]);
        drop(body);
        assert!(notes.take().is_empty());
    }
    let ended = Script {
        knows_its_end: true,
        ..Script::default()
    };
    let (_body, notes) = track(CallKind::HTTP, ok(), ended);
    assert_eq!(notes.take(), ["head success", "end Success"]);
}

#[test]
fn upgrades_end_at_the_head() {
    let connect = CallKind {
        connect: true,
        ..CallKind::HTTP
    };
    for (call, status) in [(CallKind::HTTP, 101), (connect, 200)] {
        let (_body, notes) = track(call, ok().status(status), Script::default().data(b"tunnel"));
        assert_eq!(notes.take(), ["head success", "end Success"]);
    }
}

#[tokio::test]
async fn the_frame_that_completes_the_length_ends_the_call() {
    // hyper stops polling here, so waiting for `None` would never end it.
    let script = Script::default().data(b"ab").data(b"cde").data(b"extra");
    let (mut body, notes) = track(CallKind::HTTP, ok().header("content-length", 5), script);
    body.frame().await.unwrap().unwrap();
    assert_eq!(notes.take(), ["head success", "frame"]);
    body.frame().await.unwrap().unwrap();
    assert_eq!(notes.take(), ["end Success"]);
}

#[tokio::test]
async fn the_frame_after_which_the_body_is_at_its_end_ends_the_call() {
    let script = Script {
        knows_its_end: true,
        ..Script::default()
    }
    .data(b"all");
    let (mut body, notes) = track(CallKind::HTTP, ok(), script);
    body.frame().await.unwrap().unwrap();
    assert_eq!(notes.take(), ["head success", "frame", "end Success"]);
}

#[tokio::test]
async fn a_grpc_stream_is_judged_by_its_trailers() {
    let unavailable = format!(
        "end {:?}",
        Outcome::Failure(FailureKind::Grpc(grpc::Code::UNAVAILABLE))
    );
    for (status, end) in [("0", "end Success"), ("14", unavailable.as_str())] {
        // Even where a content length is given: the status comes after the last byte.
        let script = Script::default().data(b"message").trailers(status);
        let (mut body, notes) = track(CallKind::GRPC, ok().header("content-length", 7), script);
        body.frame().await.unwrap().unwrap();
        assert_eq!(notes.take(), ["head open", "frame"]);
        body.frame().await.unwrap().unwrap();
        assert_eq!(notes.take(), [end]);
    }
}

#[tokio::test]
async fn a_grpc_stream_without_a_status_is_a_failure_read_and_a_cancellation_dropped() {
    let (body, notes) = track(CallKind::GRPC, ok(), Script::default().data(b"message"));
    body.collect().await.unwrap();
    assert_eq!(
        notes.take(),
        ["head open", "frame", "end Failure(MissingStatus)"]
    );

    let (body, notes) = track(CallKind::GRPC, ok(), Script::default().data(b"message"));
    drop(body);
    assert_eq!(notes.take(), ["head open", "end Cancelled"]);
}

#[tokio::test]
async fn a_body_error_is_a_reset_unless_the_head_was_a_failure_already() {
    let (body, notes) = track(CallKind::HTTP, ok(), Script::default().data(b"a").error());
    assert!(body.collect().await.is_err());
    assert_eq!(
        notes.take(),
        ["head success", "frame", "end Failure(Reset)"]
    );

    let (body, notes) = track(CallKind::HTTP, ok().status(500), Script::default().error());
    assert!(body.collect().await.is_err());
    assert_eq!(notes.take(), ["head failure", "end Failure(Http(500))"]);
}

#[test]
fn what_the_head_decided_stands_when_the_body_is_dropped() {
    for (status, end) in [
        (200, "end Success"),
        (500, "end Failure(Http(500))"),
        (429, "end Overload(None)"),
    ] {
        let (body, notes) = track(
            CallKind::HTTP,
            ok().status(status),
            Script::default().data(b"unread"),
        );
        notes.take();
        drop(body);
        assert_eq!(notes.take(), [end]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_drop_at_the_deadline_is_a_timeout_before_and_after_the_head() {
    let deadline = Instant::now() + Duration::from_secs(1);
    let open = |deadline| {
        let notes = Notes::default();
        let response = ok().body(Script::default().data(b"slow")).unwrap();
        let body = Pending::new(notes.clone(), Some(deadline))
            .track(&Classifier, CallKind::GRPC, response)
            .into_body();
        notes.take();
        (body, notes)
    };
    let ((early, early_notes), (late, late_notes)) = (open(deadline), open(deadline));
    let notes = Notes::default();
    let pending = Pending::new(notes.clone(), Some(deadline));

    drop(early);
    assert_eq!(early_notes.take(), ["end Cancelled"]);
    tokio::time::advance(Duration::from_secs(1)).await;
    drop(late);
    assert_eq!(late_notes.take(), ["end Failure(Timeout)"]);
    drop(pending);
    assert_eq!(notes.take(), ["end Failure(Timeout)"]);
}

#[test]
fn a_call_dropped_before_its_head_is_cancelled_and_a_panic_below_is_a_failure() {
    let notes = Notes::default();
    drop(Pending::new(notes.clone(), None));
    assert_eq!(notes.take(), ["end Cancelled"]);

    let mut pending = Pending::new(notes.clone(), None);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _ = pending.run(|| -> Poll<()> { panic!("the handler panics") });
    }));
    assert!(panicked.is_err());
    drop(pending);
    assert_eq!(notes.take(), ["end Failure(Other)"]);
}

#[tokio::test]
async fn a_panic_in_the_body_is_a_failure() {
    let (mut body, notes) = track(
        CallKind::HTTP,
        ok(),
        Script {
            panics: true,
            ..Script::default()
        },
    );
    notes.take();
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _ = Pin::new(&mut body).poll_frame(&mut cx);
    }));
    assert!(panicked.is_err());
    drop(body);
    assert_eq!(notes.take(), ["end Failure(Other)"]);
}

#[test]
fn every_body_of_a_layer_has_a_default_and_keeps_its_length() {
    let body = ResponseBody::<Script>::default();
    assert!(body.is_end_stream());
    let body = ResponseBody::inner(Full::new(Bytes::from_static(b"length")));
    assert_eq!(body.size_hint().exact(), Some(6));
}

#[tokio::test]
async fn a_grpc_stream_of_no_bytes_has_its_status_in_trailers_all_the_same() {
    let head = ok().header("content-length", "0");
    let (body, notes) = track(CallKind::GRPC, head, Script::default().trailers("0"));
    body.collect().await.unwrap();
    assert_eq!(notes.take(), ["head open", "frame", "end Success"]);
}
