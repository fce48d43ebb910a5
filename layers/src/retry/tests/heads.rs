//! A request's head reaches every attempt, whatever is in it.

use http::{Extensions, HeaderName, HeaderValue, Version};
use parking_lot::Mutex;
use std::sync::Arc;

use super::*;
use crate::{CallContext, ClientAddr, Operation, PeerAddr};

#[derive(Clone, PartialEq, Debug)]
struct Mark(u32);

/// One kind of extension: how it is inserted, and whether it is there as it was.
struct Kind {
    insert: Box<dyn Fn(&mut Extensions)>,
    is_there: fn(&Extensions) -> bool,
}

fn kind<T: Clone + Send + Sync + 'static>(value: T, is_right: fn(&Extensions) -> bool) -> Kind {
    Kind {
        insert: Box::new(move |extensions| drop(extensions.insert(value.clone()))),
        is_there: is_right,
    }
}

/// axum's has no constructor: a router makes one.
async fn matched_path() -> axum::extract::MatchedPath {
    async fn echo(path: axum::extract::MatchedPath) -> axum::Extension<axum::extract::MatchedPath> {
        axum::Extension(path)
    }
    let router = axum::Router::new().route("/orders/{id}", axum::routing::get(echo));
    let request = Request::get("/orders/7").body(axum::body::Body::empty());
    let response = router.oneshot(request.unwrap()).await.unwrap();
    response.extensions().get().cloned().unwrap()
}

async fn kinds() -> Vec<Kind> {
    use axum::extract::{ConnectInfo, MatchedPath};
    use std::net::SocketAddr;
    use tonic::{GrpcMethod, transport::server::TcpConnectInfo};

    let addr: SocketAddr = "192.0.2.9:80".parse().unwrap();
    let mut context = CallContext::new();
    context.revision = 7;
    vec![
        kind(context, |all| {
            CallContext::get(all).is_some_and(|context| context.revision == 7)
        }),
        kind(matched_path().await, |all| {
            all.get::<MatchedPath>()
                .is_some_and(|path| path.as_str() == "/orders/{id}")
        }),
        kind(ConnectInfo(addr), |all| {
            all.get::<ConnectInfo<SocketAddr>>()
                .is_some_and(|info| info.0.port() == 80)
        }),
        kind(GrpcMethod::new("shop.Orders", "Place"), |all| {
            all.get::<GrpcMethod<'static>>()
                .is_some_and(|method| method.method() == "Place")
        }),
        kind(
            TcpConnectInfo {
                local_addr: None,
                remote_addr: Some(addr),
            },
            |all| {
                all.get::<TcpConnectInfo>()
                    .is_some_and(|info| info.remote_addr().is_some())
            },
        ),
        kind(Operation::from_static("place order"), |all| {
            let operation = all.get::<Operation>();
            operation.is_some_and(|operation| format!("{operation:?}").contains("place order"))
        }),
        kind(Idempotent, |all| all.get::<Idempotent>().is_some()),
        kind(PeerAddr(addr), |all| {
            all.get() == Some(&PeerAddr("192.0.2.9:80".parse().unwrap()))
        }),
        kind(ClientAddr(addr.ip()), |all| {
            all.get() == Some(&ClientAddr("192.0.2.9".parse().unwrap()))
        }),
        kind(Mark(7), |all| all.get() == Some(&Mark(7))),
    ]
}

/// Fails every attempt, and keeps the heads of all.
async fn heads_of(request: Request<RequestBody>) -> Vec<Request<()>> {
    let seen: Arc<Mutex<Vec<_>>> = Arc::default();
    let seen_inside = seen.clone();
    let inner = tower::service_fn(move |call: Request<RequestBody>| {
        seen_inside.lock().push(call.map(drop));
        async {
            let mut response = Response::new(TestBody::empty());
            *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            Ok::<_, BoxError>(response)
        }
    });
    let layer = generous().build().unwrap();
    layer.layer(inner).oneshot(request).await.unwrap();
    std::mem::take(&mut seen.lock())
}

/// All combinations of what is carried by value, with and without what is not known.
#[tokio::test(start_paused = true)]
async fn every_extension_reaches_every_attempt() {
    let kinds = kinds().await;
    for chosen in 0_u32..1 << kinds.len() {
        let is_chosen = |nth: usize| chosen & (1 << nth) != 0;
        let mut request = get();
        for (nth, kind) in kinds.iter().enumerate() {
            if is_chosen(nth) {
                (kind.insert)(request.extensions_mut());
            }
        }
        let heads = heads_of(request).await;
        assert_eq!(heads.len(), 3);
        for (attempt, head) in heads.iter().enumerate() {
            let all = head.extensions();
            for (nth, kind) in kinds.iter().enumerate() {
                assert_eq!((kind.is_there)(all), is_chosen(nth), "{nth} of {chosen:b}");
            }
            let told = usize::from(attempt > 0 && !is_chosen(0)); // which attempt it is
            assert_eq!(all.len(), chosen.count_ones() as usize + told);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_attempt_has_the_same_headers_in_the_same_order() {
    let mut request = get();
    *request.uri_mut() = "https://user@shop.example:8443/a/b?c".parse().unwrap();
    *request.version_mut() = Version::HTTP_2;
    *request.method_mut() = Method::OPTIONS;
    let mut secret = HeaderValue::from_static("token");
    secret.set_sensitive(true);
    let headers = request.headers_mut();
    headers.insert("authorization", secret);
    for (name, value) in [
        ("x-b", "1"),
        ("accept", "a"),
        ("x-b", "2"),
        ("x-a", "\u{e9}"),
    ] {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        headers.append(HeaderName::from_static(name), value);
    }
    headers.append("x-b", HeaderValue::from_static("3"));

    let heads = heads_of(request).await;
    assert_eq!(heads.len(), 3);
    for head in &heads {
        let first = &heads[0];
        assert_eq!(head.method(), Method::OPTIONS);
        assert_eq!((head.uri(), head.version()), (first.uri(), Version::HTTP_2));
        assert!(head.headers().iter().eq(first.headers()));
        let values: Vec<_> = head.headers().get_all("x-b").iter().collect();
        assert_eq!(values, ["1", "2", "3"]);
        assert!(head.headers()["authorization"].is_sensitive());
    }
}
