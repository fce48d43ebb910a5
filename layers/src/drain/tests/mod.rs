//! What is taken, refused, counted and waited for, on the paused clock.

mod model;

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt};

use super::*;
use crate::{
    Live, Outcome, Reason, Rejection,
    grpc::Code,
    metrics,
    test_util::{
        Answer, Gate, Probe, TestBody,
        bodies::{get, grpc_request},
        drive::advance,
    },
};

const SECOND: Duration = Duration::from_secs(1);

type Answered = Response<super::ResponseBody<TestBody>>;

fn layer(lame_duck: Duration, limit: Duration) -> DrainLayer {
    let builder = DrainLayer::builder().lame_duck(lame_duck).limit(limit);
    builder.build().unwrap()
}

async fn call(layer: &DrainLayer, answer: Answer, request: Request<TestBody>) -> Answered {
    let (probe, _) = Probe::always(answer);
    layer.layer(probe).oneshot(request).await.unwrap()
}

async fn is_taken(layer: &DrainLayer) -> bool {
    let answer = call(layer, Answer::ok(), get("/")).await;
    answer.extensions().get::<Rejection>().is_none()
}

fn closes(answer: &Answered) -> bool {
    answer
        .headers()
        .get("connection")
        .is_some_and(|value| value == "close")
}

#[tokio::test(start_paused = true)]
async fn new_calls_are_refused_in_the_way_of_their_protocol_and_fit_to_be_repeated() {
    let layer = layer(Duration::ZERO, SECOND);
    assert!(is_taken(&layer).await);
    layer.handle().start();
    let http = call(&layer, Answer::ok(), get("/")).await;
    assert_eq!(http.status(), 503);
    let rejection = http.extensions().get::<Rejection>().unwrap();
    assert_eq!(
        (rejection.reason(), rejection.pushback()),
        (Reason::Draining, None)
    );
    assert_eq!(rejection.outcome(), Outcome::Ignored);

    let request = grpc_request("/kit.Test/Unary", TestBody::empty());
    let grpc = call(&layer, Answer::ok(), request).await;
    assert_eq!(Code::from_headers(grpc.headers()), Some(Code::UNAVAILABLE));
    assert!(!grpc.headers().contains_key("grpc-retry-pushback-ms"));
    let stats = layer.handle().stats();
    assert_eq!((stats.refused, stats.in_flight), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lame_duck_takes_calls_for_its_time() {
    let layer = layer(5 * SECOND, 10 * SECOND);
    let drain = layer.handle();
    let gate = Gate::new();
    let body = TestBody::stream().data("a").gate(&gate);
    let open = call(&layer, Answer::ok().body(body), get("/")).await;
    assert_eq!(drain.state(), DrainState::Serving);
    drain.start();
    let start = Instant::now();
    assert_eq!(drain.state(), DrainState::LameDuck);
    advance(4 * SECOND).await;
    assert!(is_taken(&layer).await);
    drain.start();
    advance(SECOND).await;
    assert_eq!(
        drain.state(),
        DrainState::Draining,
        "a second start changes nothing"
    );
    assert!(!is_taken(&layer).await);
    // The limit counts from the first refusal on.
    let left = drain.drained().await.unwrap_err();
    assert_eq!((left.calls, start.elapsed()), (1, 15 * SECOND));
    assert_eq!(drain.state(), DrainState::Drained);
    drop(open);
    assert_eq!(drain.drained().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_call_is_in_flight_until_its_body_has_ended() {
    let layer = layer(Duration::ZERO, 60 * SECOND);
    let drain = layer.handle();
    let (head, body) = (Gate::new(), Gate::new());
    let answer = Answer::ok().gated(&head);
    let answer = answer.body(TestBody::stream().data("a").gate(&body));
    let (probe, _) = Probe::always(answer);
    let service = layer.layer(probe);
    let call = tokio::spawn(async move {
        let response = service.oneshot(get("/")).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    });
    advance(SECOND).await;
    assert_eq!(drain.in_flight(), 1);
    drain.start();
    let drained = tokio::spawn({
        let drain = drain.clone();
        async move { drain.drained().await }
    });
    head.open();
    advance(SECOND).await;
    assert!(!drained.is_finished(), "there is a head, and no end yet");
    body.open();
    assert_eq!(call.await.unwrap(), "a");
    assert_eq!(drained.await.unwrap(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn connections_of_http_1_are_closed_once_it_is_told_and_those_of_http_2_are_the_servers() {
    let layer = layer(SECOND, SECOND);
    let request = |version| {
        let mut request = get("/");
        *request.version_mut() = version;
        request
    };
    let in_flight = {
        let (probe, _) = Probe::always(Answer::ok());
        let mut service = layer.layer(probe);
        let ready = ServiceExt::<Request<TestBody>>::ready(&mut service).await;
        ready.unwrap().call(request(Version::HTTP_11))
    };
    assert!(!closes(
        &call(&layer, Answer::ok(), request(Version::HTTP_11)).await
    ));
    layer.handle().start();
    assert!(
        closes(&in_flight.await.unwrap()),
        "an answer that was begun before"
    );
    for _lame_duck_then_draining in 0..2 {
        for (version, expected) in [
            (Version::HTTP_10, true),
            (Version::HTTP_11, true),
            (Version::HTTP_2, false),
        ] {
            let answer = call(&layer, Answer::ok(), request(version)).await;
            assert_eq!(closes(&answer), expected, "{version:?}");
        }
        advance(SECOND).await;
    }
    let upgrade = Answer::status(101).header("connection", "upgrade");
    let layer = DrainLayer::default();
    drop(layer.handle().lame_duck());
    let answer = call(&layer, upgrade, request(Version::HTTP_11)).await;
    assert_eq!(answer.headers()["connection"], "upgrade");
}

#[tokio::test(start_paused = true)]
async fn each_state_can_be_waited_for() {
    let layer = layer(5 * SECOND, 10 * SECOND);
    let drain = layer.handle();
    let open = {
        let body = TestBody::stream().data("a").gate(&Gate::new());
        call(&layer, Answer::ok().body(body), get("/")).await
    };
    let start = Instant::now();
    let waiting = DrainState::ALL.map(|state| {
        let drain = drain.clone();
        tokio::spawn(async move {
            drain.reached(state).await;
            start.elapsed().as_secs()
        })
    });
    sleep(SECOND).await;
    drain.start();
    let mut reached = Vec::new();
    for state in waiting {
        reached.push(state.await.unwrap());
    }
    assert_eq!(reached, [0, 1, 6, 16]);
    drop(open);
}

#[tokio::test(start_paused = true)]
async fn a_lame_duck_by_hand_lasts_until_it_is_told_to_refuse() {
    let layer = layer(SECOND, 10 * SECOND);
    let drain = layer.handle();
    let time = drain.lame_duck();
    assert_eq!(
        drain.state(),
        DrainState::LameDuck,
        "before it is waited for"
    );
    let start = Instant::now();
    time.await;
    assert_eq!(start.elapsed(), SECOND);
    advance(3600 * SECOND).await;
    assert!(is_taken(&layer).await);
    drain.refuse();
    assert!(!is_taken(&layer).await);
    assert_eq!(drain.state(), DrainState::Drained);
}

#[tokio::test(start_paused = true)]
async fn a_server_is_waited_for_and_not_for_ever() {
    let drain = layer(Duration::ZERO, 10 * SECOND).handle();
    let start = Instant::now();
    assert_eq!(
        drain.bound(async { 7 }).await,
        Ok(7),
        "a server that ends by itself"
    );
    let asked = drain.clone();
    let orderly = async move {
        asked.reached(DrainState::Draining).await;
        sleep(3 * SECOND).await;
    };
    let (bounded, ()) = tokio::join!(drain.bound(orderly), async { drain.start() });
    assert_eq!((bounded, start.elapsed()), (Ok(()), 3 * SECOND));
    let stuck = drain.bound(std::future::pending::<()>()).await;
    assert_eq!(
        (stuck.unwrap_err().calls, start.elapsed()),
        (0, 10 * SECOND)
    );
}

#[tokio::test(start_paused = true)]
async fn draining_comes_and_goes_with_its_options() {
    let live = Live::new(None);
    let layer = DrainLayer::optional(live.clone()).unwrap();
    layer.handle().start();
    assert!(is_taken(&layer).await, "off");
    let config = DrainConfig {
        name: "comes-and-goes".to_owned(),
        ..DrainConfig::default()
    };
    live.set(Some(config)).unwrap();
    assert!(!is_taken(&layer).await);
    let seen = metrics::snapshot();
    let labels = [("policy", "comes-and-goes")];
    assert_eq!(seen.counter("mesh_drain_refused_total", &labels), Some(1));
    assert_eq!(seen.gauge("mesh_drain_in_flight", &labels), Some(0.0));
    let state = |state| {
        let labels = [("policy", "comes-and-goes"), ("state", state)];
        seen.gauge("mesh_drain_state", &labels)
    };
    assert_eq!((state("drained"), state("serving")), (Some(1.0), Some(0.0)));
    let bad = DrainConfig {
        limit: Duration::MAX,
        ..DrainConfig::default()
    };
    assert_eq!(live.set(Some(bad)).unwrap_err().path(), "limit");
    live.set(None).unwrap();
    assert!(is_taken(&layer).await);
}

/// A handler that notes how many of its calls are running.
#[derive(Clone, Default)]
struct Running(Arc<AtomicU64>);

struct Run(Arc<AtomicU64>);

impl Drop for Run {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Service<Request<()>> for Running {
    type Response = Response<Full<Bytes>>;
    type Error = std::convert::Infallible;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        self.0.fetch_add(1, Relaxed);
        let run = Run(self.0.clone());
        Box::pin(async move {
            let _run = run;
            Ok(Response::new(Full::default()))
        })
    }
}

/// Once it says that nothing is in flight, nothing is, and nothing will be: on threads that call all the time.
#[test]
fn no_call_slips_through_beside_the_last_look() {
    const THREADS: usize = 4;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for _ in 0..200 {
        let layer = DrainLayer::default();
        let (drain, running) = (layer.handle(), Running::default());
        let (start, stop) = (Barrier::new(THREADS + 1), AtomicBool::new(false));
        let clock = runtime.handle();
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let _clock = clock.enter();
                    let mut service = layer.layer(running.clone());
                    start.wait();
                    while !stop.load(Relaxed) {
                        let answer = service.call(Request::default()).now_or_never();
                        drop(answer.expect("an answer at once"));
                    }
                });
            }
            start.wait();
            runtime.block_on(async {
                drain.start();
                drain.drained().await.unwrap();
            });
            for _ in 0..100 {
                assert_eq!(running.0.load(Relaxed), 0, "a call that nobody waited for");
            }
            stop.store(true, Relaxed);
        });
    }
}
