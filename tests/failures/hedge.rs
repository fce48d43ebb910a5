//! Hedges.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::join_all;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep, sleep_until};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_mesh::layers::{
    BoxError, Ratio, RequestMatch,
    hedge::{HedgeBuilder, HedgeLayer},
    retry::RetryLayer,
    test_util::{TestBody, contract::RequestBody},
};

use crate::harness::{Measured, Protection, paused};

const MS: Duration = Duration::from_millis(1);
const CALLS: u32 = 10_000;

/// What reached the peer, and what of it is still there.
#[derive(Clone, Default)]
struct Counts {
    attempts: Arc<AtomicU32>,
    under_way: Arc<AtomicU32>,
}

struct UnderWay(Arc<AtomicU32>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Counts {
    fn attempts(&self) -> f64 {
        self.attempts.load(SeqCst).into()
    }

    fn begin(&self) -> UnderWay {
        self.attempts.fetch_add(1, SeqCst);
        self.under_way.fetch_add(1, SeqCst);
        UnderWay(self.under_way.clone())
    }

    /// A peer that takes its time.
    fn slow(
        &self,
    ) -> impl Service<Request<RequestBody>, Response = Response<TestBody>, Error = BoxError>
    + Clone
    + use<> {
        let counts = self.clone();
        service_fn(move |_| {
            let under_way = counts.begin();
            async move {
                sleep(300 * MS).await;
                drop(under_way);
                Ok(Response::new(TestBody::empty()))
            }
        })
    }
}

fn request(method: Method) -> Request<RequestBody> {
    let mut request = Request::new(TestBody::full("order").boxed_unsync());
    *request.method_mut() = method;
    request
}

fn hedge() -> HedgeBuilder {
    HedgeLayer::builder().delay(100 * MS)
}

fn built(builder: HedgeBuilder) -> HedgeLayer {
    builder.build().expect("a valid layer")
}

/// R12: writes to a slow peer, through a hedge and a retry. Without the protection both take them for
/// safe to repeat.
pub(crate) fn r12_hedged_write(p: Protection) -> Measured {
    let attempts = paused(async {
        let retry = RetryLayer::builder().attempt_timeout(200 * MS);
        let retry = p.pick(retry.clone(), retry.non_idempotent());
        let everything = RequestMatch::path_prefix("/");
        let hedge = p.pick(hedge(), hedge().idempotent(everything));
        let counts = Counts::default();
        let retry = retry.build().expect("a valid layer");
        let service = built(hedge).layer(retry.layer(counts.slow()));
        let calls = (0..CALLS).map(|_| service.clone().oneshot(request(Method::POST)));
        join_all(calls).await;
        counts.attempts()
    });
    Measured::new().exactly("attempts of 10,000 POST", CALLS, attempts)
}

/// R13: every call is slower than the delay. Without the protection each is hedged.
pub(crate) fn r13_hedge_storm(p: Protection) -> Measured {
    let cap = p.pick(Ratio::percent(5), Ratio::ONE);
    let attempts = paused(async {
        let counts = Counts::default();
        let service = built(hedge().extra_load(cap)).layer(counts.slow());
        let start = Instant::now();
        let calls = (0..CALLS).map(|n| {
            let service = service.clone();
            async move {
                sleep_until(start + n * 10 * MS).await;
                service.oneshot(request(Method::GET)).await
            }
        });
        join_all(calls).await;
        counts.attempts()
    });
    // Right after the answer, while the call's own future is still there.
    let left = paused(async {
        let counts = Counts::default();
        let service = built(hedge().extra_load(Ratio::ONE)).layer(counts.slow());
        let mut left = 0;
        for _ in 0..100 {
            let mut call = Box::pin(service.clone().oneshot(request(Method::GET)));
            let answered = call.as_mut().await;
            left += counts.under_way.load(SeqCst);
            drop((answered, call));
        }
        left
    });
    Measured::new()
        .at_most("attempts of 10,000 GET", CALLS + CALLS / 20, attempts)
        .exactly("losers after 100 answers", 0, left.into())
}
