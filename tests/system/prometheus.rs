//! What Prometheus scrapes.

use std::time::Duration;

use axum::{Router, routing::get};
use http::{Method, Request, StatusCode, header};
use metrics_exporter_prometheus::PrometheusBuilder;
use tower::ServiceExt;
use tower_mesh::{
    Mesh,
    client::ClientConfig,
    layers::{
        Histogram, Key,
        metrics::{self, Collect, Sink},
        rate_limit::RateLimitLayer,
        test_util::servers::Server,
    },
    prometheus::Prometheus,
};

use crate::support::{self, Body, Connection, read};

const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
const CALLS: &str = "mesh_rate_limit_calls_total";

/// A limit that admits two calls of each caller; there will be none in reserve for a minute.
fn limit(name: &str) -> RateLimitLayer {
    let limit = RateLimitLayer::per_minute(1).burst(2).name(name);
    let limit = limit.key(Key::header("x-caller").unwrap());
    limit.build().unwrap()
}

/// Makes `calls` to a server behind this limit.
async fn call(limit: &RateLimitLayer, calls: usize) {
    let app = Router::new().route("/", get(async || "done"));
    let server = Server::axum(app.layer(limit.clone()));
    let mut connection = Connection::h1(server.addr()).await;
    for _ in 0..calls {
        let request = Request::get("/").header("x-caller", "someone");
        let request = request.body(Body::default()).unwrap();
        read(connection.send(request).await).await;
    }
}

/// A metric of the user's own, of the kind that none of the limits has.
struct Durations(Histogram);

impl Collect for Durations {
    fn collect(&self, out: &mut dyn Sink) {
        let (labels, help) = ([("policy", "scraped")], "Durations of this test");
        out.histogram(
            "mesh_test_scraped_seconds",
            help,
            &labels,
            &self.0.snapshot(),
        );
    }
}

/// What a scrape says of a name.
#[derive(Debug, PartialEq)]
struct Family<'a> {
    help: &'a str,
    kind: &'a str,
}

fn family<'a>(text: &'a str, name: &str) -> Family<'a> {
    let about = |what: &str| {
        let prefix = format!("# {what} {name} ");
        let mut said = text.lines().filter_map(|line| line.strip_prefix(&prefix));
        let first = said.next().unwrap_or_else(|| panic!("no {prefix}"));
        assert_eq!(said.next(), None, "{prefix} comes twice");
        first
    };
    Family {
        help: about("HELP"),
        kind: about("TYPE"),
    }
}

/// The value of a series, given as it is written.
fn value(text: &str, series: &str) -> f64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(series));
    let value = lines.next().unwrap_or_else(|| panic!("no {series}"));
    assert_eq!(lines.next(), None, "{series} comes twice");
    value.trim().parse().unwrap()
}

/// How many calls a limit admitted and refused.
fn calls(text: &str, policy: &str) -> [f64; 2] {
    ["admitted", "refused"].map(|decision| {
        let labels = format!(r#"{{decision="{decision}",policy="{policy}"}}"#);
        value(text, &format!("{CALLS}{labels}"))
    })
}

/// The recorder belongs to the process, and so does this test to the binary: no other one installs it.
#[tokio::test]
async fn layers_are_scraped_that_were_built_before_the_recorder_and_after_it() {
    let before = limit("scraped-before");
    call(&before, 3).await;
    let prometheus = Prometheus::install().unwrap();
    let after = limit("scraped-after");
    call(&after, 5).await;
    let durations = metrics::register(Durations(Histogram::new()));
    durations.0.record(Duration::from_millis(250));

    let admin = Router::new().route_service("/metrics", prometheus.service());
    let app = admin.clone().nest("/admin", admin);
    let server = Server::axum(app);
    let mut connection = Connection::h1(server.addr()).await;
    let scraped = connection.get("/metrics").await;
    assert_eq!(scraped.status(), StatusCode::OK);
    assert_eq!(scraped.headers()[header::CONTENT_TYPE], TEXT_FORMAT);
    let text = std::str::from_utf8(scraped.body()).unwrap();

    let limits = Family {
        help: "Calls that rate limits decided on",
        kind: "counter",
    };
    assert_eq!(family(text, CALLS), limits);
    assert_eq!(calls(text, "scraped-before"), [2.0, 1.0]);
    assert_eq!(calls(text, "scraped-after"), [2.0, 3.0]);
    assert_eq!(family(text, "mesh_rate_limit_keys").kind, "gauge");
    let keys = r#"mesh_rate_limit_keys{policy="scraped-before"}"#;
    assert_eq!(value(text, keys), 1.0);
    let durations = Family {
        help: "Durations of this test",
        kind: "histogram",
    };
    assert_eq!(family(text, "mesh_test_scraped_seconds"), durations);
    for (bound, count) in [("0.1", 0.0), ("0.5", 1.0), ("+Inf", 1.0)] {
        let bucket =
            format!(r#"mesh_test_scraped_seconds_bucket{{policy="scraped",le="{bound}"}}"#);
        assert_eq!(value(text, &bucket), count, "{bound}");
    }
    let sum = value(text, r#"mesh_test_scraped_seconds_sum{policy="scraped"}"#);
    assert!((sum - 0.25).abs() < 0.01, "{sum}");

    // Every scrape is as things are then, wherever the route is.
    call(&before, 4).await;
    let mut connection = Connection::h2(server.addr()).await;
    let scraped = connection.get("/admin/metrics").await;
    let text = std::str::from_utf8(scraped.body()).unwrap();
    assert_eq!(calls(text, "scraped-before"), [2.0, 5.0]);
    let count = r#"mesh_test_scraped_seconds_count{policy="scraped"}"#;
    assert_eq!(value(text, count), 1.0, "told twice");
}

/// On a router, and with no router around it.
#[tokio::test]
async fn only_reading_is_allowed() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let prometheus = Prometheus::with_handle(recorder.handle());
    let app = Router::new().route_service("/metrics", prometheus.service());
    for server in [Server::axum(app), Server::hyper(prometheus.service())] {
        let mut connection = Connection::h1(server.addr()).await;
        for (method, expected) in [
            (Method::GET, StatusCode::OK),
            (Method::HEAD, StatusCode::OK),
            (Method::POST, StatusCode::METHOD_NOT_ALLOWED),
            (Method::DELETE, StatusCode::METHOD_NOT_ALLOWED),
            (Method::OPTIONS, StatusCode::METHOD_NOT_ALLOWED),
        ] {
            let request = Request::builder().method(&method).uri("/metrics");
            let request = request.body(Body::default()).unwrap();
            let response = read(connection.send(request).await).await;
            assert_eq!(response.status(), expected, "{method}");
            let headers = response.headers();
            let format = headers.get(header::CONTENT_TYPE).map(|it| it.as_bytes());
            let allow = headers.get(header::ALLOW).map(|it| it.as_bytes());
            match expected {
                StatusCode::OK => assert_eq!((format, allow), (Some(TEXT_FORMAT.as_bytes()), None)),
                _ => assert_eq!((format, allow), (None, Some(&b"GET, HEAD"[..]))),
            }
        }
    }
}

/// With the presets alone: by operation on both sides, and by endpoint.
#[tokio::test]
async fn a_mesh_is_scraped_for_the_rate_errors_and_duration_of_each_operation() {
    let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
    let prometheus = Prometheus::with_handle(recorder.handle());
    let _installed = ::metrics::set_default_local_recorder(recorder);
    let served = Mesh::builder().build().unwrap();
    let app = Router::new()
        .route("/scraped/{id}", get(async || "done"))
        .route("/broken", get(async || StatusCode::INTERNAL_SERVER_ERROR))
        .layer(served.server());
    let server = Server::axum(app);
    let url = format!("http://{}", server.addr());
    let mesh = support::mesh(format!("static:{url}"), ClientConfig::default());
    let client = mesh.client("scraped");
    for path in ["/scraped/7", "/scraped/8", "/broken"] {
        let request = Request::get(path).body(tower_mesh::Body::empty()).unwrap();
        read(client.clone().oneshot(request).await.unwrap()).await;
    }

    let request = Request::get("/metrics").body(Body::default()).unwrap();
    let scraped = prometheus.service().oneshot(request).await.unwrap();
    let text = read(scraped).await.into_body();
    let text = std::str::from_utf8(&text).unwrap();
    let count = |name: &str, labels: &str| value(text, &format!("{name}_count{{{labels}}}"));
    let answered = |error: &str, route: &str, status: &str| {
        format!(
            r#"error_type="{error}",http_request_method="GET",http_response_status_code="{status}",http_route="{route}""#
        )
    };
    let handled = "http_server_request_duration_seconds";
    assert_eq!(count(handled, &answered("", "/scraped/{id}", "200")), 2.0);
    assert_eq!(count(handled, &answered("500", "/broken", "500")), 1.0);
    // A path names no operation, or whoever is called would make up series.
    let of_client = |labels: String| format!(r#"{labels},server_address="scraped""#);
    let made = "http_client_request_duration_seconds";
    assert_eq!(count(made, &of_client(answered("", "", "200"))), 2.0);
    assert_eq!(count(made, &of_client(answered("500", "", "500"))), 1.0);
    let endpoint = format!(r#"endpoint="{url}",server_address="scraped""#);
    assert_eq!(count("mesh_endpoint_latency_seconds", &endpoint), 3.0);
    let failures = format!("mesh_endpoint_failures_total{{{endpoint}}}");
    assert_eq!(value(text, &failures), 1.0);
}

/// As one does who has put the recorder into a stack of others: here, into one of this thread alone.
#[tokio::test]
async fn a_recorder_that_was_installed_otherwise_is_rendered_as_well() {
    let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
    let prometheus = Prometheus::with_handle(recorder.handle());
    let policy = limit("scraped-otherwise");
    call(&policy, 3).await;
    let _installed = ::metrics::set_default_local_recorder(recorder);

    let scrape = async || {
        let request = Request::get("/metrics").body(Body::default()).unwrap();
        let scraped = prometheus.service().oneshot(request).await.unwrap();
        let text = read(scraped).await.into_body();
        String::from_utf8(text.into()).unwrap()
    };
    assert_eq!(calls(&scrape().await, "scraped-otherwise"), [2.0, 1.0]);
    drop(policy);
    let text = scrape().await;
    assert_eq!(
        calls(&text, "scraped-otherwise"),
        [2.0, 1.0],
        "a total stays"
    );
    let keys = r#"mesh_rate_limit_keys{policy="scraped-otherwise"}"#;
    assert_eq!(value(&text, keys), 0.0, "a gauge leaves with its layer");
}
