//! A service over several.

use std::time::Duration;

use http_body_util::BodyExt;
use tower::{Service, ServiceBuilder, limit::ConcurrencyLimitLayer};

use super::*;
use crate::{
    Live, Reason, Rejection,
    test_util::{
        Answer, Gate, Probe, ProbeError, ProbeHandle, TestBody,
        contract::{Contract, RequestBody},
    },
};

struct Two {
    split: Split<Probe>,
    blue: ProbeHandle,
    green: ProbeHandle,
}

fn rule(blue: u32, green: u32) -> RuleConfig {
    RuleConfig::new("rollout")
        .backend(BackendConfig::new("blue").weight(blue))
        .backend(BackendConfig::new("green").weight(green))
}

fn two(build: impl FnOnce(SplitBuilder<Probe>) -> SplitBuilder<Probe>) -> Two {
    let (first, blue) = Probe::always(Answer::ok().body("blue"));
    let (second, green) = Probe::always(Answer::ok().body("green"));
    let builder = Split::builder()
        .service("blue", first)
        .service("green", second)
        .seed(1);
    let split = build(builder).build().unwrap();
    Two { split, blue, green }
}

fn ruled(rule: RuleConfig) -> Two {
    two(|split| split.rules(RouteConfig::new([rule])))
}

fn call() -> Request<TestBody> {
    Request::get("/").body(TestBody::from("")).unwrap()
}

/// A call that was sent to an arm.
fn to(arm: &str) -> Request<TestBody> {
    let mut request = call();
    let decision = RouteDecision::new(std::sync::Arc::new(RouteArm::new("outer", arm)));
    CallContext::get_or_insert(request.extensions_mut()).route = Some(decision);
    request
}

async fn answer(split: &Split<Probe>, request: Request<TestBody>) -> String {
    let response = split.clone().oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

async fn rejection(split: &Split<Probe>, request: Request<TestBody>) -> String {
    let response = split.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 503);
    let rejection = response
        .extensions()
        .get::<Rejection>()
        .expect("a rejection");
    assert_eq!(rejection.reason(), Reason::NoEndpoint);
    rejection.detail().to_owned()
}

/// A layer that makes a split over one service, for the contract.
#[derive(Clone)]
struct OverOne;

impl<S> Layer<S> for OverOne {
    type Service = Split<S>;

    fn layer(&self, inner: S) -> Split<S> {
        let rule = RuleConfig::new("rule").backend(BackendConfig::new("one"));
        let split = Split::builder()
            .service("one", inner)
            .rules(RouteConfig::new([rule]));
        split.build().unwrap()
    }
}

#[test]
fn a_split_keeps_the_contract() {
    Contract::<_, RequestBody>::new(|| OverOne)
        .clones_per_call(1)
        .check();
}

#[tokio::test]
async fn calls_are_divided_by_weight() {
    let Two { split, blue, green } = ruled(rule(75, 25));
    for _ in 0..1_000 {
        answer(&split, call()).await;
    }
    assert!(green.calls().abs_diff(250) < 45, "{}", green.calls());
    let stats = split.handle().stats();
    assert_eq!(
        (
            stats.calls("rollout", "blue"),
            stats.calls("rollout", "green")
        ),
        (blue.calls(), green.calls())
    );
    assert!(blue.violations().is_empty() && green.violations().is_empty());
}

#[tokio::test]
async fn the_decision_of_a_layer_outside_stands() {
    let ruled = ruled(rule(1, 0));
    let bare = two(|split| split);
    for Two { split, .. } in [&ruled, &bare] {
        for arm in ["blue", "green", "blue"] {
            assert_eq!(answer(split, to(arm)).await, arm);
        }
        assert_eq!(
            rejection(split, to("red")).await,
            "no service is named `red`, where rule `outer` sends the call"
        );
    }
    // So do retries between the two stay where they began.
    let layer = of(rule(1, 1).sticky(StickyConfig::header("x-user")));
    let stack = ServiceBuilder::new()
        .layer(layer)
        .service(bare.split.clone());
    for id in 0..20 {
        let request = || user(id).map(|_| TestBody::from(""));
        let first = stack.clone().oneshot(request()).await.unwrap();
        let again = stack.clone().oneshot(request()).await.unwrap();
        let first = first.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(first, again.into_body().collect().await.unwrap().to_bytes());
    }
}

#[tokio::test]
async fn a_call_that_no_rule_is_for_goes_where_it_was_said_or_is_refused() {
    let only_drills = || rule(1, 0).matching(MatchConfig::default().header("x-drill", "on"));
    let refused = ruled(only_drills());
    assert_eq!(
        rejection(&refused.split, call()).await,
        "no rule is for the call"
    );
    let mut grpc = call();
    *grpc.method_mut() = http::Method::POST;
    let content_type = "application/grpc".parse().unwrap();
    grpc.headers_mut().insert("content-type", content_type);
    let response = refused.split.clone().oneshot(grpc).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "14");

    let rules = RouteConfig::new([only_drills()]);
    let named = two(|split| split.rules(rules).unmatched("green"));
    assert_eq!(answer(&named.split, call()).await, "green");
    let bare = two(|split| split.unmatched("blue"));
    assert_eq!(answer(&bare.split, call()).await, "blue");
    assert_eq!(
        bare.split.handle().stats().unmatched,
        0,
        "nobody was asked for a rule"
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_ready_holds_up_its_own_calls_only() {
    let Two { split, blue, green } = two(|split| split);
    let gate = Gate::new();
    green.hold_ready(&gate);
    let waiting = tokio::spawn(answer_of(split.clone(), to("green")));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!waiting.is_finished());
    // No spinning: it is asked when it says so, once by `call` and once by the future.
    assert!(green.ready_polls() <= 3, "{}", green.ready_polls());
    for _ in 0..10 {
        assert_eq!(answer(&split, to("blue")).await, "blue");
    }
    gate.open();
    assert_eq!(waiting.await.unwrap(), "green");
    assert_eq!((blue.calls(), green.calls()), (10, 1));
    assert!(blue.violations().is_empty() && green.violations().is_empty());
}

async fn answer_of(split: Split<Probe>, request: Request<TestBody>) -> String {
    answer(&split, request).await
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_while_it_waits_gives_its_place_back() {
    // One at a time, in each service: a place that is held and not used would block all others.
    let (probe, handle) = Probe::always(Answer::ok().pending_times(1));
    let limited = ServiceBuilder::new()
        .layer(ConcurrencyLimitLayer::new(1))
        .service(probe);
    let other = limited.clone();
    let split = Split::builder()
        .service("blue", limited)
        .service("green", other)
        .build()
        .unwrap();
    let first = tokio::spawn(split.clone().oneshot(to("blue")));
    tokio::task::yield_now().await;
    for _ in 0..5 {
        let mut waiting = split.clone();
        let waiting = waiting.call(to("blue"));
        let dropped = tokio::time::timeout(Duration::from_millis(0), waiting).await;
        drop(dropped);
    }
    first.await.unwrap().unwrap();
    for arm in ["blue", "green"].repeat(10) {
        let call = split.clone().oneshot(to(arm));
        let response = tokio::time::timeout(Duration::from_secs(1), call).await;
        response.expect("no hang").unwrap();
    }
    assert!(handle.violations().is_empty());
}

#[tokio::test]
async fn an_error_of_readiness_is_that_of_the_call() {
    let Two { split, green, .. } = two(|split| split);
    green.fail_ready(ProbeError::refused());
    let error = split.clone().oneshot(to("green")).await.unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    assert_eq!(answer(&split, to("blue")).await, "blue");
}

#[tokio::test]
async fn rules_change_and_those_that_name_no_service_are_refused() {
    let live = Live::new(RouteConfig::new([rule(1, 0)]));
    let Two { split, .. } = two(|split| split.rules(live.clone()));
    assert_eq!(answer(&split, call()).await, "blue");
    live.set(RouteConfig::new([rule(0, 1)])).unwrap();
    assert_eq!(answer(&split, call()).await, "green");
    let red = rule(1, 0).backend(BackendConfig::new("red"));
    assert_eq!(
        live.set(RouteConfig::new([red])).unwrap_err().to_string(),
        "rules[0].backends[2].name: got `red`, expected a service of the split: blue, green"
    );
    assert_eq!(answer(&split, call()).await, "green");
}

#[test]
fn a_split_that_cannot_work_is_refused() {
    let probe = || Probe::always(Answer::ok()).0;
    let refused = |split: SplitBuilder<Probe>| split.build().unwrap_err().to_string();
    assert_eq!(
        refused(Split::builder()),
        "services: got `[]`, expected at least one service"
    );
    let twice = Split::builder()
        .service("blue", probe())
        .service("blue", probe());
    assert_eq!(
        refused(twice),
        "services[1]: got `blue`, expected every name once"
    );
    let unknown = Split::builder().service("blue", probe()).unmatched("red");
    assert_eq!(
        refused(unknown),
        "unmatched: got `red`, expected a service of the split: blue"
    );
}
