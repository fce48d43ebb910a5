//! Our layers among those of tower-http and of tower itself, on an axum server and around a client.
//!
//! ```text
//! cargo run --example third_party_layers
//! ```
//!
//! Three rules are enough:
//!
//! * What observes (trace, request id, panics) goes outside of what refuses, so that refusals are seen.
//! * Our refusals are responses, so they pass through any layer, with a `Rejection` in their extensions.
//!   tower's own refusals are errors: on axum they need a `HandleErrorLayer`, and only they do.
//! * Around a client, what counts once per call goes outside of the retry layer, and what counts once
//!   per attempt goes inside.

#![allow(clippy::print_stdout, reason = "it talks to a person")]

use std::{
    error::Error,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use axum::{
    BoxError, Router,
    error_handling::HandleErrorLayer,
    extract::Path,
    http::{HeaderMap, Request, Response, StatusCode},
    routing::get,
};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Bytes};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{net::TcpListener, task::JoinSet, time::sleep};
use tower::{
    Service, ServiceBuilder, ServiceExt,
    limit::{ConcurrencyLimitLayer, GlobalConcurrencyLimitLayer},
};
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    timeout::TimeoutLayer,
    trace::TraceLayer,
};
use tower_mesh::prelude::*;

type Result<T = (), E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const SLOW: Duration = Duration::from_millis(500);
/// Well before the slow answers come.
const TIMEOUT: Duration = Duration::from_millis(200);

// ===== the server =====

fn app() -> Result<Router> {
    let shed = async |error: BoxError| (StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    let layers = ServiceBuilder::new()
        // tower-http: a number for every request, which every answer carries.
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(TraceLayer::new_for_http())
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(CatchPanicLayer::new())
        // Ours.
        .layer(DeadlineLayer::server())
        .layer(
            RateLimitLayer::per_minute(60)
                .burst(10)
                .key(Key::operation())
                .build()?,
        )
        // tower: errors, made into responses. `ConcurrencyLimitLayer` would count per connection here.
        .layer(HandleErrorLayer::new(shed))
        .load_shed()
        .layer(GlobalConcurrencyLimitLayer::new(4))
        // tower-http.
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            TIMEOUT,
        ));
    Ok(Router::new()
        .route("/orders/{id}", get(order))
        .route("/bug", get(bug))
        .route("/report", get(report))
        .route("/busy", get(busy))
        .route("/flaky", get(flaky))
        .layer(layers))
}

async fn order(Path(id): Path<u32>) -> String {
    format!("order {id}")
}

async fn bug() -> &'static str {
    panic!("a bug")
}

async fn report() -> &'static str {
    sleep(SLOW).await;
    "a report that nobody waited for"
}

async fn busy() -> &'static str {
    sleep(TIMEOUT / 2).await;
    "done"
}

/// Two attempts of three fail.
async fn flaky() -> Result<&'static str, StatusCode> {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    match CALLS.fetch_add(1, Relaxed) % 3 {
        2 => Ok("done"),
        _ => Err(StatusCode::SERVICE_UNAVAILABLE),
    }
}

// ===== the client =====

#[tokio::main]
async fn main() -> Result {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
        .init();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let server = format!("http://{}", listener.local_addr()?);
    let app = app()?;
    tokio::spawn(async move { axum::serve(listener, app).await });

    let plain = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let request = |path: &str| Request::get(format!("{server}{path}")).body(Empty::new());
    println!("around the server:");
    for path in ["/orders/7", "/bug", "/report"] {
        show(path, plain.request(request(path)?).await?).await?;
    }
    // What nobody waits for any more is stopped by the caller's deadline, before the server's timeout.
    let mut hasty = request("/report")?;
    hasty.headers_mut().insert("grpc-timeout", "50m".parse()?);
    show("/report in 50 ms", plain.request(hasty).await?).await?;

    // Eight at once are too many for the concurrency limit, and twelve in a row for the rate limit.
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        calls.spawn(plain.request(request("/busy")?));
    }
    let answers = calls.join_all().await.into_iter();
    let answers: Vec<_> = answers.collect::<Result<_, _>>()?;
    count("8 x /busy at once", &answers);
    let mut answers = Vec::new();
    for _ in 0..12 {
        answers.push(plain.request(request("/orders/8")?).await?);
    }
    count("12 x /orders/8", &answers);

    println!("around a client:");
    let mut client = ServiceBuilder::new()
        // tower-http: one span and one number for the call, however many attempts it takes.
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(TraceLayer::new_for_http())
        // Ours.
        .layer(DeadlineLayer::builder().timeout(4 * SLOW).build()?)
        .layer(RetryLayer::builder().max_attempts(3).build()?)
        .layer(
            CircuitBreakerLayer::builder()
                .consecutive_failures(5)
                .build()?,
        )
        // tower: all clones share one queue, and what is behind it.
        .buffer(16)
        .layer(ConcurrencyLimitLayer::new(4))
        .service(plain);
    let answer = client.ready().await?.call(request("/flaky")?).await?;
    show("/flaky", answer).await
}

/// Prints an answer, and whether it carries the number of its request.
async fn show<B>(what: &str, response: Response<B>) -> Result
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let (parts, body) = response.into_parts();
    let text = body.collect().await.map_err(Into::into)?.to_bytes();
    let text = String::from_utf8_lossy(&text);
    let (status, numbered) = (parts.status, numbered(&parts.headers));
    println!("  {what}: {status}, {numbered}: {text}");
    Ok(())
}

/// Prints how many answers there were of each status.
fn count<B>(what: &str, answers: &[Response<B>]) {
    let all_numbered = answers.iter().all(|answer| is_numbered(answer.headers()));
    let of = |status: StatusCode| answers.iter().filter(move |a| a.status() == status).count();
    println!(
        "  {what}: {} x 200, {} x 503, {} x 429, all {}",
        of(StatusCode::OK),
        of(StatusCode::SERVICE_UNAVAILABLE),
        of(StatusCode::TOO_MANY_REQUESTS),
        if all_numbered {
            "numbered"
        } else {
            "but some numbered"
        },
    );
}

fn numbered(headers: &HeaderMap) -> &'static str {
    match is_numbered(headers) {
        true => "numbered",
        false => "without a number",
    }
}

fn is_numbered(headers: &HeaderMap) -> bool {
    headers.contains_key("x-request-id")
}
