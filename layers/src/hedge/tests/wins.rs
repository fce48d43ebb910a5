//! Which answer a call ends with, and what failures say of further attempts.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_failure_does_not_win_while_another_attempt_is_under_way() {
    let refused = || Err(ProbeError::refused());
    for (first, second, status, attempts) in [
        // The hedge fails fast: the first may still succeed.
        (
            After(500 * MS, Ok(200)),
            After(10 * MS, Ok(503)),
            Some(200),
            2,
        ),
        (
            After(500 * MS, Ok(200)),
            After(10 * MS, refused()),
            Some(200),
            2,
        ),
        // And the other way round.
        (
            After(120 * MS, Ok(503)),
            After(500 * MS, Ok(200)),
            Some(200),
            2,
        ),
        // With nobody else under way it is the answer; trying again is for others.
        (
            After(50 * MS, Ok(503)),
            After(Duration::ZERO, Ok(200)),
            Some(503),
            1,
        ),
        (
            After(120 * MS, Ok(503)),
            After(100 * MS, Ok(502)),
            Some(502),
            2,
        ),
        (
            After(120 * MS, Ok(503)),
            After(100 * MS, refused()),
            None,
            2,
        ),
        // What is no failure of the peer's wins.
        (
            After(500 * MS, Ok(200)),
            After(10 * MS, Ok(404)),
            Some(404),
            2,
        ),
    ] {
        let peer = Peer::default();
        let layer = generous().build().unwrap();
        let service = layer.layer(peer.service(vec![], vec![first, second]));
        let answered = service.oneshot(get()).await;
        let seen = answered.ok().map(|answered| answered.status().as_u16());
        assert_eq!((seen, peer.seen.lock().len()), (status, attempts));
        assert_eq!(peer.dropped.lock().len(), attempts);
    }
}

/// A breaker or a limit below that refuses the hedge has no say in the call.
#[tokio::test(start_paused = true)]
async fn a_refusal_of_this_process_does_not_win() {
    let refusing = tower::service_fn(|request: Request<RequestBody>| async move {
        if CallContext::get(request.extensions()).is_some() {
            let rejection = Rejection::new("circuit_breaker", Reason::CircuitOpen, "open");
            return Ok::<_, BoxError>(rejection.into_response(crate::CallKind::HTTP));
        }
        tokio::time::sleep(500 * MS).await;
        Ok(Response::new(crate::ResponseBody::inner(TestBody::empty())))
    });
    let layer = generous().build().unwrap();
    let answered = layer.layer(refusing).oneshot(get()).await.unwrap();
    assert_eq!(answered.status(), 200);
    assert_eq!(
        (layer.handle().stats().hedges, layer.handle().stats().won),
        (1, 0)
    );
}

/// R16, for hedges: gRFC A6.
#[tokio::test(start_paused = true)]
async fn a_pushback_holds_further_attempts_back() {
    for (answer, attempts, third_at) in [
        (Answer::status(503), 3, Some(200)),
        (
            Answer::status(503).header("retry-after", "1"),
            3,
            Some(1_100),
        ),
        (Answer::status(503).header("x-mesh-retry", "never"), 2, None),
        (Answer::status(429), 2, None),
    ] {
        // The first hangs, the second is refused at once.
        let times = Arc::new(Mutex::new(Vec::new()));
        let seen = times.clone();
        let start = Instant::now();
        let (probe, _) = Probe::answering(move |call, _| {
            seen.lock().push(start.elapsed());
            match call {
                1 => answer.clone(),
                _ => Answer::never(),
            }
        });
        let layer = generous().max_attempts(4).build().unwrap();
        pay(&layer).await;
        let call = layer.layer(probe).oneshot(get());
        let held = tokio::time::timeout(1_150 * MS, call).await;
        assert!(held.is_err());
        let times = times.lock();
        let third = times.get(2).map(|at| at.as_millis());
        match third_at {
            Some(due) => assert!((due..due + 13).contains(&third.unwrap()), "{third:?}"),
            None => assert_eq!(times.len(), attempts),
        }
        let stopped = layer.handle().held_back(HeldBack::Pushback);
        assert_eq!(stopped, u64::from(third_at.is_none()));
    }
}
