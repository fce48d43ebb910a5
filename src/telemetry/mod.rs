//! Telemetry in one line: spans to an OpenTelemetry collector, logs to the standard output.
//!
//! ```no_run
//! # #[cfg(feature = "otlp")]
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use tower_mesh::{Mesh, telemetry::TelemetryConfig};
//!
//! let mesh = Mesh::builder()
//!     .service("checkout")
//!     .telemetry(TelemetryConfig::otlp("http://localhost:4317"))
//!     .build()?;
//! let _telemetry = mesh.telemetry()?; // exports what is left when it is dropped
//! # Ok(())
//! # }
//! ```
//!
//! or in the [file](crate::config):
//!
//! ```yaml
//! service: checkout
//! telemetry:
//!   otlp: { endpoint: "http://localhost:4317" }
//!   traces: { ratio: 10% }
//! ```
//!
//! That sets, for the process: the subscriber of `tracing`, with a log and the export of spans; and
//! OpenTelemetry's tracer provider and W3C propagators, by which the [trace](tower_mesh_layers::trace)
//! layers continue a trace from service to service. Clients and the server preset of a mesh have these
//! layers: a span for each call that is handled, each call that is made, and each attempt to make it. Where
//! there is a subscriber already, add [`Telemetry::layer`] to it.
//!
//! Spans are exported in batches by a thread of its own, so a collector that is slow or away costs no
//! call anything: what does not fit its queue of 2,048 spans is dropped.
//!
//! # Options
//!
//! | option | default | |
//! |---|---|---|
//! | `otlp` | `off` | where spans are exported to |
//! | `otlp.endpoint` | `http://localhost:4317`, `:4318` over HTTP | the collector's URL; without it `OTEL_EXPORTER_OTLP_ENDPOINT` is asked first |
//! | `otlp.protocol` | `grpc` | or `http/protobuf` |
//! | `otlp.headers` | none | sent along; their values are shown nowhere |
//! | `otlp.timeout` | `10s` | 1ms to 1m, for one export |
//! | `traces.ratio` | `100%` | share of the traces that are sampled |
//! | `traces.parentBased` | `true` | a trusted caller's decision counts for its traces |
//! | `traces.filter` | `info` | which spans there are: `info,my_crate=debug,tower_mesh::trace::attempt=off` |
//! | `logs` | `info` | what is logged; `RUST_LOG` goes before it; `off` for nothing |
//! | `resource` | none | attributes beside `service.name`: `{ deployment.environment.name: prod }` |
//!
//! A change of this section while the mesh runs is refused.

#[cfg(feature = "otlp")]
mod client;
mod config;
#[cfg(feature = "otlp")]
mod export;

pub use self::config::{OtlpConfig, OtlpProtocol, SecretHeaders, TelemetryConfig, TracesConfig};
#[cfg(feature = "otlp")]
use self::export::filter;
#[cfg(feature = "otlp")]
pub use self::export::{Telemetry, TelemetryError};
