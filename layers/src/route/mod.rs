//! Sends calls to arms of a service: a canary, a cohort, blue or green.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//! use tower_mesh_layers::{
//!     CallContext,
//!     request_match::MatchConfig,
//!     route::{BackendConfig, RouteLayer, RuleConfig, StickyConfig},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The testers see the canary, and 5% of all users; each user always the same version.
//! let routes = RouteLayer::builder()
//!     .rule(RuleConfig::new("testers")
//!         .matching(MatchConfig::default().header("x-cohort", "qa"))
//!         .backend(BackendConfig::new("canary").version("2.0")))
//!     .rule(RuleConfig::new("rollout")
//!         .backend(BackendConfig::new("stable").version("1.0").weight(95))
//!         .backend(BackendConfig::new("canary").version("2.0").weight(5))
//!         .sticky(StickyConfig::header("x-user")))
//!     .build()?;
//!
//! // In front of a balancer, which goes by what was decided; here it is only looked at.
//! let mut service = ServiceBuilder::new()
//!     .layer(routes)
//!     .service(service_fn(async |request: Request<Full<Bytes>>| {
//!         let decision = CallContext::get(request.extensions()).and_then(|c| c.route.as_ref());
//!         let arm = decision.expect("a rule for all calls").arm();
//!         let body = Full::<Bytes>::from(format!("{} {}", arm.rule, arm.subset));
//!         Ok::<_, std::convert::Infallible>(Response::new(body))
//!     }));
//!
//! let call = Request::get("/cart").header("x-cohort", "qa").body(Full::default())?;
//! # use http_body_util::BodyExt;
//! let answer = service.ready().await?.call(call).await?.into_body().collect().await?;
//! assert_eq!(answer.to_bytes(), "testers version=2.0");
//! # Ok(())
//! # }
//! ```
//!
//! The layer writes a [`RouteDecision`] into the [`CallContext`] of a call and lets it pass;
//! `Balance` (of tower-mesh-discovery) picks among the endpoints of the arm. Put it outside the
//! retry layer: then all attempts of a call go to the same arm. Where there is no balancer,
//! [`Split`] is a service over several.
//!
//! # Which arm
//!
//! The first rule in the list that is for a call decides; where none is, the call goes anywhere,
//! and a decision that the call came with stands. Of the arms of the rule one is drawn by their
//! weights, which are parts: an arm gets its weight of their sum, and with the weight 0 it gets
//! nothing.
//!
//! A `sticky` rule draws no arm but finds it by a hash of the caller, who so always gets the same
//! one, in every process. When weights change, callers move only to arms that have grown:
//!
//! | from | to | who moves |
//! |---|---|---|
//! | stable 80, canary 20 | stable 50, canary 50 | 3 of 8 stable callers; nobody leaves the canary |
//! | a 70, b 20, canary 10 | a 70, b 20, canary 30 | to the canary, from a and b; nobody between a and b |
//! | a 70, b 20, canary 10 | a 50, b 20, canary 30 | to the canary; some from a to b, which has grown against a |
//!
//! So to grow one arm of several raise its weight and leave the others as they are. The order of
//! the arms makes no difference. A new name, a new salt or another key divide the callers anew.
//!
//! The algorithm is weighted rendezvous hashing (D. Thaler and C. Ravishankar, 1998; J.
//! Schindelhauer and G. Schomaker, 2005) over XXH64 of salt and key.
//!
//! # An arm without a ready endpoint
//!
//! | `fallback` | its calls |
//! |---|---|
//! | `fail` (default) | stay: they go to endpoints of the arm that are draining or out, and are refused with 503 / UNAVAILABLE where it has none |
//! | `any` | go to any endpoint of the service that is ready |
//! | `{ arm: stable }` | go to that arm's endpoints |
//!
//! The default is that of Envoy's subsets and of Istio: an arm that is missing or broken shows with
//! the share that it has, and its calls do not silently become another version's. Where a fallback
//! has no ready endpoint either, it is as with `fail`. With a `Balance` below, its page says what
//! is ready.
//!
//! # Options
//!
//! ```
//! # use tower_mesh_layers::route::{RouteConfig, RouteLayer};
//! # let json = r#"
//! { "rules": [
//!   { "name": "testers",
//!     "matches": [ { "headers": [ { "name": "x-cohort", "in": ["qa", "beta"] } ] } ],
//!     "backends": [ { "subset": { "version": "2.0" } } ] },
//!   { "name": "rollout",
//!     "sticky": { "key": [ { "header": "x-user" }, { "cookie": "sid" } ], "salt": "carts-2.0" },
//!     "fallback": { "arm": "stable" },
//!     "backends": [
//!       { "name": "stable", "subset": { "version": "1.0" }, "weight": 95 },
//!       { "name": "canary", "subset": { "version": "2.0" }, "weight": 5 } ] }
//! ] }
//! # "#;
//! # RouteLayer::new(serde_json::from_str::<RouteConfig>(json)?)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | option of a rule | default | |
//! |---|---|---|
//! | `name` | none, must be set | 1 to 64 visible characters, once in the list |
//! | `matches` | all calls | a list of [matches](crate::request_match), one of which must hold |
//! | `backends` | none, must be set | the arms, at least one |
//! | `sticky.key` | none, must be set | `header: x-user` or `cookie: sid`; the first that a call has, and that is not empty |
//! | `sticky.salt` | the name of the rule | rules with the same salt and arms divide the same callers the same way |
//! | `sticky.onMissing` | `random` | where calls without a key go: drawn one by one, or `{ arm: stable }` |
//! | `fallback` | `fail` | see above |
//!
//! | option of an arm | default | |
//! |---|---|---|
//! | `name` | its subset as `version=2.0`, or `all` | 1 to 64 visible characters, once in the rule |
//! | `subset` | all endpoints | labels that endpoints must have: `version`, and metadata of the instance |
//! | `weight` | 1 | parts, 0 to 4294967295; the sum over a rule's arms is 1 to 4294967295 |
//!
//! # Metrics
//!
//! | metric | labels | |
//! |---|---|---|
//! | `mesh_route_calls_total` | `rule`, `arm` | calls that were sent to an arm |
//! | `mesh_route_unmatched_total` | | calls that no rule was for |
//!
//! [`CallContext`]: crate::CallContext
//! [`RouteDecision`]: crate::context::RouteDecision

mod config;
mod draw;
mod handle;
mod layer;
mod routes;
mod service;
mod split;
mod stats;
mod sticky;
mod table;
#[cfg(test)]
mod tests;

pub use self::{
    config::{
        BackendConfig, FallbackConfig, OnMissing, RouteConfig, RuleConfig, StickyConfig, StickyKey,
    },
    handle::RouteHandle,
    layer::{RouteBuilder, RouteLayer},
    service::Route,
    split::{Split, SplitBuilder, SplitFuture},
    stats::{ArmStats, RouteStats},
};
