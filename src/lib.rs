//! A service mesh as a library: service discovery, load balancing, circuit breaking, retries, rate limits,
//! deadlines, canary routes, metadata and traces as `tower` layers and services, for the axum, tonic or
//! hyper application that is there already.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use tower_mesh::Mesh;
//! # mod pb { pub use tonic_health::pb::health_client::HealthClient as GreeterClient; }
//! # use pb::GreeterClient;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mesh = Mesh::builder().registry("file:./registry.yaml").build()?;
//!
//! let orders = mesh.client("orders"); // a tower service over http::Request, balanced
//! let greeter = GreeterClient::new(mesh.channel("greeter")); // into tonic's generated client
//! let app: Router = Router::new()
//!     .route("/", get(|| async { "hello" }))
//!     .layer(mesh.server()); // the server side
//! # Ok(())
//! # }
//! ```
//!
//! # Where to go
//!
//! | for | look at |
//! |---|---|
//! | everything at once, from one configuration | [`Mesh`]; its file: [`config`] |
//! | single layers on your own stack | [`layers`], a folder with a page for each |
//! | registries, endpoints, the balancer | [`discovery`] |
//! | being found: registering, and leaving without a failed call | `serve`, [`discovery::register`] |
//! | spans and metrics of every call, which clients and server have already | `telemetry` for OpenTelemetry, `prometheus` for Prometheus |
//! | tests of your application | `test_util` (feature `test-util`) |
//! | tests of layers of your own | `layers::test_util` (feature `test-util`) |
//!
//! # Features
//!
//! Nothing is on by default. `full` is everything but `schema`, `sim` and `test-util`.
//!
//! | feature | gives |
//! |---|---|
//! | `mesh` | [`Mesh`] and the [`prelude`], with the layers of the two presets and our own HTTP endpoint |
//! | `body-limit`, `catch-panic`, `deadline`, `drain`, `circuit-breaker`, `concurrency-limit`, `idempotency`, `metadata`, `retry`, `rate-limit`, `request-metrics`, `route`, `trace` | one layer each |
//! | `file`, `dns` | the registries `file:`, and `dns:` and `dns+srv:` |
//! | `http-client` | our own HTTP endpoint |
//! | `axum`, `tonic`, `reqwest`, `hyper`, `tower-http` | what knows these crates' types |
//! | `discover` | adapters to and from `tower::discover::Discover` |
//! | `otel` | traces through the propagators of `opentelemetry` |
//! | `otlp` | `mesh.telemetry()`: spans to an OpenTelemetry collector, in one line |
//! | `metrics`, `prometheus` | metrics to the `metrics` facade, and a `/metrics` endpoint |
//! | `schema` | `config::schema`: the JSON Schema of a configuration file, for tools |
//! | `sim` | `discovery::sim`: a simulator for balancers |
//! | `test-util` | a mock mesh for tests of applications, the contract kit for tests of layers |
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "mesh")]
pub mod client;
#[cfg(feature = "mesh")]
pub mod config;
#[cfg(feature = "mesh")]
mod error;
#[cfg(feature = "mesh")]
mod mesh;
#[cfg(feature = "mesh")]
pub mod prelude;
#[cfg(feature = "prometheus")]
pub mod prometheus;
#[cfg(feature = "mesh")]
pub mod serve;
#[cfg(feature = "mesh")]
pub mod server;
#[cfg(feature = "mesh")]
pub mod telemetry;
#[cfg(all(feature = "mesh", feature = "test-util"))]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
pub mod test_util;

pub use tower_mesh_discovery as discovery;
#[doc(inline)]
pub use tower_mesh_discovery::endpoint::Body;
pub use tower_mesh_layers as layers;

#[cfg(feature = "mesh")]
pub use self::{
    config::MeshConfig,
    error::BuildError,
    mesh::{Mesh, MeshBuilder},
};

/// The examples of the README are compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// And those of the guides.
#[cfg(doctest)]
mod guides {
    #[doc = include_str!("../docs/refusals.md")]
    struct Refusals;
    #[doc = include_str!("../docs/moving.md")]
    struct Moving;
}
