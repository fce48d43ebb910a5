//! Calls that a routing layer sent to an arm.

use tower_mesh_layers::{
    Reason,
    context::{RouteArm, RouteDecision, RouteFallback, Subset},
    metrics,
};

use super::*;

const STABLE: &str = "1.0";
const CANARY: &str = "2.0";

fn version(version: &str) -> Subset {
    Subset::new([("version", version)])
}

fn to(arm: &str) -> RouteDecision {
    falling_back(arm, RouteFallback::Fail)
}

fn falling_back(arm: &str, fallback: RouteFallback) -> RouteDecision {
    let arm = RouteArm::new("rollout", arm)
        .with_subset(version(arm))
        .with_fallback(fallback);
    RouteDecision::new(Arc::new(arm))
}

fn request(route: &RouteDecision) -> Request<()> {
    let mut request = Request::new(());
    CallContext::get_or_insert(request.extensions_mut()).route = Some(route.clone());
    request
}

/// A call that was sent to an arm, read to its end.
async fn routed(balance: &Balance<Made>, route: &RouteDecision) -> Result<u16, TransportError> {
    let response = balance.clone().call(request(route)).await?;
    let status = response.status().as_u16();
    let _ = response.into_body().collect().await;
    Ok(status)
}

impl World {
    /// Peers of these versions.
    fn of_versions(versions: &[&str]) -> Self {
        let world = Self::of(0, ms(1));
        for i in 0..versions.len() {
            world.peer(&id(i)).does(Does::Answer(200, ms(1)));
        }
        world.publish_versions(versions);
        world
    }

    fn publish_versions(&self, versions: &[&str]) {
        let instances = versions.iter().enumerate();
        let instances = instances.map(|(i, version)| instance(i).with_version(*version));
        self.publisher.publish(snapshot(instances));
    }

    fn default_balance(&self) -> Balance<Made> {
        self.balance(BalanceConfig::default(), seeded(1))
    }
}

/// The counts between two moments.
fn since(before: &[u64], after: &[u64]) -> Vec<u64> {
    after.iter().zip(before).map(|(a, b)| a - b).collect()
}

#[tokio::test(start_paused = true)]
async fn calls_of_an_arm_go_to_its_endpoints_and_evenly() {
    let world = World::of_versions(&[STABLE, CANARY, STABLE, CANARY]);
    let p2c = world.default_balance();
    for _ in 0..200 {
        assert_eq!(routed(&p2c, &to(CANARY)).await.unwrap(), 200);
    }
    let calls = world.calls(4);
    assert_eq!((calls[0], calls[2]), (0, 0));
    assert!(calls[1].min(calls[3]) > 60, "{calls:?}");

    // Calls that alternate between two arms have their turns in each.
    let turns = world.balance(BalanceConfig::default(), Picker::round_robin());
    let before = world.calls(4);
    for _ in 0..50 {
        routed(&turns, &to(STABLE)).await.unwrap();
        routed(&turns, &to(CANARY)).await.unwrap();
    }
    assert_eq!(since(&before, &world.calls(4)), [25; 4]);
}

#[tokio::test(start_paused = true)]
async fn weights_count_within_an_arm() {
    let world = World::of(4, ms(1));
    let weights = [
        (0, STABLE, 500),
        (1, CANARY, 300),
        (2, CANARY, 100),
        (3, STABLE, 1),
    ];
    let weighted =
        weights.map(|(i, version, weight)| instance(i).with_version(version).with_weight(weight));
    world.publisher.publish(snapshot(weighted));
    let balance = world.balance(BalanceConfig::default(), Picker::round_robin());
    for _ in 0..100 {
        routed(&balance, &to(CANARY)).await.unwrap();
    }
    assert_eq!(world.calls(4), [0, 75, 25, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_subset_goes_anywhere() {
    let world = World::of_versions(&[STABLE, CANARY]);
    let balance = world.default_balance();
    let anywhere = RouteDecision::new(Arc::new(RouteArm::new("rollout", "all")));
    for _ in 0..100 {
        assert_eq!(routed(&balance, &anywhere).await.unwrap(), 200);
    }
    assert!(world.calls(2).iter().all(|&calls| calls > 20));
}

#[tokio::test(start_paused = true)]
async fn an_arm_without_endpoints_does_what_its_rule_says() {
    let world = World::of_versions(&[STABLE, STABLE, "3.0"]);
    let balance = world.default_balance();
    let start = Instant::now();
    let response = balance.clone().call(request(&to(CANARY))).await.unwrap();
    assert_eq!((response.status().as_u16(), start.elapsed()), (503, ms(0)));
    let rejection = response.extensions().get::<Rejection>().unwrap();
    assert_eq!(rejection.reason(), Reason::NoEndpoint);
    assert_eq!(
        rejection.detail(),
        "no endpoint of `orders` is in the subset version=2.0, where arm `2.0` of rule `rollout` goes"
    );
    assert_eq!(world.calls(3), [0, 0, 0]);

    let arm = falling_back(CANARY, RouteFallback::Subset(version(STABLE)));
    for _ in 0..50 {
        assert_eq!(routed(&balance, &arm).await.unwrap(), 200);
    }
    let calls = world.calls(3);
    assert_eq!((calls[0] + calls[1], calls[2]), (50, 0));

    for _ in 0..50 {
        let any = falling_back(CANARY, RouteFallback::Any);
        assert_eq!(routed(&balance, &any).await.unwrap(), 200);
    }
    assert!(world.calls(3)[2] > 5);

    // Nor does the fallback help where it has nobody either.
    let nowhere = falling_back(CANARY, RouteFallback::Subset(version("4.0")));
    assert_eq!(routed(&balance, &nowhere).await.unwrap(), 503);
}

#[tokio::test(start_paused = true)]
async fn an_arm_that_accepts_no_connection_fails_or_falls_back() {
    for (fallback, reached) in [
        (RouteFallback::Fail, 0),
        (RouteFallback::Any, 20),
        (RouteFallback::Subset(version(STABLE)), 20),
    ] {
        let world = World::of_versions(&[STABLE, CANARY, CANARY]);
        world.peer(&id(1)).does(Does::Refuse);
        world.peer(&id(2)).does(Does::Refuse);
        let balance = world.default_balance();
        for _ in 0..20 {
            let answer = routed(&balance, &falling_back(CANARY, fallback.clone())).await;
            assert_eq!(answer.is_ok(), reached > 0, "{fallback:?}");
        }
        assert_eq!(world.calls(3)[0], reached, "{fallback:?}");
        // As soon as it is back, it has its calls again.
        world.peer(&id(1)).does(Does::Answer(200, ms(1)));
        sleep(ms(20_000)).await;
        for _ in 0..20 {
            let answer = routed(&balance, &falling_back(CANARY, fallback.clone())).await;
            assert_eq!(answer.unwrap(), 200);
        }
        assert_eq!(world.calls(3)[0], reached, "{fallback:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_ejected_arm_is_tried_by_its_own_calls_and_by_no_others() {
    for fallback in [RouteFallback::Fail, RouteFallback::Any] {
        let world = World::of_versions(&[STABLE, STABLE, STABLE, CANARY]);
        world.peer(&id(3)).does(Does::Answer(503, ms(1)));
        let balance = world.default_balance();
        let canary = falling_back(CANARY, fallback);
        routed(&balance, &canary).await.unwrap();
        while state_of(&balance, 3) != EndpointState::Ejected {
            routed(&balance, &canary).await.unwrap();
        }
        let before = world.calls(4)[3];
        for _ in 0..100 {
            assert_eq!(routed(&balance, &to(STABLE)).await.unwrap(), 200);
            sleep(ms(100)).await;
        }
        assert_eq!(world.calls(4)[3], before, "it was due for six seconds");

        world.peer(&id(3)).does(Does::Answer(200, ms(1)));
        assert_eq!(routed(&balance, &canary).await.unwrap(), 200);
        assert_eq!(world.calls(4)[3], before + 1);
        assert_eq!(state_of(&balance, 3), EndpointState::Ready);
    }
}

#[tokio::test(start_paused = true)]
async fn an_arm_that_is_out_keeps_its_calls_unless_told_otherwise() {
    let world = World::of_versions(&[STABLE, STABLE, STABLE, CANARY]);
    world.peer(&id(3)).does(Does::Answer(503, ms(1)));
    let balance = world.default_balance();
    for _ in 0..50 {
        assert_eq!(routed(&balance, &to(CANARY)).await.unwrap(), 503);
    }
    assert_eq!(state_of(&balance, 3), EndpointState::Ejected);
    assert_eq!(world.calls(4), [0, 0, 0, 50]);

    let fallbacks = || {
        let labels = [("server_address", "orders")];
        metrics::snapshot().counter("mesh_balance_fallbacks_total", &labels)
    };
    let before = fallbacks().unwrap();
    for _ in 0..50 {
        let answer = routed(&balance, &falling_back(CANARY, RouteFallback::Any)).await;
        assert_eq!(answer.unwrap(), 200);
    }
    assert_eq!(world.calls(4)[3], 50);
    assert!(fallbacks().unwrap() >= before + 50);
}

#[tokio::test(start_paused = true)]
async fn a_second_attempt_stays_in_its_arm() {
    let world = World::of_versions(&[STABLE, CANARY, CANARY]);
    let balance = world.default_balance();
    routed(&balance, &to(CANARY)).await.unwrap();
    let endpoints: Vec<_> = balance.shared_set().members.iter().cloned().collect();
    let endpoint = |i: usize| {
        let found = endpoints.iter().map(|member| &member.endpoint);
        found
            .into_iter()
            .find(|e| e.instance().id == id(i))
            .unwrap()
            .id()
    };
    for (tried, expected) in [(&[1][..], [0, 0, 20]), (&[2], [0, 20, 0])] {
        let before = world.calls(3);
        for _ in 0..20 {
            let mut request = request(&to(CANARY));
            let context = CallContext::get_or_insert(request.extensions_mut());
            context.attempt.number = 2;
            tried
                .iter()
                .for_each(|&i| context.attempt.tried.push(endpoint(i)));
            balance.clone().call(request).await.unwrap();
        }
        assert_eq!(since(&before, &world.calls(3)), expected);
    }
    // Where all of the arm were tried, better one of them again than one of another arm.
    let before = world.calls(3)[0];
    for _ in 0..20 {
        let mut request = request(&to(CANARY));
        let context = CallContext::get_or_insert(request.extensions_mut());
        context.attempt.number = 3;
        [1, 2]
            .into_iter()
            .for_each(|i| context.attempt.tried.push(endpoint(i)));
        assert_eq!(balance.clone().call(request).await.unwrap().status(), 200);
    }
    assert_eq!(world.calls(3)[0], before);
}

#[tokio::test(start_paused = true)]
async fn an_arm_follows_what_the_registry_says() {
    let world = World::of_versions(&[STABLE, CANARY]);
    let balance = world.default_balance();
    routed(&balance, &to(CANARY)).await.unwrap();
    world.publish_versions(&[CANARY, STABLE]);
    sleep(ms(200)).await;
    let before = world.calls(2);
    for _ in 0..10 {
        routed(&balance, &to(CANARY)).await.unwrap();
    }
    assert_eq!(since(&before, &world.calls(2)), [10, 0]);
}

#[tokio::test(start_paused = true)]
async fn the_last_endpoint_of_an_arm_gets_calls_while_it_drains() {
    let world = World::of(3, ms(1));
    let peers = |status| {
        let stable = (0..2).map(|i| instance(i).with_version(STABLE));
        stable.chain([instance(2).with_version(CANARY).with_status(status)])
    };
    world.publisher.publish(snapshot(peers(Status::Draining)));
    let balance = world.default_balance();
    for _ in 0..10 {
        assert_eq!(routed(&balance, &to(CANARY)).await.unwrap(), 200);
    }
    assert_eq!(world.calls(3), [0, 0, 10]);
    // Where the rule allows, those that stay are better.
    for _ in 0..10 {
        let any = falling_back(CANARY, RouteFallback::Any);
        assert_eq!(routed(&balance, &any).await.unwrap(), 200);
    }
    assert_eq!(world.calls(3)[2], 10);
    world.publisher.publish(snapshot(peers(Status::Down)));
    sleep(ms(200)).await;
    assert_eq!(routed(&balance, &to(CANARY)).await.unwrap(), 503);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_ready_waits_for_its_arm() {
    let world = World::of_versions(&[STABLE, STABLE]);
    let config = BalanceConfig {
        wait_for_ready: true,
        ..BalanceConfig::default()
    };
    let balance = world.balance(config, seeded(1));
    let waiting = tokio::spawn({
        let balance = balance.clone();
        async move { routed(&balance, &to(CANARY)).await }
    });
    sleep(ms(1_000)).await;
    assert!(!waiting.is_finished());
    let versions = [(0, STABLE), (1, CANARY)];
    world.publisher.publish(snapshot(
        versions.map(|(i, version)| instance(i).with_version(version)),
    ));
    assert_eq!(waiting.await.unwrap().unwrap(), 200);
    assert_eq!(world.calls(2), [0, 1]);
    // It does not wait for ever.
    let none = timeout(ms(5_000), routed(&balance, &to("3.0"))).await;
    assert_eq!(none.expect("no hang").unwrap(), 503);
}

#[tokio::test(start_paused = true)]
async fn there_may_be_more_arms_than_a_set_keeps_lists_of() {
    let versions: Vec<_> = (0..100).map(|i| i.to_string()).collect();
    let versions: Vec<_> = versions.iter().map(String::as_str).collect();
    let world = World::of_versions(&versions);
    let balance = world.default_balance();
    for _ in 0..2 {
        for version in &versions {
            assert_eq!(routed(&balance, &to(version)).await.unwrap(), 200);
        }
    }
    assert_eq!(world.calls(100), [2; 100]);
}
