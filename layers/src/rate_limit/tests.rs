use std::{convert::Infallible, future::Ready, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use tokio::time::advance;
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{
    Live, Rejection,
    vocab::{grpc, key::Key},
};

type Answer = Response<crate::ResponseBody<Empty<Bytes>>>;

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
async fn call(layer: &RateLimitLayer, request: Request<Empty<Bytes>>) -> Answer {
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
