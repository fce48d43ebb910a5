//! The instances, and the mesh over them.

use serde_json::json;
use tower_mesh::Mesh;

use crate::{
    Result,
    instance::Behaviour,
    process::Process,
    site::{AUTHORITY, Site},
};

/// The HTTP service.
pub const ORDERS: &str = "orders";
/// The gRPC service.
pub const GREETER: &str = "greeter";

/// All that runs. It ends with this value.
pub struct Cluster {
    pub orders: Vec<Process>,
    pub greeters: Vec<Process>,
    pub site: Site,
}

impl Cluster {
    /// Starts three instances of each service, and writes them into the registry.
    pub async fn start() -> Result<Self> {
        let site = Site::new()?;
        let (mut orders, mut greeters) = (Vec::new(), Vec::new());
        for name in ["orders-1", "orders-2", "orders-3"] {
            orders.push(Process::start(&site, ORDERS, name, "http").await?);
        }
        for (name, scheme) in [
            ("greeter-1", "grpc"),
            ("greeter-2", "grpcs"),
            ("greeter-3", "grpc"),
        ] {
            greeters.push(Process::start(&site, GREETER, name, scheme).await?);
        }
        site.register(
            orders
                .iter()
                .chain(&greeters)
                .map(|process| &process.instance),
        )?;
        Ok(Self {
            orders,
            greeters,
            site,
        })
    }

    /// Every instance does again as it should.
    pub async fn heal(&mut self) -> Result<()> {
        for process in self.orders.iter_mut().chain(&mut self.greeters) {
            process.tell(Behaviour::NORMAL).await?;
        }
        Ok(())
    }

    /// A mesh over the registry file. Its configuration could stand in a file as well.
    pub fn mesh(&self) -> Result<Mesh> {
        let config = json!({
            "registries": { "default": format!("file:{}", self.site.registry().display()) },
            "clients": { "defaults": {
                "deadline": { "timeout": "3s" },
                "rateLimit": { "rate": "5000/s" },
                "retry": {
                    "attemptTimeout": "500ms",
                    // A GET is safe to repeat; of a gRPC method only we can say so.
                    "idempotent": [{ "grpc": { "service": "grpc.health.v1.Health" } }],
                },
                "circuitBreaker": { "key": "operation" },
                "balance": { "ejection": { "baseTime": "1s" } },
            }},
            "endpoints": { "tls": { "ca": self.site.directory().join(AUTHORITY) } },
        });
        Ok(Mesh::builder()
            .config(serde_json::from_value(config)?)
            .build()?)
    }
}
