//! A server that is told to go: its callers notice nothing, and nothing of it stays.

use std::{
    env,
    future::Future,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use futures_util::StreamExt;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_client::HealthClient,
    health_server::{Health, HealthServer},
};
use tower_mesh::{
    discovery::{
        instance::{self, EndpointUrl, Instance, Scheme},
        register::{RegisterConfig, Registration},
        registry::{FileRegistry, RegistryUrl},
        resolve::{Answers, Resolve},
    },
    serve::GracefulShutdown,
};

use crate::support::{Connection, PATIENCE, channel};

/// How long the slow call takes: longer than the drain time, so that it outlives the listener.
const SLOW: Duration = Duration::from_secs(6);
const DRAIN: Duration = Duration::from_secs(3);

// ===== the child =====

/// The server that a test runs in a process of its own. Does nothing otherwise.
#[tokio::test]
async fn child() {
    let Ok(task) = env::var("TOWER_MESH_TEST_SERVER") else {
        return;
    };
    let [kind, drain, path] = task.splitn(3, ' ').collect::<Vec<_>>()[..] else {
        panic!("{task}");
    };
    let drain = Duration::from_millis(drain.parse().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let scheme = if kind == "tonic" {
        Scheme::Grpc
    } else {
        Scheme::Http
    };
    let instance = Instance::at("orders", EndpointUrl::new(scheme, addr));
    let registry = format!("file:{path}").parse::<RegistryUrl>().unwrap();
    let config = RegisterConfig {
        drain,
        ..Default::default()
    };
    let registration = registry.open().register(instance, config).unwrap();
    match kind {
        "axum" => axum(listener, &registration).await,
        "tonic" => tonic(listener, &registration).await,
        other => panic!("{other}"),
    }
    registration.close().await.unwrap();
}

fn listening(addr: SocketAddr) {
    println!("child: {addr}");
    std::io::stdout().flush().unwrap();
}

async fn axum(listener: TcpListener, registration: &Registration) {
    use axum::{Router, routing::get};

    let slow = || async {
        sleep(SLOW).await;
        "done"
    };
    let app = Router::new()
        .route("/", get(|| async { "quick" }))
        .route("/slow", get(slow));
    let shutdown = registration.until_signal();
    listening(listener.local_addr().unwrap());
    axum::serve(listener, app)
        .with_graceful_shutdown(shutdown)
        .await
        .unwrap();
}

async fn tonic(listener: TcpListener, registration: &Registration) {
    let shutdown = registration.until_signal();
    listening(listener.local_addr().unwrap());
    Server::builder()
        .add_service(HealthServer::new(SlowHealth))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), shutdown)
        .await
        .unwrap();
}

/// Checks the service `slow` slowly.
struct SlowHealth;

#[tonic::async_trait]
impl Health for SlowHealth {
    type WatchStream = futures_util::stream::Pending<Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if request.get_ref().service == "slow" {
            sleep(SLOW).await;
        }
        Ok(Response::new(HealthCheckResponse { status: 1 }))
    }

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

// ===== the parent =====

/// A server in a process of its own.
struct Process {
    child: Child,
    addr: SocketAddr,
}

// ===== impl Process =====

impl Process {
    fn spawn(kind: &str, drain: Duration, registry: &Path) -> Self {
        let task = format!("{kind} {} {}", drain.as_millis(), registry.display());
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["shutdown::child", "--exact", "--nocapture"])
            .env("TOWER_MESH_TEST_SERVER", task)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        let addr = lines.find_map(|line| {
            line.unwrap()
                .split_once("child: ")
                .and_then(|(_, addr)| addr.parse().ok())
        });
        Self {
            addr: addr.expect("the child says where it listens"),
            child,
        }
    }

    fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    async fn ends(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the server does not end");
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the one instance has this status; `None` is gone for good.
async fn until(answers: &mut Answers, status: Option<instance::Status>) {
    let reached = timeout(PATIENCE, async {
        loop {
            let answer = answers.next().await.unwrap();
            // There is no file before the first registration.
            let Ok(set) = answer else { continue };
            if set.first().map(|instance| instance.status) == status {
                return;
            }
        }
    });
    assert!(reached.await.is_ok(), "never {status:?}");
}

async fn is_refused(addr: SocketAddr) -> bool {
    TcpStream::connect(addr).await.is_err()
}

/// What holds for every server: `call` makes a call that is quick or slow.
async fn goes_without_a_failed_call<F>(kind: &str, call: impl Fn(SocketAddr, bool) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.yaml");
    let mut answers = FileRegistry::new(&path).resolve("orders");
    let mut server = Process::spawn(kind, DRAIN, &path);
    until(&mut answers, Some(instance::Status::Up)).await;
    let addr = server.addr;
    call(addr, false).await;

    let (slow, start) = (tokio::spawn(call(addr, true)), Instant::now());
    sleep(Duration::from_millis(300)).await;
    let told = Instant::now();
    server.terminate();
    until(&mut answers, Some(instance::Status::Draining)).await;
    timeout(PATIENCE, call(addr, false))
        .await
        .expect("new calls are taken while it drains");
    let refused = async {
        while !is_refused(addr).await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, refused)
        .await
        .expect("new calls are refused after that");
    let after = told.elapsed();
    assert!(after >= DRAIN, "refused after {after:?}");
    if start.elapsed() < SLOW - Duration::from_millis(500) {
        assert!(
            server.is_running() && !slow.is_finished(),
            "the call in flight is waited for"
        );
    }

    slow.await.expect("the call in flight is finished");
    let status = server.ends().await;
    assert_eq!(status.code(), Some(0));
    until(&mut answers, Some(instance::Status::Down)).await;
    let late = FileRegistry::new(&path)
        .resolve("orders")
        .next()
        .await
        .unwrap()
        .unwrap();
    assert!(
        late.iter()
            .all(|instance| instance.status == instance::Status::Down),
        "{late:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_axum_server_goes_without_a_failed_call() {
    goes_without_a_failed_call("axum", |addr, slow| async move {
        let (path, body) = if slow {
            ("/slow", "done")
        } else {
            ("/", "quick")
        };
        let response = Connection::h1(addr).await.get(path).await;
        assert_eq!(response.body(), body);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tonic_server_goes_without_a_failed_call() {
    goes_without_a_failed_call("tonic", |addr, slow| async move {
        let service = if slow { "slow" } else { "" }.to_owned();
        let checked = HealthClient::new(channel(addr))
            .check(HealthCheckRequest { service })
            .await;
        assert_eq!(checked.unwrap().into_inner().status, 1);
    })
    .await;
}

#[tokio::test]
async fn a_second_signal_ends_the_drain_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.yaml");
    let mut answers = FileRegistry::new(&path).resolve("orders");
    let mut server = Process::spawn("axum", 10 * PATIENCE, &path);
    until(&mut answers, Some(instance::Status::Up)).await;
    server.terminate();
    until(&mut answers, Some(instance::Status::Draining)).await;
    sleep(Duration::from_millis(200)).await;
    assert!(server.is_running());
    server.terminate();
    assert_eq!(server.ends().await.code(), Some(0));
    until(&mut answers, Some(instance::Status::Down)).await;
}
