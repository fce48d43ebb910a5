//! Who is measured: the bare service, our layers, and the peers of each policy.

use super::drive::{Ops, drive};
use super::origin::Origin;
use super::traffic::Protocol;
use super::{ours, peers};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Bare,
    Metadata,
    Deadline,
    CircuitBreaker,
    Retry,
    Hedge,
    RateLimit,
    ConcurrencyLimit,
    Route,
    Trace,
    RequestMetrics,
    CatchPanic,
    Drain,
    BodyLimit,
    Idempotency,
    Stack,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The bare service, which everything is counted against.
    Base,
    Ours,
    /// The peer that comes closest to what ours does: our own row's ratio is taken against it.
    Nearest,
    Peer,
}

#[derive(Clone, Copy)]
pub(crate) struct Subject {
    pub(crate) policy: Policy,
    pub(crate) role: Role,
    pub(crate) name: &'static str,
    /// `None`: the slot is not filled yet.
    pub(crate) make: fn(Protocol) -> Option<Box<dyn Ops>>,
}

pub(crate) const POLICIES: [Policy; 15] = [
    Policy::Metadata,
    Policy::Deadline,
    Policy::CircuitBreaker,
    Policy::Retry,
    Policy::Hedge,
    Policy::RateLimit,
    Policy::ConcurrencyLimit,
    Policy::Route,
    Policy::Trace,
    Policy::RequestMetrics,
    Policy::CatchPanic,
    Policy::Drain,
    Policy::BodyLimit,
    Policy::Idempotency,
    Policy::Stack,
];

pub(crate) const SUBJECTS: [Subject; 44] = [
    Subject::new(Policy::Bare, Role::Base, "bare", |p| {
        Some(drive(Origin::new(p)))
    }),
    Subject::new(Policy::Metadata, Role::Ours, "tower-mesh", ours::metadata),
    Subject::new(
        Policy::Metadata,
        Role::Ours,
        "tower-mesh-server",
        ours::metadata_of_server,
    ),
    Subject::new(Policy::Metadata, Role::Nearest, "tower-http", |p| {
        Some(peers::tower_http_propagate_header(p))
    }),
    // The same two layers with something to pass on; nobody else has that.
    Subject::new(
        Policy::Metadata,
        Role::Peer,
        "tower-mesh-carrying",
        ours::metadata_carrying,
    ),
    Subject::new(
        Policy::Metadata,
        Role::Peer,
        "tower-mesh-server-carrying",
        ours::metadata_of_server_carrying,
    ),
    Subject::new(Policy::Deadline, Role::Ours, "tower-mesh", ours::deadline),
    Subject::new(
        Policy::Deadline,
        Role::Ours,
        "tower-mesh-server",
        ours::deadline_of_server,
    ),
    Subject::new(Policy::Deadline, Role::Nearest, "tower", |p| {
        Some(peers::tower_timeout(p))
    }),
    Subject::new(Policy::Deadline, Role::Peer, "tower-resilience", |p| {
        Some(peers::resilience_timelimiter(p))
    }),
    Subject::new(
        Policy::CircuitBreaker,
        Role::Ours,
        "tower-mesh",
        ours::circuit_breaker,
    ),
    // The floor under every layer of ours that watches calls to their ends.
    Subject::new(
        Policy::CircuitBreaker,
        Role::Peer,
        "tower-mesh-tracking-alone",
        ours::tracking,
    ),
    Subject::new(Policy::CircuitBreaker, Role::Nearest, "failsafe", |p| {
        Some(peers::failsafe(p))
    }),
    Subject::new(
        Policy::CircuitBreaker,
        Role::Peer,
        "tower-resilience",
        |p| Some(peers::resilience_breaker(p)),
    ),
    Subject::new(Policy::Retry, Role::Ours, "tower-mesh", ours::retry),
    Subject::new(Policy::Retry, Role::Nearest, "tower", |p| {
        Some(peers::tower_retry(p))
    }),
    Subject::new(Policy::Retry, Role::Peer, "tower-resilience", |p| {
        Some(peers::resilience_retry(p))
    }),
    Subject::new(Policy::Hedge, Role::Ours, "tower-mesh", ours::hedge),
    Subject::new(
        Policy::RateLimit,
        Role::Ours,
        "tower-mesh",
        ours::rate_limit,
    ),
    // Without a key, as governor's direct limiter.
    Subject::new(
        Policy::RateLimit,
        Role::Ours,
        "tower-mesh-leased",
        ours::rate_limit_leased,
    ),
    Subject::new(Policy::RateLimit, Role::Nearest, "governor-keyed", |p| {
        Some(peers::governor_keyed(p))
    }),
    Subject::new(Policy::RateLimit, Role::Peer, "governor-direct", |p| {
        Some(peers::governor_direct(p))
    }),
    Subject::new(Policy::RateLimit, Role::Peer, "tower-resilience", |p| {
        Some(peers::resilience_ratelimiter(p))
    }),
    Subject::new(
        Policy::ConcurrencyLimit,
        Role::Ours,
        "tower-mesh",
        ours::concurrency_limit,
    ),
    Subject::new(
        Policy::ConcurrencyLimit,
        Role::Ours,
        "tower-mesh-keyed",
        ours::concurrency_limit_keyed,
    ),
    Subject::new(Policy::ConcurrencyLimit, Role::Nearest, "tower", |p| {
        Some(peers::tower_concurrency_limit(p))
    }),
    Subject::new(Policy::Route, Role::Ours, "tower-mesh", ours::route),
    Subject::new(
        Policy::Route,
        Role::Ours,
        "tower-mesh-sticky",
        ours::route_sticky,
    ),
    Subject::new(Policy::Route, Role::Ours, "tower-mesh-split", ours::split),
    Subject::new(Policy::Route, Role::Nearest, "tower-steer", |p| {
        Some(peers::tower_steer(p))
    }),
    Subject::new(Policy::Trace, Role::Ours, "tower-mesh", ours::trace),
    Subject::new(Policy::Trace, Role::Nearest, "tower-http", |p| {
        Some(peers::tower_http_trace(p))
    }),
    Subject::new(
        Policy::RequestMetrics,
        Role::Ours,
        "tower-mesh",
        ours::request_metrics,
    ),
    Subject::new(
        Policy::RequestMetrics,
        Role::Nearest,
        "metrics-macros",
        |p| Some(peers::metrics_macros(p)),
    ),
    Subject::new(
        Policy::CatchPanic,
        Role::Ours,
        "tower-mesh",
        ours::catch_panic,
    ),
    // It boxes the body, and sees no panic there.
    Subject::new(Policy::CatchPanic, Role::Nearest, "tower-http", |p| {
        Some(peers::tower_http_catch_panic(p))
    }),
    Subject::new(Policy::Drain, Role::Ours, "tower-mesh", ours::drain),
    // It counts calls to the end of their bodies, and that is all.
    Subject::new(Policy::Drain, Role::Nearest, "tower-http", |p| {
        Some(peers::tower_http_in_flight(p))
    }),
    Subject::new(
        Policy::BodyLimit,
        Role::Ours,
        "tower-mesh",
        ours::body_limit,
    ),
    // Of requests only.
    Subject::new(Policy::BodyLimit, Role::Nearest, "tower-http", |p| {
        Some(peers::tower_http_body_limit(p))
    }),
    Subject::new(
        Policy::Idempotency,
        Role::Ours,
        "tower-mesh",
        ours::idempotency,
    ),
    Subject::new(Policy::Stack, Role::Ours, "tower-mesh", ours::stack),
    Subject::new(Policy::Stack, Role::Nearest, "tower-resilience", |p| {
        Some(peers::resilience_stack(p))
    }),
    Subject::new(Policy::Stack, Role::Peer, "tower-governor-failsafe", |p| {
        Some(peers::mixed_stack(p))
    }),
];

// ===== impl Policy =====

impl Policy {
    /// Whether somebody else has it, who can be measured in the same way.
    pub(crate) fn has_peer(self) -> bool {
        self == Self::Bare
            || SUBJECTS
                .iter()
                .any(|subject| subject.policy == self && subject.role == Role::Nearest)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Metadata => "metadata",
            Self::Deadline => "deadline",
            Self::CircuitBreaker => "circuit-breaker",
            Self::Retry => "retry",
            Self::Hedge => "hedge",
            Self::RateLimit => "rate-limit",
            Self::ConcurrencyLimit => "concurrency-limit",
            Self::Route => "route",
            Self::Trace => "trace",
            Self::RequestMetrics => "request-metrics",
            Self::CatchPanic => "catch-panic",
            Self::Drain => "drain",
            Self::BodyLimit => "body-limit",
            Self::Idempotency => "idempotency",
            Self::Stack => "stack",
        }
    }
}

// ===== impl Subject =====

impl Subject {
    const fn new(
        policy: Policy,
        role: Role,
        name: &'static str,
        make: fn(Protocol) -> Option<Box<dyn Ops>>,
    ) -> Self {
        Self {
            policy,
            role,
            name,
            make,
        }
    }
}
