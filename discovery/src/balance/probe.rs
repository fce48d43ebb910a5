//! Connecting in the background, where no call waits for it.

use std::{
    future::Future,
    sync::{Arc, Weak},
    time::Duration,
};

use http::Request;
use tokio::time::Instant;
use tower_service::Service;

use super::{endpoint::Member, set::Shared};

/// Runs a task where there is a runtime; without one, the endpoint is tried again by calls.
pub(super) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(task);
    }
}

/// Polls an endpoint until it is ready, refuses, or has taken too long.
async fn is_reachable<S, B>(service: &mut S, limit: Duration) -> bool
where
    S: Service<Request<B>>,
{
    let ready = std::future::poll_fn(|cx| service.poll_ready(cx).map(|ready| ready.is_ok()));
    tokio::time::timeout(limit, ready).await.unwrap_or(false)
}

/// Tries to connect to an endpoint that refused, until it accepts or is removed.
pub(super) async fn probe<S, B>(shared: Weak<Shared<S>>, member: Arc<Member<S>>, mut wait: Duration)
where
    S: Service<Request<B>> + Clone + Send + Sync + 'static,
    B: 'static,
{
    loop {
        tokio::time::sleep(wait).await;
        let Some(limit) = connect_timeout(&shared, &member) else {
            return;
        };
        let reached = is_reachable::<S, B>(&mut member.service.clone(), limit).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        if member.endpoint.is_in() {
            return; // a call reached it, when nothing else was left
        }
        if reached {
            return shared.reachable(&member, Instant::now());
        }
        wait = shared.still_refused(&member, Instant::now());
    }
}

/// Lets an endpoint finish to connect, for the calls to come.
pub(super) async fn connect<S, B>(shared: Weak<Shared<S>>, member: Arc<Member<S>>, mut service: S)
where
    S: Service<Request<B>> + Clone + Send + Sync + 'static,
    B: 'static,
{
    let Some(limit) = connect_timeout(&shared, &member) else {
        return;
    };
    let reached = is_reachable::<S, B>(&mut service, limit).await;
    drop(service);
    let wait = match shared.upgrade() {
        Some(shared) if !reached => shared.refused_unsent(&member, Instant::now()),
        _ => None,
    };
    if let Some(wait) = wait {
        probe::<S, B>(shared, member, wait).await;
    }
}

/// `None` once nobody needs the endpoint any more.
fn connect_timeout<S: Send + Sync + 'static>(
    shared: &Weak<Shared<S>>,
    member: &Member<S>,
) -> Option<Duration> {
    let shared = shared.upgrade()?;
    (!member.endpoint.removed()).then(|| shared.settings.get().config.connect_timeout)
}
