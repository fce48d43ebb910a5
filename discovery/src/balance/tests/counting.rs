//! What is counted, and as what.

use std::convert::Infallible;

use futures_util::stream;
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use http_body_util::StreamBody;
use tower::service_fn;
use tower_mesh_layers::metrics;

use super::*;

#[tokio::test(start_paused = true)]
async fn what_was_sent_is_what_the_peers_saw() {
    let world = World::of(4, ms(10));
    world.peer(&id(1)).does(Does::Answer(500, ms(3)));
    world.peer(&id(2)).does(Does::Hang);
    world.peer(&id(3)).does(Does::Refuse);
    let balance = world.balance(BalanceConfig::default(), seeded(1));
    traffic(&balance, ms(5), ms(10_000), ms(200)).await;
    // Some callers give up on their own.
    for _ in 0..50 {
        let _ = timeout(ms(4), call(&balance)).await;
    }
    sleep(ms(1_000)).await;
    for (i, view) in balance.endpoints().iter().enumerate() {
        let seen = world.peer(&id(i)).calls();
        assert_eq!(view.calls + view.abandoned, seen, "{view:?}");
        assert_eq!(view.in_flight, 0);
    }
    let views = balance.endpoints();
    assert!(views[0].abandoned > 0 && views[1].failures == views[1].calls);
    assert_eq!(
        (views[3].calls, views[3].abandoned),
        (0, 0),
        "nothing was sent"
    );
}

/// A gRPC peer whose head is fine, with this status in the trailers of one message.
fn grpc_balance(
    status: &'static str,
    message_after: Duration,
) -> Balance<
    impl MakeEndpoint<Service: Service<Request<()>, Response = Response<GrpcBody>, Error = Infallible>>,
> {
    let watch = World::of(1, ms(1)).watch;
    Balance::builder(watch)
        .endpoints(move |_: &Instance| {
            service_fn(move |_: Request<()>| async move {
                let frames = stream::unfold(0, move |n| async move {
                    match n {
                        0 => {
                            sleep(message_after).await;
                            Some((Ok(Frame::data(Bytes::from_static(b"message"))), 1))
                        }
                        1 => {
                            let mut trailers = HeaderMap::new();
                            trailers.insert("grpc-status", HeaderValue::from_static(status));
                            Some((Ok(Frame::trailers(trailers)), 2))
                        }
                        _ => None,
                    }
                });
                let frames: Frames = Box::pin(frames);
                Ok::<_, Infallible>(Response::new(StreamBody::new(frames)))
            })
        })
        .build()
}

type Frames = Pin<Box<dyn futures_core::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;
type GrpcBody = StreamBody<Frames>;

fn grpc_request() -> Request<()> {
    let mut request = Request::new(());
    let grpc = HeaderValue::from_static("application/grpc");
    request.headers_mut().insert(header::CONTENT_TYPE, grpc);
    request
}

#[tokio::test(start_paused = true)]
async fn a_grpc_call_is_judged_by_its_trailers() {
    for (status, failures) in [("0", 0), ("14", 5), ("5", 0)] {
        let balance = grpc_balance(status, ms(1));
        for _ in 0..5 {
            let response = balance.clone().call(grpc_request()).await.unwrap();
            let _ = response.into_body().collect().await;
        }
        let view = balance.endpoints().remove(0);
        assert_eq!(
            (view.calls, view.failures),
            (5, failures),
            "status {status}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_its_reader_drops_is_neither_success_nor_failure() {
    let balance = grpc_balance("0", ms(60_000));
    drop(balance.clone().call(grpc_request()).await.unwrap());
    let view = balance.endpoints().remove(0);
    assert_eq!((view.calls, view.failures, view.abandoned), (0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn the_latency_of_unary_grpc_has_its_message_and_that_of_a_stream_has_not() {
    for (message_after, ewma_above, ewma_below) in [(500, 400, 600), (30_000, 0, 100)] {
        let balance = grpc_balance("0", ms(message_after));
        let response = balance.clone().call(grpc_request()).await.unwrap();
        let _ = response.into_body().collect().await;
        let ewma = balance.endpoints().remove(0).ewma.unwrap();
        assert!(ewma >= ms(ewma_above) && ewma < ms(ewma_below), "{ewma:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn metrics_tell_states_and_outlive_endpoints() {
    let (publisher, watch) = Watch::channel("metered");
    let publish = |count: usize| {
        let instances = (0..count).map(|i| Instance {
            service: "metered".to_owned(),
            ..instance(i)
        });
        publisher.publish(snapshot(instances));
    };
    publish(2);
    let peers: Arc<Mutex<HashMap<String, Peer>>> = Arc::default();
    peer(&peers, &id(1)).does(Does::Refuse);
    let balance = Balance::builder(watch)
        .endpoints(Made(peers.clone()))
        .picker(seeded(1))
        .build();
    for _ in 0..20 {
        call(&balance).await.unwrap();
    }
    let labels = |state| [("service", "metered"), ("state", state)];
    let seen = metrics::snapshot();
    assert_eq!(
        seen.gauge("mesh_balance_endpoints", &labels("ready")),
        Some(1.0)
    );
    assert_eq!(
        seen.gauge("mesh_balance_endpoints", &labels("refused")),
        Some(1.0)
    );
    assert_eq!(
        seen.counter("mesh_balance_refusals_total", &labels("")[..1]),
        Some(1)
    );

    publish(0);
    sleep(ms(200)).await;
    drop(balance);
    let endpoint = [("service", "metered"), ("endpoint", "http://10.0.0.1:80")];
    let latency = metrics::snapshot();
    let latency = latency
        .histogram("mesh_endpoint_latency_seconds", &endpoint)
        .unwrap();
    assert_eq!(latency.count(), 20);
}
