use std::{collections::BTreeSet, fs, sync::Arc};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use serde_json::json;
use tokio::time::Instant;

use super::{store::Store, table::Table, *};
use crate::register::Register;

const TTL: Duration = Duration::from_secs(15);
/// Some time of the wall clock.
const WALL: u64 = 1_767_225_600_000;

fn lease(id: &str) -> Lease {
    let url = "http://10.0.0.1:80".parse().unwrap();
    Lease::new(Instance::new("orders", id).with_endpoint(url), TTL)
}

fn parse(text: &str) -> Result<Leases, FileError> {
    Text::new(Path::new("r.leases.json"), text).and_then(Leases::parse)
}

fn ids(view: &View) -> Vec<&str> {
    view.instances("orders")
        .iter()
        .map(|instance| &*instance.id)
        .collect()
}

// ===== the writer's side =====

#[test]
fn a_record_is_put_renewed_and_taken_out_by_its_owner() {
    let mut leases = Leases::default();
    let (a, b) = (lease("a"), lease("b"));
    assert!(matches!(leases.renew(&a, WALL), Err(RegisterError::Lapsed)));
    leases.put(&a, WALL).unwrap();
    leases.put(&b, WALL).unwrap();
    let heavy = Arc::new((*a.instance).clone().with_weight(7));
    let a = Lease {
        instance: heavy,
        ..a
    };
    leases.renew(&a, WALL + 1_000).unwrap();
    let mut leases = parse(&leases.render()).unwrap();
    assert_eq!(
        (leases.leases[0].expires, leases.leases[1].expires),
        (WALL + 16_000, WALL + 15_000)
    );
    assert_eq!(leases.leases[0].instance["weight"], 7);

    leases.leave(&a, WALL + 2_000).unwrap();
    assert!(leases.leases[0].is_down());
    leases.sweep(WALL + 16_999);
    assert_eq!(leases.leases.len(), 2);
    leases.sweep(WALL + 17_000);
    assert_eq!(leases.leases.len(), 1, "it is seen as down for one TTL");
    leases.sweep(WALL + 15_000 + 3_599_999);
    assert_eq!(
        leases.leases.len(),
        1,
        "one that lapsed is kept for an hour"
    );
    leases.sweep(WALL + 15_000 + 3_600_000);
    assert_eq!(leases.leases.len(), 0);
}

#[test]
fn a_record_of_another_owner_is_left_alone_until_it_is_free() {
    let mut leases = Leases::default();
    let (old, new) = (lease("a"), lease("a"));
    leases.put(&old, WALL).unwrap();
    leases.put(&new, WALL).unwrap();
    assert_eq!(leases.leases.len(), 1);
    let before = leases.render();
    assert!(matches!(
        leases.renew(&old, WALL),
        Err(RegisterError::Taken)
    ));
    leases.leave(&old, WALL).unwrap();
    assert_eq!(leases.render(), before);
    assert!(matches!(
        leases.renew(&old, WALL + 15_000),
        Err(RegisterError::Lapsed)
    ));
    leases.leave(&new, WALL).unwrap();
    assert!(matches!(
        leases.renew(&old, WALL),
        Err(RegisterError::Lapsed)
    ));
}

#[test]
fn what_this_version_does_not_know_is_kept() {
    let mut leases = Leases::default();
    leases.put(&lease("a"), WALL).unwrap();
    leases.put(&lease("b"), WALL).unwrap();
    let mut text: Value = serde_json::from_str(&leases.render()).unwrap();
    text["comment"] = json!("by a later version");
    text["leases"][1]["fence"] = json!(7);
    text["leases"][1]["instance"]["capacity"] = json!({ "cpus": 4 });
    let mut leases = parse(&text.to_string()).unwrap();
    leases.put(&lease("a"), WALL + 1).unwrap();
    let written: Value = serde_json::from_str(&leases.render()).unwrap();
    assert_eq!(written["comment"], text["comment"]);
    assert_eq!(written["leases"][1], text["leases"][1]);
}

#[test]
fn a_file_that_is_no_lease_file_is_refused_with_its_place() {
    for (text, message) in [
        ("", "r.leases.json:1:0: EOF"),
        ("{}", "missing field `version`"),
        (
            r#"{"version":2,"leases":[]}"#,
            "version: got `2`, expected 1",
        ),
        (
            r#"{"version":1,"leases":[{}]}"#,
            "leases[0]: missing field `service`",
        ),
        (r#"{"version":1,"leases":[]} x"#, "trailing characters"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn files_that_differ_in_their_extension_have_their_own_leases() {
    let leases = path_of(Path::new("/etc/mesh/registry.yaml"));
    assert_eq!(leases, Path::new("/etc/mesh/registry.yaml.leases.json"));
    assert_ne!(leases, path_of(Path::new("/etc/mesh/registry.json")));
    assert_eq!(
        path_of(Path::new("r.yaml")),
        Path::new("r.yaml.leases.json")
    );
}

/// `write_atomic` is tested on its own; this is about what comes before it.
#[tokio::test]
async fn a_file_that_cannot_be_read_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let registry = dir.path().join("registry.yaml");
    let (store, path) = (Store::new(&registry), path_of(&registry));
    let good = {
        store.put(&lease("a")).await.unwrap();
        fs::read_to_string(&path).unwrap()
    };
    for bad in [
        "",
        "not json",
        &good[..good.len() / 2],
        r#"{"version":2,"leases":[]}"#,
    ] {
        fs::write(&path, bad).unwrap();
        let a = lease("a");
        for written in [
            store.put(&a).await,
            store.renew(&a).await,
            store.remove(&a).await,
        ] {
            let error = written.unwrap_err();
            assert!(matches!(error, RegisterError::Refused(_)), "{error}");
            assert!(
                error.to_string().contains("registry.yaml.leases.json"),
                "{error}"
            );
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), bad);
    }
    fs::remove_file(&path).unwrap();
    store.put(&lease("a")).await.unwrap();

    let absent = Store::new(&dir.path().join("absent/registry.yaml"));
    let error = absent.put(&lease("a")).await.unwrap_err();
    assert!(matches!(error, RegisterError::Unavailable(_)));
    assert!(
        error
            .to_string()
            .contains("absent/registry.yaml.lock: cannot be locked"),
        "{error}"
    );
}

/// Keeps everybody from writing until it is dropped.
fn hold(registry: &Path) -> fs::File {
    let lock = fs::File::create(with_suffix(registry, ".lock")).unwrap();
    fs4::FileExt::lock(&lock).unwrap();
    lock
}

#[tokio::test]
async fn what_is_asked_for_while_a_write_waits_goes_into_one_write() {
    const INSTANCES: usize = 100;
    let dir = tempfile::tempdir().unwrap();
    let registry = dir.path().join("registry.yaml");
    let store = Store::new(&registry);
    let lock = hold(&registry);
    let leases: Vec<_> = (0..INSTANCES).map(|n| lease(&n.to_string())).collect();
    let mut puts = FuturesUnordered::from_iter(leases.iter().map(|lease| store.put(lease)));
    assert!(puts.next().now_or_never().is_none());
    drop(lock);
    while let Some(put) = puts.next().await {
        put.unwrap();
    }
    let written = parse(&fs::read_to_string(path_of(&registry)).unwrap()).unwrap();
    assert_eq!(written.leases.len(), INSTANCES);
    let times: BTreeSet<_> = written.leases.iter().map(|lease| lease.expires).collect();
    assert_eq!(times.len(), 1, "one write knows one time");

    // One that is refused refuses no other.
    let (other, absent) = (lease("0"), lease("absent"));
    let (taken, lapsed, renewed, left) = tokio::join!(
        store.renew(&other),
        store.renew(&absent),
        store.renew(&leases[0]),
        store.remove(&leases[1]),
    );
    assert!(matches!(taken, Err(RegisterError::Taken)));
    assert!(matches!(lapsed, Err(RegisterError::Lapsed)));
    renewed.unwrap();
    left.unwrap();
}

#[tokio::test]
async fn what_was_given_up_is_not_written_later() {
    let dir = tempfile::tempdir().unwrap();
    let registry = dir.path().join("registry.yaml");
    let store = Store::new(&registry);
    let (a, b) = (lease("a"), lease("b"));
    let lock = hold(&registry);
    assert!(store.put(&a).now_or_never().is_none());
    drop(lock);
    store.put(&b).await.unwrap();
    let written = parse(&fs::read_to_string(path_of(&registry)).unwrap()).unwrap();
    assert_eq!(written.leases.len(), 1);
    assert_eq!(written.leases[0].id, "b");
}

// ===== the reader's side =====

fn file(leases: &[(&Lease, u64)]) -> Leases {
    let mut file = Leases::default();
    for (lease, now) in leases {
        file.put(lease, *now).unwrap();
    }
    file
}

#[test]
fn on_the_first_look_the_wall_clock_tells_what_is_left_of_a_lease() {
    let (a, b, c) = (lease("a"), lease("b"), lease("c"));
    let start = Instant::now();
    let mut table = Table::default();
    // Ten seconds old, long over, and from a clock that is ahead.
    let leases = file(&[
        (&a, WALL - 10_000),
        (&b, WALL - 60_000),
        (&c, WALL + 3_600_000),
    ]);
    table.update(leases, start, WALL);
    assert_eq!(ids(&table.view(start, true)), ["a", "c"]);
    let over = start + Duration::from_secs(5);
    assert_eq!(table.next_expiry(start), Some(over));
    assert_eq!(ids(&table.view(over, true)), ["c"]);
    assert_eq!(table.next_expiry(over), Some(start + TTL));
    assert_eq!(ids(&table.view(start + TTL, true)), [""; 0]);
    assert_eq!(table.next_expiry(start + TTL), None);
}

/// Row D14 of the promises.
#[test]
fn a_wall_clock_that_jumps_ends_no_lease_and_prolongs_none() {
    const HOUR: u64 = 3_600_000;
    let a = lease("a");
    for jump in [-(HOUR as i64), HOUR as i64] {
        let mut now = Instant::now();
        let mut table = Table::default();
        let mut wall = WALL;
        table.update(file(&[(&a, wall)]), now, wall);
        for beat in 0..10_u64 {
            if beat == 4 {
                wall = wall.saturating_add_signed(jump);
            }
            now += Duration::from_secs(5);
            wall += 5_000;
            assert_eq!(ids(&table.view(now, true)), ["a"]);
            // Writer and reader may see the jump in either order.
            let writer = if beat == 4 {
                wall.saturating_add_signed(-jump)
            } else {
                wall
            };
            table.update(file(&[(&a, writer)]), now, wall);
        }
        assert_eq!(table.next_expiry(now), Some(now + TTL));
        // A look that finds nothing new proves nothing.
        table.update(file(&[(&a, wall)]), now + Duration::from_secs(10), wall);
        assert_eq!(table.next_expiry(now), Some(now + TTL));
    }
}

#[test]
fn one_that_cannot_be_used_is_passed_over_and_the_others_count() {
    let (a, b, c) = (lease("a"), lease("b"), lease("c"));
    let mut leases = file(&[(&a, WALL), (&b, WALL), (&c, WALL)]);
    leases.leases[0].instance["capacity"] = json!(4);
    leases.leases[1].instance["id"] = json!("x");
    let start = Instant::now();
    let mut table = Table::default();
    table.update(leases, start, WALL);
    assert_eq!(ids(&table.view(start, true)), ["c"]);
}

#[test]
fn a_heartbeat_is_no_change_to_a_reader() {
    let a = lease("a");
    let start = Instant::now();
    let mut table = Table::default();
    table.update(file(&[(&a, WALL)]), start, WALL);
    let before = table.view(start, true);
    table.update(file(&[(&a, WALL + 5_000)]), start, WALL + 5_000);
    assert!(table.view(start, true).is_same(&before));
    assert!(!table.view(start, false).is_same(&before));
    let heavy = Arc::new((*a.instance).clone().with_weight(7));
    let a = Lease {
        instance: heavy,
        ..a
    };
    table.update(file(&[(&a, WALL + 5_001)]), start, WALL + 5_001);
    assert!(!table.view(start, true).is_same(&before));
}

proptest::proptest! {
    /// Anybody may have written to the file.
    #[test]
    fn no_content_panics(
        text in ".*",
        ttl in "([0-9]{0,20}(ms|s|h)?)?",
        expires in proptest::prelude::any::<u64>(),
        instance in "(\\{\\}|null|7|\\[\\]|\\{\"status\":\"down\"\\})",
    ) {
        let _ = parse(&text);
        let text = format!(
            r#"{{"version":1,"leases":[{{"service":"orders","id":"a","owner":"x","ttl":"{ttl}","expires":{expires},"instance":{instance}}}]}}"#
        );
        if let Ok(mut leases) = parse(&text) {
            let _ = leases.renew(&lease("a"), WALL);
            leases.sweep(u64::MAX);
            let (start, mut table) = (Instant::now(), Table::default());
            for _ in 0..2 {
                table.update(parse(&text).unwrap(), start, WALL);
                proptest::prop_assert_eq!(ids(&table.view(start, true)).len(), 0);
            }
        }
    }
}
