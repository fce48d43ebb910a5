//! An axum server that keeps its callers' deadlines and limits their rate.
//!
//! ```text
//! cargo run --example axum_server
//! ```

#![allow(clippy::print_stdout, reason = "it talks to a person")]

use std::{error::Error, time::Duration};

use axum::{Router, extract::Path, routing::get};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::net::TcpListener;
use tower_mesh::Mesh;

async fn order(Path(id): Path<u32>) -> String {
    format!("order {id}")
}

async fn report() -> &'static str {
    tokio::time::sleep(Duration::from_secs(5)).await;
    "a long story"
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // The server side of the mesh: one layer, with what is configured inside it.
    let config = r#"{ "rateLimit": { "rate": "5/m", "key": "operation" }, "deadline": {} }"#;
    let mesh = Mesh::builder()
        .server(serde_json::from_str(config)?)
        .build()?;
    let app = Router::new()
        .route("/orders/{id}", get(order))
        .route("/report", get(report))
        .layer(mesh.server());

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let server = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });

    let client = Client::builder(TokioExecutor::new()).build_http();
    // The limit is kept by operation: all orders share it, and the report has one of its own.
    for id in 1..=7 {
        call(&client, Request::get(format!("{server}/orders/{id}"))).await?;
    }
    // Nobody waits for the report longer than 100 ms, so nobody works on it any longer.
    let report = Request::get(format!("{server}/report")).header("grpc-timeout", "100m");
    call(&client, report).await
}

async fn call(
    client: &Client<HttpConnector, Empty<Bytes>>,
    request: http::request::Builder,
) -> Result<(), Box<dyn Error>> {
    let request = request.body(Empty::new())?;
    let path = request.uri().path().to_owned();
    let response = client.request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    println!("GET {path}: {status}, {}", String::from_utf8_lossy(&body));
    Ok(())
}
