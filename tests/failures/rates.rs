//! The rate limit.

use std::{convert::Infallible, future::ready, thread, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Empty;
use tokio::time::advance;
use tower::{Layer, ServiceExt, service_fn};
use tower_mesh::layers::{
    Live,
    rate_limit::{Rate, RateLimitConfig, RateLimitLayer},
};

use crate::harness::{Measured, Protection, paused};

/// The layer of one of many callers: that of all or, without the protection, one of its own, as a layer
/// makes it that keeps its state in the service.
fn of_caller(
    p: Protection,
    common: &RateLimitLayer,
    config: &Live<RateLimitConfig>,
) -> RateLimitLayer {
    p.pick(
        common.clone(),
        RateLimitLayer::live(config.clone()).expect("a valid limit"),
    )
}

fn is_admitted(layer: &RateLimitLayer) -> bool {
    let handler =
        |_: Request<Empty<Bytes>>| ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())));
    let answer = layer.layer(service_fn(handler)).oneshot(Request::default());
    let answer = answer.now_or_never().expect("nothing waits");
    answer.expect("it cannot fail").status() == 200
}

/// R19: 64 callers share 100 calls a second with a burst of 20, and ask for more all the time.
pub(crate) fn r19_limiter_admits(p: Protection) -> Measured {
    const CALLERS: usize = 64;

    let config = |rate: &str, burst| {
        Live::new(RateLimitConfig {
            burst: Some(burst),
            ..RateLimitConfig::new(rate.parse::<Rate>().expect("a valid rate"))
        })
    };
    let callers = |config: &Live<RateLimitConfig>| {
        let common = RateLimitLayer::live(config.clone()).expect("a valid limit");
        Vec::from_iter((0..CALLERS).map(|_| of_caller(p, &common, config)))
    };

    let in_ten_seconds = paused(async {
        let callers = callers(&config("100/s", 20));
        let mut admitted = 0;
        for _ in 0..1_000 {
            admitted += callers.iter().filter(|layer| is_admitted(layer)).count();
            advance(Duration::from_millis(10)).await;
        }
        admitted
    });

    // Threads at the same time.
    let of_a_burst: usize = thread::scope(|scope| {
        let callers = callers(&config("1/h", 1_000));
        let threads = callers
            .into_iter()
            .map(|layer| scope.spawn(move || (0..1_000).filter(|_| is_admitted(&layer)).count()));
        let threads = Vec::from_iter(threads);
        let counts = threads
            .into_iter()
            .map(|thread| thread.join().expect("it does not panic"));
        counts.sum()
    });

    // A quota that changes while all is used up.
    let after_a_change = paused(async {
        let config = config("1/h", 20);
        let layer = RateLimitLayer::live(config.clone()).expect("a valid limit");
        while is_admitted(&layer) {}
        let wider = RateLimitConfig {
            burst: Some(1_000),
            ..RateLimitConfig::clone(&config.get())
        };
        config.set(wider.clone()).expect("a valid limit");
        let layer = p.pick(layer, RateLimitLayer::new(wider).expect("a valid limit"));
        (0..1_000).filter(|_| is_admitted(&layer)).count()
    });

    Measured::new()
        .within(
            "admitted in 10 s at 100/s",
            (990.0, 1_020.0),
            in_ten_seconds as f64,
        )
        .exactly("of a burst of 1,000", 1_000, of_a_burst as f64)
        .exactly("tokens out of a new quota", 0, after_a_change as f64)
}
