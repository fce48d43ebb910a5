//! What callers see of a panic, what the log does, and what is given back.

use std::{fmt, sync::Arc, time::Duration};

use http::Request;
use parking_lot::Mutex;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Registry,
    filter::Targets,
    layer::{Context, Layer as Listener, SubscriberExt},
};

use super::*;
use crate::{
    BoxError, FailureKind, Live, Outcome, Reason, Rejection,
    circuit_breaker::CircuitBreakerLayer,
    grpc::{Code, MESSAGE},
    metrics,
    test_util::{
        Answer, End, Exchange, Probe, ProbeHandle, Read, TestBody,
        bodies::{get, grpc_request},
        drive,
        exchange::exchange,
        listen,
    },
};

const SECRET: &str = "no order 7 in shard 3";

/// What a handler with a hand on something gives back when it goes.
struct Permit(Arc<Mutex<u32>>);

impl Permit {
    fn take(held: &Arc<Mutex<u32>>) -> Self {
        *held.lock() += 1;
        Self(held.clone())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
    }
}

fn grpc() -> Request<TestBody> {
    grpc_request("/kit.Test/Unary", TestBody::empty())
}

async fn over(layer: &CatchPanicLayer, answer: Answer, request: Request<TestBody>) -> Exchange {
    let (probe, handle) = Probe::always(answer);
    let mut service = layer.layer(probe);
    let seen = exchange(&mut service, request, Read::LikeHyper)
        .await
        .unwrap();
    assert_eq!(
        handle.in_flight(),
        0,
        "it is dropped before the caller hears of it"
    );
    seen
}

fn stats(layer: &CatchPanicLayer) -> (u64, u64) {
    let stats = layer.handle().stats();
    (stats.before_head, stats.in_body)
}

#[tokio::test]
async fn a_panic_before_the_answer_is_one_of_its_protocol() {
    let layer = CatchPanicLayer::default();
    for answer in [
        Answer::panic_in_call(),
        Answer::panic_in_poll().pending_times(1),
    ] {
        let seen = over(&layer, answer.clone(), get("/")).await;
        assert_eq!(seen.head.status, 500);
        let rejection = seen.head.extensions.get::<Rejection>().unwrap();
        assert_eq!(rejection.reason(), Reason::Panicked);
        let kind = FailureKind::Http(seen.head.status);
        assert_eq!(rejection.outcome(), Outcome::Failure(kind));

        let seen = over(&layer, answer, grpc()).await;
        assert_eq!(Code::from_headers(&seen.head.headers), Some(Code::INTERNAL));
        let rejection = seen.head.extensions.get::<Rejection>().unwrap();
        let kind = FailureKind::Grpc(Code::INTERNAL);
        assert_eq!(rejection.outcome(), Outcome::Failure(kind));
    }
    assert_eq!(stats(&layer), (4, 0));
}

#[tokio::test]
async fn a_panic_in_the_body_ends_it_in_the_way_of_its_protocol() {
    let layer = CatchPanicLayer::default();
    let body = || TestBody::stream().data("some").panic();
    let seen = over(&layer, Answer::ok().body(body()), get("/")).await;
    assert_eq!(seen.data(), b"some");
    match seen.end {
        End::Failed(error) => assert!(error.is::<Panicked>(), "{error}"),
        end => panic!("a body that was cut short looks complete: {end:?}"),
    }

    let seen = over(&layer, Answer::grpc(body()), grpc()).await;
    assert_eq!(seen.data(), b"some");
    assert!(seen.end.is_complete());
    let trailers = seen.trailers.unwrap();
    assert_eq!(Code::from_headers(&trailers), Some(Code::INTERNAL));
    assert_eq!(stats(&layer), (0, 2));
}

#[tokio::test]
async fn errors_of_the_inner_service_and_of_its_body_pass() {
    use crate::test_util::ProbeError;
    let layer = CatchPanicLayer::default();
    let broken = TestBody::stream().data("a").fail(ProbeError::reset());
    let seen = over(&layer, Answer::ok().body(broken), get("/")).await;
    match seen.end {
        End::Failed(error) => assert_eq!(ProbeError::find(&*error), Some(&ProbeError::reset())),
        end => panic!("{end:?}"),
    }
    assert_eq!(stats(&layer), (0, 0));
}

#[tokio::test]
async fn what_the_handler_holds_is_given_back_before_the_caller_hears_of_it() {
    let held = Arc::new(Mutex::new(0));
    let holding = held.clone();
    let handler = service_fn(move |_: Request<TestBody>| {
        let permit = Permit::take(&holding);
        async move {
            tokio::task::yield_now().await;
            let _permit = permit;
            panic!("{SECRET}");
            #[allow(unreachable_code)]
            Ok::<_, BoxError>(http::Response::new(TestBody::empty()))
        }
    });
    let service = CatchPanicLayer::default().layer(handler);
    let answer = service.oneshot(get("/")).await.unwrap();
    assert_eq!((answer.status().as_u16(), *held.lock()), (500, 0));
}

#[tokio::test]
async fn what_panics_again_when_it_is_dropped_is_caught_too() {
    struct Bad;
    impl Drop for Bad {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("and again");
            }
        }
    }
    /// Panics when it is polled and when it is dropped, where an `async` block would be unwound by then.
    struct Worst(#[allow(dead_code, reason = "dropped")] Bad);
    impl std::future::Future for Worst {
        type Output = Result<http::Response<TestBody>, BoxError>;
        fn poll(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Self::Output> {
            panic!("{SECRET}")
        }
    }
    let layer = CatchPanicLayer::default();
    let service = layer.layer(service_fn(|_: Request<TestBody>| Worst(Bad)));
    assert_eq!(service.oneshot(get("/")).await.unwrap().status(), 500);
    assert_eq!(stats(&layer), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_probe_of_a_breaker_inside_that_panics_gives_its_slot_back() {
    let breaker = CircuitBreakerLayer::builder()
        .consecutive_failures(1)
        .open_time(Duration::from_secs(1), Duration::from_secs(1))
        .probes(1)
        .build()
        .unwrap();
    let stack = || {
        ServiceBuilder::new()
            .layer(CatchPanicLayer::default())
            .layer(breaker.clone())
    };
    for panics in [
        Answer::panic_in_call(),
        Answer::panic_in_poll().pending_times(1),
        Answer::grpc(TestBody::stream().data("a").panic()),
    ] {
        let (panicking, reached): (Probe, ProbeHandle) = Probe::always(panics);
        let mut service = stack().service(panicking);
        for probe in 1..=3 {
            exchange(&mut service, grpc(), Read::LikeHyper)
                .await
                .unwrap();
            assert_eq!(reached.calls(), probe, "the slot of a probe is kept");
            drive::advance(Duration::from_secs(3600)).await;
        }
        let (good, _) = Probe::always(Answer::grpc_status("0"));
        let answer = exchange(&mut stack().service(good), grpc(), Read::LikeHyper).await;
        let code = Code::from_headers(&answer.unwrap().head.headers);
        assert_eq!(code, Some(Code::OK));
    }
}

// ===== what is said, and to whom =====

/// The events of the layer.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        fmt::write(self.0, format_args!("{field}={value:?} ")).unwrap();
    }
}

impl<S: Subscriber> Listener<S> for Events {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = String::new();
        event.record(&mut Fields(&mut text));
        self.0.lock().push(text);
    }
}

/// What is logged while a handler panics, and what its caller gets.
async fn panicking(layer: &CatchPanicLayer, request: Request<TestBody>) -> (Vec<String>, Exchange) {
    let events = Events::default();
    let ours = Targets::new().with_target("tower_mesh_layers::catch_panic", tracing::Level::ERROR);
    let _listening = listen(Registry::default().with(events.clone().with_filter(ours)));
    let handler = service_fn(async |_: Request<TestBody>| {
        if true {
            panic!("{SECRET}");
        }
        Ok::<_, BoxError>(http::Response::new(TestBody::empty()))
    });
    let mut service = layer.layer(handler);
    let seen = exchange(&mut service, request, Read::LikeHyper)
        .await
        .unwrap();
    (std::mem::take(&mut events.0.lock()), seen)
}

#[tokio::test]
async fn a_panic_is_logged_once_with_its_place_and_the_caller_learns_nothing() {
    let layer = CatchPanicLayer::default();
    for request in [get("/"), grpc()] {
        let (logged, seen) = panicking(&layer, request).await;
        let [event] = &logged[..] else {
            panic!("{logged:?}");
        };
        assert!(event.contains(SECRET), "{event}");
        assert!(event.contains("catch_panic/tests.rs:"), "{event}");
        let told = format!("{:?} {:?}", seen.head, String::from_utf8(seen.data()));
        assert!(!told.contains("shard"), "{told}");
    }
}

#[tokio::test]
async fn a_place_is_not_asked_for_where_it_is_not_wanted() {
    let layer = CatchPanicLayer::builder().location(false).build().unwrap();
    let (logged, _) = panicking(&layer, get("/")).await;
    assert!(!logged[0].contains("location"), "{logged:?}");
}

#[tokio::test]
async fn a_panic_that_was_resumed_has_no_place_of_another() {
    let layer = CatchPanicLayer::default();
    drop(std::panic::catch_unwind(|| panic!("of another")));
    let events = Events::default();
    let _listening = listen(Registry::default().with(events.clone()));
    over(&layer, Answer::panic_in_call(), get("/")).await;
    let logged = std::mem::take(&mut *events.0.lock());
    let event = logged
        .iter()
        .find(|event| event.contains("a handler panicked"));
    assert!(!event.unwrap().contains("location"), "{logged:?}");
}

#[tokio::test]
async fn callers_are_told_where_that_is_asked_for() {
    let layer = CatchPanicLayer::builder()
        .expose_message(true)
        .build()
        .unwrap();
    let (_, seen) = panicking(&layer, get("/")).await;
    assert!(String::from_utf8(seen.data()).unwrap().contains(SECRET));
    let (_, seen) = panicking(&layer, grpc()).await;
    assert!(
        seen.head.headers[MESSAGE]
            .to_str()
            .unwrap()
            .contains(SECRET)
    );
}

// ===== on and off =====

#[tokio::test]
async fn catching_comes_and_goes_with_its_options() {
    let live = Live::new(None);
    let layer = CatchPanicLayer::optional(live.clone()).unwrap();
    let passes = async || {
        let (probe, _) = Probe::always(Answer::panic_in_poll());
        let mut service = layer.layer(probe);
        drive::catch(exchange(&mut service, get("/"), Read::LikeHyper))
            .await
            .is_err()
    };
    assert!(passes().await);
    let config = CatchPanicConfig {
        name: "comes-and-goes".to_owned(),
        ..CatchPanicConfig::default()
    };
    live.set(Some(config)).unwrap();
    assert!(!passes().await);
    let labels = [("policy", "comes-and-goes"), ("at", "head")];
    let counted = metrics::snapshot().counter("mesh_catch_panic_panics_total", &labels);
    assert_eq!(counted, Some(1));
    live.set(None).unwrap();
    assert!(passes().await);
}

#[test]
fn a_config_reads_back_as_it_was_written() {
    let text = r#"{"location":false,"exposeMessage":true,"name":"edge"}"#;
    let config: CatchPanicConfig = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&config).unwrap(), text);
    let empty = serde_json::from_str::<CatchPanicConfig>("{}").unwrap();
    assert_eq!(empty, CatchPanicConfig::default());
    assert!(serde_json::from_str::<CatchPanicConfig>(r#"{"locations":true}"#).is_err());
}
