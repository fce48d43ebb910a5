mod gcra;
mod leases;
mod model;

use std::{convert::Infallible, future::Ready, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use tokio::time::advance;
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{
    Live, Rejection,
    test_util::{Answer, Probe},
    vocab::{grpc, key::Key},
};

type Answered = Response<crate::ResponseBody<Empty<Bytes>>>;

fn handler(_: Request<Empty<Bytes>>) -> Ready<Result<Response<Empty<Bytes>>, Infallible>> {
    std::future::ready(Ok(Response::default()))
}

fn request(header: &str, value: &str) -> Request<Empty<Bytes>> {
    Request::post("/")
        .header(header, value)
        .body(Empty::new())
        .unwrap()
}

/// A call over a service of its own, as axum makes one per connection.
async fn call(layer: &RateLimitLayer, request: Request<Empty<Bytes>>) -> Answered {
    layer
        .layer(service_fn(handler))
        .oneshot(request)
        .await
        .unwrap()
}

async fn admitted(layer: &RateLimitLayer, calls: u32) -> u32 {
    let mut admitted = 0;
    for _ in 0..calls {
        admitted += u32::from(call(layer, Request::default()).await.status() == 200);
    }
    admitted
}

#[tokio::test(start_paused = true)]
async fn services_of_one_layer_share_its_limit() {
    let layer = RateLimitLayer::per_second(50).burst(1).build().unwrap();
    let mut total = 0;
    for _ in 0..1_000 {
        total += admitted(&layer, 20).await;
        advance(Duration::from_millis(1)).await;
    }
    assert!((49..=51).contains(&total), "{total} in the first second");
    let stats = layer.handle().stats();
    assert_eq!(
        (stats.admitted, stats.refused),
        (total.into(), u64::from(20_000 - total))
    );
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_obeys_retry_after_is_admitted() {
    for rate in ["1/s", "3/m", "7/s", "1/1500ms"] {
        let layer = RateLimitLayer::rate(rate.parse().unwrap())
            .burst(1)
            .build()
            .unwrap();
        call(&layer, Request::default()).await;
        let refused = call(&layer, Request::default()).await;
        assert_eq!(refused.status(), 429);
        assert!(refused.extensions().get::<Rejection>().is_some());
        let seconds = refused.headers()["retry-after"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        advance(Duration::from_secs(seconds)).await;
        assert_eq!(
            call(&layer, Request::default()).await.status(),
            200,
            "{rate}"
        );

        let refused = call(&layer, request("content-type", "application/grpc")).await;
        let code = grpc::Code::from_headers(refused.headers());
        assert_eq!(code, Some(grpc::Code::RESOURCE_EXHAUSTED));
        let millis = &refused.headers()["grpc-retry-pushback-ms"];
        let millis = millis.to_str().unwrap().parse().unwrap();
        advance(Duration::from_millis(millis)).await;
        assert_eq!(
            call(&layer, Request::default()).await.status(),
            200,
            "{rate} over gRPC"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn headers_follow_the_draft_and_the_option() {
    for (headers, on_success, on_refusal) in [
        (RateLimitHeaders::Off, false, false),
        (RateLimitHeaders::Refused, false, true),
        (RateLimitHeaders::Always, true, true),
    ] {
        let layer = RateLimitLayer::per_minute(30)
            .burst(2)
            .name("api")
            .headers(headers);
        let layer = layer.build().unwrap();
        let first = call(&layer, Request::default()).await;
        assert_eq!(first.headers().contains_key("ratelimit"), on_success);
        if on_success {
            assert_eq!(first.headers()["ratelimit"], r#""api";r=1"#);
        }
        call(&layer, Request::default()).await;
        let refused = call(&layer, Request::default()).await;
        assert_eq!(refused.headers().contains_key("ratelimit"), on_refusal);
        if on_refusal {
            assert_eq!(refused.headers()["ratelimit"], r#""api";r=0;t=2"#);
            assert_eq!(refused.headers()["ratelimit-policy"], r#""api";q=30;w=60"#);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_keys_neither_grows_the_map_nor_frees_a_limited_key() {
    let layer = RateLimitLayer::per_second(1)
        .burst(1)
        .key(Key::header("x-api-key").unwrap());
    let layer = layer.max_keys(1_000).build().unwrap();
    assert_eq!(
        call(&layer, request("x-api-key", "victim")).await.status(),
        200
    );
    for key in 0..20_000 {
        call(&layer, request("x-api-key", &key.to_string())).await;
    }
    assert!(layer.handle().stats().keys <= 1_000);
    assert_eq!(
        call(&layer, request("x-api-key", "victim")).await.status(),
        429
    );
}

#[tokio::test(start_paused = true)]
async fn used_tokens_outlive_a_reload_and_a_bad_one_changes_nothing() {
    let live = Live::new(RateLimitConfig {
        burst: Some(10),
        ..RateLimitConfig::new(Rate::per_second(1))
    });
    let layer = RateLimitLayer::live(live.clone()).unwrap();
    assert_eq!(admitted(&layer, 100).await, 10);
    let wider = RateLimitConfig {
        burst: Some(50),
        ..RateLimitConfig::new(Rate::per_second(5))
    };
    live.set(wider.clone()).unwrap();
    assert_eq!(
        admitted(&layer, 100).await,
        0,
        "a reload must not refill the bucket"
    );
    advance(Duration::from_secs(1)).await;
    assert_eq!(admitted(&layer, 100).await, 5);
    let refused = live
        .set(RateLimitConfig {
            burst: Some(0),
            ..wider
        })
        .unwrap_err();
    assert_eq!(refused.path(), "burst");
    advance(Duration::from_secs(1)).await;
    assert_eq!(admitted(&layer, 100).await, 5);
}

#[tokio::test(start_paused = true)]
async fn the_body_of_an_admitted_call_passes_untouched() {
    let layer = RateLimitLayer::per_second(1).build().unwrap();
    let handler = service_fn(async |_: Request<Empty<Bytes>>| {
        Ok::<_, Infallible>(Response::new(http_body_util::Full::from("content")))
    });
    let response = layer
        .layer(handler)
        .oneshot(Request::default())
        .await
        .unwrap();
    assert_eq!(http_body::Body::size_hint(response.body()).exact(), Some(7));
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "content"
    );
}

#[tokio::test(start_paused = true)]
async fn a_limit_comes_and_goes_with_its_options() {
    let options = RateLimitConfig::new("1/h".parse().unwrap());
    let live = Live::new(None);
    let layer = RateLimitLayer::optional(live.clone()).unwrap();
    assert_eq!(admitted(&layer, 5).await, 5);
    live.set(Some(options.clone())).unwrap();
    assert_eq!(admitted(&layer, 5).await, 1);
    live.set(None).unwrap();
    assert_eq!(admitted(&layer, 5).await, 5);
    let counted = layer.handle().stats();
    assert_eq!((counted.admitted, counted.refused), (1, 4));
    let nameless = RateLimitConfig {
        name: String::new(),
        ..options
    };
    assert_eq!(live.set(Some(nameless)).unwrap_err().path(), "name");
    assert_eq!(admitted(&layer, 5).await, 5, "still off");
}

#[tokio::test(start_paused = true)]
async fn limits_that_are_kept_by_another_key_start_anew() {
    let options = RateLimitConfig::new("1/h".parse().unwrap());
    let live = Live::new(options.clone());
    let layer = RateLimitLayer::live(live.clone()).unwrap();
    assert_eq!(admitted(&layer, 2).await, 1);
    let key = Key::header("x-user").unwrap();
    live.set(RateLimitConfig {
        key,
        ..options.clone()
    })
    .unwrap();
    for (user, status) in [("a", 200), ("a", 429), ("b", 200)] {
        let answer = call(&layer, request("x-user", user)).await;
        assert_eq!(answer.status(), status, "{user}");
    }
    assert_eq!(layer.handle().stats().keys, 2);
    live.set(options).unwrap();
    assert_eq!(admitted(&layer, 2).await, 1);
}

/// A call to this path.
fn to(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).body(Empty::new()).unwrap()
}

fn hourly(calls: u32, name: &str) -> RateLimitConfig {
    RateLimitConfig {
        name: name.to_owned(),
        ..RateLimitConfig::new(Rate::per_hour(calls))
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_one_of_several_limits_refuses_is_charged_to_none() {
    let each = RateLimitConfig {
        key: Key::header("x-user").unwrap(),
        ..hourly(2, "each")
    };
    let layer = RateLimitLayer::rate(Rate::per_hour(4))
        .also(each)
        .build()
        .unwrap();
    // Whoever has used up his own does not use up what is there for all.
    for (user, status) in [("a", 200), ("a", 200), ("a", 429), ("a", 429), ("a", 429)] {
        let answer = call(&layer, request("x-user", user)).await;
        assert_eq!(answer.status(), status, "{user}");
    }
    for (user, status) in [("b", 200), ("b", 200), ("c", 429)] {
        let answer = call(&layer, request("x-user", user)).await;
        assert_eq!(answer.status(), status, "{user}");
    }
    // And what refused `c` was that of all: nothing of his own was used.
    advance(Duration::from_secs(1_800)).await;
    for status in [200, 200, 429] {
        assert_eq!(call(&layer, request("x-user", "c")).await.status(), status);
    }
}

#[tokio::test(start_paused = true)]
async fn the_limit_that_refused_is_the_one_in_the_headers_and_the_closest_one_otherwise() {
    let layer = RateLimitLayer::rate(Rate::per_hour(5))
        .headers(RateLimitHeaders::Always)
        .name("wide")
        .also(hourly(2, "narrow"))
        .build()
        .unwrap();
    for (status, limit) in [(200, r#""narrow";r=1"#), (200, r#""narrow";r=0"#)] {
        let answer = call(&layer, Request::default()).await;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["ratelimit"], limit);
    }
    let refused = call(&layer, Request::default()).await;
    assert_eq!(refused.headers()["ratelimit"], r#""narrow";r=0;t=1800"#);
    assert_eq!(
        refused.headers()["ratelimit-policy"],
        r#""narrow";q=2;w=3600"#
    );
    assert_eq!(refused.headers()["retry-after"], "1800");
}

#[tokio::test(start_paused = true)]
async fn further_limits_keep_what_was_used_of_them_by_their_names() {
    let with = |also: Vec<RateLimitConfig>| RateLimitConfig {
        also,
        ..hourly(100, "wide")
    };
    let live = Live::new(with(vec![hourly(2, "a"), hourly(3, "b")]));
    let layer = RateLimitLayer::live(live.clone()).unwrap();
    assert_eq!(admitted(&layer, 9).await, 2);
    live.set(with(vec![hourly(3, "b")])).unwrap();
    assert_eq!(admitted(&layer, 9).await, 1);
    live.set(with(vec![hourly(5, "c"), hourly(9, "b")]))
        .unwrap();
    assert_eq!(admitted(&layer, 9).await, 0, "`b` had none left");
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_for_the_calls_that_match_and_each_costs_what_it_says() {
    let layer = RateLimitLayer::rate(Rate::per_hour(10))
        .matching(crate::RequestMatch::path_prefix("/search"))
        .cost(crate::RequestMatch::path_exact("/search/health"), 0)
        .cost(crate::RequestMatch::path_exact("/search/all"), 7)
        .build()
        .unwrap();
    for (path, status) in [
        ("/search/all", 200),
        ("/search/all", 429), // three are left
        ("/search/health", 200),
        ("/search/7", 200),
        ("/search/7", 200),
        ("/search/7", 200),
        ("/search/7", 429),
        ("/search/health", 200),
        ("/orders", 200),
    ] {
        assert_eq!(call(&layer, to(path)).await.status(), status, "{path}");
    }
    let stats = layer.handle().stats();
    assert_eq!(
        (stats.admitted, stats.refused),
        (4, 2),
        "of those it is for"
    );
}

#[tokio::test(start_paused = true)]
async fn calls_in_a_queue_get_their_turn_one_after_the_other() {
    let layer = RateLimitLayer::per_second(10)
        .burst(1)
        .queue(3, Duration::from_secs(1));
    let layer = layer.build().unwrap();
    let start = tokio::time::Instant::now();
    let calls = (0..6).map(|_| async {
        let status = call(&layer, Request::default()).await.status().as_u16();
        (status, start.elapsed().as_millis())
    });
    let mut answers = futures_util::future::join_all(calls).await;
    answers.sort_unstable();
    let expected = [
        (200, 0),
        (200, 100),
        (200, 200),
        (200, 300),
        (429, 0),
        (429, 0),
    ];
    for ((status, at), (expected, due)) in answers.into_iter().zip(expected) {
        assert_eq!(status, expected);
        assert!((due..due + 2).contains(&at), "{at} ms, due at {due}");
    }
    let stats = layer.handle().stats();
    assert_eq!((stats.admitted, stats.refused, stats.waiting), (4, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_leaves_the_queue_gives_its_token_back() {
    let layer = RateLimitLayer::rate("1/10s".parse().unwrap())
        .burst(1)
        .queue(1, Duration::from_secs(60));
    let layer = layer.build().unwrap();
    assert_eq!(call(&layer, Request::default()).await.status(), 200);
    for _ in 0..20 {
        let waiting =
            tokio::time::timeout(Duration::from_millis(1), call(&layer, Request::default()));
        assert!(waiting.await.is_err());
        assert_eq!(layer.handle().stats().waiting, 0);
    }
    let start = tokio::time::Instant::now();
    assert_eq!(call(&layer, Request::default()).await.status(), 200);
    assert!(start.elapsed() <= Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_deadline_comes_before_its_turn_is_refused_at_once() {
    let layer = RateLimitLayer::per_second(1)
        .burst(1)
        .queue(10, Duration::from_secs(10));
    let layer = layer.build().unwrap();
    assert_eq!(call(&layer, Request::default()).await.status(), 200);
    let start = tokio::time::Instant::now();
    let mut hurried = Request::default();
    let deadline = start + Duration::from_millis(900);
    crate::CallContext::get_or_insert(hurried.extensions_mut()).shorten_deadline(deadline);
    assert_eq!(call(&layer, hurried).await.status(), 429);
    assert_eq!(start.elapsed(), Duration::ZERO);
    // It has cost nothing.
    assert_eq!(call(&layer, Request::default()).await.status(), 200);
    assert!(
        start.elapsed() <= Duration::from_millis(1_002),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn every_algorithm_holds_its_rate() {
    for algorithm in [
        RateAlgorithm::Gcra,
        RateAlgorithm::SlidingWindow,
        RateAlgorithm::Leased,
    ] {
        let layer = RateLimitLayer::per_second(50).algorithm(algorithm);
        let layer = layer.build().unwrap();
        assert_eq!(admitted(&layer, 200).await, 50, "{algorithm:?}");
        let mut total = 0;
        for _ in 0..1_000 {
            advance(Duration::from_millis(10)).await;
            total += admitted(&layer, 3).await;
        }
        // In a sliding window a call may count for 1.1 periods.
        assert!(
            (400..=500).contains(&total),
            "{algorithm:?}: {total} in ten seconds"
        );
    }
}

/// go-micro's own case for its limiters.
#[tokio::test(start_paused = true)]
async fn of_a_rate_so_many_pass_and_one_more_does_not() {
    for calls in [1, 5, 6, 10, 20] {
        let layer = RateLimitLayer::per_second(calls).build().unwrap();
        assert_eq!(admitted(&layer, calls).await, calls);
        assert_eq!(call(&layer, Request::default()).await.status(), 429);
    }
}

/// go-chassis' case of a traffic marker and a limit for what it marks, which refuses the second call
/// there, though the burst is two.
#[tokio::test(start_paused = true)]
async fn a_limit_for_marked_traffic_lets_its_burst_pass() {
    let marked = crate::RequestMatch::path_exact("/api/1").method("GET");
    let layer = RateLimitLayer::per_second(10).burst(2).matching(marked);
    let layer = layer.build().unwrap();
    for status in [200, 200, 429] {
        assert_eq!(call(&layer, to("/api/1")).await.status(), status);
    }
    assert_eq!(call(&layer, to("/api/2")).await.status(), 200);
}

/// go-chassis' defaults of a burst, which is a fifth of the rate or ten, said in so many words.
#[tokio::test(start_paused = true)]
async fn a_burst_is_what_passes_at_once_whatever_the_rate() {
    for (rate, burst) in [(3, 10), (100, 20)] {
        let layer = RateLimitLayer::per_second(rate).burst(burst);
        let layer = layer.build().unwrap();
        assert_eq!(admitted(&layer, 2 * burst).await, burst);
    }
}

/// kratos' case of a limiter by key, and that a refused call stays outside.
#[tokio::test(start_paused = true)]
async fn each_key_has_one_call_a_second_and_a_refused_one_reaches_nobody() {
    let layer = RateLimitLayer::per_second(1)
        .burst(1)
        .key(Key::header("x-user").unwrap());
    let layer = layer.build().unwrap();
    let (probe, handle) = Probe::always(Answer::ok());
    for (step, user, status) in [
        (0, "a", 200),
        (0, "a", 429),
        (0, "b", 200),
        (1_000, "a", 200),
    ] {
        advance(Duration::from_millis(step)).await;
        let call = layer.layer(probe.clone()).oneshot(request("x-user", user));
        assert_eq!(call.await.unwrap().status(), status, "{user}");
    }
    assert_eq!(handle.calls(), 3);
}
