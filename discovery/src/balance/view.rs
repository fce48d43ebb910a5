//! What a balancer shows of its endpoints.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use serde::Serialize;
use tokio::time::Instant;
use tower_mesh_layers::HistogramSnapshot;

use super::{
    eject::{Cause, Standing},
    endpoint::Member,
    set::Set,
};
use crate::instance::EndpointUrl;

/// One endpoint at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EndpointView {
    /// The id of its instance.
    pub instance: String,
    /// Its address.
    pub url: EndpointUrl,
    /// Whether it gets calls.
    pub state: EndpointState,
    /// Calls whose response body has not ended.
    pub in_flight: u32,
    /// The average latency that the picker goes by; `None` before the first answer.
    pub ewma: Option<Duration>,
    /// Calls that were sent and are not in flight: answered, failed, timed out.
    pub calls: u64,
    /// Calls that failed or were turned away as too many.
    pub failures: u64,
    /// Calls that were sent, and cancelled before an answer or refused on the way. Not in `calls`.
    pub abandoned: u64,
    /// Its part of all calls to the service, from 0 to 1.
    pub share: f64,
    /// Half of the calls were at most this long, until the response head.
    pub p50: Option<Duration>,
    /// 99% of the calls were at most this long.
    pub p99: Option<Duration>,
    /// All latencies, to compare two moments.
    pub latency: HistogramSnapshot,
}

/// Whether an endpoint gets calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum EndpointState {
    /// It gets its share.
    Ready,
    /// A call failed just now, so others are preferred.
    Penalised,
    /// It failed too often, and is out for a time.
    Ejected,
    /// It refused a connection, and is out until one can be made.
    Refused,
    /// It was out, and one call tries it.
    Trial,
    /// It finishes what it has, and gets nothing new.
    Draining,
}

// ===== impl EndpointState =====

impl EndpointState {
    /// All states.
    pub const ALL: [Self; 6] = [
        Self::Ready,
        Self::Penalised,
        Self::Ejected,
        Self::Refused,
        Self::Trial,
        Self::Draining,
    ];

    /// A short, fixed label for metrics and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Penalised => "penalised",
            Self::Ejected => "ejected",
            Self::Refused => "refused",
            Self::Trial => "trial",
            Self::Draining => "draining",
        }
    }
}

fn state<S>(member: &Member<S>, now: Instant) -> EndpointState {
    match member.endpoint.standing() {
        Standing::In if member.endpoint.is_penalised(member.endpoint.ms(now)) => {
            EndpointState::Penalised
        }
        Standing::In => EndpointState::Ready,
        Standing::Out {
            cause: Cause::Ejected,
            ..
        } => EndpointState::Ejected,
        Standing::Out {
            cause: Cause::Refused,
            ..
        } => EndpointState::Refused,
        Standing::Trial { .. } => EndpointState::Trial,
    }
}

/// Shows every endpoint of a set with its state.
pub(super) fn each<S>(set: &Set<S>, now: Instant, mut show: impl FnMut(&Member<S>, EndpointState)) {
    for member in set.members.iter() {
        show(member, state(member, now));
    }
    for member in set.draining.iter() {
        show(member, EndpointState::Draining);
    }
}

pub(super) fn endpoints<S>(set: &Set<S>) -> Vec<EndpointView> {
    let (mut views, now) = (Vec::new(), Instant::now());
    each(set, now, |member, state| {
        views.push(view(member, state, now))
    });
    views.sort_by(|a, b| (&a.instance, &a.url).cmp(&(&b.instance, &b.url)));
    let all: u64 = views.iter().map(|view| view.calls).sum();
    for view in &mut views {
        view.share = view.calls as f64 / all.max(1) as f64;
    }
    views
}

fn view<S>(member: &Member<S>, state: EndpointState, now: Instant) -> EndpointView {
    let endpoint = &member.endpoint;
    let stats = endpoint.stats();
    let latency = stats
        .map(|stats| stats.latency.snapshot())
        .unwrap_or_default();
    EndpointView {
        instance: endpoint.instance().id.clone(),
        url: endpoint.url().clone(),
        state,
        in_flight: endpoint.in_flight(),
        ewma: endpoint.latency(now),
        calls: latency.count(),
        failures: stats.map_or(0, |stats| stats.failures.load(Relaxed)),
        abandoned: stats.map_or(0, |stats| stats.unmeasured.load(Relaxed)),
        share: 0.0,
        p50: latency.quantile(0.5),
        p99: latency.quantile(0.99),
        latency,
    }
}
