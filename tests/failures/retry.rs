//! Retries.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};
use tower::{Layer, Service, ServiceExt, service_fn, util::MapResponse};
use tower_mesh::layers::{
    BoxError, CallContext, Live, Ratio, TransportError,
    retry::{BudgetConfig, ReplayConfig, RetryBuilder, RetryConfig, RetryLayer},
    test_util::{Answer, Probe, ProbeError, TestBody, contract::RequestBody},
};

use crate::harness::{Measured, Protection, paused};

const MS: Duration = Duration::from_millis(1);
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn request(method: Method, content: TestBody) -> Request<RequestBody> {
    let mut request = Request::new(content.boxed_unsync());
    *request.method_mut() = method;
    request
}

fn get() -> Request<RequestBody> {
    request(Method::GET, TestBody::empty())
}

fn grpc() -> Request<RequestBody> {
    let mut request = request(Method::POST, TestBody::full("ask"));
    let grpc = "application/grpc".parse().expect("a content type");
    request.headers_mut().insert("content-type", grpc);
    request
}

/// A budget, or one that never runs out.
fn budget(p: Protection, builder: RetryBuilder, reserve: u32) -> RetryLayer {
    let (ratio, reserve) = p.pick((Ratio::percent(20), reserve), (Ratio::ONE, 1_000_000));
    built(builder.budget(ratio, reserve))
}

fn unlimited() -> RetryBuilder {
    RetryLayer::builder().budget(Ratio::ONE, 1_000_000)
}

fn built(builder: RetryBuilder) -> RetryLayer {
    builder.build().expect("a valid layer")
}

/// 1,000 calls at 100 a second.
async fn calls<S>(service: S)
where
    S: Service<Request<RequestBody>> + Clone,
{
    let start = Instant::now();
    let calls = (0..1_000).map(|n| {
        let service = service.clone();
        async move {
            sleep_until(start + n * 10 * MS).await;
            let _ = service.oneshot(get()).await;
        }
    });
    join_all(calls).await;
}

/// R1: the peer fails altogether, and every call may make four attempts.
pub(crate) fn r1_retry_storm(p: Protection) -> Measured {
    let attempts = |reserve| {
        paused(async {
            let (probe, handle) = Probe::always(Answer::status(503));
            let layer = budget(p, RetryLayer::builder().max_attempts(4), reserve);
            calls(layer.layer(probe)).await;
            handle.calls() as f64
        })
    };
    // What succeeds at once is sent once.
    let added = paused(async {
        let (probe, handle) = Probe::always(Answer::ok());
        calls(budget(p, RetryLayer::builder(), 10).layer(probe)).await;
        handle.calls() as f64 - 1_000.0
    });
    Measured::new()
        .at_most("attempts of 1,000 calls", 1_300, attempts(10))
        .at_most("without a reserve", 1_200, attempts(0))
        .exactly("added to successes", 0, added)
}

/// R2: A calls B, B calls C, and C is down.
pub(crate) fn r2_retry_multiplication(p: Protection) -> Measured {
    let attempts = paused(async {
        let (probe, handle) = Probe::always(Answer::status(503));
        let [a, b] = [(); 2].map(|()| budget(p, RetryLayer::builder().max_attempts(3), 0));
        calls(a.layer(b.layer(probe))).await;
        handle.calls() as f64
    });
    Measured::new().at_most("attempts at the last of three hops", 1_440, attempts)
}

/// R14: bodies that are kept to be sent again. Without the protection all of each is kept.
pub(crate) fn r14_replay_memory(p: Protection) -> Measured {
    const FRAME: usize = 64 * KIB;
    let layer = || {
        let everything = ReplayConfig {
            per_call: 1 << 30,
            total: 1 << 30,
        };
        let config = RetryConfig {
            replay: p.pick(ReplayConfig::default(), everything),
            budget: BudgetConfig::Ratio {
                ratio: Ratio::ONE,
                reserve: 1_000_000,
            },
            ..RetryConfig::default()
        };
        RetryLayer::new(config).expect("a valid layer")
    };

    // 64 MiB to a peer that reads all of it and is not available.
    let (attempts, exact, most) = paused(async {
        let layer = layer();
        let (handle, frame) = (layer.handle(), bytes::Bytes::from(vec![7; FRAME]));
        let seen: Arc<Mutex<(u32, usize, usize)>> = Arc::default();
        let noted = seen.clone();
        let peer = service_fn(move |call: Request<RequestBody>| {
            let (seen, handle) = (noted.clone(), handle.clone());
            async move {
                let mut body = call.into_body();
                let mut length = 0;
                while let Some(frame) = body.frame().await {
                    length += frame?.into_data().map_or(0, |data| data.len());
                    let kept = handle.stats().kept_bytes;
                    let mut seen = seen.lock();
                    seen.2 = seen.2.max(kept);
                }
                let mut seen = seen.lock();
                seen.0 += 1;
                seen.1 = length;
                Ok::<_, BoxError>(unavailable())
            }
        });
        let upload = TestBody::chunks((0..64 * MIB / FRAME).map(|_| frame.clone()));
        let _ = layer
            .layer(peer)
            .oneshot(request(Method::PUT, upload))
            .await;
        *seen.lock()
    });

    // 60 KiB with trailers, sent again.
    let replayed = paused(async {
        let (probe, handle) = Probe::sequence([Answer::status(503), Answer::ok()]);
        let upload = TestBody::chunks((0..60).map(|n| vec![n; KIB])).trailer("x-sum", "7");
        let _ = layer()
            .layer(probe)
            .oneshot(request(Method::PUT, upload))
            .await;
        let whole: Vec<u8> = (0..60).flat_map(|n| vec![n; KIB]).collect();
        let received = handle.requests().into_iter();
        let exact = received.filter(|one| {
            let sum = one.trailers.as_ref().and_then(|all| all.get("x-sum"));
            one.body == whole && sum.is_some_and(|sum| sum == "7")
        });
        exact.count() as f64
    });

    // 10,000 calls under way at once, of 16 KiB each.
    let together = paused(async {
        let (probe, _handle) = Probe::always(Answer::never());
        let layer = layer();
        let (service, data) = (layer.layer(probe), bytes::Bytes::from(vec![7; 16 * KIB]));
        let mut under_way = Vec::new();
        let mut most = 0;
        for _ in 0..10_000 {
            let upload = TestBody::stream().data(data.clone());
            let call = service.clone().oneshot(request(Method::PUT, upload));
            let mut call = Box::pin(call);
            assert!(
                call.as_mut().now_or_never().is_none(),
                "the peer never answers"
            );
            under_way.push(call);
            most = most.max(layer.handle().stats().kept_bytes);
        }
        most
    });

    let kib = |bytes: usize| bytes as f64 / KIB as f64;
    Measured::new()
        .exactly("attempts with 64 MiB", 1, attempts.into())
        .exactly("MiB received", 64, kib(exact) / KIB as f64)
        .at_most("KiB kept of it", 64.0 + kib(FRAME), kib(most))
        .exactly("60 KiB received whole", 2, replayed)
        .at_most("KiB kept of 10,000 calls", kib(64 * MIB), kib(together))
}

fn unavailable() -> Response<TestBody> {
    let mut response = Response::new(TestBody::empty());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

/// R15: what is retried after the peer has answered, or has refused to look. Without the protection
/// nothing is, and a refused stream is an error.
pub(crate) fn r15_commit(p: Protection) -> Measured {
    let layer = || {
        let config = RetryConfig::default();
        RetryLayer::optional(Live::new(p.pick(Some(config), None))).expect("a valid layer")
    };
    let after_head = paused(async {
        let cut = TestBody::stream().data("some").fail(ProbeError::reset());
        let (probe, handle) = Probe::always(Answer::ok().body(cut));
        let response = layer().layer(probe).oneshot(get()).await.expect("a head");
        assert!(response.into_body().collect().await.is_err(), "it is cut");
        handle.calls() as f64 - 1.0
    });
    let refused = paused(async {
        let seen = Arc::new(AtomicU32::new(0));
        let counted = seen.clone();
        let peer = service_fn(move |_: Request<RequestBody>| {
            let first = counted.fetch_add(1, SeqCst) == 0;
            async move {
                if first {
                    return Err(BoxError::from(TransportError::reset("refused").unsent()));
                }
                Ok(Response::new(TestBody::empty()))
            }
        });
        let post = request(Method::POST, TestBody::full("order"));
        let _ = layer().layer(peer).oneshot(post).await;
        f64::from(seen.load(SeqCst)) - 1.0
    });
    Measured::new()
        .exactly("retries after a head", 0, after_head)
        .exactly("of a refused stream", 1, refused)
}

/// R16: the peer says when to come back. Without the protection nobody reads it.
pub(crate) fn r16_pushback(p: Protection) -> Measured {
    // When attempts were made, and when the call was over, both in ms. `left`: until its deadline.
    let run = |answer: Answer, mut call: Request<RequestBody>, left: Option<Duration>| {
        paused(async move {
            let (times, start) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
            let context = CallContext::get_or_insert(call.extensions_mut());
            context.deadline = left.map(|left| start + left);
            let seen = times.clone();
            let (probe, _handle) = Probe::answering(move |nth, _| {
                seen.lock().push(start.elapsed().as_millis() as f64);
                if nth == 0 {
                    answer.clone()
                } else {
                    Answer::ok()
                }
            });
            let deaf = MapResponse::new(probe, move |mut response: Response<TestBody>| {
                if !p.is_on() {
                    response.headers_mut().remove("retry-after");
                    response.headers_mut().remove("grpc-retry-pushback-ms");
                }
                response
            });
            let _ = built(unlimited().seed(7)).layer(deaf).oneshot(call).await;
            let times = times.lock().clone();
            (times, start.elapsed().as_millis() as f64)
        })
    };
    let again_at = |answer, call| run(answer, call, None).0.get(1).copied().unwrap_or(-1.0);
    let seconds = |seconds| Answer::status(503).header("retry-after", seconds);
    let pushback = |ms| Answer::grpc_status("14").header("grpc-retry-pushback-ms", ms);
    let after_never = run(pushback("-1"), grpc(), None).0.len() - 1;
    let (made, over) = run(seconds("5"), get(), Some(1_000 * MS));
    let at_once = if made.len() == 1 { over } else { -1.0 };
    Measured::new()
        .exactly(
            "ms to the retry, of 2,000",
            2_000,
            again_at(seconds("2"), get()),
        )
        .exactly("over gRPC", 2_000, again_at(pushback("2000"), grpc()))
        .exactly("retries after never", 0, after_never as f64)
        .exactly("ms to give up where time is short", 0, at_once)
}

/// R17: everybody fails at once. Without the protection all pauses are the same: the peer's word for when
/// to come back stands in for a backoff without jitter.
pub(crate) fn r17_synchronised_backoff(p: Protection) -> Measured {
    const CLIENTS: usize = 10_000;
    let fullest = paused(async {
        let buckets: Arc<[AtomicUsize; 11]> = Arc::default();
        let (seen, start) = (buckets.clone(), Instant::now());
        let peer = service_fn(move |call: Request<RequestBody>| {
            let context = CallContext::get(call.extensions());
            if context.is_some_and(|context| context.attempt.number == 2) {
                seen[start.elapsed().as_millis() as usize / 10].fetch_add(1, SeqCst);
            }
            let mut response = unavailable();
            if !p.is_on() {
                let pause = "100".parse().expect("a number");
                response
                    .headers_mut()
                    .insert("grpc-retry-pushback-ms", pause);
            }
            std::future::ready(Ok::<_, BoxError>(response))
        });
        let layer = unlimited()
            .max_attempts(2)
            .backoff(100 * MS, 100 * MS)
            .seed(1);
        let service = built(layer).layer(peer);
        join_all((0..CLIENTS).map(|_| service.clone().oneshot(get()))).await;
        let fullest = buckets.iter().map(|bucket| bucket.load(SeqCst)).max();
        fullest.unwrap_or_default()
    });
    let share = fullest as f64 / CLIENTS as f64 * 100.0;
    Measured::new().at_most("% of retries in one 10 ms", 12, share)
}
