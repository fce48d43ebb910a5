//! A rolling restart: three backends stop and come back, one after the other.
//!
//! Stock: a server that is told to go is gone, with the calls that it has; the clients know all three addresses and go on
//! calling them. Protected: it says so in the registry and serves on for a moment, the clients turn away from it, and
//! then it goes.

use std::{net::SocketAddr, time::Duration};

use tower_mesh::{
    Mesh,
    discovery::{
        instance::{EndpointUrl, Scheme},
        register::{RegisterConfig, Registration},
    },
    layers::test_util::Fault,
};

use crate::{
    Result,
    backend::Backend,
    clients::{self, Stock},
    storm::{Required, Side, Stage, Storm},
};

pub static STORM: Storm = Storm {
    name: "rolling-restart",
    title: "rolling restart: three backends in turn",
    load: 200,
    length: Duration::from_secs(8),
    trouble: FIRST..LAST,
    play: |stage| Box::pin(run(stage)),
    required: Required {
        good: 0.98,
        attempts: 1.05,
    },
};

const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(7);
const EACH: Duration = Duration::from_secs(2);
/// How long one is away.
const AWAY: Duration = Duration::from_secs(1);
const DRAIN: Duration = Duration::from_millis(500);
const WORK: Duration = Duration::from_millis(50);
const TIMEOUT: Duration = Duration::from_secs(1);
const SERVICE: &str = "orders";

async fn run(stage: Stage) -> Result<()> {
    let backends = Backend::three(&stage.record, WORK).await?;
    let endpoints: Vec<_> = backends.iter().map(Backend::addr).collect();
    let mesh = mesh()?;
    let mut registrations = Vec::new();
    for &endpoint in &endpoints {
        registrations.push(Some(register(&mesh, endpoint)?));
    }
    let (at, side, registry) = (stage.clock(), stage.side, mesh.clone());
    let _script = stage.script(async move {
        for (number, (backend, registration)) in backends.iter().zip(&mut registrations).enumerate()
        {
            at(FIRST + EACH * number as u32).await;
            if side == Side::Protected
                && let Some(registration) = registration.take()
            {
                registration.drain().await;
                let _ = registration.close().await; // it would lapse
            }
            backend.set(Fault::Refuse).await;
            tokio::time::sleep(AWAY).await;
            backend.set(Fault::Pass).await;
            *registration = register(&registry, backend.addr()).ok();
        }
        std::future::pending::<()>().await; // with the backends, which it holds
    });
    let stock = Stock::new(&endpoints, TIMEOUT, 0);
    let client = mesh.client(SERVICE);
    stage
        .load_either(|| stock.clone().get(), || clients::get(client.clone()))
        .await;
    Ok(())
}

/// Clients and servers of this process find each other in its memory; between processes it would be any other registry.
fn mesh() -> Result<Mesh> {
    let lease = RegisterConfig {
        drain: DRAIN,
        ..RegisterConfig::default()
    };
    let registration = tower_mesh::config::RegistrationConfig {
        lease,
        ..Default::default()
    };
    let registry = format!("memory:{:016x}", fastrand::u64(..));
    Ok(Mesh::builder()
        .registry(registry)
        .registration(registration)
        .build()?)
}

fn register(mesh: &Mesh, endpoint: SocketAddr) -> Result<Registration> {
    Ok(mesh.register(SERVICE, EndpointUrl::new(Scheme::H2c, endpoint))?)
}
