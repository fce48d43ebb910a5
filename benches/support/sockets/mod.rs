//! The stack on an axum server over real sockets: CPU of the server process per request, in paired rounds.
//!
//! The client is another process, so that the server's CPU stands alone. Both share the machine's cores; that
//! changes from second to second, which is why rounds are short, alternate, and are compared in pairs.

pub(crate) mod client;

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::{env, io};

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tower::layer::util::Identity;

use super::{clock, ours};

const WORKERS: usize = 2;
const CONNECTIONS: u32 = 16;
const REQUESTS_PER_CONNECTION: u32 = 250;
const ROUNDS: usize = 120;
const WARM_UP_ROUNDS: usize = 3;

/// One server, and what it cost against the bare one.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    port: u16,
    /// Server CPU in microseconds per request, one value per round.
    pub(crate) micros: Vec<f64>,
    /// Added CPU against the bare server of the same round.
    pub(crate) added_percent: Vec<f64>,
}

/// The process that sends.
#[derive(Debug)]
struct Client {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// Measures the bare server, one under a layer that does nothing (what axum itself charges for any layer), and one
/// under our stack.
pub(crate) fn measure() -> io::Result<Vec<Target>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()?;
    let mut targets = Vec::new();
    let routers = [
        ("bare", Some(router())),
        ("identity", Some(router().layer(Identity::new()))),
        ("stack", runtime.block_on(async { ours::layered(router()) })),
    ];
    for (name, router) in routers {
        if let Some(router) = router {
            let port = runtime.block_on(serve(router))?;
            targets.push(Target {
                name,
                port,
                micros: Vec::new(),
                added_percent: Vec::new(),
            });
        }
    }
    let mut client = Client::spawn()?;
    for round in 0..WARM_UP_ROUNDS + ROUNDS {
        let mut costs = vec![0.0; targets.len()];
        for place in 0..targets.len() {
            let place = if round.is_multiple_of(2) {
                place
            } else {
                targets.len() - 1 - place
            };
            let index = (place + round / 2) % targets.len();
            costs[index] = client.micros_per_request(targets[index].port)?;
        }
        if round >= WARM_UP_ROUNDS {
            for (target, cost) in targets.iter_mut().zip(&costs) {
                target.micros.push(*cost);
                target.added_percent.push((cost / costs[0] - 1.0) * 100.0);
            }
        }
    }
    client.finish()?;
    Ok(targets)
}

fn router() -> Router {
    Router::new().route(
        "/orders/{id}",
        get(|| async { r#"{"id":42,"state":"shipped"}"# }),
    )
}

async fn serve(router: Router) -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(port)
}

// ===== impl Client =====

impl Client {
    fn spawn() -> io::Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .env(client::CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (orders, answers) = pipes.ok_or_else(|| io::Error::other("no pipes to the client"))?;
        Ok(Self {
            child,
            orders,
            answers: BufReader::new(answers),
        })
    }

    /// One round against one server; the time this process used meanwhile is the server's.
    fn micros_per_request(&mut self, port: u16) -> io::Result<f64> {
        let before = clock::process_cpu();
        writeln!(
            self.orders,
            "{port} {CONNECTIONS} {REQUESTS_PER_CONNECTION}"
        )?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        let used = clock::process_cpu() - before;
        if answer.trim() != "done" {
            return Err(io::Error::other(format!("the client answered {answer:?}")));
        }
        Ok(used as f64 / 1_000.0 / f64::from(CONNECTIONS * REQUESTS_PER_CONNECTION))
    }

    /// The client ends when its orders end.
    fn finish(self) -> io::Result<()> {
        let Self {
            mut child,
            orders,
            answers: _,
        } = self;
        drop(orders);
        child.wait().map(drop)
    }
}
