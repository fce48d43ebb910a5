//! What others agree on: Gateway API's conformance suite, gRFC A28, Envoy as measured, go-chassis.

use super::*;

/// Rules that name what matched.
fn rules<const N: usize>(rules: [(&str, MatchConfig); N]) -> RouteLayer {
    let rules = rules.map(|(name, matches)| {
        RuleConfig::new(name)
            .matching(matches)
            .backend(BackendConfig::default())
    });
    RouteLayer::new(RouteConfig::new(rules)).unwrap()
}

async fn rule(layer: &RouteLayer, request: http::request::Builder) -> String {
    let request = request.body(Body::new()).unwrap();
    let decision = decide(layer, request).await;
    decision.map_or_else(String::new, |decision| decision.arm().rule.to_string())
}

/// How many of so many calls each arm gets.
async fn drawn(rule: RuleConfig, calls: u32) -> Vec<u64> {
    let layer = of(rule);
    for _ in 0..calls {
        decide(&layer, anybody()).await.unwrap();
    }
    let stats = layer.handle().stats();
    stats.arms.iter().map(|arm| arm.calls).collect()
}

fn arms(weights: &[u32]) -> RuleConfig {
    let arms = weights.iter().enumerate();
    arms.fold(RuleConfig::new("rule"), |rule, (arm, &weight)| {
        rule.backend(BackendConfig::new(format!("arm-{arm}")).weight(weight))
    })
}

#[tokio::test]
async fn the_first_rule_in_the_list_decides_however_exact_later_ones_are() {
    use crate::RequestMatch as Match;
    // gRFC A28: the prefix is listed first.
    let layer = rules([
        ("prefix", Match::path_prefix("/match")),
        ("exact", Match::path_exact("/match/exact")),
        ("all", MatchConfig::default()),
    ]);
    assert_eq!(rule(&layer, Request::get("/match/exact")).await, "prefix");
    assert_eq!(rule(&layer, Request::get("/other")).await, "all");
    // The other way round.
    let layer = rules([
        ("exact", Match::path_exact("/match/exact")),
        ("prefix", Match::path_prefix("/match")),
    ]);
    assert_eq!(rule(&layer, Request::get("/match/exact")).await, "exact");
    assert_eq!(
        rule(&layer, Request::get("/match/exact/one")).await,
        "prefix"
    );
    assert_eq!(rule(&layer, Request::get("/matching")).await, "");
}

#[tokio::test]
async fn alternatives_of_one_rule_are_or_and_conditions_are_and() {
    let layer = RouteLayer::builder()
        .rule(
            RuleConfig::new("v2")
                .matching(
                    MatchConfig::default()
                        .header("version", "two")
                        .header("color", "orange"),
                )
                .matching(MatchConfig::default().query_param("animal", "whale"))
                .backend(BackendConfig::default()),
        )
        .build()
        .unwrap();
    for (request, expected) in [
        (
            Request::get("/")
                .header("version", "two")
                .header("color", "orange"),
            "v2",
        ),
        (Request::get("/").header("version", "two"), ""),
        (Request::get("/").header("color", "orange"), ""),
        (Request::get("/?animal=whale"), "v2"),
        (Request::get("/?animal=whaledolphin"), ""),
        (Request::get("/?ANIMAL=whale"), ""),
    ] {
        assert_eq!(rule(&layer, request).await, expected);
    }
}

#[tokio::test]
async fn a_call_that_no_rule_is_for_is_not_routed() {
    let layer = rules([("orders", crate::RequestMatch::grpc_service("shop.Orders"))]);
    assert_eq!(decide(&layer, anybody()).await, None);
    assert_eq!(
        rule(&layer, Request::post("/shop.Orders/Place")).await,
        "orders"
    );
    assert_eq!(layer.handle().stats().unmatched, 1);
}

#[tokio::test]
async fn go_chassis_rules_read_the_same_here() {
    // Its case 6: a user's header before everybody else; its case 7: a cookie, by a regular
    // expression.
    let cookie = crate::StringMatch::Regex("^(.*?;)?(user=jason)(;.*)?$".to_owned());
    let layer = rules([
        ("v2", MatchConfig::default().header("test", "user")),
        ("jason", MatchConfig::default().header("cookie", cookie)),
        ("v3", MatchConfig::default()),
    ]);
    assert_eq!(
        rule(&layer, Request::get("/").header("test", "user")).await,
        "v2"
    );
    assert_eq!(rule(&layer, Request::get("/")).await, "v3");
    let jason = Request::get("/").header("cookie", "a=b;user=jason;c=d");
    assert_eq!(rule(&layer, jason).await, "jason");
}

#[tokio::test]
async fn weights_are_parts() {
    // Gateway API: 70/30/0 of 500, each within 5 points, the last gets none.
    let drawn_500 = drawn(arms(&[70, 30, 0]), 500).await;
    assert!(drawn_500[0].abs_diff(350) <= 25, "{drawn_500:?}");
    assert_eq!(drawn_500[2], 0);
    // The same whatever the sum, as Envoy with 90/10 of 1000.
    for weights in [[90, 10], [9, 1], [900_000_000, 100_000_000]] {
        let calls = drawn(arms(&weights), 1_000).await;
        assert!(calls[0].abs_diff(900) <= 40, "{calls:?}");
    }
    // go-chassis gives the first call to an arm of the weight 0; here it gets none.
    assert_eq!(drawn(arms(&[90, 0, 10]), 1_000).await[1], 0);
    assert_eq!(drawn(arms(&[0, 7]), 100).await, [0, 100]);
}

#[test]
fn weights_that_are_no_parts_are_refused() {
    for weights in [&[0, 0][..], &[], &[u32::MAX, 1]] {
        let error = RouteLayer::builder()
            .rule(arms(weights))
            .build()
            .unwrap_err();
        assert_eq!(error.path(), "rules[0].backends", "{weights:?}");
    }
    assert!(
        RouteLayer::builder()
            .rule(arms(&[u32::MAX - 1, 1]))
            .build()
            .is_ok()
    );
}

#[tokio::test]
async fn a_sticky_user_has_one_arm() {
    // Envoy: 80/20, 200 users of 3 calls each.
    let layer = of(sticky(80, 20));
    let mut canary = 0;
    for id in 0..200 {
        let mut arms = Vec::new();
        for _ in 0..3 {
            arms.push(arm(&layer, user(id)).await.unwrap());
        }
        assert!(arms.iter().all(|arm| *arm == arms[0]));
        canary += u32::from(arms[0] == "canary");
    }
    assert!(canary.abs_diff(40) <= 20, "{canary}");
}

#[tokio::test]
async fn the_first_key_of_several_counts_where_it_is_there() {
    let keys = StickyConfig::header("a").or(StickyKey::Header("b".to_owned()));
    let layer = of(two_arms(1, 1).sticky(keys));
    let hash = async |lines: &[(&str, &str)]| {
        let request = lines
            .iter()
            .fold(Request::get("/"), |r, (k, v)| r.header(*k, *v));
        let decision = decide(&layer, request.body(Body::new()).unwrap()).await;
        decision.unwrap().hash()
    };
    let second = hash(&[("b", "1")]).await;
    assert!(second.is_some());
    assert_eq!(
        hash(&[("a", "1")]).await,
        second,
        "the names are not mixed in"
    );
    assert_eq!(hash(&[("a", "1"), ("b", "2")]).await, second);
    assert_eq!(hash(&[]).await, None);
}
