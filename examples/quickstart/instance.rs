//! What runs in the processes: an instance of `orders` (axum) or of `greeter` (tonic), which does to
//! its callers what it is told on its standard input.

use std::{path::Path, pin::Pin, str::FromStr, sync::Arc, time::Duration};

use crate::{Error, Result, site, tally::Tally};
use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use tokio::{
    io::{AsyncBufReadExt, BufReader, stdin},
    net::TcpListener,
    sync::watch,
};
use tonic::{
    Request, Response, Status,
    codegen::tokio_stream::{Stream, empty},
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

/// `quickstart --instance SCHEME NAME VERSION DIRECTORY` runs an instance.
pub const ARGUMENT: &str = "--instance";

/// The header in which an instance of `orders` says its version.
pub const VERSION: &str = "x-version";

/// What an instance does with its calls. On its standard input: `answer 5`, `fail` or `hang`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Behaviour {
    /// Answers after a time.
    Answer(Duration),
    /// Answers 503 or UNAVAILABLE.
    Fail,
    /// Takes calls and never answers.
    Hang,
}

/// What all calls share.
struct Instance {
    name: String,
    version: String,
    behaviour: watch::Receiver<Behaviour>,
    tally: Tally,
}

/// Says on its first line of output where it listens, and runs until its standard input ends: with
/// the process that started it, however that ends.
pub async fn run(scheme: &str, name: &str, version: &str, directory: &Path) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{scheme}://{}", listener.local_addr()?);
    let (told, behaviour) = watch::channel(Behaviour::NORMAL);
    let instance = Arc::new(Instance {
        name: name.to_owned(),
        version: version.to_owned(),
        behaviour,
        tally: Tally::open(directory, name)?,
    });
    tokio::select! {
        served = serve(scheme, listener, instance, directory) => served,
        obeyed = obey(told) => obeyed,
    }
}

async fn obey(told: watch::Sender<Behaviour>) -> Result<()> {
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        told.send(line.parse()?)?;
    }
    Ok(())
}

async fn serve(
    scheme: &str,
    listener: TcpListener,
    instance: Arc<Instance>,
    directory: &Path,
) -> Result<()> {
    if scheme == "http" {
        let router = Router::new()
            .route("/orders/{id}", get(order))
            .with_state(instance);
        return Ok(axum::serve(listener, router).await?);
    }
    let mut server = Server::builder();
    if scheme == "grpcs" {
        let certificate = std::fs::read(directory.join(site::CERTIFICATE))?;
        let key = std::fs::read(directory.join(site::KEY))?;
        let identity = Identity::from_pem(certificate, key);
        server = server.tls_config(ServerTlsConfig::new().identity(identity))?;
    }
    let greeter = HealthServer::from_arc(instance);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(server
        .add_service(greeter)
        .serve_with_incoming(incoming)
        .await?)
}

impl Instance {
    /// Counts a call and treats it as told; whether it goes well.
    async fn treat(&self) -> bool {
        self.tally.received();
        let behaviour = *self.behaviour.borrow();
        let goes_well = match behaviour {
            Behaviour::Answer(after) => {
                tokio::time::sleep(after).await;
                true
            }
            Behaviour::Fail => false,
            Behaviour::Hang => std::future::pending().await,
        };
        self.tally.answered();
        goes_well
    }
}

// ===== orders: HTTP =====

async fn order(State(instance): State<Arc<Instance>>) -> Result<impl IntoResponse, StatusCode> {
    match instance.treat().await {
        true => {
            let version = [(VERSION, instance.version.clone())];
            Ok((version, format!("an order, by {}", instance.name)))
        }
        false => Err(StatusCode::SERVICE_UNAVAILABLE),
    }
}

// ===== greeter: gRPC =====

/// The health service stands in for a greeter: its code is generated already, so that the example
/// needs no protobuf compiler.
#[tonic::async_trait]
impl Health for Instance {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match self.treat().await {
            true => Ok(Response::new(HealthCheckResponse {
                status: ServingStatus::Serving.into(),
            })),
            false => Err(Status::unavailable("told to fail")),
        }
    }

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(Box::pin(empty())))
    }
}

// ===== impl Behaviour =====

impl Behaviour {
    /// What an instance starts with. More than a busy machine adds now and then, or its noise would
    /// look like slow instances.
    pub const NORMAL: Self = Self::Answer(Duration::from_millis(20));
    /// Ten times slower.
    pub const SLOW: Self = Self::Answer(Duration::from_millis(200));
}

impl std::fmt::Display for Behaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Answer(after) => write!(f, "answer {}", after.as_millis()),
            Self::Fail => f.write_str("fail"),
            Self::Hang => f.write_str("hang"),
        }
    }
}

impl FromStr for Behaviour {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        match line.split_once(' ') {
            Some(("answer", ms)) => Ok(Self::Answer(Duration::from_millis(ms.parse()?))),
            None if line == "fail" => Ok(Self::Fail),
            None if line == "hang" => Ok(Self::Hang),
            _ => Err(format!("no such behaviour: `{line}`").into()),
        }
    }
}
