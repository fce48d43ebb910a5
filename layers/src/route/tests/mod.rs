//! The layer and the split, and what their algorithms promise.

mod conformance;
mod draws;
mod hot;
mod split;

use std::{convert::Infallible, future::Ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{
    CallContext,
    context::{RouteArm, RouteDecision, RouteFallback, Subset},
    request_match::MatchConfig,
};

type Body = Empty<Bytes>;

/// Answers with the decision that a call came with.
fn seen(request: Request<Body>) -> Ready<Result<Response<Option<RouteDecision>>, Infallible>> {
    let context = CallContext::get(request.extensions());
    std::future::ready(Ok(Response::new(context.and_then(|c| c.route.clone()))))
}

/// The decision for a request, over a service of its own, as axum makes one per connection.
async fn decide(layer: &RouteLayer, request: Request<Body>) -> Option<RouteDecision> {
    let service = layer.layer(service_fn(seen));
    service.oneshot(request).await.unwrap().into_body()
}

/// The name of the arm.
async fn arm(layer: &RouteLayer, request: Request<Body>) -> Option<String> {
    Some(decide(layer, request).await?.arm().name.to_string())
}

/// A call by this user.
fn user(id: impl ToString) -> Request<Body> {
    let request = Request::get("/").header("x-user", id.to_string());
    request.body(Body::new()).unwrap()
}

fn anybody() -> Request<Body> {
    Request::default()
}

/// A rule with arms of these weights, named `stable` and `canary`.
fn two_arms(stable: u32, canary: u32) -> RuleConfig {
    RuleConfig::new("rollout")
        .backend(BackendConfig::new("stable").version("1.0").weight(stable))
        .backend(BackendConfig::new("canary").version("2.0").weight(canary))
}

fn sticky(stable: u32, canary: u32) -> RuleConfig {
    two_arms(stable, canary).sticky(StickyConfig::header("x-user"))
}

fn of(rule: RuleConfig) -> RouteLayer {
    RouteLayer::builder().rule(rule).seed(1).build().unwrap()
}

/// What refuses a configuration.
fn refused(json: &str) -> String {
    let config: Result<RouteConfig, _> = serde_json::from_str(json);
    match config {
        Ok(config) => RouteLayer::new(config).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn the_decision_says_all_that_is_below_of_interest() {
    let layer = of(sticky(1, 1).fallback(FallbackConfig::Arm("stable".to_owned())));
    let mut seen = 0;
    for id in 0..20 {
        let decision = decide(&layer, user(id)).await.unwrap();
        let RouteArm {
            rule,
            name,
            subset,
            fallback,
            revision,
            ..
        } = decision.arm();
        assert_eq!((&**rule, *revision), ("rollout", 1));
        assert!(decision.hash().is_some());
        let canary = &**name == "canary";
        let version = if canary { "2.0" } else { "1.0" };
        assert_eq!(*subset, Subset::new([("version", version)]));
        // The arm that others fall back to has nothing behind it.
        let expected = if canary {
            RouteFallback::Subset(Subset::new([("version", "1.0")]))
        } else {
            RouteFallback::Fail
        };
        assert_eq!(*fallback, expected);
        seen |= 1 << u8::from(canary);
    }
    assert_eq!(seen, 3, "both arms");
    assert_eq!(decide(&layer, anybody()).await.unwrap().hash(), None);
}

#[tokio::test]
async fn a_decision_that_a_call_came_with_stands() {
    let layer = of(two_arms(1, 1));
    let own = RouteDecision::new(std::sync::Arc::new(RouteArm::new("mine", "here")));
    let mut request = anybody();
    CallContext::get_or_insert(request.extensions_mut()).route = Some(own.clone());
    assert_eq!(decide(&layer, request).await, Some(own));
    let stats = layer.handle().stats();
    assert_eq!(
        (
            stats.calls("rollout", "stable"),
            stats.calls("rollout", "canary")
        ),
        (0, 0)
    );
}

#[tokio::test]
async fn what_is_in_the_context_stays_there() {
    let layer = of(two_arms(1, 1));
    let mut request = anybody();
    let context = CallContext::get_or_insert(request.extensions_mut());
    context.revision = 7;
    let service = layer.layer(service_fn(|request: Request<Body>| {
        let context = CallContext::get(request.extensions()).unwrap().clone();
        std::future::ready(Ok::<_, Infallible>(Response::new(context)))
    }));
    let context = service.oneshot(request).await.unwrap().into_body();
    assert_eq!(context.revision, 7);
    assert!(context.route.is_some());
}

#[tokio::test]
async fn five_percent_are_five_percent_over_all_clones() {
    let layer = of(two_arms(95, 5));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                // Each clone is a service of its own.
                let services = vec![layer.layer(service_fn(seen)); 8];
                for _ in 0..100_000 / 64 {
                    for service in &services {
                        let call = service.clone().oneshot(anybody());
                        futures_util::FutureExt::now_or_never(call)
                            .unwrap()
                            .unwrap();
                    }
                }
            });
        }
    });
    let canary = layer.handle().stats().calls("rollout", "canary");
    assert!(canary.abs_diff(5_000) <= 210, "{canary} of 100,000");
}

#[tokio::test]
async fn an_arm_of_the_weight_0_gets_nothing() {
    for rule in [two_arms(1, 0), sticky(1, 0)] {
        let layer = of(rule.backend(BackendConfig::new("third").weight(1)));
        for id in 0..5_000 {
            arm(&layer, user(id)).await;
            arm(&layer, anybody()).await;
        }
        let stats = layer.handle().stats();
        assert_eq!(stats.calls("rollout", "canary"), 0);
        assert!(stats.calls("rollout", "third") > 4_500);
    }
}

#[tokio::test]
async fn a_user_has_one_arm_in_every_process() {
    // Two layers, as two processes have; and arms in another order.
    let one = of(sticky(70, 30));
    let other = RuleConfig::new("rollout")
        .backend(BackendConfig::new("canary").weight(3))
        .backend(BackendConfig::new("stable").weight(7))
        .sticky(StickyConfig::header("x-user"));
    let other = of(other);
    let mut canary = 0;
    for id in 0..1_000 {
        let first = arm(&one, user(id)).await;
        assert_eq!(first, arm(&one, user(id)).await);
        assert_eq!(first, arm(&other, user(id)).await);
        canary += u32::from(first.as_deref() == Some("canary"));
    }
    assert!(canary.abs_diff(300) < 45, "{canary}");
    // These have to stay as they are, or an update of this crate would move users.
    for (id, expected) in [
        ("alice", "canary"),
        ("bob", "stable"),
        ("carol", "stable"),
        ("dave", "stable"),
        ("frank", "canary"),
        ("grace", "stable"),
    ] {
        assert_eq!(arm(&one, user(id)).await.as_deref(), Some(expected), "{id}");
    }
}

#[tokio::test]
async fn rules_with_different_salts_divide_users_differently() {
    let salted = |salt: &str| of(two_arms(1, 1).sticky(StickyConfig::header("x-user").salt(salt)));
    let (a, same, b) = (salted("a"), salted("a"), salted("b"));
    let mut differ = 0;
    for id in 0..1_000 {
        let first = arm(&a, user(id)).await;
        assert_eq!(first, arm(&same, user(id)).await);
        differ += u32::from(first != arm(&b, user(id)).await);
    }
    assert!(differ.abs_diff(500) < 60, "{differ}");
}

#[tokio::test]
async fn calls_without_a_key_go_where_the_rule_says() {
    let layer = of(sticky(80, 20));
    for _ in 0..1_000 {
        arm(&layer, anybody()).await;
    }
    let canary = layer.handle().stats().calls("rollout", "canary");
    assert!(canary.abs_diff(200) < 45, "{canary}");

    // Also to an arm that users have not been sent to yet.
    let to = |arm: &str| OnMissing::Arm(arm.to_owned());
    for (canary_weight, missing) in [(20, "stable"), (20, "canary"), (0, "canary")] {
        let keyed = StickyConfig::header("x-user").on_missing(to(missing));
        let layer = of(two_arms(80, canary_weight).sticky(keyed));
        for _ in 0..100 {
            assert_eq!(arm(&layer, anybody()).await.as_deref(), Some(missing));
        }
    }
}

#[test]
fn what_cannot_work_is_refused_with_its_path() {
    let rule = |text: &str| format!(r#"{{ "rules": [{{ "name": "a", {text} }}] }}"#);
    let backends = |text: &str| rule(&format!(r#""backends": [{text}]"#));
    let sticky = |text: &str| rule(&format!(r#""backends": [{{}}], "sticky": {{{text}}}"#));
    for (json, message) in [
        (
            backends(""),
            "rules[0].backends: got `[]`, expected at least one arm",
        ),
        (
            backends(r#"{"weight": 0}"#),
            "rules[0].backends: got `a sum of 0`, expected weights whose sum is 1 to 4294967295",
        ),
        (
            backends(r#"{"name": "b", "weight": 4294967295}, {"name": "c"}"#),
            "rules[0].backends: got `a sum of 4294967296`, expected weights whose sum is 1 to 4294967295",
        ),
        (
            backends(r#"{"name": "b"}, {"name": "b"}"#),
            "rules[0].backends[1].name: got `b`, expected a name that no other arm of the rule has",
        ),
        (
            backends(r#"{}, {"subset": {}}"#),
            "rules[0].backends[1].name: got `all`, expected a name that no other arm of the rule has",
        ),
        (
            backends(r#"{"name": "b c"}"#),
            "rules[0].backends[0].name: got `b c`, expected 1 to 64 visible characters",
        ),
        (
            backends(r#"{"subset": {"": "x"}, "name": "b"}"#),
            "rules[0].backends[0].subset: got ``, expected labels with names",
        ),
        (
            sticky(r#""key": []"#),
            "rules[0].sticky.key: got `[]`, expected at least one header or cookie",
        ),
        (
            sticky(r#""key": [{"header": "x user"}]"#),
            "rules[0].sticky.key[0].header: got `x user`, expected the name of an HTTP header",
        ),
        (
            sticky(r#""key": [{"header": "a"}], "onMissing": {"arm": "b"}"#),
            "rules[0].sticky.onMissing.arm: got `b`, expected an arm of the rule: all",
        ),
        (
            rule(r#""backends": [{}], "fallback": {"arm": "b"}"#),
            "rules[0].fallback.arm: got `b`, expected an arm of the rule: all",
        ),
        (
            r#"{"rules": [{"name": "a", "backends": [{}]}, {"name": "a", "backends": [{}]}]}"#
                .to_owned(),
            "rules[1].name: got `a`, expected a name that no other rule has",
        ),
        (
            r#"{"rules": [{"name": "", "backends": [{}]}]}"#.to_owned(),
            "rules[0].name: got ``, expected 1 to 64 visible characters",
        ),
    ] {
        assert_eq!(refused(&json), message, "{json}");
    }
    let regex = rule(r#""backends": [{}], "matches": [{}, {"path": {"regex": "/a("}}]"#);
    let error = refused(&regex);
    assert!(
        error.starts_with("rules[0].matches[1].path.regex: got `/a(`"),
        "{error}"
    );
    for (json, message) in [
        (r#"{"rule": []}"#.to_owned(), "unknown field `rule`"),
        (backends(r#"{"wieght": 5}"#), "unknown field `wieght`"),
        (backends(r#"{"weight": -1}"#), "invalid value: integer `-1`"),
        (
            sticky(r#""key": [{"query": "a"}]"#),
            "unknown variant `query`",
        ),
        (
            r#"{"rules": [{"backends": []}]}"#.to_owned(),
            "missing field `name`",
        ),
    ] {
        let error = refused(&json);
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_configuration_reads_as_it_is_written() {
    let rule = two_arms(95, 5)
        .matching(MatchConfig::default().header("x-drill", "on"))
        .sticky(StickyConfig::header("x-user").or(StickyKey::Cookie("sid".to_owned())))
        .fallback(FallbackConfig::Any);
    let config = RouteConfig::new([
        rule,
        RuleConfig::new("rest").backend(BackendConfig::default()),
    ]);
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<RouteConfig>(&text).unwrap(), config);
    assert!(
        text.contains(r#""key":[{"header":"x-user"},{"cookie":"sid"}],"onMissing":"random""#),
        "{text}"
    );
    let to_arm = serde_json::to_string(&FallbackConfig::Arm("stable".to_owned())).unwrap();
    assert_eq!(to_arm, r#"{"arm":"stable"}"#);
}
