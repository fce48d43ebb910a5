//! Registries: where instances are written down.
//!
//! One URL names any registry; [`resolver`] turns it and the name of a service into a
//! [`Resolver`](crate::resolve::Resolver), which a balancer is built over. Where the registry can be
//! written, [`Registry::register`] puts an instance into it: see [`register`](crate::register).
//!
//! ```
//! use tower_mesh_discovery::registry::resolver;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let orders = resolver("static:http://10.0.0.1:8080,http://10.0.0.2:8080", "orders")?;
//! assert_eq!(orders.watch().changed().await.len(), 2);
//!
//! let error = resolver("statik:http://10.0.0.1:8080", "orders").unwrap_err();
//! assert!(error.expected().contains("did you mean `static`?"));
//! # Ok(())
//! # }
//! ```
//!
//! | URL | feature | what |
//! |---|---|---|
//! | `static:http://a:80,grpc://b:90` | | the instances of every service, one per URL |
//! | `memory:NAME` | | a registry [inside of the process](memory) |
//! | `file:./registry.yaml`, `file:///etc/mesh/registry.json` | `file` | a [watched file](mod@file) |
//! | `dns:orders.internal:8080`, `dns://10.0.0.2/{service}.internal:8080` | `dns` | the [addresses of a name](mod@dns) |
//! | `dns+srv:_http._tcp.{service}.example.` | `dns` | [SRV records](mod@dns): addresses, ports and weights |
//!
//! Parameters follow a `?`; an unknown one is refused.
//!
//! | parameter | of | default | allowed | what |
//! |---|---|---|---|---|
//! | `poll` | `file` | `5s` | 100 ms to 1 h | how often the file is read without being told |
//! | `scheme`, `minTtl`, `maxTtl`, `timeout`, `tcp` | `dns`, `dns+srv` | | | see [there](mod@dns) |
//! | `grace` | `memory`, `file`, `dns`, `dns+srv` | `30s` | 0 to 1 h | how long an answer that lost most instances is [doubted](crate::resolve::cache) |

#[cfg(feature = "dns")]
#[cfg_attr(docsrs, doc(cfg(feature = "dns")))]
pub mod dns;
#[cfg(feature = "file")]
#[cfg_attr(docsrs, doc(cfg(feature = "file")))]
pub mod file;
pub mod memory;
mod url;

#[cfg(feature = "dns")]
pub use self::dns::DnsRegistry;
#[cfg(feature = "file")]
pub use self::file::{FileRegistry, write_atomic};
pub use self::memory::MemoryRegistry;
pub use self::url::{Registry, RegistryUrl, resolver};
