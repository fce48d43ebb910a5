//! The server preset: what goes on an axum `Router` or a tonic `Server` with one `.layer(...)`.
//!
//! ```
//! use axum::{Router, routing::get};
//! use tower_mesh::{Mesh, server::ServerConfig};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mesh = Mesh::builder()
//!     .server(ServerConfig {
//!         rate_limit: Some(serde_json::from_str(r#"{"rate": "100/s", "key": "operation"}"#)?),
//!         ..ServerConfig::default()
//!     })
//!     .build()?;
//! let app: Router = Router::new()
//!     .route("/orders/{id}", get(|| async { "an order" }))
//!     .layer(mesh.server());
//! # Ok(())
//! # }
//! ```
//!
//! [`ServerLayer`] has the order of its layers, and how it goes on a server of plain hyper.

mod config;
mod layer;

pub use self::{config::ServerConfig, layer::ServerLayer};
