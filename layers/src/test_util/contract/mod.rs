//! The contract that a layer keeps, as one test.
//!
//! A layer that works under `oneshot` may still leak a permit when a client hangs up, count every
//! ordinary response as cancelled, let twenty connections have twenty limits, or call a clone that
//! was never ready. [`Contract`] tries all of it, over a strict [`Probe`] and on a paused clock:
//!
//! ```
//! # use tower_mesh_layers::test_util::contract;
//! # #[derive(Clone, Default)] struct MyLayer;
//! # impl MyLayer { fn in_flight(&self) -> usize { 0 } }
//! # impl<S> tower_layer::Layer<S> for MyLayer { type Service = S; fn layer(&self, inner: S) -> S { inner } }
//! // #[test]
//! fn keeps_the_contract() {
//!     contract::Contract::new(|| MyLayer::default()).check();
//! }
//! # keeps_the_contract();
//! ```
//!
//! Hooks let the kit see more:
//!
//! | method | lets the kit see | without it |
//! |---|---|---|
//! | [`held`](Contract::held) | permits or calls in flight now | only leaks that block the next call are found |
//! | [`held_at_rest`](Contract::held_at_rest) | the same, where a call need not hold any | |
//! | [`tally`](Contract::tally) | successes and failures counted so far | [`Rule::Outcomes`] is not checked |
//! | [`shared_limit`](Contract::shared_limit) | a limit that must hold however often `layer()` is called | [`Rule::Reapplication`] is checked only through `held` |
//! | [`clones_per_call`](Contract::clones_per_call) | the clones of the inner service that a call may make | [`Rule::Clones`] is not checked |
//! | [`script`](Contract::script) | more answers to cancel and panic within, such as one that is retried | |
//!
//! The layer must be built generously: each check calls one layer up to 3,000 times at once, with
//! failures and panics among the calls, and then expects an ordinary call to pass.
//!
//! [`pairs!`] puts every layer over every other: two layers that keep the contract alone can break it
//! together, for example by ending a stream twice.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use tower_layer::Layer;
use tower_service::Service;

mod bodies;
mod examine;
mod report;
mod rig;
mod subject;

pub use self::report::{Report, Rule, Violation};
use self::{
    examine::Examination,
    subject::{Driven, Subject},
};
use super::{Answer, BoxError, Probe, TestBody, drive};
#[doc(inline)]
pub use crate::__contract_pairs as pairs;

/// The request body of the tests, unless [`Contract::request_body`] says otherwise: the box that
/// fits a layer which wraps request bodies.
pub type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// What a layer counted. See [`Contract::tally`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls that counted as successes.
    pub successes: u64,
    /// Calls that counted as failures of the peer.
    pub failures: u64,
}

/// A layer over another, for the pair matrix: `outer` sees a call first.
#[derive(Debug, Clone)]
pub struct Over<A, B> {
    /// Sees a call first.
    pub outer: A,
    /// Stands between the outer layer and the inner service.
    pub inner: B,
}

/// How to build a layer, and what may be seen of it. See the [module](self).
pub struct Contract<L, B = RequestBody> {
    name: String,
    make: Arc<dyn Fn() -> L>,
    into_body: Arc<dyn Fn(TestBody) -> B>,
    held: Option<Hook<L, usize>>,
    held_in_call: bool,
    tally: Option<Hook<L, Tally>>,
    clones_per_call: Option<u64>,
    limit: Option<Limit<L>>,
    scripts: Vec<Script>,
    waived: Vec<Rule>,
    churn: usize,
}

type Hook<L, T> = Arc<dyn Fn(&L) -> T>;
type Script = Arc<dyn Fn(u64) -> Answer + Send + Sync>;

struct Limit<L> {
    calls: u64,
    make: Arc<dyn Fn() -> L>,
    answer: Answer,
}

/// Checks a layer with one hook: the permits or calls in flight that it holds now.
///
/// # Panics
///
/// Panics with all violations if the layer breaks the contract.
#[track_caller]
pub fn check<L, R>(make: impl Fn() -> L + 'static, held: impl Fn(&L) -> usize + 'static)
where
    L: Layer<Probe> + Clone + 'static,
    L::Service: Service<Request<RequestBody>, Response = Response<R>> + Clone + Send + 'static,
    <L::Service as Service<Request<RequestBody>>>::Error: Into<BoxError>,
    <L::Service as Service<Request<RequestBody>>>::Future: Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    Contract::new(make).held(held).check();
}

// ===== impl Contract =====

impl<L> Contract<L, RequestBody> {
    /// A contract for the layer that `make` builds. It is called many times, inside a runtime with
    /// a paused clock, and must build a fresh layer each time.
    pub fn new(make: impl Fn() -> L + 'static) -> Self {
        Self {
            name: short_type_name::<L>(),
            make: Arc::new(make),
            into_body: Arc::new(|body| body.boxed_unsync()),
            held: None,
            held_in_call: false,
            tally: None,
            clones_per_call: None,
            limit: None,
            scripts: Vec::new(),
            waived: Vec::new(),
            churn: 2_000,
        }
    }
}

impl<L, B> Contract<L, B> {
    /// The name in reports; by default that of the type.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How many permits or calls in flight the layer holds now. It must be at least 1 while a call
    /// is under way (or the hook could not show a leak), and 0 after each.
    #[must_use]
    pub fn held(mut self, held: impl Fn(&L) -> usize + 'static) -> Self {
        self.held = Some(Arc::new(held));
        self.held_in_call = true;
        self
    }

    /// As [`held`](Self::held), for a layer that does not hold something in every call: it must be 0
    /// after each, and may be anything during it.
    #[must_use]
    pub fn held_at_rest(mut self, held: impl Fn(&L) -> usize + 'static) -> Self {
        self.held = Some(Arc::new(held));
        self.held_in_call = false;
        self
    }

    /// How many successes and failures the layer counted since it was built.
    #[must_use]
    pub fn tally(mut self, tally: impl Fn(&L) -> Tally + 'static) -> Self {
        self.tally = Some(Arc::new(tally));
        self
    }

    /// A call that succeeds makes at most `clones` clones of the inner service. A layer that calls
    /// inside `call` needs none.
    #[must_use]
    pub fn clones_per_call(mut self, clones: u64) -> Self {
        self.clones_per_call = Some(clones);
        self
    }

    /// A layer built by `make` lets exactly `calls` calls reach an inner service that always gives
    /// `answer`, of 200 calls over 20 applications of the layer, with no time passing. For a limit
    /// of `calls` at once, or a breaker that opens after `calls` failures.
    ///
    /// # Panics
    ///
    /// Panics if `calls` is not in 1 to 199, which could not tell shared state from none.
    #[must_use]
    pub fn shared_limit(
        mut self,
        calls: u64,
        answer: Answer,
        make: impl Fn() -> L + 'static,
    ) -> Self {
        assert!(
            (1..200).contains(&calls),
            "a shared limit is in 1..=199, not {calls}"
        );
        self.limit = Some(Limit {
            calls,
            make: Arc::new(make),
            answer,
        });
        self
    }

    /// More answers, by the number of the call, within which calls are cancelled and panic: for
    /// example a 503 first, for a layer that retries.
    #[must_use]
    pub fn script(mut self, script: impl Fn(u64) -> Answer + Send + Sync + 'static) -> Self {
        self.scripts.push(Arc::new(script));
        self
    }

    /// Does not check `rule`. Say why at the call site; the report lists it as unchecked.
    #[must_use]
    pub fn waive(mut self, rule: Rule) -> Self {
        self.waived.push(rule);
        self
    }

    /// The calls of [`Rule::Churn`]; 2,000 by default.
    #[must_use]
    pub fn churn(mut self, calls: usize) -> Self {
        self.churn = calls;
        self
    }

    /// Tests with another type of request body, for a layer that is not generic over it:
    /// `.request_body(axum::body::Body::new)`.
    #[must_use]
    pub fn request_body<C>(self, into_body: impl Fn(TestBody) -> C + 'static) -> Contract<L, C> {
        Contract {
            into_body: Arc::new(into_body),
            name: self.name,
            make: self.make,
            held: self.held,
            held_in_call: self.held_in_call,
            tally: self.tally,
            clones_per_call: self.clones_per_call,
            limit: self.limit,
            scripts: self.scripts,
            waived: self.waived,
            churn: self.churn,
        }
    }

    /// The contract of this layer over `inner`: both sets of hooks and scripts, what both hold, and
    /// what either waives.
    pub fn over<M>(&self, inner: &Contract<M, B>) -> Contract<Over<L, M>, B>
    where
        L: 'static,
        M: 'static,
    {
        let (make, make_inner) = (self.make.clone(), inner.make.clone());
        let (held, held_inner) = (self.held.clone(), inner.held.clone());
        let both = move |pair: &Over<L, M>| {
            held.as_ref().map_or(0, |held| held(&pair.outer))
                + held_inner.as_ref().map_or(0, |held| held(&pair.inner))
        };
        Contract {
            name: format!("{} over {}", self.name, inner.name),
            make: Arc::new(move || Over {
                outer: make(),
                inner: make_inner(),
            }),
            into_body: self.into_body.clone(),
            held: (self.held.is_some() || inner.held.is_some()).then(|| Arc::new(both) as _),
            held_in_call: self.held_in_call || inner.held_in_call,
            tally: None,
            clones_per_call: self
                .clones_per_call
                .zip(inner.clones_per_call)
                .map(|(a, b)| a + b),
            limit: None,
            scripts: self.scripts.iter().chain(&inner.scripts).cloned().collect(),
            waived: self.waived.iter().chain(&inner.waived).copied().collect(),
            churn: self.churn.min(inner.churn).min(500),
        }
    }

    /// Fails the test if the layer breaks the contract. See [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// Panics with all violations if the layer breaks the contract.
    #[track_caller]
    pub fn check<R>(&self)
    where
        L: Layer<Probe> + Clone + 'static,
        L::Service: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
        <L::Service as Service<Request<B>>>::Error: Into<BoxError>,
        <L::Service as Service<Request<B>>>::Future: Send + 'static,
        B: 'static,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        self.run().assert_kept();
    }

    /// Examines the layer on a runtime of its own, and reports. For a plain `#[test]`; inside a
    /// runtime use [`examine`](Self::examine).
    ///
    /// The bounds are what the hosts demand of a layer: a `Clone + Send + 'static` service, a `Send`
    /// future, an error that can be boxed, a `Send` body of `Bytes`.
    ///
    /// # Panics
    ///
    /// Panics if it is called inside a runtime.
    pub fn run<R>(&self) -> Report
    where
        L: Layer<Probe> + Clone + 'static,
        L::Service: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
        <L::Service as Service<Request<B>>>::Error: Into<BoxError>,
        <L::Service as Service<Request<B>>>::Future: Send + 'static,
        B: 'static,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        drive::run_paused(self.examine())
    }

    /// Examines the layer on the current runtime, whose clock must be paused, and reports.
    ///
    /// # Panics
    ///
    /// Panics if the clock is not paused.
    pub async fn examine<R>(&self) -> Report
    where
        L: Layer<Probe> + Clone + 'static,
        L::Service: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
        <L::Service as Service<Request<B>>>::Error: Into<BoxError>,
        <L::Service as Service<Request<B>>>::Future: Send + 'static,
        B: 'static,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let build = || self.subject(&self.make);
        let limited = self.limit.as_ref().map(|limit| self.subject(&limit.make));
        let examination = Examination {
            report: Report {
                name: self.name.clone(),
                ..Report::default()
            },
            build: &build,
            held_in_call: self.held_in_call,
            clones_per_call: self.clones_per_call,
            limit: limited.zip(
                self.limit
                    .as_ref()
                    .map(|limit| (limit.calls, &limit.answer)),
            ),
            scripts: &self.scripts,
            waived: &self.waived,
            churn: self.churn,
        };
        tokio::task::unconstrained(examination.run()).await
    }

    fn subject<R>(&self, make: &Arc<dyn Fn() -> L>) -> Subject
    where
        L: Layer<Probe> + Clone + 'static,
        L::Service: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
        <L::Service as Service<Request<B>>>::Error: Into<BoxError>,
        <L::Service as Service<Request<B>>>::Future: Send + 'static,
        B: 'static,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let layer = Arc::new(make());
        let mut subject = Subject::new(&layer, self.into_body.clone());
        if let Some(held) = self.held.clone() {
            let layer = layer.clone();
            subject.held = Some(Box::new(move || held(&layer)));
        }
        if let Some(tally) = self.tally.clone() {
            subject.tally = Some(Box::new(move || tally(&layer)));
        }
        subject
    }
}

impl<L, B> fmt::Debug for Contract<L, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contract")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

// ===== impl Over =====

impl<A, B, S> Layer<S> for Over<A, B>
where
    A: Layer<B::Service>,
    B: Layer<S>,
{
    type Service = A::Service;

    fn layer(&self, service: S) -> A::Service {
        self.outer.layer(self.inner.layer(service))
    }
}

/// The name of a type without its path and its parameters.
fn short_type_name<T>() -> String {
    let name = std::any::type_name::<T>();
    let name = name.split('<').next().unwrap_or(name);
    name.rsplit("::").next().unwrap_or(name).to_owned()
}

/// Checks every ordered pair of layers, each layer over itself included. Takes [`Contract`]s with
/// the same type of request body:
///
/// ```
/// # use tower_mesh_layers::test_util::contract::{Contract, pairs};
/// # use tower_layer::Identity;
/// fn first() -> Contract<Identity> { Contract::new(Identity::new) }
/// fn second() -> Contract<Identity> { Contract::new(Identity::new) }
///
/// // #[test]
/// fn keep_the_contract_in_pairs() {
///     pairs!(first(), second()); // four pairs
/// }
/// # keep_the_contract_in_pairs();
/// ```
///
/// # Panics
///
/// Panics with the violations of all pairs if there are any.
#[doc(hidden)]
#[macro_export]
macro_rules! __contract_pairs {
    ($($contract:expr),+ $(,)?) => {{
        let mut broken: ::std::vec::Vec<::std::string::String> = ::std::vec::Vec::new();
        $crate::__contract_pairs!(@rows broken [$($contract),+] $($contract),+);
        ::std::assert!(broken.is_empty(), "{}", broken.join("\n"));
    }};
    (@rows $broken:ident $all:tt $($outer:expr),+) => {
        $($crate::__contract_pairs!(@row $broken $outer, $all);)+
    };
    (@row $broken:ident $outer:expr, [$($inner:expr),+]) => {
        $({
            let report = $outer.over(&$inner).run();
            if !report.violations.is_empty() {
                $broken.push(::std::string::ToString::to_string(&report));
            }
        })+
    };
}
