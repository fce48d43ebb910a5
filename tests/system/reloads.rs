//! A configuration file that is edited under traffic: what is valid counts at once, what is not changes
//! nothing, and what was learnt stays.

use std::{path::Path, sync::Arc, time::Duration};

use http::Request;
use tokio::{sync::watch, task::JoinSet, time};
use tower::ServiceExt;
use tower_mesh::{
    Body, Mesh,
    config::Reloads,
    discovery::registry::write_atomic,
    layers::{
        Protocol, Reason, Rejection,
        test_util::{Answer, ProbeHandle, Scripted, servers::Server},
    },
};

use crate::support;

/// What a good file says, but for the attempts of the client `orders`, which tell one from another.
fn good(server: &Server, attempts: u32) -> String {
    format!(
        "version: 1
registries:
  default: static:http://{addr}
clients:
  defaults:
    balance: {{ connectTimeout: 60s, waitForEndpoints: 60s }}
    deadline: {{ timeout: 30s }}
  orders:
    retry:
      maxAttempts: {attempts}
  audit:
    rateLimit: {{ rate: 1/h }}
",
        addr = server.addr()
    )
}

/// Seven ways to break it, each with the place and the reason that the refusal names.
const BROKEN: [(&str, &str, &str, &str); 7] = [
    ("syntax", "defaults:\n", "defaults: \"\n", "mesh.yaml:"),
    (
        "type",
        "timeout: 30s",
        "timeout: [30]",
        ":7:17: clients.defaults.deadline.timeout: ",
    ),
    (
        "range",
        "rate: 1/h",
        "rate: 1/h, burst: 0",
        ":12:36: clients.audit.rateLimit.burst: got `0`, expected 1 to 1000000",
    ),
    (
        "unknown key",
        "maxAttempts",
        "maxAttemps",
        "clients.orders.retry.maxAttemps: unknown field `maxAttemps`",
    ),
    (
        "unknown reference",
        "  audit:\n",
        "  audit:\n    registry: consul\n",
        ":12:15: clients.audit.registry: got `consul`, expected the name of a registry: default",
    ),
    ("empty file", "", "", "mesh.yaml:"),
    ("no file", "", "", "cannot be read: "),
];

struct Rig {
    mesh: Mesh,
    server: Server,
    handler: ProbeHandle,
    dir: tempfile::TempDir,
    reloads: watch::Receiver<Reloads>,
}

impl Rig {
    async fn start() -> Self {
        let (service, handler) = Scripted::answering(|_, _| Answer::ok());
        let server = Server::hyper(service);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh.yaml");
        write_atomic(&path, &good(&server, 1)).unwrap();
        let mesh = Mesh::from_file(path).await.unwrap();
        let reloads = mesh.reloads();
        Self {
            mesh,
            server,
            handler,
            dir,
            reloads,
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("mesh.yaml")
    }

    /// Waits until one more edit was applied or refused.
    async fn settled(&mut self, applied: u64, refused: u64) -> Reloads {
        let settled = |reloads: &Reloads| (reloads.applied, reloads.refused) == (applied, refused);
        let waiting = self.reloads.wait_for(settled);
        match time::timeout(support::PATIENCE, waiting).await {
            Ok(reloads) => reloads.unwrap().clone(),
            Err(_) => panic!(
                "{applied} applied and {refused} refused, not {:?}",
                self.mesh.reloads().borrow()
            ),
        }
    }

    fn attempts(&self) -> u32 {
        self.mesh
            .config()
            .client("orders")
            .retry
            .unwrap()
            .max_attempts
    }
}

async fn call(mesh: &Mesh, service: &str) -> Result<(), String> {
    let request = Request::get("/orders/7").body(Body::empty()).unwrap();
    let response = mesh
        .client(service)
        .oneshot(request)
        .await
        .map_err(|error| error.to_string())?;
    let status = response.status();
    let why = response
        .extensions()
        .get::<Rejection>()
        .map(Rejection::reason);
    support::read(response).await;
    if status == 200 {
        Ok(())
    } else {
        Err(format!("{status} {why:?}"))
    }
}

fn break_it(path: &Path, good: &str, (how, from, to, _): (&str, &str, &str, &str)) {
    match how {
        "empty file" => write_atomic(path, "").unwrap(),
        "no file" => std::fs::remove_file(path).unwrap(),
        _ => {
            assert!(good.contains(from), "{how}");
            write_atomic(path, &good.replacen(from, to, 1)).unwrap();
        }
    }
}

/// Failure class C1: 20 edits, 7 of them bad in 7 ways, under 500 calls a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_twenty_edits_seven_are_refused_and_no_call_notices() {
    let mut rig = Rig::start().await;
    let traffic = Traffic::start(rig.mesh.clone());

    let (mut applied, mut refused) = (0, 0);
    for edit in 0..20 {
        let text = good(&rig.server, u32::from(rig.attempts() == 1) + 1);
        // Every third edit is a bad one, and each good one undoes the one before.
        if edit % 3 == 1 && refused < 7 {
            let broken = BROKEN[refused as usize];
            let before = rig.attempts();
            break_it(&rig.path(), &text, broken);
            refused += 1;
            let error = rig
                .settled(applied, refused)
                .await
                .error
                .unwrap()
                .to_string();
            let (how, .., reason) = broken;
            println!("refused ({how}): {error}");
            assert!(error.contains(reason), "{how}: {error}\n  lacks {reason}");
            assert_eq!(rig.attempts(), before, "{how}: the last good one stays");
        } else {
            write_atomic(rig.path(), &text).unwrap();
            applied += 1;
            let reloads = rig.settled(applied, refused).await;
            assert!(reloads.error.is_none());
            assert!(
                text.contains(&format!("maxAttempts: {}", rig.attempts())),
                "it is in force"
            );
        }
    }
    let (calls, failed) = traffic.end().await;
    println!(
        "{applied} applied, {refused} refused, {} of {calls} calls failed",
        failed.len()
    );
    assert_eq!((applied, refused), (13, 7));
    assert!(failed.is_empty(), "{failed:?}");
    assert!(rig.handler.calls() >= calls);
}

/// Failure class C3.
#[tokio::test]
async fn breakers_tokens_and_latencies_outlive_fifty_reloads() {
    let mut rig = Rig::start().await;
    for service in ["orders", "audit", "dead"] {
        call(&rig.mesh, service).await.unwrap();
    }
    rig.mesh
        .client_layer("dead", Protocol::Http)
        .breakers()
        .force_open();
    let latency = |rig: &Rig| rig.mesh.endpoints("orders", Protocol::Http)[0].ewma;
    let learnt = latency(&rig);
    assert!(
        learnt.is_some_and(|latency| latency > Duration::ZERO),
        "{learnt:?}"
    );

    for reload in 1..=50 {
        let mut config = rig.mesh.config();
        let retry = config.clients.named.get_mut("orders").unwrap();
        retry.retry = Some(tower_mesh::layers::retry::RetryConfig {
            max_attempts: 2 + reload % 2,
            ..Default::default()
        })
        .into();
        rig.mesh.set_config(config).unwrap();
        let limited = call(&rig.mesh, "audit").await.unwrap_err();
        assert!(
            limited.contains(&format!("{:?}", Reason::RateLimited)),
            "{limited}"
        );
        let open = call(&rig.mesh, "dead").await.unwrap_err();
        assert!(
            open.contains(&format!("{:?}", Reason::CircuitOpen)),
            "{open}"
        );
    }
    let now = latency(&rig);
    assert!(
        now <= learnt && now > Some(Duration::ZERO),
        "{learnt:?}, now {now:?}"
    );
    // The file did not change, and a mesh that was set in code stays so.
    assert_eq!(rig.settled(0, 0).await.applied, 0);
}

/// 500 calls a second, whether or not those before have come back.
struct Traffic {
    done: Arc<watch::Sender<bool>>,
    task: tokio::task::JoinHandle<(u64, Vec<String>)>,
}

impl Traffic {
    fn start(mesh: Mesh) -> Self {
        let done = Arc::new(watch::Sender::new(false));
        let until = done.subscribe();
        let task = tokio::spawn(async move {
            let mut tick = time::interval(Duration::from_millis(2));
            let mut calls = JoinSet::new();
            while !*until.borrow() {
                tick.tick().await;
                let mesh = mesh.clone();
                calls.spawn(async move { call(&mesh, "orders").await });
            }
            let made = calls.len() as u64;
            let answers = calls.join_all().await;
            (made, answers.into_iter().filter_map(Result::err).collect())
        });
        Self { done, task }
    }

    async fn end(self) -> (u64, Vec<String>) {
        self.done.send_replace(true);
        self.task.await.unwrap()
    }
}
