//! Single layers around a hyper client: deadline, retry and circuit breaker.
//!
//! ```text
//! cargo run --example hyper_client
//! ```

#![allow(clippy::print_stdout, reason = "it talks to a person")]

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::get};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::net::TcpListener;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
use tower_mesh::prelude::*;

/// Fails every third time.
async fn moody() -> Result<&'static str, StatusCode> {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    match CALLS.fetch_add(1, Relaxed) % 3 {
        2 => Err(StatusCode::SERVICE_UNAVAILABLE),
        _ => Ok("an order"),
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/orders/7", listener.local_addr()?);
    let app = Router::new().route("/orders/{id}", get(moody));
    tokio::spawn(async move { axum::serve(listener, app).await });

    let retry = RetryLayer::default();
    let watch = retry.handle();
    let mut orders = ServiceBuilder::new()
        .layer(
            DeadlineLayer::builder()
                .timeout(Duration::from_secs(5))
                .build()?,
        )
        .layer(retry)
        .layer(CircuitBreakerLayer::default())
        .service(Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>());

    for number in 1..=20 {
        let request = Request::get(&url).body(Full::default())?;
        let response = orders.ready().await?.call(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        println!(
            "call {number}: {status}, {}",
            String::from_utf8_lossy(&body)
        );
    }
    println!("{} retries", watch.stats().retries);
    Ok(())
}
