//! Real files on the real clock: what is promised is wall time. A machine that is busy with other things
//! may be late, so all is waited for with [`PATIENCE`], and what is prompt is so most of the time.

use std::{
    fs,
    io::{Seek, Write},
};

use futures_util::{FutureExt, StreamExt};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::resolve::{ResolveError, Snapshot};

const EDITS: u32 = 20;
/// How soon an edit must count.
const PROMISE: Duration = Duration::from_secs(1);
/// How long is waited for what must come.
const PATIENCE: Duration = Duration::from_secs(60);
/// A poll that comes too late for anything.
const NEVER: Duration = Duration::from_secs(3_600);
/// Longer than anything waits for: a second answer would have come by then.
const LONG: Duration = Duration::from_millis(800);

/// One instance whose weight is `n`; longer with every ten.
fn content(n: u32) -> String {
    let padding = "# padding\n".repeat(n as usize / 10);
    format!(
        "version: 1\n{padding}services:\n  orders:\n    - endpoints: [http://a]\n      weight: {n}\n"
    )
}

struct Followed {
    dir: TempDir,
    path: PathBuf,
    answers: Answers,
}

// ===== impl Followed =====

impl Followed {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.yaml");
        fs::write(&path, content(1)).unwrap();
        Self::follow(dir, path, NEVER).await
    }

    async fn follow(dir: TempDir, path: PathBuf, poll: Duration) -> Self {
        let answers = FileRegistry::new(&path).poll(poll).resolve("orders");
        let mut followed = Self { dir, path, answers };
        assert_eq!(weight(&followed.next().await.unwrap()), 1);
        followed
    }

    async fn next(&mut self) -> Result<Snapshot, ResolveError> {
        self.answers.next().await.expect("a watch never ends")
    }

    /// What comes next, which must come.
    async fn soon(&mut self) -> Result<Snapshot, ResolveError> {
        let answer = timeout(PATIENCE, self.next()).await;
        answer.expect("the edit is found out")
    }

    /// Edits in one way, twenty times: each counts once, soon.
    async fn each_edit_counts_once(mut self, mut edit: impl FnMut(&Path, u32)) {
        let mut took = Vec::new();
        for n in 2..2 + EDITS {
            let start = Instant::now();
            edit(&self.path, n);
            let answer = loop {
                match self.soon().await {
                    Ok(answer) => break answer,
                    Err(_) => continue, // a file that is away for a moment
                }
            };
            assert_eq!(weight(&answer), n);
            took.push(start.elapsed());
            assert!(self.next().now_or_never().is_none());
        }
        took.sort_unstable();
        assert!(took[took.len() / 2] < PROMISE, "{took:?}");
        self.stays_silent().await;
    }

    async fn stays_silent(&mut self) {
        let more = timeout(LONG, self.next()).await;
        assert!(more.is_err(), "{more:?}");
    }
}

fn weight(set: &Snapshot) -> u32 {
    set[0].weight
}

#[tokio::test]
async fn an_atomic_rename_counts_once() {
    let edit = |path: &Path, n| write_atomic(path, &content(n)).unwrap();
    Followed::new().await.each_edit_counts_once(edit).await;
}

#[tokio::test]
async fn delete_and_create_counts_once() {
    let edit = |path: &Path, n| {
        fs::remove_file(path).unwrap();
        fs::write(path, content(n)).unwrap();
    };
    Followed::new().await.each_edit_counts_once(edit).await;
}

#[tokio::test]
async fn truncate_and_write_counts_once() {
    let edit = |path: &Path, n| {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(path)
            .unwrap();
        for chunk in content(n).as_bytes().chunks(16) {
            file.write_all(chunk).unwrap();
        }
    };
    Followed::new().await.each_edit_counts_once(edit).await;
}

#[tokio::test]
async fn append_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.yaml");
    fs::write(
        &path,
        "version: 1\nservices:\n  orders:\n    - endpoints: [http://a]\n",
    )
    .unwrap();
    let mut answers = FileRegistry::new(&path).poll(NEVER).resolve("orders");
    assert_eq!(answers.next().await.unwrap().unwrap().len(), 1);
    for n in 2..2 + EDITS {
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        writeln!(file, "    - endpoints: [http://a{n}]").unwrap();
        drop(file);
        let answer = timeout(PATIENCE, answers.next()).await;
        let answer = answer.expect("the edit is found out");
        assert_eq!(answer.unwrap().unwrap().len(), n as usize);
    }
    assert!(timeout(LONG, answers.next()).await.is_err());
}

/// As the kubelet updates a mounted ConfigMap.
#[cfg(unix)]
#[tokio::test]
async fn a_symlink_swap_counts_once() {
    use std::os::unix::fs::symlink;

    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    let version = move |n: u32| root.join(format!("..v{n}"));
    let fill = |n: u32| {
        fs::create_dir(version(n)).unwrap();
        fs::write(version(n).join("registry.yaml"), content(n)).unwrap();
    };
    fill(1);
    let (data, path) = (dir.path().join("..data"), dir.path().join("registry.yaml"));
    symlink("..v1", &data).unwrap();
    symlink("..data/registry.yaml", &path).unwrap();
    let followed = Followed::follow(dir, path, NEVER).await;
    let next = followed.dir.path().join("..data_tmp");
    followed
        .each_edit_counts_once(|_, n| {
            fill(n);
            symlink(format!("..v{n}"), &next).unwrap();
            fs::rename(&next, &data).unwrap();
            fs::remove_dir_all(version(n - 1)).unwrap();
        })
        .await;
}

/// A link into a directory that is not the link's own.
#[cfg(unix)]
#[tokio::test]
async fn an_edit_behind_a_symlink_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let real = elsewhere.path().join("real.yaml");
    fs::write(&real, content(1)).unwrap();
    let path = dir.path().join("registry.yaml");
    std::os::unix::fs::symlink(&real, &path).unwrap();
    let followed = Followed::follow(dir, path, NEVER).await;
    followed
        .each_edit_counts_once(|_, n| fs::write(&real, content(n)).unwrap())
        .await;
}

#[tokio::test]
async fn a_truncated_file_never_counts_and_its_repair_does() {
    let mut followed = Followed::new().await;
    let text = content(8_080);
    for end in [0, 5, 40, text.len() - 4, text.len() - 1] {
        fs::write(&followed.path, &text[..end]).unwrap();
        let error = followed.soon().await.unwrap_err().to_string();
        assert!(error.contains("registry.yaml"), "{error}");
    }
    followed.stays_silent().await;
    fs::write(&followed.path, &text).unwrap();
    assert_eq!(weight(&followed.next().await.unwrap()), 8_080);
}

#[tokio::test]
async fn a_slow_writer_is_waited_for() {
    const PAUSE: Duration = Duration::from_millis(150);
    for _ in 0..10 {
        let mut followed = Followed::new().await;
        let mut file = fs::File::create(&followed.path).unwrap();
        let (mut written, mut longest_pause) = (Instant::now(), Duration::ZERO);
        let mut write = |file: &mut fs::File, part: &str| {
            longest_pause = longest_pause.max(written.elapsed());
            file.write_all(part.as_bytes()).unwrap();
            written = Instant::now();
        };
        // Cut so that the second part is a valid file of its own, with a wrong weight.
        let text = content(8_080) + "# the end\n";
        let (first, rest) = text.split_at(20);
        let (second, third) = rest.split_at(rest.len() - 10);
        for part in [first, second, third] {
            sleep(PAUSE).await;
            write(&mut file, part);
        }
        // It notices its mistake and repairs it before it closes the file.
        sleep(PAUSE).await;
        file.seek(io::SeekFrom::Start(0)).unwrap();
        write(&mut file, &text.replace("8080", "8081"));
        drop(file);
        // A busy machine may have made it look as if the writer had given up.
        if longest_pause < crate::document::SETTLE_OPEN {
            assert_eq!(weight(&followed.soon().await.unwrap()), 8_081);
            return followed.stays_silent().await;
        }
    }
    panic!("this machine is too busy to write a file within seconds");
}

#[tokio::test]
async fn the_same_content_again_and_other_files_count_nothing() {
    let mut followed = Followed::new().await;
    write_atomic(&followed.path, &content(1)).unwrap();
    fs::write(followed.dir.path().join("other.yaml"), content(2)).unwrap();
    followed.stays_silent().await;
}

#[tokio::test]
async fn a_busy_neighbour_delays_nothing() {
    let followed = Followed::new().await;
    let neighbour = followed.dir.path().join("log");
    let busy = tokio::spawn(async move {
        for n in 0_u64.. {
            fs::write(&neighbour, n.to_string()).unwrap();
            sleep(Duration::from_millis(10)).await;
        }
    });
    let edit = |path: &Path, n| fs::write(path, content(n)).unwrap();
    followed.each_edit_counts_once(edit).await;
    busy.abort();
}

#[tokio::test]
async fn a_file_that_comes_later_and_a_directory_that_is_replaced_are_found_by_polling() {
    let dir = tempfile::tempdir().unwrap();
    let sub = dir.path().join("sub");
    let path = sub.join("registry.yaml");
    let registry = FileRegistry::new(&path).poll(FileRegistry::MIN_POLL);
    let mut answers = registry.resolve("orders");
    let error = answers.next().await.unwrap().unwrap_err().to_string();
    assert!(error.contains("cannot be read"), "{error}");

    for n in 2..5 {
        fs::create_dir(&sub).unwrap();
        fs::write(&path, content(n)).unwrap();
        let mut next = async || timeout(PATIENCE, answers.next()).await.unwrap().unwrap();
        assert_eq!(weight(&next().await.unwrap()), n);
        fs::remove_dir_all(&sub).unwrap();
        assert!(next().await.is_err());
    }
}

/// The watch on a directory leaves with the directory. What comes in its place is watched again.
#[tokio::test]
async fn a_replaced_directory_is_watched_again() {
    let dir = tempfile::tempdir().unwrap();
    let (sub, old) = (dir.path().join("sub"), dir.path().join("old"));
    let path = sub.join("registry.yaml");
    fs::create_dir(&sub).unwrap();
    fs::write(&path, content(1)).unwrap();
    let mut followed = Followed::follow(dir, path, NEVER).await;
    for n in [2, 4, 6] {
        let next = followed.dir.path().join("next");
        fs::create_dir(&next).unwrap();
        fs::write(next.join("registry.yaml"), content(n)).unwrap();
        fs::rename(&sub, &old).unwrap();
        fs::rename(&next, &sub).unwrap();
        assert_eq!(weight(&followed.soon().await.unwrap()), n);
        // And so is an edit after it.
        fs::write(&followed.path, content(n + 1)).unwrap();
        assert_eq!(weight(&followed.soon().await.unwrap()), n + 1);
        fs::remove_dir_all(&old).unwrap();
    }
}

/// Above the watched directory nothing is reported, so here the poll has to find out.
#[tokio::test]
async fn after_a_change_that_only_the_poll_saw_edits_are_reported_again() {
    let dir = tempfile::tempdir().unwrap();
    let (top, old) = (dir.path().join("top"), dir.path().join("old"));
    let path = top.join("sub/registry.yaml");
    fs::create_dir_all(top.join("sub")).unwrap();
    fs::write(&path, content(1)).unwrap();
    let mut followed = Followed::follow(dir, path, 2 * PROMISE).await;

    let next = followed.dir.path().join("next");
    fs::create_dir_all(next.join("sub")).unwrap();
    fs::write(next.join("sub/registry.yaml"), content(2)).unwrap();
    fs::rename(&top, &old).unwrap();
    fs::rename(&next, &top).unwrap();
    assert_eq!(weight(&followed.next().await.unwrap()), 2);

    let mut reported = false;
    for n in 3..6 {
        sleep(Duration::from_millis(300)).await; // past the look that follows a change
        let start = Instant::now();
        fs::write(&followed.path, content(n)).unwrap();
        assert_eq!(weight(&followed.soon().await.unwrap()), n);
        reported |= start.elapsed() < PROMISE;
    }
    assert!(reported, "only the poll found any of them");
}

#[tokio::test]
async fn services_share_one_watch_that_ends_with_the_last_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.yaml");
    fs::write(&path, content(1)).unwrap();
    let registry = FileRegistry::new(&path);
    let (mut orders, mut users) = (registry.resolve("orders"), registry.resolve("users"));
    assert_eq!(orders.next().await.unwrap().unwrap().len(), 1);
    assert_eq!(users.next().await.unwrap().unwrap().len(), 0);
    let source = registry.source.lock().clone();
    assert_eq!(source.strong_count(), 2);
    drop(orders);
    // One that comes later is told what is known.
    assert_eq!(
        registry
            .resolve("orders")
            .next()
            .await
            .unwrap()
            .unwrap()
            .len(),
        1
    );
    drop(users);
    assert_eq!(source.strong_count(), 0);
    assert_eq!(
        registry
            .resolve("orders")
            .next()
            .await
            .unwrap()
            .unwrap()
            .len(),
        1
    );
}

/// Row C1 of the promises: bad in seven ways, between good ones.
#[tokio::test]
async fn seven_bad_reloads_of_twenty_change_nothing_and_thirteen_count() {
    let followed = Followed::new().await;
    let resolver = crate::resolve::Resolver::new(FileRegistry::new(&followed.path), "orders");
    let mut watch = resolver.watch();
    assert_eq!(watch.changed().await[0].weight, 1);
    let bad: [&[u8]; 7] = [
        b"version: [\n",
        b"version: one\n",
        b"version: 1\nservices: {orders: [{endpoints: [http://a], weight: 0}]}\n",
        b"version: 1\nservices: {orders: [{endpoint: [http://a]}]}\n",
        b"version: 1\nservices: {orders: [{endpoints: [http://a], service: users}]}\n",
        b"",
        b"\xff\xfe",
    ];
    let mut good = 0;
    for n in 2..22_u32 {
        if let Some(bad) = (n % 3 == 0).then(|| bad.get(n as usize / 3 - 1)).flatten() {
            let before = watch.snapshot().unwrap();
            fs::write(&followed.path, bad).unwrap();
            let start = Instant::now();
            while watch.health().last_error.is_none() {
                assert!(start.elapsed() < PATIENCE);
                sleep(Duration::from_millis(5)).await;
            }
            let error = watch.health().last_error.unwrap().to_string();
            assert!(error.contains("registry.yaml"), "{error}");
            assert!(Arc::ptr_eq(&watch.snapshot().unwrap(), &before));
        } else {
            fs::write(&followed.path, content(n)).unwrap();
            let set = timeout(PATIENCE, watch.changed()).await.unwrap();
            assert_eq!(
                (set[0].weight, watch.health().last_error.is_none()),
                (n, true)
            );
            good += 1;
        }
    }
    assert_eq!(good, 13);
}

#[test]
fn a_file_is_checked_without_being_followed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.yaml");
    let error = FileRegistry::check(&path).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("registry.yaml: cannot be read: No such file"),
        "{error}"
    );
    let error = FileRegistry::check(dir.path()).unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");

    let instance = Instance::at("orders", "http://a".parse().unwrap());
    FileRegistry::write(&path, std::slice::from_ref(&instance)).unwrap();
    FileRegistry::check(&path).unwrap();
    let error = FileRegistry::write(&path, &[instance.with_weight(0)]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    FileRegistry::check(&path).expect("a refused write leaves the old file");
}
