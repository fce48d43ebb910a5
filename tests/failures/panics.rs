//! Handlers that panic.

use std::{sync::Arc, time::Duration};

use axum::Router;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tokio::{sync::Semaphore, task::JoinSet};
use tower::{ServiceBuilder, limit::GlobalConcurrencyLimitLayer};
use tower_mesh::layers::{
    Live,
    catch_panic::{CatchPanicConfig, CatchPanicLayer},
    test_util::{Answer, Scripted, TestBody, clients, servers::Server},
};

use crate::harness::{Measured, Protection, threads};

/// Of the calls of R23, by how they came out.
#[derive(Default)]
struct Seen {
    good: u32,
    answered: u32,
}

/// R23: one call of ten panics, on HTTP/2 connections that it shares with others.
pub(crate) fn r23_panicking_handler(p: Protection) -> Measured {
    const CALLS: u32 = 10_000;
    const PANICS: u32 = CALLS / 10;
    const CALLERS: u32 = 20;
    /// More than the callers, so that nobody waits for one unless they leak.
    const PERMITS: usize = 64;

    let layer =
        CatchPanicLayer::optional(Live::new(p.pick(Some(CatchPanicConfig::default()), None)));
    let layer = layer.expect("valid options");
    let panics = layer.handle();
    let permits = Arc::new(Semaphore::new(PERMITS));
    let limit = GlobalConcurrencyLimitLayer::with_semaphore(permits.clone());
    let (handler, _) = Scripted::answering(|call, _| match call % 20 {
        0 => Answer::panic_in_call(),
        10 => Answer::panic_in_poll().pending_times(1),
        _ => Answer::ok().pending_times(1).body(TestBody::full("fine")),
    });
    let layers = ServiceBuilder::new().layer(layer).layer(limit);
    let server = Server::axum(Router::new().fallback_service(handler).layer(layers));

    let (client, addr) = (clients::h2::<Full<Bytes>>(), server.addr());
    let call = move || {
        let request = clients::send_to(addr, Request::new(Full::default()));
        let answer = client.request(request);
        async {
            let response = answer.await.ok()?;
            let status = response.status().as_u16();
            response.into_body().collect().await.ok().map(|_| status)
        }
    };
    let (seen, counted, is_up) = threads(async {
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let call = call.clone();
            callers.spawn(async move {
                let mut seen = Seen::default();
                for _ in 0..CALLS / CALLERS {
                    match call().await {
                        Some(200) => seen.good += 1,
                        Some(500) => seen.answered += 1,
                        _ => {}
                    }
                }
                seen
            });
        }
        let seen = callers.join_all().await;
        // A call that was given up may still be on its way out.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let counted = panics.stats().before_head;
        (seen, counted, call().await.is_some())
    });
    let sum = |count: fn(&Seen) -> u32| seen.iter().map(count).sum::<u32>().into();
    let leaked = PERMITS - permits.available_permits();
    Measured::new()
        .exactly("good", CALLS - PANICS, sum(|seen| seen.good))
        .exactly("answered 500", PANICS, sum(|seen| seen.answered))
        .exactly("counted", PANICS, counted as f64)
        .exactly("permits leaked", 0, leaked as f64)
        .exactly("process up", 1, f64::from(u8::from(is_up)))
}
