//! The deadline.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response, header};
use http_body_util::Empty;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, ServiceExt, service_fn};
use tower_mesh::layers::{
    CallContext, Live,
    deadline::{DeadlineConfig, DeadlineLayer, Role},
};

use crate::harness::{Measured, Protection, paused};

const MS: Duration = Duration::from_millis(1);

/// A layer with this timeout; without the protection it is switched off.
fn layer(p: Protection, timeout: Duration, role: Role) -> DeadlineLayer {
    let config = DeadlineConfig {
        timeout: Some(timeout),
        ..DeadlineConfig::default()
    };
    let layer = DeadlineLayer::optional(Live::new(p.is_on().then_some(config)));
    layer.expect("a valid deadline").role(role)
}

/// What the hops of a chain saw.
#[derive(Default)]
struct Chain {
    /// The time that was left when a hop got the call; an hour where nobody knew.
    left: Mutex<Vec<Duration>>,
    working: AtomicUsize,
}

/// Work without an end, counted while somebody waits for it.
struct Working(Arc<Chain>);

// ===== impl Chain =====

impl Chain {
    /// A hop that takes 100 ms and calls the next; the last one never answers. Each has an hour of its
    /// own, so that only what it was told can be shorter.
    fn hop(
        self: Arc<Self>,
        p: Protection,
        hops_after: u32,
        request: Request<Empty<Bytes>>,
    ) -> BoxFuture<'static, Response<Empty<Bytes>>> {
        let server = layer(p, 3_600_000 * MS, Role::Server);
        let handler = service_fn(move |request: Request<Empty<Bytes>>| {
            let chain = self.clone();
            async move { Ok::<_, Infallible>(chain.handle(p, hops_after, &request).await) }
        });
        Box::pin(async move {
            let answer = server.layer(handler).oneshot(request).await;
            answer.expect("it cannot fail").map(|_| Empty::new())
        })
    }

    async fn handle(
        self: Arc<Self>,
        p: Protection,
        hops_after: u32,
        request: &Request<Empty<Bytes>>,
    ) -> Response<Empty<Bytes>> {
        let context = CallContext::get(request.extensions());
        let deadline = context.and_then(|context| context.deadline);
        let left = deadline.map_or(3_600_000 * MS, |deadline| deadline - Instant::now());
        self.left.lock().push(left);
        let _working = Working::new(&self);
        sleep(100 * MS).await;
        if hops_after == 0 {
            std::future::pending::<()>().await;
        }
        self.clone().call(p, hops_after - 1, 3_600_000 * MS).await
    }

    /// A call from here to the next hop.
    async fn call(
        self: Arc<Self>,
        p: Protection,
        hops_after: u32,
        limit: Duration,
    ) -> Response<Empty<Bytes>> {
        let next = service_fn(move |request| {
            let hop = self.clone().hop(p, hops_after, request);
            async move { Ok::<_, Infallible>(hop.await) }
        });
        let client = layer(p, limit, Role::Client).layer(next);
        let answer = client.oneshot(Request::default()).await;
        answer.expect("it cannot fail").map(|_| Empty::new())
    }
}

impl Working {
    fn new(chain: &Arc<Chain>) -> Self {
        chain.working.fetch_add(1, SeqCst);
        Self(chain.clone())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.working.fetch_sub(1, SeqCst);
    }
}

// ===== R18 =====

/// R18: a call with 300 ms goes over three hops that take 100 ms each, and one whose time is over comes to
/// a server.
pub(crate) fn r18_lost_deadline(p: Protection) -> Measured {
    let (left, working, took) = paused(async {
        let (chain, start) = (Arc::new(Chain::default()), Instant::now());
        let call = chain.clone().call(p, 2, 300 * MS);
        // Callers are patient for a minute.
        drop(timeout(60_000 * MS, call).await);
        let left = chain.left.lock().clone();
        (left, chain.working.load(SeqCst), start.elapsed())
    });
    let handled = paused(async {
        let (handled, server) = (AtomicU32::new(0), layer(p, 1_000 * MS, Role::Server));
        let handled = Arc::new(handled);
        for timeout in ["0n", "123456789S", "5"] {
            let count = handled.clone();
            let handler = service_fn(move |_: Request<Empty<Bytes>>| {
                count.fetch_add(1, SeqCst);
                async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
            });
            let request = Request::post("/shop.Orders/Place")
                .header(header::CONTENT_TYPE, "application/grpc")
                .header("grpc-timeout", timeout)
                .body(Empty::new())
                .expect("a valid request");
            drop(server.layer(handler).oneshot(request).await);
        }
        handled.load(SeqCst)
    });
    let millis = |hop: usize| {
        left.get(hop)
            .map_or(f64::NAN, |left| left.as_secs_f64() * 1e3)
    };
    Measured::new()
        .at_most("ms left at the second hop", 200, millis(1))
        .at_most("ms left at the third", 100, millis(2))
        .at_most("ms until the caller knew", 305, took.as_secs_f64() * 1e3)
        .exactly("hops that work on", 0, working as f64)
        .exactly("late or unreadable calls that ran", 0, handled.into())
}
