//! Choosing one endpoint for one call.

mod p2c_ewma;
mod round_robin;
mod turns;
mod weighted;

use std::{fmt, sync::Arc};

use tower_mesh_layers::context::{RouteDecision, Tried};

pub use self::{p2c_ewma::P2cEwma, round_robin::RoundRobin};
use super::{config::Balancing, endpoint::Endpoint};

/// Chooses one endpoint for one call.
///
/// It runs for every call, on many threads at once: keep it free of locks and allocations, and let
/// its cost not grow with the number of endpoints.
///
/// ```
/// use tower_mesh_discovery::balance::{Candidates, Pick};
///
/// /// The endpoint with the fewest calls in flight, of a handful.
/// #[derive(Debug)]
/// struct LeastLoaded;
///
/// impl Pick for LeastLoaded {
///     fn pick(&self, candidates: &Candidates<'_>) -> usize {
///         (0..candidates.len())
///             .filter(|&i| candidates.is_eligible(i))
///             .min_by_key(|&i| candidates.endpoint(i).in_flight())
///             .unwrap_or(0)
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a picker",
    note = "`Picker::p2c_ewma()` and `Picker::round_robin()` are there"
)]
pub trait Pick: fmt::Debug + Send + Sync + 'static {
    /// The position of one of the candidates, of which there is at least one.
    ///
    /// One that is not [eligible](Candidates::is_eligible) should be chosen only when none is.
    fn pick(&self, candidates: &Candidates<'_>) -> usize;

    /// The picker for exactly these candidates, where there is something to work out beforehand:
    /// weights, rings, tables. `None`, the default, picks with this one.
    ///
    /// It is asked once for every new set of endpoints, and shares with this one what must outlive
    /// the set. The candidates of [`pick`](Self::pick) are then these.
    fn prepare(&self, candidates: &Candidates<'_>) -> Option<Arc<dyn Pick>> {
        let _ = candidates;
        None
    }

    /// Another one like this, which is then [prepared](Self::prepare) for a subset of the endpoints: the
    /// arms of a route are lists apart. `None`, the default, picks with this one.
    ///
    /// For pickers that remember a place in the list, which each list needs for itself.
    fn for_subset(&self) -> Option<Arc<dyn Pick>> {
        None
    }
}

/// A [`Pick`] that a balancer runs on.
#[derive(Debug, Clone)]
pub struct Picker(Arc<dyn Pick>);

/// The endpoints that may get a call, and what is known about the call.
pub struct Candidates<'a> {
    pub(super) endpoints: &'a dyn Endpoints,
    pub(super) tried: Tried,
    pub(super) route: Option<&'a RouteDecision>,
    pub(super) now_ms: u64,
}

/// A list of endpoints, whatever their services are.
pub(super) trait Endpoints {
    fn count(&self) -> usize;
    fn at(&self, index: usize) -> &Endpoint;
}

// ===== impl Picker =====

impl Picker {
    /// The cheaper of two random endpoints, by latency and calls in flight: see [`P2cEwma`].
    pub fn p2c_ewma() -> Self {
        Self::new(P2cEwma::new())
    }

    /// One after the other: see [`RoundRobin`].
    pub fn round_robin() -> Self {
        Self::new(RoundRobin::new())
    }

    /// A picker of your own.
    pub fn new(pick: impl Pick) -> Self {
        Self(Arc::new(pick))
    }

    /// The picker for a subset, still to be prepared.
    pub(super) fn for_subset(&self) -> Self {
        self.0.for_subset().map_or_else(|| self.clone(), Self)
    }

    /// The picker for a set.
    pub(super) fn prepared(&self, candidates: &Candidates<'_>) -> Self {
        self.0
            .prepare(candidates)
            .map_or_else(|| self.clone(), Self)
    }

    pub(super) fn get(&self) -> &dyn Pick {
        &*self.0
    }
}

impl Default for Picker {
    fn default() -> Self {
        Balancing::default().into()
    }
}

impl From<Balancing> for Picker {
    fn from(balancing: Balancing) -> Self {
        match balancing {
            Balancing::P2cEwma => Self::p2c_ewma(),
            Balancing::RoundRobin => Self::round_robin(),
        }
    }
}

// ===== impl Candidates =====

impl<'a> Candidates<'a> {
    /// A whole list, and no call.
    pub(super) fn all(endpoints: &'a dyn Endpoints) -> Self {
        Self {
            endpoints,
            tried: Tried::default(),
            route: None,
            now_ms: 0,
        }
    }
}

impl Candidates<'_> {
    /// How many there are: at least one.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.endpoints.count()
    }

    /// The endpoint at a position.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`len`](Self::len).
    pub fn endpoint(&self, index: usize) -> &Endpoint {
        self.endpoints.at(index)
    }

    /// The share of the calls that an endpoint is to get, relative to the others: at least 1.
    pub fn weight(&self, index: usize) -> u32 {
        self.endpoint(index).weight()
    }

    /// Whether no earlier attempt of the call went to this endpoint.
    pub fn is_eligible(&self, index: usize) -> bool {
        // Most calls are first attempts: they need not touch the endpoint.
        self.tried.is_empty() || !self.tried.contains(self.endpoint(index).id())
    }

    /// Whether an earlier attempt went to some endpoint.
    pub fn is_retry(&self) -> bool {
        !self.tried.is_empty()
    }

    /// What the routing layer decided for the call: subset, hash.
    pub fn route(&self) -> Option<&RouteDecision> {
        self.route
    }

    /// The expected price of one more call to this endpoint: its average latency times the calls in
    /// flight and this one, in nanoseconds, and far more after a failure just now.
    pub fn cost(&self, index: usize) -> f32 {
        self.endpoint(index).cost(self.now_ms, 1.0)
    }

    /// The same, where each call in flight counts as `scale` calls.
    fn scaled_cost(&self, index: usize, scale: f32) -> f32 {
        self.endpoint(index).cost(self.now_ms, scale)
    }

    /// Whether a call to this endpoint failed so recently that another one should be preferred.
    pub fn is_penalised(&self, index: usize) -> bool {
        self.endpoint(index).is_penalised(self.now_ms)
    }
}

impl fmt::Debug for Candidates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidates")
            .field("len", &self.len())
            .field("tried", &self.tried)
            .finish_non_exhaustive()
    }
}

/// A set of endpoints for the tests of the pickers.
#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::{
        balance::ewma::Decay,
        instance::{EndpointUrl, Instance},
    };

    pub(super) struct Set(Vec<Endpoint>);

    impl Endpoints for Set {
        fn count(&self) -> usize {
            self.0.len()
        }

        fn at(&self, index: usize) -> &Endpoint {
            &self.0[index]
        }
    }

    impl Set {
        pub(super) fn of(n: usize) -> Self {
            Self::weighted(&vec![Instance::DEFAULT_WEIGHT; n])
        }

        pub(super) fn weighted(weights: &[u32]) -> Self {
            let epoch = Instant::now();
            let endpoint = |(i, &weight): (usize, &u32)| {
                let url: EndpointUrl = format!("http://10.0.0.{}:80", i + 1).parse().unwrap();
                let instance = Arc::new(Instance::at("orders", url.clone()).with_weight(weight));
                Endpoint::new(instance, url, epoch, Decay::new(5_000.0))
            };
            Self(weights.iter().enumerate().map(endpoint).collect())
        }

        pub(super) fn penalise(&self, index: usize) {
            self.0[index].penalise(Instant::now(), Duration::from_secs(60));
        }

        /// Lets an endpoint have a latency and calls in flight.
        pub(super) fn pretend(&self, index: usize, latency: Duration, in_flight: u32) {
            self.0[index].pretend(latency, in_flight);
        }

        /// A call whose earlier attempts went to these.
        pub(super) fn without(&self, tried: &[usize]) -> Candidates<'_> {
            let mut ids = Tried::default();
            for &index in tried {
                ids.push(self.0[index].id());
            }
            Candidates {
                endpoints: self,
                tried: ids,
                route: None,
                now_ms: 1,
            }
        }

        pub(super) fn all(&self) -> Candidates<'_> {
            self.without(&[])
        }
    }
}
