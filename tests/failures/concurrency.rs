//! The concurrency limit.

use std::{
    convert::Infallible,
    future::pending,
    panic::{AssertUnwindSafe, resume_unwind},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use fastrand::Rng;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use tokio::{
    sync::{Notify, Semaphore},
    task::{JoinSet, yield_now},
    time::{Instant, sleep, sleep_until, timeout},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_mesh::layers::{
    Live,
    concurrency_limit::{ConcurrencyLimitConfig, ConcurrencyLimitLayer},
    test_util::TestBody,
};

use crate::harness::{Measured, Protection, paused};

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// The layer; without the protection it is switched off.
fn layer(p: Protection, config: ConcurrencyLimitConfig) -> ConcurrencyLimitLayer {
    let config = p.is_on().then_some(config);
    ConcurrencyLimitLayer::optional(Live::new(config)).expect("a valid limit")
}

// ===== R3 =====

/// R3: a server that can do 250 calls a second gets 200, and can do only 50 for five of them. Callers
/// wait for a second and try again, three times in all; the server works on for those who are gone.
pub(crate) fn r3_metastable_overload(p: Protection) -> Measured {
    const SECONDS: usize = 80;
    const PER_SECOND: u32 = 200;
    const WORKERS: u32 = 10;

    /// How many calls succeed in each second.
    async fn goodput(p: Protection) -> [u32; SECONDS] {
        let config = ConcurrencyLimitConfig {
            queue: 100,
            queue_timeout: 400 * MS,
            target_delay: Some(40 * MS),
            ..ConcurrencyLimitConfig::new(WORKERS)
        };
        let (workers, start) = (Arc::new(Semaphore::new(WORKERS as usize)), Instant::now());
        let service = layer(p, config).layer(service_fn(move |_: Request<()>| {
            let workers = workers.clone();
            // A task, which does not end with its call.
            let work = tokio::spawn(async move {
                let _worker = workers.acquire().await.expect("it is never closed");
                let trouble = (10..15).contains(&start.elapsed().as_secs());
                sleep(if trouble { 200 * MS } else { 40 * MS }).await;
            });
            async {
                work.await.expect("it does not panic");
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        }));
        let mut callers = JoinSet::new();
        for number in 0..SECONDS as u32 * PER_SECOND {
            let service = service.clone();
            callers.spawn(async move {
                sleep_until(start + number * 1_000 * MS / PER_SECOND).await;
                for _ in 0..3 {
                    let attempt = service.clone().oneshot(Request::new(()));
                    if let Ok(Ok(answer)) = timeout(1_000 * MS, attempt).await
                        && answer.status().is_success()
                    {
                        return Some(start.elapsed().as_secs() as usize);
                    }
                }
                None
            });
        }
        let mut good = [0; SECONDS];
        for second in callers.join_all().await.into_iter().flatten() {
            if let Some(good) = good.get_mut(second) {
                *good += 1;
            }
        }
        good
    }

    let good = paused(goodput(p));
    let of = |seconds: std::ops::Range<usize>| f64::from(good[seconds].iter().sum::<u32>());
    let share = |seconds| (100.0 * of(seconds) / of(5..10)).round();
    Measured::new()
        .at_least("% of calls 10 s later", 95, share(25..30))
        .at_least("60 s later", 50, share(75..80))
}

// ===== R9 =====

/// R9: 30 % of the calls are dropped somewhere, 1 % panic.
pub(crate) fn r9_permit_leak(p: Protection) -> Measured {
    const LIMIT: u32 = 8;
    const CLONES: u64 = 256;
    const CALLS: usize = 100_000;

    /// How many are inside, and were at most.
    #[derive(Default)]
    struct Counts {
        now: AtomicUsize,
        peak: AtomicUsize,
    }

    struct Inside(Arc<Counts>);

    impl Inside {
        fn new(counts: Arc<Counts>) -> Self {
            let before = counts.now.fetch_add(1, SeqCst);
            counts.peak.fetch_max(before + 1, SeqCst);
            Self(counts)
        }
    }

    impl Drop for Inside {
        fn drop(&mut self) {
            self.0.now.fetch_sub(1, SeqCst);
        }
    }

    async fn handle(seed: u64, counts: Arc<Counts>) -> Result<Response<TestBody>, Infallible> {
        let _inside = Inside::new(counts);
        let mut rng = Rng::with_seed(seed);
        for _ in 0..rng.u32(..4) {
            yield_now().await;
        }
        if rng.u32(..100) == 0 {
            resume_unwind(Box::new("a handler")); // which says nothing on stderr
        }
        Ok(Response::new(TestBody::stream().data("a").pending_once()))
    }

    /// Polls it a few times and drops it, wherever it is then.
    async fn begin(mut call: Pin<&mut (impl Future + Send)>, polls: u32) {
        for _ in 0..polls {
            if call.as_mut().now_or_never().is_some() {
                return;
            }
            yield_now().await;
        }
    }

    let config = ConcurrencyLimitConfig {
        queue: 1_000,
        queue_timeout: HOUR,
        ..ConcurrencyLimitConfig::new(LIMIT)
    };
    let (layer, counts) = (layer(p, config), Arc::new(Counts::default()));
    let seen = counts.clone();
    let service = layer.layer(service_fn(move |request: Request<u64>| {
        handle(*request.body(), counts.clone())
    }));
    let callers = async {
        let mut callers = JoinSet::new();
        for clone in 0..CLONES {
            let (service, mut rng) = (service.clone(), Rng::with_seed(clone));
            callers.spawn(async move {
                for _ in 0..CALLS.div_ceil(CLONES as usize) {
                    let service = service.clone();
                    let seed = rng.u64(..);
                    let call = async {
                        let response = service.oneshot(Request::new(seed)).await;
                        response
                            .map(|response| response.into_body().collect())?
                            .await
                            .ok();
                        Ok::<_, Infallible>(())
                    };
                    let call = pin!(AssertUnwindSafe(call).catch_unwind());
                    if rng.u32(..10) < 3 {
                        begin(call, rng.u32(..8)).await;
                    } else {
                        _ = call.await; // an error is a panic
                    }
                }
            });
        }
        callers.join_all().await;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(callers);
    let held = layer.handle().stats().in_flight;
    Measured::new()
        .at_most("at once", LIMIT, seen.peak.load(SeqCst) as f64)
        .exactly("left over", 0, held as f64)
}

// ===== R10 =====

/// R10: a thousand wait, and one place comes free. Without the protection whoever leaves wakes all, and
/// one of them is faster.
pub(crate) fn r10_busy_spin(p: Protection) -> Measured {
    const WAITERS: u32 = 1_000;

    /// Nobody who is in ever leaves by himself.
    async fn polls(p: Protection) -> usize {
        let config = ConcurrencyLimitConfig {
            queue: WAITERS,
            queue_timeout: HOUR,
            ..ConcurrencyLimitConfig::new(1)
        };
        let layer = layer(Protection::On, config);
        let service = layer.layer(service_fn(|_: Request<()>| {
            pending::<Result<Response<Empty<Bytes>>, Infallible>>()
        }));
        let first = tokio::spawn(service.clone().oneshot(Request::new(())));
        let taken = Arc::new((AtomicBool::new(true), Notify::new()));
        yield_now().await;

        let polls = Arc::new(AtomicUsize::new(0));
        let mut waiting = JoinSet::new();
        for _ in 0..WAITERS {
            let (service, taken) = (service.clone(), taken.clone());
            let wait = async move {
                if p.is_on() {
                    _ = service.oneshot(Request::new(())).await;
                }
                let (is_taken, left) = &*taken;
                while is_taken.swap(true, SeqCst) {
                    left.notified().await;
                }
                pending::<()>().await;
            };
            let (mut wait, polls) = (Box::pin(wait), polls.clone());
            waiting.spawn(std::future::poll_fn(move |cx| {
                polls.fetch_add(1, SeqCst);
                wait.as_mut().poll(cx)
            }));
        }
        sleep(10 * MS).await;

        first.abort();
        taken.0.store(false, SeqCst);
        taken.1.notify_waiters();
        // Timers might wake somebody, too.
        sleep(1_000 * MS).await;
        assert!(!p.is_on() || layer.handle().stats().waiting == WAITERS as usize - 1);
        polls.load(SeqCst)
    }

    Measured::new().within("polls", (1_001.0, 1_100.0), paused(polls(p)) as f64)
}
