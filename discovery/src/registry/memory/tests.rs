use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio_test::{assert_pending, assert_ready, task};

use super::*;
use crate::instance::Status;

const TTL: Duration = Duration::from_secs(15);

fn lease(id: &str) -> Lease {
    let url = "http://10.0.0.1:80".parse().unwrap();
    Lease::new(Instance::new("orders", id).with_endpoint(url), TTL)
}

fn ids(set: &Snapshot) -> Vec<&str> {
    set.iter().map(|instance| &*instance.id).collect()
}

/// The answer that is there without waiting, if there is one.
fn now(answers: &mut Answers) -> Option<Result<Snapshot, ResolveError>> {
    answers
        .next()
        .now_or_never()
        .map(|answer| answer.expect("a watch never ends"))
}

#[tokio::test(start_paused = true)]
async fn a_watcher_is_told_of_every_change_at_once_and_of_nothing_else() {
    let registry = MemoryRegistry::new();
    let mut answers = registry.resolve("orders");
    assert_eq!(now(&mut answers).unwrap().unwrap().len(), 0);
    assert!(now(&mut answers).is_none());

    let (a, b) = (lease("a"), lease("b"));
    let mut next = task::spawn(answers.next());
    assert_pending!(next.poll());
    registry.put(&a).await.unwrap();
    assert!(next.is_woken());
    assert_eq!(ids(&assert_ready!(next.poll()).unwrap().unwrap()), ["a"]);
    drop(next);

    registry.put(&b).await.unwrap();
    assert_eq!(ids(&now(&mut answers).unwrap().unwrap()), ["a", "b"]);
    registry.renew(&a).await.unwrap();
    registry.insert(Instance::new("users", "x"));
    assert!(now(&mut answers).is_none(), "a heartbeat is no change");

    let heavier = Arc::new((*a.instance).clone().with_weight(7));
    let a = Lease {
        instance: heavier,
        ..a
    };
    registry.renew(&a).await.unwrap();
    assert_eq!(now(&mut answers).unwrap().unwrap()[0].weight, 7);
}

#[tokio::test(start_paused = true)]
async fn a_record_lapses_at_its_ttl_and_watchers_wake_up_then() {
    let registry = MemoryRegistry::new();
    let mut answers = registry.resolve("orders");
    let (a, b) = (lease("a"), lease("b"));
    registry.put(&a).await.unwrap();
    time::advance(Duration::from_secs(10)).await;
    registry.put(&b).await.unwrap();
    registry.renew(&a).await.unwrap();
    assert_eq!(ids(&now(&mut answers).unwrap().unwrap()), ["a", "b"]);

    time::advance(Duration::from_secs(10)).await;
    registry.renew(&b).await.unwrap();
    let start = Instant::now();
    assert_eq!(ids(&answers.next().await.unwrap().unwrap()), ["b"]);
    let waited = start.elapsed();
    assert!(
        waited >= Duration::from_secs(5) && waited < Duration::from_millis(5_010),
        "{waited:?}"
    );
    assert_eq!(ids(&registry.instances("orders")), ["b"]);
    assert!(matches!(
        registry.renew(&a).await,
        Err(RegisterError::Lapsed)
    ));
}

#[tokio::test(start_paused = true)]
async fn one_that_leaves_is_seen_as_down_and_then_no_more() {
    let registry = MemoryRegistry::new();
    let mut answers = registry.resolve("orders");
    let a = lease("a");
    registry.put(&a).await.unwrap();
    assert_eq!(now(&mut answers).unwrap().unwrap()[0].status, Status::Up);
    Register::remove(&registry, &a).await.unwrap();
    assert_eq!(now(&mut answers).unwrap().unwrap()[0].status, Status::Down);
    assert_eq!(registry.instances("orders").len(), 0);
    assert!(matches!(
        registry.renew(&a).await,
        Err(RegisterError::Lapsed)
    ));
    assert_eq!(answers.next().await.unwrap().unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_last_that_was_put_owns_the_record() {
    let registry = MemoryRegistry::new();
    let (old, new) = (lease("a"), lease("a"));
    registry.put(&old).await.unwrap();
    registry.put(&new).await.unwrap();
    assert!(matches!(
        registry.renew(&old).await,
        Err(RegisterError::Taken)
    ));
    Register::remove(&registry, &old).await.unwrap();
    assert_eq!(
        registry.instances("orders").len(),
        1,
        "the old one must not take out the new one"
    );
    registry.renew(&new).await.unwrap();
    Register::remove(&registry, &new).await.unwrap();
    assert_eq!(registry.instances("orders").len(), 0);
}

#[tokio::test(start_paused = true)]
async fn records_of_a_hand_stay_without_heartbeats() {
    let registry = MemoryRegistry::new();
    registry.insert(Instance::new("orders", "by hand"));
    time::advance(100 * TTL).await;
    assert_eq!(ids(&registry.instances("orders")), ["by hand"]);
    assert!(!registry.expire("orders", "by hand"));
    assert!(registry.remove("orders", "by hand"));
    assert!(!registry.remove("orders", "by hand"));
    assert!(!registry.remove("users", "x"));
}

#[tokio::test(start_paused = true)]
async fn what_a_test_makes_go_wrong_goes_wrong() {
    let registry = MemoryRegistry::new();
    let a = lease("a");
    registry.fail_next(2);
    for _ in 0..2 {
        assert!(matches!(
            registry.put(&a).await,
            Err(RegisterError::Unavailable(_))
        ));
    }
    registry.put(&a).await.unwrap();
    let mut answers = registry.resolve("orders");
    assert_eq!(now(&mut answers).unwrap().unwrap().len(), 1);

    registry.outage(Outage::Refuses);
    assert!(matches!(
        registry.renew(&a).await,
        Err(RegisterError::Unavailable(_))
    ));
    assert!(matches!(
        now(&mut answers),
        Some(Err(ResolveError::Unavailable(_)))
    ));
    assert!(now(&mut answers).is_none(), "an outage is told once");
    registry.recover();
    assert_eq!(now(&mut answers).unwrap().unwrap().len(), 1);

    registry.outage(Outage::Hangs);
    let mut renewed = task::spawn(registry.renew(&a));
    assert_pending!(renewed.poll());
    assert!(now(&mut answers).is_none());
    assert!(registry.expire("orders", "a"));
    assert!(now(&mut answers).is_none());
    registry.recover();
    assert!(renewed.is_woken());
    assert!(matches!(
        assert_ready!(renewed.poll()),
        Err(RegisterError::Lapsed)
    ));
    assert_eq!(now(&mut answers).unwrap().unwrap().len(), 0);
}

#[tokio::test]
async fn a_name_is_one_registry_for_as_long_as_it_is_used() {
    let name = "a name that no other test has";
    let first = MemoryRegistry::named(name);
    first.insert(Instance::new("orders", "a"));
    assert_eq!(MemoryRegistry::named(name).instances("orders").len(), 1);
    assert_eq!(
        MemoryRegistry::named("another").instances("orders").len(),
        0
    );
    drop(first);
    assert_eq!(MemoryRegistry::named(name).instances("orders").len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lease_may_be_endless() {
    let registry = MemoryRegistry::new();
    let lease = Lease {
        ttl: Duration::MAX,
        ..lease("a")
    };
    registry.put(&lease).await.unwrap();
    registry.renew(&lease).await.unwrap();
    Register::remove(&registry, &lease).await.unwrap();
    assert!(now(&mut registry.resolve("orders")).unwrap().is_ok());
}
