//! A tonic server and a tonic client, each behind its side of the mesh.
//!
//! ```text
//! cargo run --example tonic_client_server
//! ```

#![allow(clippy::print_stdout, reason = "it talks to a person")]

use std::{error::Error, time::Duration};

use tokio::net::TcpListener;
use tonic::{
    Request,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::{
    pb::{HealthCheckRequest, health_client::HealthClient},
    server::health_reporter,
};
use tower_mesh::Mesh;

/// The health service, whose code tonic ships, stands in for one of your own.
async fn serve(mesh: Mesh) -> Result<String, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("grpc://{}", listener.local_addr()?);
    let (_, health) = health_reporter();
    let server = Server::builder()
        .layer(mesh.server()) // keeps the callers' deadlines
        .add_service(health);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    Ok(url)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let first = serve(Mesh::builder().build()?).await?;
    let second = serve(Mesh::builder().build()?).await?;
    // Nobody listens here: the client finds out, and no call fails.
    let third = "grpc://127.0.0.1:1";

    let mesh = Mesh::builder()
        .registry(format!("static:{first},{second},{third}"))
        .build()?;
    let client = HealthClient::new(mesh.channel("greeter"));
    for _ in 0..300 {
        let mut request = Request::new(HealthCheckRequest::default());
        request.set_timeout(Duration::from_secs(5));
        client.clone().check(request).await?;
    }

    for endpoint in mesh.endpoints("greeter", tower_mesh::layers::Protocol::Grpc) {
        let (url, state) = (&endpoint.url, endpoint.state.as_str());
        println!(
            "{url}: {} calls, {} failed, {state}",
            endpoint.calls, endpoint.failures
        );
    }
    Ok(())
}
