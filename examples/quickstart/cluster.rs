//! The instances, and the mesh over them.

use tower_mesh::Mesh;

use crate::{Result, instance::Behaviour, process::Process, site::Site};

/// The HTTP service.
pub const ORDERS: &str = "orders";
/// The gRPC service.
pub const GREETER: &str = "greeter";
/// The version that instances have.
const OLD: &str = "1.0";
/// The version that comes, to some users first.
pub const NEW: &str = "2.0";

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
            orders.push(Process::start(&site, ORDERS, name, "http", OLD).await?);
        }
        for (name, scheme) in [
            ("greeter-1", "grpc"),
            ("greeter-2", "grpcs"),
            ("greeter-3", "grpc"),
        ] {
            greeters.push(Process::start(&site, GREETER, name, scheme, OLD).await?);
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

    /// The mesh that the configuration file describes, for as long as it runs.
    pub async fn mesh(&self) -> Result<Mesh> {
        Ok(Mesh::from_file(self.site.config()).await?)
    }
}
