//! Traces as a collector gets them: over OTLP, from several services, through the wire.

use std::{env, process::Command, sync::Arc, time::Duration};

use axum::{Router, extract::State, routing::get};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode as SpanStatus},
};
use parking_lot::Mutex;
use prost::Message;
use tonic::{metadata::MetadataMap, service::Routes, transport::server::TcpIncoming};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::{Layer, ServiceExt};
use tower_mesh::{
    Body, Mesh, MeshConfig,
    client::ClientConfig,
    layers::{
        Trust,
        metadata::{CallMetadata, MetadataConfig},
        test_util::{
            Answer, Gate, Scripted, TestBody, grpc, listen,
            servers::{Port, Server},
        },
        trace::TraceLayer,
    },
    server::ServerConfig,
    telemetry::{OtlpProtocol, SecretHeaders, Telemetry, TelemetryConfig},
};
use tracing::Dispatch;
use tracing_subscriber::{Registry, layer::SubscriberExt};

use crate::support::{self, Connection, PATIENCE};

// ===== a collector =====

/// Takes whatever is exported to it.
#[derive(Clone, Default)]
struct Sink {
    spans: Arc<Mutex<Vec<Exported>>>,
    keys: Arc<Mutex<Vec<String>>>,
}

/// A span, and the service that it came from.
#[derive(Clone, Debug)]
struct Exported {
    service: String,
    span: Span,
}

impl Sink {
    fn take(&self, request: ExportTraceServiceRequest) {
        for resource in request.resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let service = text(&attributes, "service.name");
            let spans = resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans);
            let exported = spans.map(|span| Exported {
                service: service.clone(),
                span,
            });
            self.spans.lock().extend(exported);
        }
    }

    /// So many spans, in the order in which they began.
    async fn spans(&self, count: usize, from: &[&Telemetry]) -> Vec<Exported> {
        let all = async {
            loop {
                from.iter().for_each(|telemetry| telemetry.flush().unwrap());
                let mut spans = self.spans.lock().clone();
                if spans.len() >= count {
                    spans.sort_by_key(|exported| exported.span.start_time_unix_nano);
                    return spans;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let spans = tokio::time::timeout(PATIENCE, all).await;
        let spans = spans.unwrap_or_else(|_| panic!("only {:#?}", self.spans.lock()));
        assert_eq!(spans.len(), count, "{spans:#?}");
        spans
    }
}

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let key = |metadata: &MetadataMap| Some(metadata.get("x-key")?.to_str().ok()?.to_owned());
        self.keys.lock().extend(key(request.metadata()));
        self.take(request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

fn collector() -> (Sink, Server, String) {
    let sink = Sink::default();
    let server = Server::tonic(Routes::new(TraceServiceServer::new(sink.clone())));
    let url = format!("http://{}", server.addr());
    (sink, server, url)
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.clone()) {
        Some(AnyValue {
            value: Some(Value::StringValue(text)),
        }) => text,
        Some(AnyValue {
            value: Some(Value::IntValue(number)),
        }) => number.to_string(),
        _ => String::new(),
    }
}

impl Exported {
    fn get(&self, key: &str) -> String {
        text(&self.span.attributes, key)
    }

    fn kind(&self) -> SpanKind {
        self.span.kind()
    }

    fn is_error(&self) -> bool {
        let status = self.span.status.as_ref();
        status.is_some_and(|status| status.code() == SpanStatus::Error)
    }

    fn lasted(&self) -> Duration {
        Duration::from_nanos(self.span.end_time_unix_nano - self.span.start_time_unix_nano)
    }

    #[track_caller]
    fn assert_has(&self, expected: &[(&str, &str)]) {
        for (key, value) in expected {
            assert_eq!(self.get(key), *value, "{key} of {self:#?}");
        }
    }
}

#[track_caller]
fn assert_child(child: &Exported, parent: &Exported) {
    assert_eq!(child.span.parent_span_id, parent.span.span_id, "{child:#?}");
    assert_eq!(child.span.trace_id, parent.span.trace_id, "{child:#?}");
}

// ===== services =====

/// Telemetry of one of the services in this process, and the subscriber of its threads.
fn telemetry(service: &str, collector: &str) -> (Telemetry, Dispatch) {
    let config = TelemetryConfig::otlp(collector);
    let telemetry = Telemetry::start(Some(service), &config).unwrap();
    let dispatch = Dispatch::new(Registry::default().with(telemetry.layer()));
    (telemetry, dispatch)
}

fn axum(dispatch: Dispatch, app: Router) -> Server {
    Port::any().serve(move |listener, stop| async move {
        let _subscriber = listen(dispatch.clone());
        let serve = axum::serve(listener, app).with_graceful_shutdown(stop.requested());
        serve.await.unwrap();
    })
}

fn tonic(dispatch: Dispatch, routes: Routes) -> Server {
    Port::any().serve(move |listener, stop| async move {
        let _subscriber = listen(dispatch.clone());
        tonic::transport::Server::builder()
            .layer(server_mesh(trusting(Trust::All)).server())
            .add_routes(routes)
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.requested())
            .await
            .unwrap();
    })
}

/// A mesh in which every service is this server.
fn mesh(server: &Server) -> Mesh {
    let registry = format!("static:http://{0},grpc://{0}", server.addr());
    support::mesh(registry, ClientConfig::default())
}

/// A mesh for its server side.
fn server_mesh(config: ServerConfig) -> Mesh {
    Mesh::builder().server(config).build().unwrap()
}

fn trusting(trust: Trust) -> ServerConfig {
    ServerConfig {
        metadata: Some(MetadataConfig {
            trust,
            ..MetadataConfig::default()
        }),
        ..ServerConfig::default()
    }
}

// ===== what a collector sees =====

#[tokio::test]
async fn a_call_over_two_hops_is_one_trace_with_a_span_for_each_call_and_attempt() {
    let (sink, _collector, url) = collector();
    let (of_greeter, greeter_dispatch) = telemetry("greeter", &url);
    let (of_web, web_dispatch) = telemetry("web", &url);

    let (_, health) = tonic_health::server::health_reporter();
    let greeter = tonic(greeter_dispatch, Routes::new(health));
    let channel = mesh(&greeter).channel("greeter");
    let app = Router::new()
        .route(
            "/orders/{id}",
            get(async |State(mut health): State<HealthClient<_>>| {
                let request = HealthCheckRequest {
                    service: "nobody".to_owned(),
                };
                let status = health.check(request).await.unwrap_err();
                assert_eq!(status.code(), tonic::Code::NotFound);
                "done"
            }),
        )
        .with_state(HealthClient::new(channel))
        .layer(server_mesh(ServerConfig::default()).server());
    let web = axum(web_dispatch, app);

    let mut connection = Connection::h1(web.addr()).await;
    let answer = connection.get("/orders/7?token=secret").await;
    assert_eq!(answer.status(), StatusCode::OK);

    let spans = sink.spans(4, &[&of_web, &of_greeter]).await;
    let [request, call, attempt, handled] = spans.as_slice() else {
        unreachable!()
    };
    assert!(request.span.parent_span_id.is_empty());
    assert_child(call, request);
    assert_child(attempt, call);
    assert_child(handled, attempt);

    assert_eq!(request.service, "web");
    assert_eq!(request.span.name, "GET /orders/{id}");
    assert_eq!(request.kind(), SpanKind::Server);
    assert!(!request.is_error());
    request.assert_has(&[
        ("http.request.method", "GET"),
        ("http.route", "/orders/{id}"),
        ("url.path", "/orders/7"),
        ("http.response.status_code", "200"),
        ("error.type", ""),
    ]);
    for span in [call, attempt, handled] {
        assert_eq!(span.span.name, "grpc.health.v1.Health/Check");
        span.assert_has(&[
            ("rpc.system", "grpc"),
            ("rpc.service", "grpc.health.v1.Health"),
            ("rpc.method", "Check"),
            ("rpc.grpc.status_code", "5"),
            ("error.type", "NOT_FOUND"),
        ]);
    }
    // What the caller asked for in vain is the caller's error.
    assert!(call.is_error() && attempt.is_error() && !handled.is_error());
    assert_eq!(
        [call.kind(), attempt.kind(), handled.kind()],
        [SpanKind::Client, SpanKind::Client, SpanKind::Server]
    );
    assert_eq!(handled.service, "greeter");
    let addr = greeter.addr();
    attempt.assert_has(&[
        ("peer.service", "greeter"),
        ("server.address", &addr.ip().to_string()),
        ("server.port", &addr.port().to_string()),
        ("mesh.endpoint", &format!("grpc://{addr}")),
    ]);
}

#[tokio::test]
async fn an_attempt_that_failed_is_told_from_the_one_that_followed_it() {
    let (sink, _collector, url) = collector();
    let (of_web, dispatch) = telemetry("web", &url);
    let _subscriber = listen(dispatch.clone());

    let script = |call: u64| match call {
        0 => Answer::status(503),
        _ => Answer::ok(),
    };
    let server = Server::hyper(Scripted::answering(move |call, _| script(call)).0);
    let mesh = mesh(&server);
    let mut config = mesh.config();
    let routes =
        r#"[{"host": "orders", "rules": [{"name": "rollout", "backends": [{"name": "all"}]}]}]"#;
    config.routes = serde_json::from_str(routes).unwrap();
    mesh.set_config(config).unwrap();
    let client = mesh.client("orders");
    let request = Request::get("http://orders/7").body(Body::empty()).unwrap();
    let response = client.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response.into_body().collect().await.unwrap();

    let spans = sink.spans(3, &[&of_web]).await;
    let [call, first, second] = spans.as_slice() else {
        unreachable!()
    };
    assert_child(first, call);
    assert_child(second, call);
    call.assert_has(&[
        ("http.response.status_code", "200"),
        ("server.address", "orders"),
    ]);
    first.assert_has(&[
        ("http.response.status_code", "503"),
        ("error.type", "503"),
        ("http.request.resend_count", ""),
    ]);
    second.assert_has(&[
        ("http.response.status_code", "200"),
        ("error.type", ""),
        ("http.request.resend_count", "1"),
    ]);
    assert!(first.is_error() && !second.is_error() && !call.is_error());
    for attempt in [first, second] {
        attempt.assert_has(&[
            ("peer.service", "orders"),
            ("mesh.route.rule", "rollout"),
            ("mesh.route.arm", "all"),
        ]);
    }
}

#[tokio::test]
async fn the_span_of_a_stream_lasts_to_its_trailers() {
    const OPEN: Duration = Duration::from_millis(300);
    let (sink, _collector, url) = collector();
    let (of_web, dispatch) = telemetry("web", &url);
    let _subscriber = listen(dispatch.clone());

    let gate = Gate::new();
    let answer = {
        let body = TestBody::stream().data(grpc::message(Bytes::new()));
        Answer::grpc(body.gate(&gate).trailer("grpc-status", "15"))
    };
    let app = Router::new()
        .fallback_service(Scripted::always(answer).0)
        .layer(server_mesh(trusting(Trust::All)).server());
    let server = axum(dispatch.clone(), app);
    let channel = mesh(&server).channel("greeter");
    let mut health = HealthClient::new(channel);
    let stream = health.watch(HealthCheckRequest::default()).await.unwrap();
    let mut stream = stream.into_inner();
    assert!(stream.message().await.unwrap().is_some());
    tokio::time::sleep(OPEN).await;
    of_web.flush().unwrap();
    assert!(sink.spans.lock().is_empty(), "the stream is open");
    gate.open();
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DataLoss);

    let spans = sink.spans(3, &[&of_web]).await;
    for span in &spans {
        assert!(span.lasted() >= OPEN, "{span:#?}");
        assert!(span.is_error());
        span.assert_has(&[
            ("rpc.method", "Watch"),
            ("rpc.grpc.status_code", "15"),
            ("error.type", "DATA_LOSS"),
        ]);
    }
}

/// Calls a server as the mesh does that it is behind.
async fn call_forged(web: &Server, trace: &str) -> String {
    let request = Request::get("/")
        .header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"))
        .header("x-md-global-tenant", "acme")
        .header("x-forwarded-for", "10.1.2.3")
        .body(Default::default());
    let mut connection = Connection::h1(web.addr()).await;
    let answer = support::read(connection.send(request.unwrap()).await).await;
    String::from_utf8(answer.into_body().into()).unwrap()
}

#[tokio::test]
async fn one_edge_says_whose_trace_and_whose_metadata_are_believed_and_an_edit_moves_both() {
    let (sink, _collector, url) = collector();
    let (of_web, dispatch) = telemetry("web", &url);
    let mesh = server_mesh(ServerConfig::default());
    let tenant = async |metadata: CallMetadata| metadata.get("tenant").unwrap_or("").to_owned();
    let app = Router::new().route("/", get(tenant)).layer(mesh.server());
    let web = axum(dispatch, app);

    let trace = "0af7651916cd43dd8448eb211c80319c";
    let addresses = |range: &str| {
        format!(r#"{{"trust": {{"cidrs": ["{range}"]}}, "client": {{"trustedHops": 1}}}}"#)
    };
    let (inside, outside) = (addresses("10.0.0.0/8"), addresses("192.168.0.0/16"));
    for (metadata, tenant, is_continued) in [
        ("{}", "", false),
        (r#"{"trust": "all"}"#, "acme", true),
        (r#"{"trust": "none"}"#, "", false),
        (&inside, "acme", true),
        (&outside, "", false),
        (r#"{"trust": "all", "traceContext": false}"#, "acme", false),
        (r#""off""#, "", false),
    ] {
        let config = format!(r#"{{"version": 1, "server": {{"metadata": {metadata}}}}}"#);
        let config: MeshConfig = serde_json::from_str(&config).unwrap();
        mesh.set_config(config).unwrap();
        assert_eq!(call_forged(&web, trace).await, tenant, "{metadata}");

        let span = sink.spans(1, &[&of_web]).await.remove(0).span;
        sink.spans.lock().clear();
        if is_continued {
            assert_eq!(hex(&span.trace_id), trace, "{metadata}");
            assert!(span.links.is_empty());
        } else {
            assert!(span.parent_span_id.is_empty(), "{metadata}");
            assert_ne!(hex(&span.trace_id), trace, "{metadata}");
            assert_eq!(hex(&span.links[0].trace_id), trace);
        }
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn an_edit_switches_spans_off_and_on_for_calls_that_begin_from_then_on() {
    let (sink, _collector, url) = collector();
    let (of_web, dispatch) = telemetry("web", &url);
    let _subscriber = listen(dispatch.clone());

    let served = server_mesh(ServerConfig::default());
    let app = Router::new()
        .route("/", get(async || "hello"))
        .layer(served.server());
    let web = axum(dispatch.clone(), app);
    let mesh = mesh(&web);
    let call = async |client: &str, server: &str| {
        let mut config = serde_json::to_value(mesh.config()).unwrap();
        config["clients"]["defaults"]["trace"] = serde_json::from_str(client).unwrap();
        mesh.set_config(serde_json::from_value(config).unwrap())
            .unwrap();
        let config = format!(r#"{{"version": 1, "server": {{"trace": {server}}}}}"#);
        served
            .set_config(serde_json::from_str(&config).unwrap())
            .unwrap();
        let request = Request::get("/").body(Body::empty()).unwrap();
        let answer = mesh.client("web").oneshot(request).await.unwrap();
        assert_eq!(support::read(answer).await.body(), "hello");
    };
    let (on, off) = ("{}", r#""off""#);
    let excluded = r#"{"exclude": [{"path": {"exact": "/"}}]}"#;
    call(off, off).await;
    call(on, off).await;
    call(off, on).await;
    call(excluded, excluded).await;
    call(on, on).await;
    let spans = sink.spans(2 + 1 + 3, &[&of_web]).await;
    let kinds: Vec<_> = spans.iter().map(Exported::kind).collect();
    let (client, server) = (SpanKind::Client, SpanKind::Server);
    assert_eq!(kinds, [client, client, server, client, client, server]);
}

/// The one line becomes the subscriber of its process, so it needs one for itself.
#[test]
fn one_line_sets_up_the_export_with_headers_over_either_protocol() {
    const CHILD: &str = "TOWER_MESH_TEST_COLLECTOR";
    const TEST: &str = "telemetry::one_line_sets_up_the_export_with_headers_over_either_protocol";
    if let Ok(collector) = env::var(CHILD) {
        return export_one_span(&collector);
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let (grpc, _server, url) = collector();
    let http = Sink::default();
    let app = Router::new()
        .route("/v1/traces", axum::routing::post(take_http))
        .with_state(http.clone());
    let http_server = Server::axum(app);

    let http_url = format!("http://{}/", http_server.addr());
    for (sink, collector) in [
        (grpc, format!("grpc {url}")),
        (http, format!("http {http_url}")),
    ] {
        let child = Command::new(env::current_exe().unwrap())
            .args([TEST, "--exact", "--nocapture"])
            .env(CHILD, collector)
            .env("RUST_LOG", "off")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success(), "{said}");
        let spans = sink.spans.lock().clone();
        assert_eq!(spans.len(), 1, "{spans:#?} {said}");
        assert_eq!(spans[0].service, "checkout");
        assert_eq!(spans[0].span.name, "GET");
        assert_eq!(*sink.keys.lock(), ["s3cret"]);
    }
}

async fn take_http(State(sink): State<Sink>, headers: http::HeaderMap, body: Bytes) {
    let key = headers["x-key"].to_str().unwrap();
    sink.keys.lock().push(key.to_owned());
    sink.take(ExportTraceServiceRequest::decode(body).unwrap());
}

/// On one thread, which is the hardest: it is blocked while the last spans are exported.
#[tokio::main(flavor = "current_thread")]
async fn export_one_span(collector: &str) {
    let (protocol, url) = collector.split_once(' ').unwrap();
    let mut config = TelemetryConfig::otlp(url);
    let otlp = config.otlp.as_mut().unwrap();
    otlp.headers = SecretHeaders::new([("x-key", "s3cret")]);
    if protocol == "http" {
        otlp.protocol = OtlpProtocol::HttpProtobuf;
    }
    let mesh = Mesh::builder()
        .service("checkout")
        .telemetry(config)
        .build()
        .unwrap();
    let telemetry = mesh.telemetry().unwrap();
    let service = TraceLayer::client().layer(Scripted::always(Answer::ok()).0);
    let request = Request::new(TestBody::empty());
    let response = service.oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap();
    drop(telemetry);
}
