//! A service over several, one for each arm.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{config::RouteConfig, handle::RouteHandle, routes::Routes};
use crate::vocab::{
    classify::CallKind,
    config::ConfigError,
    context::CallContext,
    live::Live,
    metrics::{self, Registered},
    rejection::{Reason, Rejection},
    tracked::ResponseBody,
};

/// Sends each call to one of several services: blue or green, stable or canary.
///
/// For clients that no [`Balance`] stands behind: two tonic channels, two hyper clients. The arms
/// of the rules are the names of the services.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{ServiceExt, service_fn};
/// use tower_mesh_layers::route::{BackendConfig, RouteConfig, RuleConfig, Split, StickyConfig};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let peer = |name: &'static str| service_fn(move |_: Request<Full<Bytes>>| {
/// #     std::future::ready(Ok::<_, std::convert::Infallible>(Response::new(Full::from(name))))
/// # });
/// # let (blue, green) = (peer("blue"), peer("green"));
/// let rules = RouteConfig::new([RuleConfig::new("rollout")
///     .backend(BackendConfig::new("blue").weight(80))
///     .backend(BackendConfig::new("green").weight(20))
///     .sticky(StickyConfig::header("x-user"))]);
/// let split = Split::builder()
///     .service("blue", blue)
///     .service("green", green)
///     .rules(rules) // or a `Live` one, to ramp up while it runs
///     .build()?;
///
/// let response = split.oneshot(Request::new(Full::default())).await?;
/// assert_eq!(response.status(), 200);
/// # Ok(())
/// # }
/// ```
///
/// # Which service
///
/// Where a [`RouteLayer`](super::RouteLayer) outside has decided for a call, its arm is the
/// service, and no rules are needed here. So it is with a retry layer between the two: all attempts
/// go to the same service. With the rules in here, a retry layer outside has every attempt drawn
/// anew (sticky ones find their service again).
///
/// A call that no rule is for goes to the service that [`unmatched`](SplitBuilder::unmatched)
/// names, and is refused where none is named. A call for an arm that is no service is refused.
/// Refused is 503 or UNAVAILABLE, with a [`Rejection`] as an extension.
///
/// # Readiness
///
/// A split is always ready, since which service is asked depends on the call. The call waits for
/// its service, on a clone of it that is polled ready and then called; it asks no other one, so a
/// service that is never ready holds up no call of another. One clone is made for every call.
///
/// [`Balance`]: https://docs.rs/tower-mesh-discovery
pub struct Split<S> {
    shared: Arc<Shared<S>>,
}

/// Makes a [`Split`] step by step.
#[must_use]
pub struct SplitBuilder<S> {
    services: Vec<(Box<str>, S)>,
    rules: Live<Option<RouteConfig>>,
    unmatched: Option<Box<str>>,
    seed: Option<u64>,
}

struct Shared<S> {
    services: Box<[(Box<str>, S)]>,
    unmatched: Option<usize>,
    routes: Arc<Registered<Routes>>,
}

pin_project! {
    /// The future of [`Split`].
    pub struct SplitFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, S::Future, B, S::Error>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F, B, E> {
        Called {
            #[pin]
            future: F,
        },
        // Boxed: few calls get here, and all would carry it.
        Waiting {
            waiting: Box<Waiting<S, B>>,
        },
        Failed {
            error: Option<E>,
        },
        Rejected {
            rejection: Option<Box<(CallKind, Rejection)>>,
        },
    }
}

struct Waiting<S, B> {
    service: S,
    request: Option<Request<B>>,
}

// ===== impl Split =====

impl<S> Split<S> {
    /// Starts with no service.
    pub fn builder() -> SplitBuilder<S> {
        SplitBuilder {
            services: Vec::new(),
            rules: Live::new(None),
            unmatched: None,
            seed: None,
        }
    }

    /// To see where calls go that are decided on in here.
    pub fn handle(&self) -> RouteHandle {
        RouteHandle::new(self.shared.routes.clone())
    }

    /// The service for a call.
    fn service<B>(&self, request: &mut Request<B>) -> Result<&S, Rejection> {
        let shared = &*self.shared;
        if shared.routes.is_on()
            && let Some(place) = shared.routes.route(request)
        {
            return Ok(&shared.services[place].1);
        }
        let context = CallContext::get(request.extensions());
        let (place, arm) = match context.and_then(|context| context.route.as_ref()) {
            Some(decision) => (shared.place(&decision.arm().name), Some(decision.arm())),
            None => (shared.unmatched, None),
        };
        place.map(|place| &shared.services[place].1).ok_or_else(|| {
            let detail = match arm {
                Some(arm) => format!(
                    "no service is named `{}`, where rule `{}` sends the call",
                    arm.name, arm.rule
                ),
                None => "no rule is for the call".to_owned(),
            };
            Rejection::new("route", Reason::NoEndpoint, detail)
        })
    }
}

impl<S> Clone for Split<S> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<S> fmt::Debug for Split<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services = self.shared.services.iter().map(|(name, _)| name);
        f.debug_struct("Split")
            .field("services", &services.collect::<Vec<_>>())
            .field("stats", &self.shared.routes.stats())
            .finish_non_exhaustive()
    }
}

impl<S, B, ResB> Service<Request<B>> for Split<S>
where
    S: Service<Request<B>, Response = Response<ResB>> + Clone,
    ResB: Body<Data = Bytes>,
{
    type Response = Response<ResponseBody<ResB>>;
    type Error = S::Error;
    type Future = SplitFuture<S, B>;

    /// Always ready: which service is asked depends on the request.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let state = match self.service(&mut request) {
            Ok(service) => State::begin(service.clone(), request),
            Err(rejection) => State::Rejected {
                rejection: Some(Box::new((CallKind::of(&request), rejection))),
            },
        };
        SplitFuture { state }
    }
}

// ===== impl Shared =====

impl<S> Shared<S> {
    fn place(&self, name: &str) -> Option<usize> {
        self.services.iter().position(|(known, _)| **known == *name)
    }
}

// ===== impl State =====

impl<S, B> State<S, S::Future, B, S::Error>
where
    S: Service<Request<B>>,
{
    fn begin(mut service: S, request: Request<B>) -> Self {
        // Mostly it is ready, and then the request need not wait in the future. If it is not, the
        // future asks the same instance again, with a waker that wakes: it may have a place in a
        // queue by now.
        let mut noop = Context::from_waker(Waker::noop());
        match service.poll_ready(&mut noop) {
            Poll::Ready(Ok(())) => Self::Called {
                future: service.call(request),
            },
            Poll::Ready(Err(error)) => Self::Failed { error: Some(error) },
            Poll::Pending => Self::Waiting {
                waiting: Box::new(Waiting {
                    service,
                    request: Some(request),
                }),
            },
        }
    }
}

// ===== impl SplitFuture =====

impl<S, B, ResB> Future for SplitFuture<S, B>
where
    S: Service<Request<B>, Response = Response<ResB>>,
    ResB: Body<Data = Bytes>,
{
    type Output = Result<Response<ResponseBody<ResB>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const DONE: &str = "a future must not be polled after it is ready";
        let mut this = self.project();
        loop {
            let future = match this.state.as_mut().project() {
                StateProj::Called { future } => {
                    return future
                        .poll(cx)
                        .map_ok(|response| response.map(ResponseBody::inner));
                }
                StateProj::Waiting { waiting } => {
                    ready!(waiting.service.poll_ready(cx))?;
                    waiting.service.call(waiting.request.take().expect(DONE))
                }
                StateProj::Failed { error } => return Poll::Ready(Err(error.take().expect(DONE))),
                StateProj::Rejected { rejection } => {
                    let (call, rejection) = *rejection.take().expect(DONE);
                    return Poll::Ready(Ok(rejection.into_response(call)));
                }
            };
            this.state.set(State::Called { future });
        }
    }
}

impl<S, B> fmt::Debug for SplitFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SplitFuture").finish_non_exhaustive()
    }
}

// ===== impl SplitBuilder =====

impl<S> SplitBuilder<S> {
    /// Adds a service, under the name that arms have.
    pub fn service(mut self, name: impl Into<Box<str>>, service: S) -> Self {
        self.services.push((name.into(), service));
        self
    }

    /// The rules: a [`RouteConfig`], or a [`Live`] one that may change later. Default: none, and
    /// calls go by what a [`RouteLayer`](super::RouteLayer) outside decides.
    pub fn rules(mut self, rules: impl Into<Live<RouteConfig>>) -> Self {
        self.rules = rules.into().some();
        self
    }

    /// The service for calls that no rule is for. Default: they are refused.
    pub fn unmatched(mut self, name: impl Into<Box<str>>) -> Self {
        self.unmatched = Some(name.into());
        self
    }

    /// Draws the same sequence for the same seed: for tests. Takes a lock for every draw.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Makes the split.
    ///
    /// # Errors
    ///
    /// When there is no service, two have the same name, an arm of the rules is no service, or the
    /// rules cannot work. From then on a change of the rules that cannot work is refused.
    pub fn build(self) -> Result<Split<S>, ConfigError> {
        let names: Vec<Box<str>> = self.services.iter().map(|(name, _)| name.clone()).collect();
        if names.is_empty() {
            return Err(ConfigError::new("services", "[]", "at least one service"));
        }
        for (at, name) in names.iter().enumerate() {
            if names[..at].contains(name) {
                let path = format!("services[{at}]");
                return Err(ConfigError::new(path, name, "every name once"));
            }
        }
        let place = move |name: &str| {
            let place = names.iter().position(|known| **known == *name);
            place.ok_or_else(|| {
                let expected = format!("a service of the split: {}", names.join(", "));
                ConfigError::new("", name, expected)
            })
        };
        let unmatched = self.unmatched.as_deref().map(&place).transpose();
        let unmatched = unmatched.map_err(|error| error.at("unmatched"))?;
        let of_arm = move |name: &str| place(name).map_err(|error| error.at("name"));
        let routes = Routes::new(&self.rules, self.seed, of_arm)?;
        Ok(Split {
            shared: Arc::new(Shared {
                services: self.services.into(),
                unmatched,
                routes: Arc::new(metrics::register(routes)),
            }),
        })
    }
}

impl<S> fmt::Debug for SplitBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services = self.services.iter().map(|(name, _)| name);
        f.debug_struct("SplitBuilder")
            .field("services", &services.collect::<Vec<_>>())
            .field("rules", &self.rules)
            .field("unmatched", &self.unmatched)
            .finish_non_exhaustive()
    }
}
