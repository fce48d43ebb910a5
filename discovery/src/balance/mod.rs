//! Balancing calls over the instances of a service.
//!
//! [`Balance`] is a tower service. For each call it picks one endpoint, *with the request in hand*,
//! so that what earlier attempts tried and what a router decided count. It picks from an immutable
//! set without a lock, asks the endpoint whether it is ready before the request is given away, and
//! learns from the outcome. So a connection that is refused costs no call: nothing was sent, and
//! another endpoint is picked.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{ServiceExt, service_fn};
//! use tower_mesh_discovery::{
//!     balance::{Balance, Picker},
//!     instance::Instance,
//!     resolve::Resolver,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let orders = Resolver::fixed("orders", [
//!     Instance::at("orders", "http://10.0.0.1:8080".parse()?),
//!     Instance::at("orders", "http://10.0.0.2:8080".parse()?),
//! ]);
//! let balance = Balance::builder(orders)
//!     .picker(Picker::p2c_ewma())
//!     // Here a closure; `HttpEndpoints::default()` and `TonicEndpoints::default()` go over the wire.
//!     .endpoints(|instance: &Instance| {
//!         let id = instance.id.clone();
//!         service_fn(move |_: Request<()>| {
//!             let body = Full::new(Bytes::from(id.clone()));
//!             async { Ok::<_, Infallible>(Response::new(body)) }
//!         })
//!     })
//!     .build();
//!
//! let response = balance.clone().oneshot(Request::new(())).await?;
//! assert_eq!(response.status(), 200);
//! assert_eq!(balance.endpoints().len(), 2);
//! # Ok(())
//! # }
//! ```
//!
//! # Endpoints
//!
//! An endpoint is known by its instance's id and its URL. What was learnt about it, and its service
//! with its connections, stay while both stay: new metadata changes neither, a new URL is a new
//! endpoint. Instances that are `down` are left out; those that are `draining` get new calls only
//! when no other is there.
//!
//! | an endpoint | then |
//! |---|---|
//! | fails a call | is passed over for `penalty` (longer when it says `Retry-After`, up to 300 s), while another can be picked |
//! | fails `consecutiveFailures` calls, or times out `consecutiveTimeouts`, in a row | is ejected for `baseTime` times the number of its ejections; then one call tries it |
//! | refuses a connection | is out at once; a task tries it after 0 to 200 ms, doubling up to `maxBackoff`, and it returns when it accepts |
//! | is not ready after 50 ms | goes on connecting, while the call goes to another one that is ready |
//! | hangs | its calls end as timeouts at their deadlines; callers that give up earlier leave what they waited as a lower bound of its latency |
//!
//! Ejections count only real answers: a [`Rejection`](tower_mesh_layers::Rejection) of a layer in
//! this process, an overload (429, RESOURCE_EXHAUSTED) and a cancelled call do not. When all
//! endpoints are out, all are called.
//!
//! An endpoint that connects in `call` (a tonic `Channel`, most closures) has taken the request by
//! the time it fails: the call fails, the endpoint is out, and a retry layer around the balancer goes
//! elsewhere, since each pick is told to it ([`picked`](tower_mesh_layers::context::picked)).
//!
//! # Arms
//!
//! A call that a routing layer sent to an arm
//! ([`RouteDecision`](tower_mesh_layers::context::RouteDecision)) goes to the endpoints of the arm's
//! subset: those whose instances have all of its [labels](crate::instance::Instance::label). Picking,
//! penalties, trials and what was tried count within the subset, so a retry stays in its arm. What
//! belongs to a subset is listed once for each new set of endpoints, for up to 32 subsets of a service;
//! further ones are listed for every call.
//!
//! | the arm has | its calls go to |
//! |---|---|
//! | ready endpoints | them; with fewer than `panicThreshold` of them left, all of the arm's |
//! | none ready, a fallback | the fallback's ready endpoints |
//! | none ready, no fallback | those that are draining, otherwise those that are out |
//! | none at all | the fallback's; without one they are refused at once (503 / UNAVAILABLE), or wait with `waitForReady` |
//!
//! # Options
//!
//! | option | default | |
//! |---|---|---|
//! | `picker` | `p2cEwma` | or `roundRobin`; in code any [`Pick`] |
//! | `decay` | 5 s | time constant of the latency average |
//! | `penalty` | 100 ms | how long a failed call keeps others away |
//! | `waitForEndpoints` | 3 s | how long a call waits while no endpoint is known; then it is refused with 503 / UNAVAILABLE |
//! | `waitForReady` | false | wait until the call's deadline instead |
//! | `connectTimeout` | 1 s | how long an endpoint may take to get ready |
//! | `maxBackoff` | 10 s | the longest time out after a refused connection |
//! | `panicThreshold` | 0% | with a smaller share of endpoints left, all are called |
//! | `ejection.consecutiveFailures` | 5 | 0 never ejects by them |
//! | `ejection.consecutiveTimeouts` | 3 | 0 never ejects by them |
//! | `ejection.baseTime` | 3 s | |
//! | `ejection.maxTime` | 60 s | |
//! | `ejection.maxEjected` | 50% | of all endpoints, rounded down; one always may be, and one always stays |
//!
//! # Latency
//!
//! The latency of a call ends at the response head, so that long bodies and slow readers do not make
//! an endpoint look slow. For gRPC it ends at the first message or the trailers, if they come within
//! a second of the head: later, it is taken for a stream.
//!
//! # Metrics
//!
//! | name | kind | labels |
//! |---|---|---|
//! | `mesh_balance_endpoints` | gauge | `server_address`, `state`: `ready`, `penalised`, `ejected`, `refused`, `trial`, `draining` |
//! | `mesh_balance_in_flight` | gauge | `server_address` |
//! | `mesh_balance_panic` | gauge, 0 or 1 | `server_address` |
//! | `mesh_balance_ejections_total` | counter | `server_address` |
//! | `mesh_balance_refusals_total` | counter | `server_address` |
//! | `mesh_balance_returns_total` | counter | `server_address` |
//! | `mesh_balance_repicks_total` | counter | `server_address` |
//! | `mesh_balance_no_endpoint_total` | counter | `server_address` |
//! | `mesh_balance_fallbacks_total` | counter | `server_address` |
//! | `mesh_endpoint_latency_seconds` | histogram | `server_address`, `endpoint` |
//! | `mesh_endpoint_failures_total` | counter | `server_address`, `endpoint` |
//! | `mesh_endpoint_abandoned_total` | counter | `server_address`, `endpoint` |
//!
//! An endpoint has series from its first outcome on, and [`Balance::endpoints`] shows all of them at
//! one moment. Ejections, refusals and returns are also `tracing` events at level info.

mod arms;
mod builder;
mod choice;
mod config;
mod eject;
mod endpoint;
mod ewma;
mod future;
mod metrics;
mod pick;
mod probe;
mod roster;
mod seek;
mod service;
mod set;
mod update;
mod view;

pub use self::{
    builder::{Builder, Source, Unset},
    config::{BalanceConfig, Balancing, EjectionConfig},
    endpoint::{Endpoint, EndpointGuard},
    future::ResponseFuture,
    pick::{Candidates, P2cEwma, Pick, Picker, RoundRobin},
    service::Balance,
    view::{EndpointState, EndpointView},
};

#[cfg(test)]
mod tests;
