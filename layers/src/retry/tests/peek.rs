//! A gRPC status that comes right behind the head, and streams that must not wait for it.

use futures_util::future::poll_fn;
use http_body::Body as _;

use super::*;
use crate::test_util::{End, ProbeError, Read, exchange::read_response};

/// A head, then trailers.
fn trailers(status: &'static str) -> Answer {
    Answer::grpc(TestBody::stream().trailer("grpc-status", status))
}

fn unary() -> Answer {
    Answer::grpc(TestBody::stream().data("abc").trailer("grpc-status", "0"))
}

#[tokio::test(start_paused = true)]
async fn a_status_right_behind_the_head_is_retried_as_one_in_it() {
    let rig = Rig::answering([trailers("14"), unary()]);
    let answered = rig.call(grpc()).await.unwrap();
    let read = read_response(&Method::POST, answered, Read::ToEnd).await;
    assert_eq!(
        (read.chunks.concat(), rig.probe.calls()),
        (b"abc".to_vec(), 2)
    );
    assert_eq!(read.trailers.unwrap()["grpc-status"], "0");
    assert_eq!(rig.retries.stats().recovered, 1);

    // A status that is not listed is passed up as it came, and so is that of the last attempt.
    for (status, attempts) in [("5", 1), ("0", 1), ("14", 3)] {
        let rig = Rig::answering([trailers(status)]);
        let answered = rig.call(grpc()).await.unwrap();
        let read = read_response(&Method::POST, answered, Read::ToEnd).await;
        assert!(read.chunks.is_empty());
        assert_eq!(read.trailers.unwrap()["grpc-status"], status);
        assert_eq!(rig.probe.calls(), attempts, "grpc-status {status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pushback_in_trailers_is_obeyed_and_given() {
    let mut trailing = http::HeaderMap::new();
    trailing.insert("grpc-status", "14".parse().unwrap());
    trailing.insert("grpc-retry-pushback-ms", "2000".parse().unwrap());
    let after = TestBody::stream().trailers(trailing);
    let rig = Rig::answering([Answer::grpc(after), unary()]);
    let (answered, took) = timed(rig.call(grpc())).await;
    assert!(answered.is_ok());
    assert_eq!(took, 2_000 * MS);

    let layer = RetryLayer::builder().budget(Ratio::ZERO, 0);
    let rig = Rig::new(&layer.build().unwrap(), Probe::always(trailers("14")));
    let answered = rig.call(grpc()).await.unwrap();
    let read = read_response(&Method::POST, answered, Read::ToEnd).await;
    assert_eq!(read.trailers.unwrap()["grpc-retry-pushback-ms"], "-1");
    assert_eq!(rig.probe.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_commits_and_is_passed_on_with_all_that_follows() {
    let body = TestBody::stream()
        .data("abc")
        .data("defg")
        .trailer("grpc-status", "14");
    let rig = Rig::answering([Answer::grpc(body)]);
    let answered = rig.call(grpc()).await.unwrap();
    assert!(!answered.body().is_end_stream());
    let read = read_response(&Method::POST, answered, Read::ToEnd).await;
    assert_eq!(read.chunks.concat(), b"abcdefg");
    assert_eq!(read.trailers.unwrap()["grpc-status"], "14");
    assert_eq!(rig.probe.calls(), 1);

    // So does a body that breaks, or ends without a status.
    let broken = TestBody::stream().fail(ProbeError::reset());
    for (body, fails) in [(broken, true), (TestBody::stream(), false)] {
        let rig = Rig::answering([Answer::grpc(body)]);
        let answered = rig.call(grpc()).await.unwrap();
        let read = read_response(&Method::POST, answered, Read::ToEnd).await;
        assert_eq!(matches!(read.end, End::Failed(_)), fails);
        assert_eq!(rig.probe.calls(), 1);
    }
}

/// A server may send its head at once and wait for what the client says to it.
#[tokio::test(start_paused = true)]
async fn a_head_without_anything_behind_it_is_passed_up_at_once() {
    let gate = crate::test_util::Gate::new();
    let late = TestBody::stream().gate(&gate).trailer("grpc-status", "14");
    let rig = Rig::answering([Answer::grpc(late)]);
    let (answered, took) = timed(rig.call(grpc())).await;
    assert_eq!(took, Duration::ZERO);
    gate.open();
    let read = read_response(&Method::POST, answered.unwrap(), Read::ToEnd).await;
    assert_eq!(read.trailers.unwrap()["grpc-status"], "14");
    assert_eq!(rig.probe.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_counts_in_the_size_of_the_body() {
    let rig = Rig::answering([Answer::grpc("abc".into()), unary()]);
    let mut answered = rig.call(grpc()).await.unwrap();
    assert_eq!(answered.body().size_hint().exact(), Some(3));
    let mut body = std::pin::pin!(answered.body_mut());
    let frame = poll_fn(|cx| body.as_mut().poll_frame(cx)).await;
    assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "abc");
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
}
