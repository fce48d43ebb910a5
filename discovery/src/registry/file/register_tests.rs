//! Registering with real files, on the real clock, by real processes.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures_util::StreamExt;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::{
    instance::Status,
    register::{RegisterConfig, RegisterError, Registration, State},
    resolve::Snapshot,
};

/// How long is waited for what must come.
const PATIENCE: Duration = Duration::from_secs(60);
/// The shortest there is, so that lapses need not be waited for for long.
const TTL: Duration = Duration::from_secs(1);
const ROUNDS: usize = 50;

fn orders(id: &str) -> Instance {
    Instance::new("orders", id).with_endpoint("http://10.0.0.1:80".parse().unwrap())
}

fn lease(id: &str, ttl: Duration) -> Lease {
    Lease::new(orders(id), ttl)
}

fn config() -> RegisterConfig {
    RegisterConfig {
        ttl: TTL,
        drain: Duration::ZERO,
        ..Default::default()
    }
}

/// The ids and statuses in an answer.
fn ids(set: &Snapshot) -> Vec<String> {
    let name = |instance: &Arc<Instance>| match instance.status {
        Status::Up => instance.id.clone(),
        status => format!("{} {status:?}", instance.id),
    };
    set.iter().map(name).collect()
}

async fn until(answers: &mut Answers, expected: &[&str]) {
    let mut last = None;
    let found = timeout(PATIENCE, async {
        loop {
            let answer = answers.next().await.expect("a watch never ends");
            let ids = ids(&answer.expect("every answer is good"));
            if ids == expected {
                return;
            }
            last = Some(ids);
        }
    });
    assert!(
        found.await.is_ok(),
        "{expected:?} is waited for, {last:?} came last"
    );
}

// ===== one process =====

#[tokio::test]
async fn registered_instances_join_those_that_are_written_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.yaml");
    let text =
        "# by hand\nversion: 1\nservices:\n  orders:\n    - { id: b, endpoints: [http://b] }\n";
    fs::write(&path, text).unwrap();
    let registry = Arc::new(FileRegistry::new(&path));
    let mut answers = registry.resolve("orders");
    until(&mut answers, &["b"]).await;

    let start =
        |id: &str| Registration::start(Arc::clone(&registry), orders(id), config()).unwrap();
    let (a, c) = (start("a"), start("c"));
    until(&mut answers, &["a", "b", "c"]).await;
    a.set_status(Status::Draining);
    until(&mut answers, &["a Draining", "b", "c"]).await;
    a.close().await.unwrap();
    until(&mut answers, &["a Down", "b", "c"]).await;
    until(&mut answers, &["b", "c"]).await;

    // What is written by hand counts more.
    let drained = format!("{text}    - {{ id: c, endpoints: [http://c], status: draining }}\n");
    fs::write(&path, &drained).unwrap();
    until(&mut answers, &["b", "c Draining"]).await;
    c.close().await.unwrap();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        drained,
        "that file is never written"
    );
}

#[tokio::test]
async fn where_all_instances_register_no_file_has_to_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Arc::new(FileRegistry::new(dir.path().join("registry.toml")));
    let mut answers = registry.resolve("orders");
    let error = answers.next().await.unwrap().unwrap_err().to_string();
    assert!(error.contains("registry.toml: cannot be read"), "{error}");
    let a = Registration::start(Arc::clone(&registry), orders("a"), config()).unwrap();
    until(&mut answers, &["a"]).await;
    a.close().await.unwrap();
    until(&mut answers, &["a Down"]).await;
    until(&mut answers, &[]).await;
}

#[tokio::test]
async fn a_written_file_that_goes_away_is_an_error_and_not_an_empty_set() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.yaml");
    let registry = Arc::new(FileRegistry::new(&path));
    FileRegistry::write(&path, &[orders("b")]).unwrap();
    let mut answers = registry.resolve("orders");
    registry.put(&lease("a", PATIENCE)).await.unwrap();
    until(&mut answers, &["a", "b"]).await;
    fs::remove_file(&path).unwrap();
    let gone = timeout(PATIENCE, answers.next()).await.unwrap().unwrap();
    assert!(
        gone.unwrap_err()
            .to_string()
            .contains("registry.yaml: cannot be read")
    );
}

#[tokio::test]
async fn a_broken_lease_file_changes_nothing_until_it_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.yaml");
    let registry = Arc::new(FileRegistry::new(&path));
    let mut answers = registry.resolve("orders");
    let a = Registration::start(Arc::clone(&registry), orders("a"), config()).unwrap();
    a.registered().await;
    let _first = answers.next().await;
    let leases = dir.path().join("registry.yaml.leases.json");
    fs::write(&leases, "{ half a").unwrap();
    let refused = timeout(PATIENCE, async {
        while answers.next().await.unwrap().is_ok() {}
        let mut states = a.states();
        states
            .wait_for(|state| matches!(state, State::Lapsed { .. }))
            .await
            .unwrap();
    });
    refused.await.unwrap();
    let error = a.last_error().unwrap();
    assert!(matches!(error, RegisterError::Refused(_)), "{error}");
    assert!(error.to_string().contains("leases.json:1:"), "{error}");
    assert_eq!(fs::read_to_string(&leases).unwrap(), "{ half a");
    fs::remove_file(&leases).unwrap();
    timeout(PATIENCE, a.registered()).await.unwrap();
    timeout(PATIENCE, async {
        while answers.next().await.unwrap().is_err() {}
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_reader_that_comes_later_does_not_see_what_lapsed_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.yaml");
    let registry = FileRegistry::new(&path);
    registry
        .put(&lease("dead", Duration::from_millis(1)))
        .await
        .unwrap();
    registry.put(&lease("live", PATIENCE)).await.unwrap();
    sleep(Duration::from_millis(20)).await;
    let set = FileRegistry::new(&path)
        .resolve("orders")
        .next()
        .await
        .unwrap()
        .unwrap();
    assert_eq!(ids(&set), ["live"]);
}

// ===== several processes =====

/// What a child process does with the registry in a directory. Run by [`spawn`]; does nothing otherwise.
#[tokio::test]
async fn child() {
    let Ok(task) = env::var("TOWER_MESH_TEST_CHILD") else {
        return;
    };
    let (what, rest) = task.split_once(' ').unwrap();
    let (id, path) = rest.split_once(' ').unwrap();
    let registry = FileRegistry::new(path);
    match what {
        "churn" => churn(&registry, id).await,
        "stay" => {
            let registration = Registration::start(registry, orders(id), config()).unwrap();
            registration.registered().await;
            say("registered");
            std::future::pending::<()>().await;
        }
        "lock" => {
            let lock = Path::new(path).with_file_name("registry.yaml.lock");
            let file = fs::File::create(lock).unwrap();
            fs4::FileExt::lock(&file).unwrap();
            say("locked");
            std::future::pending::<()>().await;
        }
        other => panic!("{other}"),
    }
}

/// Registers and deregisters, and finds every time what it wrote before.
async fn churn(registry: &FileRegistry, id: &str) {
    for round in 0..ROUNDS {
        let mut lease = lease(&format!("{id}-{round}"), TTL);
        registry.put(&lease).await.unwrap();
        Arc::make_mut(&mut lease.instance).weight = 7;
        // It would have lapsed if another process had written what it read before.
        registry.renew(&lease).await.unwrap();
        registry.remove(&lease).await.unwrap();
    }
    registry.put(&lease(id, 10 * PATIENCE)).await.unwrap();
}

#[expect(
    clippy::print_stdout,
    reason = "that is how a child talks to its parent"
)]
fn say(text: &str) {
    println!("child: {text}");
    std::io::stdout().flush().unwrap();
}

/// Kills its process when dropped.
struct Process(Child);

impl Process {
    /// Runs [`child`] in a process of its own.
    fn spawn(what: &str, id: &str, path: &Path) -> Self {
        let child = Command::new(env::current_exe().unwrap())
            .args([
                "registry::file::register_tests::child",
                "--exact",
                "--nocapture",
            ])
            .env(
                "TOWER_MESH_TEST_CHILD",
                format!("{what} {id} {}", path.display()),
            )
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn();
        Self(child.unwrap())
    }

    /// Waits until it has said `text`.
    fn says(&mut self, text: &str) {
        let mut lines = BufReader::new(self.0.stdout.as_mut().unwrap()).lines();
        let said = lines.any(|line| line.unwrap().ends_with(&format!("child: {text}")));
        assert!(said, "{text} was not said");
    }

    /// Until it ends by itself; whether it was content.
    async fn succeeds(&mut self) -> bool {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.success();
            }
            assert!(start.elapsed() < 4 * PATIENCE, "a child does not end");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_processes_that_write_at_once_lose_no_record_and_no_reader_sees_half_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.yaml");
    let registry = FileRegistry::new(&path);
    registry.put(&lease("first", 10 * PATIENCE)).await.unwrap();

    let mut answers = registry.resolve("orders");
    let reader = tokio::spawn(async move {
        let mut seen = 0;
        while let Some(answer) = answers.next().await {
            let set = answer.expect("no answer is an error");
            assert!(
                set.iter().any(|instance| instance.id == "first"),
                "{:?}",
                ids(&set)
            );
            seen += 1;
            if ["a", "b", "c", "d", "e", "f", "g", "h"]
                .iter()
                .all(|id| set.iter().any(|instance| instance.id == *id))
            {
                break;
            }
        }
        seen
    });
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut children = names.map(|id| Process::spawn("churn", id, &path));
    // Another one dies in the middle, maybe with the lock, maybe with half a file.
    let mut victim = Process::spawn("churn", "victim", &path);
    sleep(Duration::from_millis(500)).await;
    victim.kill();
    for child in &mut children {
        assert!(child.succeeds().await, "a child lost a record of its own");
    }
    let seen = timeout(PATIENCE, reader).await.unwrap().unwrap();
    assert!(seen > 5, "the reader followed {seen} states");

    sleep(TTL).await; // what the victim may have left

    let set = FileRegistry::new(&path)
        .resolve("orders")
        .next()
        .await
        .unwrap()
        .unwrap();
    let up = set.iter().filter(|instance| instance.status == Status::Up);
    let up: Vec<_> = up.map(|instance| &*instance.id).collect();
    assert_eq!(up, ["a", "b", "c", "d", "e", "f", "first", "g", "h"]);
    let mut files: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    files.sort();
    assert_eq!(files, ["registry.yaml.leases.json", "registry.yaml.lock"]);
}

#[tokio::test]
async fn the_lock_and_the_record_of_a_process_that_is_killed_are_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.yaml");
    let registry = FileRegistry::new(&path);
    let mut answers = registry.resolve("orders");
    let mine = lease("mine", 10 * PATIENCE);
    registry.put(&mine).await.unwrap();

    let mut holder = Process::spawn("lock", "-", &path);
    holder.says("locked");
    let blocked = timeout(Duration::from_millis(300), registry.renew(&mine)).await;
    assert!(blocked.is_err(), "the lock of another process is respected");
    holder.kill();
    timeout(PATIENCE, registry.renew(&mine))
        .await
        .unwrap()
        .unwrap();

    let mut other = Process::spawn("stay", "other", &path);
    other.says("registered");
    until(&mut answers, &["mine", "other"]).await;
    // It lives on by its heartbeats; one may be late on a busy machine.
    let mut alive = false;
    for _ in 0..10 {
        sleep(2 * TTL).await;
        let set = FileRegistry::new(&path).resolve("orders").next().await;
        alive = ids(&set.unwrap().unwrap()) == ["mine", "other"];
        if alive {
            break;
        }
    }
    assert!(alive, "its heartbeats are not seen");
    other.kill();
    let killed = Instant::now();
    until(&mut answers, &["mine"]).await;
    let after = killed.elapsed();
    assert!(after < TTL + Duration::from_secs(10), "{after:?}");
}
