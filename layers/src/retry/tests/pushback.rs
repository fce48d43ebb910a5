//! R16: the peer says when, and the deadline says whether.

use super::*;
use crate::CallContext;

#[tokio::test(start_paused = true)]
async fn the_peer_is_called_again_exactly_when_it_said() {
    for (answer, request, wait) in [
        (Answer::status(503).header("retry-after", "2"), get(), 2_000),
        (Answer::status(429).header("retry-after", "2"), get(), 2_000),
        (Answer::status(503).header("retry-after", "0"), get(), 0),
        (
            Answer::grpc_status("14").header("grpc-retry-pushback-ms", "2000"),
            grpc(),
            2_000,
        ),
        (
            Answer::grpc_status("8").header("grpc-retry-pushback-ms", "70"),
            grpc(),
            70,
        ),
    ] {
        let rig = Rig::answering([answer, Answer::ok()]);
        let (answered, took) = timed(rig.call(request)).await;
        assert_eq!(answered.unwrap().status(), 200);
        assert_eq!(took, wait * MS);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_no_is_not_called_again() {
    for (answer, request) in [
        (
            Answer::grpc_status("14").header("grpc-retry-pushback-ms", "-1"),
            grpc(),
        ),
        (
            Answer::grpc_status("14").header("grpc-retry-pushback-ms", "soon"),
            grpc(),
        ),
        (Answer::status(503).header("x-mesh-retry", "never"), get()),
        // Too busy, and no word of when.
        (Answer::status(429), get()),
        (Answer::grpc_status("8"), grpc()),
        // Longer than anybody waits.
        (Answer::status(503).header("retry-after", "31"), get()),
    ] {
        let rig = Rig::answering([answer]);
        let (answered, took) = timed(rig.call(request)).await;
        assert!(answered.is_ok());
        assert_eq!((rig.probe.calls(), took), (1, Duration::ZERO));
        assert_eq!(rig.retries.gave_up(GaveUp::Pushback), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_would_begin_after_the_deadline_is_given_up_at_once() {
    let within = |left: Duration| {
        let mut request = get();
        let context = CallContext::get_or_insert(request.extensions_mut());
        context.deadline = Some(Instant::now() + left);
        request
    };
    let rig = Rig::answering([Answer::status(503).header("retry-after", "5")]);
    let (answered, took) = timed(rig.call(within(1_000 * MS))).await;
    assert_eq!(answered.unwrap().headers()["retry-after"], "5");
    assert_eq!((rig.probe.calls(), took), (1, Duration::ZERO));
    assert_eq!(rig.retries.gave_up(GaveUp::Deadline), 1);

    // Enough is left.
    let (_, took) = timed(rig.call(within(11_000 * MS))).await;
    assert_eq!((rig.probe.calls(), took), (1 + 3, 10_000 * MS));

    // Backoff counts as well, and so does the deadline of a handler around the call.
    let mut server = CallContext::new();
    server.deadline = Some(server.start);
    let rig = Rig::answering([Answer::status(503)]);
    let mut call = Box::pin(rig.call(get()));
    let waker = std::task::Waker::noop();
    let mut cx = std::task::Context::from_waker(waker);
    let polled = server.ambient().enter(|| call.as_mut().poll(&mut cx));
    assert!(polled.is_ready());
    assert_eq!(rig.retries.gave_up(GaveUp::Deadline), 1);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_too_busy_and_does_not_say_until_when_is_not_called_by_those_above_either() {
    for (answer, request, name, value) in [
        (Answer::status(429), get(), "x-mesh-retry", Some("never")),
        (
            Answer::grpc_status("8"),
            grpc(),
            "grpc-retry-pushback-ms",
            Some("-1"),
        ),
        // Those who have the time may wait for it.
        (
            Answer::status(503).header("retry-after", "31"),
            get(),
            "x-mesh-retry",
            None,
        ),
        // All attempts were made: those above know of other peers.
        (Answer::status(503), get(), "x-mesh-retry", None),
    ] {
        let rig = Rig::answering([answer]);
        let answered = rig.call(request).await.unwrap();
        let seen = answered.headers().get(name);
        assert_eq!(seen.map(|seen| seen.to_str().unwrap()), value);
    }
}
