//! Six instances, one client, and everything that goes wrong in production, in 25 seconds:
//!
//! ```text
//! cargo run --release --example quickstart              # the script, then one line per promise
//! cargo run --release --example quickstart -- --serve   # stays up after it, with /metrics
//! ```
//!
//! Three HTTP instances (axum, `orders`) and three gRPC instances (tonic, `greeter`, one of them
//! with TLS) run as processes of their own and stand in a registry file. This process calls them at
//! a fixed rate, whatever becomes of earlier calls, while the script slows instances down, kills
//! them, makes them fail and hang, spoils the registry file, and rolls out a new version by edits of
//! the configuration file, one of them bad. The exit code is 0 only if every promise held.
//!
//! | module | |
//! |---|---|
//! | [`cluster`], [`site`] | the instances, the mesh, its configuration file and registry file |
//! | [`process`], [`instance`] | an instance from outside and from inside |
//! | [`traffic`], [`users`] | the calls, and who makes them |
//! | [`script`], [`rollout`], [`promise`], [`reconcile`] | what goes wrong when, and what is promised |
//! | [`observer`], [`journal`], [`screen`], [`table`] | what is seen, and how it is shown |

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it talks to a person"
)]
#![allow(unreachable_pub, reason = "an executable exports nothing")]

/// Tells the log what happens now.
macro_rules! say {
    ($($text:tt)*) => { tracing::info!("---- {}", format_args!($($text)*)) };
}

mod cluster;
mod instance;
mod journal;
mod observer;
mod process;
mod promise;
mod reconcile;
mod rollout;
mod screen;
mod script;
mod site;
mod table;
mod tally;
mod traffic;
mod users;

use std::{process::ExitCode, sync::Arc};

use axum::Router;
use tokio::{net::TcpListener, signal::ctrl_c};
use tower_mesh::prometheus::Prometheus;

use crate::{
    cluster::Cluster, journal::Journal, observer::Observer, screen::Screen, script::Script,
    traffic::Traffic,
};

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Error> = std::result::Result<T, E>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => run(false).await,
        ["--serve"] => run(true).await,
        [instance::ARGUMENT, scheme, name, version, directory] => {
            let run = instance::run(scheme, name, version, directory.as_ref());
            run.await.map(|()| ExitCode::SUCCESS)
        }
        _ => Err("usage: quickstart [--serve]".into()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("quickstart: {error}");
        ExitCode::FAILURE
    })
}

async fn run(serve: bool) -> Result<ExitCode> {
    let journal = Journal::install();
    let prometheus = Prometheus::install()?;
    let mut cluster = Cluster::start().await?;
    let mesh = cluster.mesh().await?;

    let observer = Arc::new(Observer::new(mesh.clone(), prometheus.clone()));
    let traffic = Arc::new(Traffic::new(&mesh));
    let metrics = match serve {
        true => Some(serve_metrics(prometheus).await?),
        false => None,
    };

    let screen = Screen::open(&observer, &traffic, &journal);
    let script = Script {
        mesh: &mesh,
        observer: &observer,
        traffic: &traffic,
        journal: &journal,
    };
    let outcome = tokio::select! {
        outcome = script.play(&mut cluster) => outcome,
        interrupted = ctrl_c() => Err(match interrupted {
            Ok(()) => "interrupted before the end of the script".into(),
            Err(error) => error.into(),
        }),
    };
    screen.close().await;
    let outcome = outcome?;

    println!("{}", outcome.reconciliation);
    for promise in &outcome.promises {
        println!("{promise}");
    }
    if let Some(address) = metrics {
        println!("\nThe calls go on, with http://{address}/metrics; end with Ctrl-C.");
        let file = cluster.site.config();
        println!("Edit {}, and see what changes.\n", file.display());
        cluster.heal().await?;
        let _calls = traffic.start();
        let screen = Screen::open(&observer, &traffic, &journal);
        ctrl_c().await?;
        screen.close().await;
    }
    let kept = outcome.promises.iter().all(|promise| promise.holds());
    Ok(if kept {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Serves `/metrics` on a free port until the process ends.
async fn serve_metrics(prometheus: Prometheus) -> Result<std::net::SocketAddr> {
    let router: Router = Router::new().route_service("/metrics", prometheus.service());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    println!("metrics on http://{address}/metrics");
    Ok(address)
}
