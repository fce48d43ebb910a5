mod dialects;
mod edge;
mod flow;
mod limits;

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use parking_lot::Mutex;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::{
    CallContext, ClientAddr, ConfigError, Live, PeerAddr, Trust, metrics,
    test_util::{
        TestBody,
        bodies::get,
        contract::{Contract, pairs},
    },
};

/// Notes the headers and the context of the requests that come by, and what is current then.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<SeenRequest>>>);

struct SeenRequest {
    headers: HeaderMap,
    metadata: Option<Arc<Metadata>>,
    current: Option<Arc<Metadata>>,
    client: Option<ClientAddr>,
    has_context: bool,
}

// ===== impl Seen =====

impl Seen {
    fn service(
        &self,
    ) -> impl Service<
        Request<TestBody>,
        Response = Response<TestBody>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + use<> {
        let seen = self.clone();
        service_fn(move |request: Request<TestBody>| {
            let seen = seen.clone();
            async move {
                let context = CallContext::get(request.extensions());
                seen.0.lock().push(SeenRequest {
                    headers: request.headers().clone(),
                    metadata: context.and_then(|context| context.metadata.clone()),
                    current: current(),
                    client: request.extensions().get().copied(),
                    has_context: context.is_some(),
                });
                Ok(Response::new(TestBody::empty()))
            }
        })
    }

    fn only(&self) -> SeenRequest {
        let mut seen = self.0.lock();
        assert_eq!(seen.len(), 1);
        seen.pop().unwrap()
    }
}

fn trusting() -> MetadataBuilder {
    MetadataLayer::builder().trust(Trust::All)
}

fn server(builder: MetadataBuilder) -> MetadataLayer {
    builder.role(Role::Server).build().unwrap()
}

fn client(builder: MetadataBuilder) -> MetadataLayer {
    builder.role(Role::Client).build().unwrap()
}

/// A request with header lines, each `name: value`.
fn request(lines: &[&str]) -> Request<TestBody> {
    let mut request = get("/");
    *request.headers_mut() = headers(lines);
    request
}

fn headers(lines: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

/// What a layer makes of a request.
async fn pass(layer: &MetadataLayer, request: Request<TestBody>) -> SeenRequest {
    let seen = Seen::default();
    layer.layer(seen.service()).oneshot(request).await.unwrap();
    seen.only()
}

/// What goes out of a handler that makes one call, when this comes in.
async fn hop(server: &MetadataLayer, client: &MetadataLayer, lines: &[&str]) -> HeaderMap {
    let seen = Seen::default();
    let peer = client.layer(seen.service());
    let handler = service_fn(move |_: Request<TestBody>| peer.clone().oneshot(get("/next")));
    server.layer(handler).oneshot(request(lines)).await.unwrap();
    seen.only().headers
}

/// Entries as `scope key: value`, in order.
fn listed(metadata: Option<&Arc<Metadata>>) -> Vec<String> {
    let entries = metadata.into_iter().flat_map(|metadata| metadata.iter());
    entries
        .map(|(scope, key, value)| format!("{scope:?} {key}: {}", value.to_str().unwrap()))
        .collect()
}

// ===== the contract =====

#[test]
fn keeps_the_contract_in_every_role() {
    let contract = |role| {
        let make = move || {
            let busy = trusting().global("region", "eu").local("caller", "test");
            let busy = busy.propagate("x-*").role(role);
            busy.accept([Dialect::GoMicro, Dialect::Kratos])
                .build()
                .unwrap()
        };
        Contract::new(make)
            .clones_per_call(0)
            .named(format!("{role:?}"))
    };
    for role in [Role::Both, Role::Server, Role::Client] {
        contract(role).check();
    }
    Contract::new(MetadataLayer::default)
        .clones_per_call(0)
        .check();
    pairs!(contract(Role::Server), contract(Role::Client));
}

// ===== options and metrics =====

#[tokio::test]
async fn options_change_come_and_go_while_the_layer_runs() -> Result<(), ConfigError> {
    let options = |trust| {
        let config = MetadataConfig {
            trust,
            ..MetadataConfig::default()
        };
        Some(config)
    };
    let live = Live::new(None);
    let layer = MetadataLayer::optional(live.clone())?.role(Role::Server);
    for (options, in_headers, as_metadata) in [
        (None, true, false),
        (options(Trust::None), false, false),
        (options(Trust::All), true, true),
        (None, true, false),
    ] {
        live.set(options)?;
        let seen = pass(&layer, request(&["x-md-global-a: 1"])).await;
        assert_eq!(!seen.headers.is_empty(), in_headers);
        assert_eq!(seen.metadata.is_some(), as_metadata);
    }
    let refused = live.set(Some(MetadataConfig {
        max_entries: 0,
        ..MetadataConfig::default()
    }));
    assert_eq!(refused.unwrap_err().path(), "maxEntries");
    Ok(())
}

#[tokio::test]
async fn what_is_removed_and_dropped_is_counted_by_reason() {
    let strict = server(MetadataLayer::builder().name("counted"));
    pass(
        &strict,
        request(&["x-md-global-a: 1", "x-md-global-a: 2", "traceparent: 3"]),
    )
    .await;
    let open = server(trusting().name("counted").max_entries(1));
    pass(&open, request(&["x-md-global-a: 1", "x-md-global-b: 2"])).await;
    let snapshot = metrics::snapshot();
    let policy = ("policy", "counted");
    assert_eq!(
        snapshot.counter("mesh_metadata_stripped_total", &[policy]),
        Some(3)
    );
    for (reason, total) in [("count", 1), ("size", 0), ("malformed", 0), ("baggage", 0)] {
        let labels = [policy, ("reason", reason)];
        let counted = snapshot.counter("mesh_metadata_dropped_total", &labels);
        assert_eq!(counted, Some(total), "{reason}");
    }
    assert_eq!(
        (strict.stats().stripped, open.stats().dropped_for_count),
        (3, 1)
    );
}

#[test]
fn a_future_stays_small() {
    // It is moved once for each layer above.
    let added = size_of::<ResponseFuture<[usize; 4]>>() - size_of::<[usize; 4]>();
    assert!(added <= 96, "{added}");
    let added = size_of::<ResponseBody<[usize; 4]>>() - size_of::<[usize; 4]>();
    assert!(added <= 96, "{added}");
}
