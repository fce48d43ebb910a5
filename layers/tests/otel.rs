//! The metadata layer with OpenTelemetry's propagators. They are global to a process, so this is one.

use std::convert::Infallible;

use http::{HeaderMap, HeaderName, Request, Response};
use opentelemetry::{
    Context, KeyValue,
    baggage::BaggageExt,
    context::FutureExt,
    global,
    propagation::TextMapCompositePropagator,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_mesh_layers::{
    Role, Trust,
    metadata::{MetadataLayer, spawn},
    test_util::{Answer, Probe, TestBody, bodies::get},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLERS: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const OURS: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-1111111111111111-01";

/// A span of this process, in the caller's trace.
fn span() -> Context {
    let trace = TraceId::from_hex(TRACE).unwrap();
    let span = SpanId::from_hex("1111111111111111").unwrap();
    let context = SpanContext::new(trace, span, TraceFlags::SAMPLED, false, TraceState::NONE);
    Context::new().with_remote_span_context(context)
}

fn traced() -> Request<TestBody> {
    let mut request = get("/");
    for (name, value) in [
        ("traceparent", CALLERS),
        ("tracestate", "a=1"),
        ("baggage", "k=v"),
    ] {
        let name = HeaderName::from_static(name);
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

fn server() -> MetadataLayer {
    let layer = MetadataLayer::builder().trust(Trust::All);
    layer.role(Role::Server).build().unwrap()
}

/// What a handler sends when it makes one call, in a future that `within` makes of it.
async fn sent<F>(
    layer: MetadataLayer,
    around: Context,
    within: impl Fn(Call) -> F + Clone,
) -> HeaderMap
where
    F: Future<Output = Result<Response<TestBody>, Infallible>>,
{
    let (peer, probe) = Probe::always(Answer::ok());
    let peer = MetadataLayer::client().layer(peer);
    let handler = service_fn(move |_: Request<TestBody>| {
        let call = peer.clone().oneshot(get("/"));
        let call: Call = Box::pin(async {
            call.await.unwrap();
            Ok(Response::new(TestBody::empty()))
        });
        within(call)
    });
    let mut service = layer.layer(handler);
    let answered = async { service.ready().await.unwrap().call(traced()).await };
    answered.with_context(around).await.unwrap();
    assert!(!Context::current().has_active_span());
    probe.requests().pop().unwrap().headers
}

type Call = std::pin::Pin<Box<dyn Future<Output = Result<Response<TestBody>, Infallible>> + Send>>;

fn trace_headers(headers: &HeaderMap) -> [Option<&str>; 3] {
    ["traceparent", "tracestate", "baggage"].map(|name| {
        assert!(headers.get_all(name).iter().count() <= 1, "{headers:?}");
        headers.get(name).map(|value| value.to_str().unwrap())
    })
}

#[tokio::test]
async fn the_propagators_that_are_set_read_and_write_the_trace() {
    global::set_text_map_propagator(TextMapCompositePropagator::new(vec![
        Box::new(TraceContextPropagator::new()),
        Box::new(BaggagePropagator::new()),
    ]));

    // The caller's trace is current in the handler, and goes on as it is while nobody begins a span.
    let headers = sent(server(), Context::new(), async |call: Call| {
        let current = Context::current();
        assert_eq!(current.span().span_context().trace_id().to_string(), TRACE);
        assert_eq!(current.baggage().get("k").unwrap().as_str(), "v");
        call.await
    });
    assert_eq!(
        trace_headers(&headers.await),
        [Some(CALLERS), Some("a=1"), Some("k=v")]
    );

    // A span of ours is the parent of the calls made in it; the caller's baggage still goes on.
    let in_span = |call: Call| {
        call.with_context(
            Context::current().with_remote_span_context(span().span().span_context().clone()),
        )
    };
    let headers = sent(server(), Context::new(), in_span).await;
    assert_eq!(trace_headers(&headers), [Some(OURS), None, Some("k=v")]);

    // A span that a layer further out has begun is not put aside for its own parent.
    let headers = sent(server(), span(), |call| call).await;
    assert_eq!(trace_headers(&headers), [Some(OURS), None, Some("k=v")]);
    let own = span().with_baggage([KeyValue::new("own", "1")]);
    let headers = sent(server(), own, |call| call).await;
    assert_eq!(trace_headers(&headers), [Some(OURS), None, Some("own=1")]);

    // A task without a trace of its own goes on with the caller's.
    let headers = sent(server(), Context::new(), async |call| {
        spawn(call).await.unwrap()
    });
    assert_eq!(
        trace_headers(&headers.await),
        [Some(CALLERS), Some("a=1"), Some("k=v")]
    );

    // Nothing comes of an untrusted caller, and nothing where it is off.
    let off = MetadataLayer::builder()
        .trust(Trust::All)
        .trace_context(false);
    for layer in [
        MetadataLayer::server(),
        off.role(Role::Server).build().unwrap(),
    ] {
        let headers = sent(layer, Context::new(), async |call: Call| {
            assert!(!Context::current().has_active_span());
            call.await
        });
        assert_eq!(trace_headers(&headers.await), [None; 3]);
    }
}
