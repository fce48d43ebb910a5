//! Who is measured: our balancer and tower's, over endpoints that answer at once.

use std::convert::Infallible;
use std::future::{self, Ready};
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::Service;
use tower::balance::p2c;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PeakEwmaDiscover, PendingRequestsDiscover};
use tower_mesh_discovery::balance::{Balance, Picker};
use tower_mesh_discovery::instance::{EndpointUrl, Instance, Scheme};
use tower_mesh_discovery::resolve::Resolver;

/// Makes as many calls as it is told, one after another.
pub(crate) type Calls = Box<dyn FnMut(u32)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// An endpoint alone, which everything is counted against.
    Endpoint,
    Ours(Balancing),
    Tower(Load),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Balancing {
    P2cEwma,
    RoundRobin,
}

/// What tower's P2C compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    PeakEwma,
    PendingRequests,
}

pub(crate) const SUBJECTS: [Subject; 5] = [
    Subject::Endpoint,
    Subject::Ours(Balancing::P2cEwma),
    Subject::Ours(Balancing::RoundRobin),
    Subject::Tower(Load::PeakEwma),
    Subject::Tower(Load::PendingRequests),
];

/// Both averages forget at the pace of our default.
const DECAY: Duration = Duration::from_secs(5);
/// What tower takes an endpoint for that was not called yet.
const DEFAULT_RTT: Duration = Duration::from_millis(30);
/// Calls for each endpoint before anything is measured: tower takes a large set in by and by, and ours makes room in an
/// endpoint's histogram as latencies fall into a new part of it.
const WARM_UP_CALLS: u32 = 20;

/// Answers at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endpoint;

/// Clones the service for each call, as callers must who share it.
#[derive(Clone, Debug)]
struct ClonedPerCall<S>(S);

// ===== impl Subject =====

impl Subject {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Ours(Balancing::P2cEwma) => "tower-mesh-p2c-ewma",
            Self::Ours(Balancing::RoundRobin) => "tower-mesh-round-robin",
            Self::Tower(Load::PeakEwma) => "tower-p2c-peak-ewma",
            Self::Tower(Load::PendingRequests) => "tower-p2c-pending",
        }
    }

    /// A balancer that knows `count` endpoints and has called them.
    pub(crate) fn make(self, count: usize) -> Calls {
        match self {
            Self::Endpoint => calls(ClonedPerCall(Endpoint)),
            Self::Ours(balancing) => {
                let balance = ours(balancing, count);
                let mut calls = warm(calls(ClonedPerCall(balance.clone())), count);
                while balance
                    .endpoints()
                    .iter()
                    .any(|endpoint| endpoint.calls == 0)
                {
                    calls(WARM_UP_CALLS);
                }
                calls
            }
            Self::Tower(Load::PeakEwma) => warm(calls(tower_peak_ewma(count)), count),
            Self::Tower(Load::PendingRequests) => warm(calls(tower_pending(count)), count),
        }
    }
}

fn warm(mut calls: Calls, count: usize) -> Calls {
    calls(WARM_UP_CALLS * count as u32);
    calls
}

/// Our balancer, once it knows all endpoints.
pub(crate) fn ours(
    balancing: Balancing,
    count: usize,
) -> Balance<impl Fn(&Instance) -> Endpoint + Send + Sync + 'static> {
    let picker = match balancing {
        Balancing::P2cEwma => Picker::p2c_ewma(),
        Balancing::RoundRobin => Picker::round_robin(),
    };
    let balance = Balance::builder(Resolver::fixed("orders", instances(count)))
        .picker(picker)
        .endpoints(|_: &Instance| Endpoint)
        .build();
    while balance.endpoints().len() < count {
        thread::park_timeout(Duration::from_millis(5));
    }
    balance
}

pub(crate) fn instances(count: usize) -> impl Iterator<Item = Instance> {
    (0..count as u32).map(|number| {
        let host = Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + number);
        Instance::at(
            "orders",
            EndpointUrl::new(Scheme::Http, SocketAddr::from((host, 8080))),
        )
    })
}

pub(crate) fn tower_peak_ewma(
    count: usize,
) -> impl Service<Request<()>, Response = Response<Full<Bytes>>, Future: Send> + 'static {
    let endpoints = ServiceList::new::<Request<()>>(vec![Endpoint; count]);
    let completion = CompleteOnResponse::default();
    let endpoints = PeakEwmaDiscover::new::<Request<()>>(endpoints, DEFAULT_RTT, DECAY, completion);
    p2c::Balance::new(endpoints)
}

pub(crate) fn tower_pending(
    count: usize,
) -> impl Service<Request<()>, Response = Response<Full<Bytes>>, Future: Send> + 'static {
    let endpoints = ServiceList::new::<Request<()>>(vec![Endpoint; count]);
    let endpoints = PendingRequestsDiscover::new(endpoints, CompleteOnResponse::default());
    p2c::Balance::new(endpoints)
}

fn calls<S, B>(mut service: S) -> Calls
where
    S: Service<Request<()>, Response = Response<B>> + 'static,
    B: Body<Data = Bytes>,
{
    Box::new(move |calls| {
        for _ in 0..calls {
            let request = black_box(Request::new(()));
            assert!(measured_op(&mut service, request) > 0, "a call was refused");
        }
    })
}

/// The part that is counted: callgrind collects only inside functions of this name. Bytes of the answer's body; none
/// where there was no answer.
#[inline(never)]
fn measured_op<S, B>(service: &mut S, request: Request<()>) -> usize
where
    S: Service<Request<()>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    let mut cx = Context::from_waker(Waker::noop());
    if !matches!(service.poll_ready(&mut cx), Poll::Ready(Ok(()))) {
        return 0;
    }
    let response = pin!(service.call(request)).poll(&mut cx);
    let Poll::Ready(Ok(response)) = response else {
        return 0;
    };
    let mut body = pin!(response.into_body());
    let mut bytes = 0;
    while !body.is_end_stream() {
        match body.as_mut().poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => bytes += frame.data_ref().map_or(0, Buf::remaining),
            _ => break,
        }
    }
    bytes
}

// ===== impl Endpoint =====

impl Service<Request<()>> for Endpoint {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        let response = Response::new(Full::new(Bytes::from_static(b"shipped")));
        // Else the optimizer sees that it has no headers to drop, in the cases that it inlines enough of.
        future::ready(Ok(black_box(response)))
    }
}

// ===== impl ClonedPerCall =====

impl<S: Service<R> + Clone, R> Service<R> for ClonedPerCall<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// Of the clone, which is ready when the original is.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.0.clone().call(request)
    }
}
