//! Two axum services and a tonic one, all from one file, `examples/mesh.yaml`.
//!
//! ```text
//! cargo run --example mesh_file                               # one of each, and some calls
//! cargo run --example mesh_file -- names DIRECTORY 2.0        # one instance, with DIRECTORY/mesh.yaml
//! ```
//!
//! `web` (axum) calls `greeter` (tonic), which calls `names` (axum). Each registers itself, finds the
//! next one by its name, and passes on who the user is without a line of code for it. SIGTERM drains an
//! instance; its callers do not notice.

#![allow(clippy::print_stdout, reason = "it talks to a person")]

use std::{net::SocketAddr, pin::Pin};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use http::Request;
use http_body_util::BodyExt;
use tokio::{net::TcpListener, process::Command, time::Instant};
use tonic::{
    Response, Status,
    codegen::tokio_stream::{Stream, empty},
    transport::{Server, server::TcpIncoming},
};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_client::HealthClient,
    health_server::{Health, HealthServer},
};
use tower::ServiceExt;
use tower_mesh::{
    client::Channel,
    discovery::instance::{EndpointUrl, Scheme},
    layers::metadata::{self, Metadata},
    prelude::*,
};

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Error> = std::result::Result<T, E>;

/// The header in which `greeter` sends its greeting: the health service, whose code tonic ships, stands
/// in for one of your own and has no field for it.
const GREETING: &str = "x-greeting";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => demonstrate().await,
        [service, directory, version @ ..] => {
            tracing_subscriber::fmt()
                .with_writer(std::io::stderr)
                .init();
            std::env::set_current_dir(directory)?;
            serve(service, version.first()).await
        }
        [_] => Err("usage: mesh_file [SERVICE DIRECTORY [VERSION]]".into()),
    }
}

/// One instance of a service, until SIGTERM.
async fn serve(service: &str, version: Option<&String>) -> Result<()> {
    let mesh = Mesh::from_file("mesh.yaml").await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let scheme = match service {
        "greeter" => Scheme::Grpc,
        _ => Scheme::Http,
    };
    let url = EndpointUrl::new(scheme, listener.local_addr()?);
    let registration = mesh.register(service, url)?;
    if let Some(version) = version {
        registration.update(|instance| instance.version.clone_from(version))?;
    }
    let me = format!(
        "{service} {} #{}",
        registration.instance().version,
        std::process::id()
    );
    // SIGTERM: out of the registry first, then no new calls, then those that are under way are finished, if
    // they do not take too long.
    let drain = mesh.server().drain();
    let stop = (&registration, &drain).until_signal();
    match service {
        "web" => {
            let greeter = HealthClient::new(mesh.channel("greeter"));
            let app = Router::new()
                .route("/", get(welcome))
                .with_state((me, greeter));
            let app = app.layer(mesh.server());
            let app = app.into_make_service_with_connect_info::<SocketAddr>();
            let server = axum::serve(listener, app).with_graceful_shutdown(stop);
            drain.bound(server).await??;
        }
        "names" => {
            let app = Router::new().route("/name", get(name)).with_state(me);
            let app = app.layer(mesh.server());
            let app = app.into_make_service_with_connect_info::<SocketAddr>();
            let server = axum::serve(listener, app).with_graceful_shutdown(stop);
            drain.bound(server).await??;
        }
        "greeter" => {
            let names = mesh.client("names");
            let server = Server::builder()
                .layer(mesh.server())
                .add_service(HealthServer::new(Greeter { me, names }))
                .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop);
            drain.bound(server).await??;
        }
        _ => return Err("the services are web, greeter and names".into()),
    }
    Ok(registration.close().await?)
}

// ===== web =====

type Web = State<(String, HealthClient<Channel>)>;

async fn welcome(State((me, mut greeter)): Web) -> Result<String, (StatusCode, String)> {
    let failed = |error: Error| (StatusCode::BAD_GATEWAY, format!("greeter: {error}"));
    let answer = greeter.check(HealthCheckRequest::default()).await;
    let answer = answer.map_err(|status| failed(status.into()))?;
    let greeting = answer.metadata().get(GREETING).map(|value| value.to_str());
    match greeting {
        Some(Ok(greeting)) => Ok(format!("hello {greeting} < {me}")),
        _ => Err(failed("no greeting".into())),
    }
}

// ===== greeter =====

struct Greeter {
    me: String,
    names: Client,
}

#[tonic::async_trait]
impl Health for Greeter {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        _: tonic::Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let failed = |error: Error| Status::unavailable(format!("names: {error}"));
        let name = get_text(&self.names, "/name").await.map_err(failed)?;
        let greeting = format!("{name} < {}", self.me);
        let mut response = Response::new(HealthCheckResponse::default());
        let greeting = greeting.parse().map_err(|_| failed("no text".into()))?;
        response.metadata_mut().insert(GREETING, greeting);
        Ok(response)
    }

    async fn watch(
        &self,
        _: tonic::Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(Box::pin(empty())))
    }
}

// ===== names =====

/// The user was named three processes away, and that is how long there is left to answer.
async fn name(State(me): State<String>, metadata: CallMetadata) -> String {
    let user = metadata.get("user").unwrap_or("stranger");
    let deadline = CallContext::current_deadline().unwrap_or_else(Instant::now);
    let left = deadline.duration_since(Instant::now()).as_millis();
    format!("{user}: {left} ms left < {me}")
}

// ===== from outside =====

/// Starts one instance of each, and calls them.
async fn demonstrate() -> Result<()> {
    let directory = tempfile::tempdir()?;
    std::env::set_current_dir(&directory)?;
    std::fs::write("mesh.yaml", include_str!("mesh.yaml"))?;
    let mut instances = Vec::new();
    for service in ["web", "greeter", "names"] {
        let mut instance = Command::new(std::env::current_exe()?);
        instance.args([service, "."]).kill_on_drop(true);
        instances.push(instance.spawn()?);
    }
    let mesh = Mesh::from_file("mesh.yaml").await?;
    let web = mesh.client("web");
    for user in ["ada", "ben", "cleo"] {
        let mut metadata = Metadata::new();
        metadata.set_global("user", user)?;
        println!("{}", metadata::scope(metadata, get_text(&web, "/")).await?);
    }
    Ok(())
}

/// The body of an answer that is a success.
async fn get_text(client: &Client, path: &str) -> Result<String> {
    let request = Request::get(path).body(Body::empty())?;
    let response = client.clone().oneshot(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    let text = String::from_utf8(body.into())?;
    match status.is_success() {
        true => Ok(text),
        false => Err(format!("{status}: {text}").into()),
    }
}
