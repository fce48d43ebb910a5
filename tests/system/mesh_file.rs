//! The example `mesh_file`: seven processes on one file, which is edited while they serve, and of which
//! some are killed and some drained. No call fails, unless the file switches the protection off.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use http::Request;
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinSet, time};
use tower::ServiceExt;
use tower_mesh::{
    Body,
    client::{Client, ClientConfig},
    discovery::registry::write_atomic,
};

use crate::{
    examples::program,
    support::{self, PATIENCE, eventually},
};

/// Calls per second.
const RATE: u32 = 100;
const USERS: u64 = 50;
/// As many calls in a row have to say the same.
const ENOUGH: usize = 60;

/// Retries, breakers and ejection: what the clients have by default.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Protection {
    On,
    Off,
}

/// The example's own file, with times that suit a busy machine.
fn file(protection: Protection) -> String {
    let balance = "waitForEndpoints: 60s, connectTimeout: 60s";
    let file = edited(
        include_str!("../../examples/mesh.yaml"),
        &[
            ("timeout: 2s", "timeout: 60s"),
            ("ttl: 3s", "ttl: 60s"),
            ("waitForEndpoints: 5s", balance),
        ],
    ) + "\nendpoints: { connectTimeout: 60s }\n";
    if protection == Protection::On {
        return file;
    }
    let (before, from_retry) = file
        .split_once("    retry:\n")
        .expect("one for the greeter");
    let (_, after) = from_retry.split_once("\n\n").expect("it ends the section");
    let off = "retry: off\n    circuitBreaker: off\n";
    let ejection = "ejection: { consecutiveFailures: 0, consecutiveTimeouts: 0 }";
    edited(
        &format!("{before}    retry: off\n\n{after}"),
        &[(
            &format!("    balance: {{ {balance} }}\n"),
            &format!("    balance: {{ {balance}, {ejection} }}\n    {off}"),
        )],
    )
}

/// Of who calls from outside: as in the file.
fn client(protection: Protection) -> ClientConfig {
    let mut config = ClientConfig::default();
    if protection == Protection::Off {
        (config.retry, config.circuit_breaker) = (None, None);
        config.balance.ejection.consecutive_failures = 0;
        config.balance.ejection.consecutive_timeouts = 0;
    }
    config
}

fn edited(text: &str, edits: &[(&str, &str)]) -> String {
    edits.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "no `{from}` in it");
        text.replacen(from, to, 1)
    })
}

// ===== an instance =====

struct Instance {
    name: String,
    child: Child,
    log: std::path::PathBuf,
}

impl Instance {
    fn start(dir: &Path, service: &str, version: &str) -> Self {
        let name = format!("{service} {version}");
        let log = dir.join(format!("{service}-{:016x}.log", fastrand::u64(..)));
        let child = Command::new(program("mesh_file"))
            .args([service.as_ref(), dir.as_os_str(), version.as_ref()])
            .env("RUST_LOG", "info")
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { name, child, log }
    }

    /// How it calls itself in its answers.
    fn label(&self) -> String {
        format!("{} #{}", self.name, self.child.id())
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// SIGTERM, until it has ended by itself.
    async fn drain(&mut self) -> ExitStatus {
        self.signal("-TERM");
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                time::sleep(Duration::from_millis(10)).await;
            }
        };
        time::timeout(PATIENCE, ended).await.expect("it ends")
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// ===== the calls =====

/// What `names` said, and who passed it on.
#[derive(Debug, Clone)]
struct Answer {
    left: Duration,
    names: String,
    greeter: String,
    web: String,
}

impl Answer {
    /// `hello user-7: 1990 ms left < names 1.0 #3 < greeter 1.0 #2 < web 1.0 #1`
    fn parse(text: &str, user: &str) -> Option<Self> {
        let [head, names, greeter, web] = text.split(" < ").collect::<Vec<_>>()[..] else {
            return None;
        };
        let left = head.strip_prefix(&format!("hello {user}: "))?;
        let left = left.strip_suffix(" ms left")?.parse().ok()?;
        Some(Self {
            left: Duration::from_millis(left),
            names: names.to_owned(),
            greeter: greeter.to_owned(),
            web: web.to_owned(),
        })
    }
}

/// Calls at a fixed rate, whether or not those before have come back.
struct Traffic {
    protection: Protection,
    log: Arc<Mutex<Log>>,
    done: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Log {
    started: u64,
    open: BTreeSet<u64>,
    answers: Vec<Answer>,
    failed: Vec<String>,
}

impl Traffic {
    fn start(web: Client, protection: Protection) -> Self {
        let log = Arc::<Mutex<Log>>::default();
        let (done, until) = watch::channel(false);
        let noted = Arc::clone(&log);
        let task = tokio::spawn(async move {
            let mut ticks = time::interval(Duration::from_secs(1) / RATE);
            let mut calls = JoinSet::new();
            for number in 0.. {
                if *until.borrow() {
                    break;
                }
                ticks.tick().await;
                let (web, noted) = (web.clone(), Arc::clone(&noted));
                calls.spawn(async move {
                    noted.lock().begin(number);
                    let result = call(web, &format!("user-{}", number % USERS)).await;
                    noted.lock().end(number, result);
                });
            }
            calls.join_all().await;
        });
        Self {
            protection,
            log,
            done,
            task,
        }
    }

    /// Waits until so many answers that begin from now on in a row hold.
    async fn until_all(&self, what: &str, holds: impl Fn(&Answer) -> bool) {
        let start = self.log.lock().answers.len();
        eventually(what, || {
            let Log {
                answers, failed, ..
            } = &*self.log.lock();
            let may_fail = self.protection == Protection::Off;
            assert!(may_fail || failed.is_empty(), "{what}: {failed:?}");
            let recent = &answers[start.max(answers.len().saturating_sub(ENOUGH))..];
            recent.len() == ENOUGH && recent.iter().all(&holds)
        })
        .await;
    }

    /// Waits until a call hangs that as many have overtaken.
    async fn until_one_hangs(&self) {
        eventually("a call hangs", || {
            self.log.lock().overtaken() >= ENOUGH as u64
        })
        .await;
    }

    async fn end(self) -> (Vec<Answer>, Vec<String>) {
        self.done.send_replace(true);
        self.task.await.unwrap();
        let log = std::mem::take(&mut *self.log.lock());
        (log.answers, log.failed)
    }
}

impl Log {
    fn begin(&mut self, call: u64) {
        self.started += 1;
        self.open.insert(call);
    }

    fn end(&mut self, call: u64, result: Result<Answer, String>) {
        self.open.remove(&call);
        match result {
            Ok(answer) => self.answers.push(answer),
            Err(error) => self.failed.push(error),
        }
    }

    /// How many calls began after the oldest one that is open, and have ended.
    fn overtaken(&self) -> u64 {
        let oldest = self.open.first().copied().unwrap_or(self.started);
        // Those that began, without the oldest and all before it, and without those that are open.
        (self.started - oldest).saturating_sub(self.open.len() as u64)
    }
}

async fn call(web: Client, user: &str) -> Result<Answer, String> {
    let request = Request::get("/").header("x-md-global-user", user);
    let response = web.oneshot(request.body(Body::empty()).unwrap()).await;
    let response = support::read(response.map_err(|error| error.to_string())?).await;
    let text = String::from_utf8_lossy(response.body()).into_owned();
    match Answer::parse(&text, user) {
        Some(answer) if response.status() == 200 => Ok(answer),
        _ => Err(format!("{}: {text}", response.status())),
    }
}

// ===== the story =====

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_kills_and_drains_of_seven_processes_on_one_file_fail_no_call() {
    let failed = story(Protection::On).await;
    assert!(failed.is_empty(), "{failed:?}");
}

/// Or the calls above had nothing to be protected from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_protection_switched_off_in_the_file_calls_to_killed_processes_fail() {
    let failed = story(Protection::Off).await;
    assert!(!failed.is_empty(), "none failed");
}

/// Tells the calls that failed.
async fn story(protection: Protection) -> Vec<String> {
    let file = file(protection);
    let dir = tempfile::tempdir().unwrap();
    let (dir, path) = (dir.path(), dir.path().join("mesh.yaml"));
    write_atomic(&path, &file).unwrap();
    let start = |service| Instance::start(dir, service, "1.0");
    let (mut web, mut greeters) = (
        [start("web"), start("web")],
        [start("greeter"), start("greeter")],
    );
    let (mut names, mut canary) = (
        [start("names"), start("names")],
        Instance::start(dir, "names", "2.0"),
    );
    let registry = format!("file:{}", dir.join("registry.yaml").display());
    let mesh = support::mesh(registry, client(protection));

    // Everybody is found, and the user's name arrives, or there would be no answer.
    let traffic = Traffic::start(mesh.client("web"), protection);
    let labels = [&web, &greeters, &names].map(|pair| [pair[0].label(), pair[1].label()]);
    for label in labels.as_flattened() {
        let answered = || {
            let answers = &traffic.log.lock().answers;
            let by =
                |answer: &Answer| [&answer.web, &answer.greeter, &answer.names].contains(&label);
            answers.iter().any(by)
        };
        eventually(label, answered).await;
    }
    let sees = |version: &'static str| move |answer: &Answer| answer.names.starts_with(version);
    traffic
        .until_all("the stable version", sees("names 1.0"))
        .await;

    // A weight.
    let all_canary = [
        ("weight: 100", "weight: 0"),
        (r#""2.0" }, weight: 0"#, r#""2.0" }, weight: 1"#),
    ];
    write_atomic(&path, &edited(&file, &all_canary)).unwrap();
    traffic.until_all("the canary", sees("names 2.0")).await;

    // A slip: all refuse it, say where it is, and stay with what they have.
    let slip = edited(&file, &[("weight: 100", "wait: 100")]);
    write_atomic(&path, &slip).unwrap();
    for instance in web.iter().chain(&greeters).chain(&names).chain([&canary]) {
        let place = "routes[0].rules[0].backends[0].wait: unknown field `wait`";
        let refused = || instance.log().contains(place);
        eventually(&format!("{} refuses it at {place}", instance.name), refused).await;
    }
    traffic
        .until_all("the canary still", sees("names 2.0"))
        .await;

    // A timeout, and half of the users go back.
    let more_time = [
        ("timeout: 60s", "timeout: 90s"),
        (r#""2.0" }, weight: 0"#, r#""2.0" }, weight: 100"#),
    ];
    write_atomic(&path, &edited(&file, &more_time)).unwrap();
    let longer = |answer: &Answer| answer.left > Duration::from_secs(60);
    traffic.until_all("the longer time", longer).await;

    // Two hang and die with the calls that they have, two are drained.
    let dead = [greeters[0].label(), names[0].label()];
    let drained = [web[0].label(), canary.label()];
    greeters[0].signal("-STOP");
    names[0].signal("-STOP");
    traffic.until_one_hangs().await;
    greeters[0].kill();
    names[0].kill();
    let (web_ended, canary_ended) = tokio::join!(web[0].drain(), canary.drain());
    assert!(web_ended.success() && canary_ended.success());
    let survivors = [web[1].label(), greeters[1].label(), names[1].label()];
    let by_survivors =
        |answer: &Answer| [&answer.web, &answer.greeter, &answer.names] == survivors.each_ref();
    traffic.until_all("the survivors", by_survivors).await;

    let (answers, failed) = traffic.end().await;
    println!(
        "{} calls, {} failed; {dead:?} were killed, {drained:?} drained",
        answers.len(),
        failed.len()
    );
    let mut shares = BTreeMap::<_, usize>::new();
    for Answer { names, .. } in &answers {
        *shares.entry(names).or_default() += 1;
    }
    println!("{shares:?}");
    failed
}
