//! Who is simulated.

use std::{
    fmt::Debug,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower_service::Service;

use super::world::{Answer, Refused, World};
use crate::{
    balance::{Balance, BalanceConfig, Picker},
    instance::Instance,
};

/// A way to balance, of which every client has its own.
pub trait Contender {
    /// In tables.
    fn name(&self) -> &str;

    /// The balancer of one client; it is made inside of the simulated time. What it draws by itself should come
    /// from `seed`.
    fn client(&self, world: &World, seed: u64) -> Client;
}

/// The balancer of one client.
pub struct Client(Box<dyn Calls>);

/// Whether a call was answered well.
pub(super) type Call = Pin<Box<dyn Future<Output = bool>>>;

trait Calls {
    fn begin(&mut self) -> Option<Call>;
}

/// The balancer of this crate.
pub struct Ours {
    name: String,
    picker: Box<dyn Fn() -> Picker>,
    config: BalanceConfig,
}

/// Knows all queues. See the [module](super).
pub struct Oracle;

/// Asks the oracle for each call.
struct Asking(World);

// ===== impl Client =====

impl Client {
    /// A service that is not cloned between calls, since some balancers are no `Clone`.
    pub fn new<S, B>(service: S) -> Self
    where
        S: Service<Request<()>, Response = Response<B>> + 'static,
        S::Future: 'static,
        S::Error: Debug,
        B: Body<Data = Bytes> + 'static,
    {
        Self(Box::new(service))
    }

    /// Begins a call; `None` while the balancer is not ready for one.
    pub(super) fn begin(&mut self) -> Option<Call> {
        self.0.begin()
    }
}

impl<S, B> Calls for S
where
    S: Service<Request<()>, Response = Response<B>> + 'static,
    S::Future: 'static,
    S::Error: Debug,
    B: Body<Data = Bytes> + 'static,
{
    fn begin(&mut self) -> Option<Call> {
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(())) = self.poll_ready(&mut cx) else {
            return None;
        };
        let answer = self.call(Request::new(()));
        Some(Box::pin(async move {
            let Ok(response) = answer.await else {
                return false;
            };
            let good = response.status() == StatusCode::OK;
            // The call ends with its body.
            good & response.into_body().collect().await.is_ok()
        }))
    }
}

// ===== impl Ours =====

impl Ours {
    /// With a picker, and the defaults for the rest; each client has a picker of its own.
    pub fn new(name: &str, picker: impl Fn() -> Picker + 'static) -> Self {
        Self {
            name: name.to_owned(),
            picker: Box::new(picker),
            config: BalanceConfig::default(),
        }
    }

    /// With other options; the picker still is the one it was made with.
    #[must_use]
    pub fn config(mut self, config: BalanceConfig) -> Self {
        self.config = config;
        self
    }
}

impl Contender for Ours {
    fn name(&self) -> &str {
        &self.name
    }

    /// # Panics
    ///
    /// If the options are invalid.
    fn client(&self, world: &World, _: u64) -> Client {
        let servers = world.clone();
        let balance = Balance::builder(world.watch())
            .picker((self.picker)())
            .endpoints(move |instance: &Instance| servers.server(instance))
            .config(self.config.clone())
            .expect("valid options");
        Client::new(balance.build())
    }
}

// ===== impl Oracle =====

impl Contender for Oracle {
    fn name(&self) -> &str {
        "oracle"
    }

    fn client(&self, world: &World, _: u64) -> Client {
        Client::new(Asking(world.clone()))
    }
}

impl Service<Request<()>> for Asking {
    type Response = Response<Full<Bytes>>;
    type Error = Refused;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Answer {
        match self.0.best() {
            Some(mut server) => server.call(request),
            None => Answer::refused(),
        }
    }
}
