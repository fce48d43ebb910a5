//! Rules that change while calls are under way.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use super::*;
use crate::{Live, metrics};

const USERS: u32 = 10_000;

async fn all_users(layer: &RouteLayer) -> HashMap<u32, String> {
    let mut arms = HashMap::new();
    for id in 0..USERS {
        arms.insert(id, arm(layer, user(id)).await.unwrap());
    }
    arms
}

/// Ramps the canary up from 20 to 50%: how many users leave it, and how many come.
async fn ramp(rule: impl Fn(u32, u32) -> RuleConfig) -> (usize, usize) {
    let live = Live::new(RouteConfig::new([rule(80, 20)]));
    let layer = RouteLayer::live(live.clone()).unwrap();
    let before = all_users(&layer).await;
    live.set(RouteConfig::new([rule(50, 50)])).unwrap();
    let after = all_users(&layer).await;
    let moved = |from: &str| {
        let moved = before
            .iter()
            .filter(|(id, arm)| *arm == from && after[id] != from);
        moved.count()
    };
    (moved("canary"), moved("stable"))
}

#[tokio::test]
async fn nobody_leaves_the_canary_while_it_grows() {
    let (left, came) = ramp(sticky).await;
    assert_eq!(left, 0);
    assert!(came.abs_diff(3_000) < 200, "{came}");
    // The same where the canary comes first in the list.
    let first = |stable, canary| {
        let mut rule = sticky(stable, canary);
        rule.backends.reverse();
        rule
    };
    assert_eq!(ramp(first).await, (0, came));
    // Without the sticky key half of them would.
    let (left, _) = ramp(two_arms).await;
    assert!(left > 800, "{left}");
}

#[tokio::test]
async fn users_stay_over_a_ramp_of_many_steps_and_back() {
    let live = Live::new(RouteConfig::new([sticky(100, 0)]));
    let layer = RouteLayer::live(live.clone()).unwrap();
    let mut canaries = Vec::new();
    for share in [0, 1, 5, 20, 50, 90, 100, 20, 0] {
        live.set(RouteConfig::new([sticky(100 - share, share)]))
            .unwrap();
        let arms = all_users(&layer).await;
        let canary = arms.into_iter().filter(|(_, arm)| arm == "canary");
        let canary: HashSet<u32> = canary.map(|(id, _)| id).collect();
        let expected = USERS as usize * share as usize / 100;
        assert!(
            canary.len().abs_diff(expected) <= 200,
            "{share}%: {}",
            canary.len()
        );
        canaries.push(canary);
    }
    for steps in canaries[..7].windows(2) {
        assert!(steps[0].is_subset(&steps[1]));
    }
    // Whoever was taken back first comes last, and the other way round.
    assert_eq!(canaries[3], canaries[7]);
}

#[test]
fn a_change_under_load_loses_no_call_and_no_count() {
    let rule = |canary: u32| {
        let mut rule = two_arms(100 - canary, canary);
        rule.name = "loaded".to_owned();
        rule
    };
    let live = Live::new(RouteConfig::new([rule(5)]));
    let layer = RouteLayer::live(live.clone()).unwrap();
    let (stop, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let service = layer.layer(service_fn(seen));
                while !stop.load(Relaxed) {
                    let call = service.clone().oneshot(anybody());
                    let answer = futures_util::FutureExt::now_or_never(call)
                        .unwrap()
                        .unwrap();
                    let decision = answer.into_body().expect("every call is routed");
                    // The parts of a decision are of one moment: torn, they would not fit.
                    let version = if &*decision.arm().name == "canary" {
                        "2.0"
                    } else {
                        "1.0"
                    };
                    assert_eq!(decision.arm().subset, Subset::new([("version", version)]));
                    calls.fetch_add(1, Relaxed);
                }
            });
        }
        for step in 0..200 {
            let change = RouteConfig::new([rule(step % 101)]);
            if step % 3 == 0 {
                let mut invalid = change.clone();
                invalid.rules[0].backends.clear();
                assert_eq!(live.set(invalid).unwrap_err().path(), "rules[0].backends");
            }
            live.set(change).unwrap();
            std::thread::yield_now();
        }
        stop.store(true, Relaxed);
    });
    let stats = layer.handle().stats();
    let counted: u64 = stats.arms.iter().map(|arm| arm.calls).sum();
    assert_eq!(counted, calls.into_inner());
    for arm in ["stable", "canary"] {
        let labels = [("rule", "loaded"), ("arm", arm)];
        let published = metrics::snapshot().counter("mesh_route_calls_total", &labels);
        assert_eq!(published, Some(stats.calls("loaded", arm)));
    }
}

#[tokio::test]
async fn what_was_counted_outlives_its_arm_and_its_layer() {
    let rule = |arm: &str| {
        let rule = RuleConfig::new("outlived").backend(BackendConfig::new(arm));
        RouteConfig::new([rule])
    };
    let published = |arm: &'static str| {
        let labels = [("rule", "outlived"), ("arm", arm)];
        metrics::snapshot().counter("mesh_route_calls_total", &labels)
    };
    let live = Live::new(rule("old"));
    let layer = RouteLayer::live(live.clone()).unwrap();
    decide(&layer, anybody()).await;
    live.set(rule("new")).unwrap();
    decide(&layer, anybody()).await;
    decide(&layer, anybody()).await;
    assert_eq!((published("old"), published("new")), (Some(1), Some(2)));
    assert_eq!(layer.handle().stats().calls("outlived", "old"), 0);
    drop(layer);
    assert_eq!((published("old"), published("new")), (Some(1), Some(2)));
}

#[tokio::test]
async fn rules_come_and_go() {
    let live = Live::new(None);
    let layer = RouteLayer::optional(live.clone()).unwrap();
    assert_eq!(decide(&layer, anybody()).await, None);
    live.set(Some(RouteConfig::new([two_arms(1, 0)]))).unwrap();
    assert_eq!(arm(&layer, anybody()).await.as_deref(), Some("stable"));
    assert_eq!(decide(&layer, anybody()).await.unwrap().arm().revision, 1);
    live.set(Some(RouteConfig::new([two_arms(0, 1)]))).unwrap();
    let decision = decide(&layer, anybody()).await.unwrap();
    assert_eq!(
        (&*decision.arm().name, decision.arm().revision),
        ("canary", 2)
    );
    live.set(Some(RouteConfig::default())).unwrap();
    assert_eq!(decide(&layer, anybody()).await, None);
    live.set(None).unwrap();
    assert_eq!(decide(&layer, anybody()).await, None);
    assert_eq!(
        layer.handle().stats(),
        RouteStats::default(),
        "no rule, nothing to count"
    );
}
