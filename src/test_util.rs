//! A mesh for the tests of an application: its services are scripts in the test, its connections are
//! pipes within the process, and all else is real: balancer, layers, HTTP.
//!
//! ```
//! use http::Request;
//! use tower::ServiceExt;
//! use tower_mesh::{Body, layers::test_util::Answer, test_util::MockMesh};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let mock = MockMesh::new();
//! let orders = mock.endpoint("orders", |call, _request| match call {
//!     0 => Answer::status(503),
//!     _ => Answer::ok().body("an order"),
//! });
//!
//! // The application gets its mesh as ever, and does what it does.
//! let mesh = mock.mesh();
//! let request = Request::get("/orders/7").header("x-tenant", "acme").body(Body::empty())?;
//! let response = mesh.client("orders").oneshot(request).await?;
//!
//! assert_eq!(response.status(), 200); // the second attempt
//! orders.assert_calls(2);
//! orders.assert_header("x-tenant", "acme");
//! # Ok(())
//! # }
//! ```
//!
//! `mesh.channel` reaches the same endpoints over gRPC; [`Answer::grpc`] answers there. With the clock
//! paused (`#[tokio::test(start_paused = true)]`), timeouts, backoffs and ejections take no time.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http::request;
use parking_lot::Mutex;
use tokio::{
    io::{DuplexStream, duplex},
    task::AbortHandle,
};
use tower_mesh_discovery::{
    endpoint::http::{Dial, Dialing, Io},
    instance::{EndpointUrl, Instance},
    registry::{MemoryRegistry, Registry},
};
use tower_mesh_layers::test_util::{Answer, ProbeHandle, Received, Scripted, servers};

use crate::{Mesh, MeshBuilder, config::MeshConfig};

/// Bytes that wait in a pipe before its writer does.
const PIPE: usize = 64 << 10;

/// A mesh whose services are scripts. The [module](self) has an example.
#[derive(Clone, Default)]
pub struct MockMesh {
    inner: Arc<Inner>,
}

/// One instance of a service of a [`MockMesh`]: what it was asked, and what is to happen to it.
#[derive(Clone)]
pub struct MockEndpoint {
    service: String,
    id: String,
    handle: ProbeHandle,
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    registry: MemoryRegistry,
    /// By host.
    hosts: Mutex<HashMap<String, Host>>,
    made: AtomicU64,
}

struct Host {
    service: Scripted,
    refuses: bool,
    connections: Vec<AbortHandle>,
}

/// Connects to the hosts of a mock.
struct Wires(Arc<Inner>);

// ===== impl MockMesh =====

impl MockMesh {
    /// A mesh without services.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an instance of a service. `script` gives each answer, by the number of the call (from 0) and
    /// its head.
    pub fn endpoint(
        &self,
        service: &str,
        script: impl Fn(u64, &request::Parts) -> Answer + Send + Sync + 'static,
    ) -> MockEndpoint {
        let (scripted, handle) = Scripted::answering(script);
        let id = format!("mock-{}", self.inner.made.fetch_add(1, Relaxed));
        let host = Host {
            service: scripted,
            refuses: false,
            connections: Vec::new(),
        };
        self.inner.hosts.lock().insert(id.clone(), host);
        let url = |scheme| format!("{scheme}://{id}:80").parse().expect("a valid URL");
        let mut instance = Instance::at(service, url("http"));
        instance.id.clone_from(&id);
        instance.endpoints.push(url("grpc"));
        self.inner.registry.insert(instance);
        MockEndpoint {
            service: service.to_owned(),
            id,
            handle,
            inner: self.inner.clone(),
        }
    }

    /// The mesh, with the default options.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn mesh(&self) -> Mesh {
        self.builder().build().expect("the defaults are valid")
    }

    /// A builder of the mesh, for options of your own. Its registry and its connections are the mock's.
    pub fn builder(&self) -> MeshBuilder {
        let registry = Registry::writable(self.inner.registry.clone());
        Mesh::builder()
            .custom_registry(MeshConfig::DEFAULT_REGISTRY, registry)
            .dial(Wires(self.inner.clone()))
    }

    /// The registry: to have outages, and to see what registered.
    pub fn registry(&self) -> &MemoryRegistry {
        &self.inner.registry
    }
}

impl fmt::Debug for MockMesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MockMesh").finish_non_exhaustive()
    }
}

// ===== impl MockEndpoint =====

impl MockEndpoint {
    /// The id of the instance.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How many requests have reached it.
    pub fn calls(&self) -> u64 {
        self.handle.calls()
    }

    /// How many requests it is answering now.
    pub fn in_flight(&self) -> usize {
        self.handle.in_flight()
    }

    /// The requests that have reached it, in order.
    pub fn requests(&self) -> Vec<Received> {
        self.handle.requests()
    }

    /// Changes what the registry says of it: version, metadata, weight, status.
    pub fn update(&self, change: impl FnOnce(&mut Instance)) {
        let known = self.inner.registry.instances(&self.service);
        if let Some(instance) = known.iter().find(|instance| instance.id == self.id) {
            let mut instance = Instance::clone(instance);
            change(&mut instance);
            self.inner.registry.insert(instance);
        }
    }

    /// Takes it out of the registry. It goes on answering where it is still known.
    pub fn remove(&self) {
        self.inner.registry.remove(&self.service, &self.id);
    }

    /// Refuses new connections, until it [accepts](Self::accept) again; open ones stay.
    pub fn refuse(&self) {
        self.with_host(|host| host.refuses = true);
    }

    /// Accepts connections again.
    pub fn accept(&self) {
        self.with_host(|host| host.refuses = false);
    }

    /// Dies as a process does: its connections break, whatever is on them, and it accepts no others until
    /// it [accepts](Self::accept) again.
    pub fn kill(&self) {
        self.with_host(|host| {
            host.refuses = true;
            host.connections.drain(..).for_each(|task| task.abort());
        });
    }

    fn with_host(&self, run: impl FnOnce(&mut Host)) {
        if let Some(host) = self.inner.hosts.lock().get_mut(&self.id) {
            run(host);
        }
    }

    /// # Panics
    ///
    /// Unless so many requests have reached it.
    #[track_caller]
    pub fn assert_calls(&self, calls: u64) {
        let seen: Vec<_> = self.requests().iter().map(Self::line).collect();
        let (service, id) = (&self.service, &self.id);
        assert!(
            seen.len() as u64 == calls && self.calls() == calls,
            "{service} ({id}) was called {} times and not {calls}: {seen:?}",
            self.calls(),
        );
    }

    /// # Panics
    ///
    /// Unless the last request that has reached it had this value in this header.
    #[track_caller]
    pub fn assert_header(&self, name: &str, value: &str) {
        let (service, id) = (&self.service, &self.id);
        let Some(last) = self.requests().pop() else {
            panic!("{service} ({id}) was not called");
        };
        let seen: Vec<_> = last.headers.get_all(name).iter().collect();
        assert!(
            seen.iter().any(|seen| *seen == value),
            "{service} ({id}): `{name}` of {} was {seen:?} and not `{value}`",
            Self::line(&last),
        );
    }

    fn line(request: &Received) -> String {
        format!("{} {}", request.method, request.uri.path())
    }
}

impl fmt::Debug for MockEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MockEndpoint")
            .field("service", &self.service)
            .field("id", &self.id)
            .field("calls", &self.calls())
            .finish_non_exhaustive()
    }
}

// ===== impl Wires =====

impl Dial for Wires {
    fn dial(&self, url: &EndpointUrl) -> Dialing {
        let connected = self.0.connect(url.host().unwrap_or_default());
        Box::pin(std::future::ready(
            connected.map(|stream| Box::new(stream) as Box<dyn Io>),
        ))
    }
}

impl Inner {
    fn connect(&self, host: &str) -> io::Result<DuplexStream> {
        let mut hosts = self.hosts.lock();
        let host = hosts
            .get_mut(host)
            .filter(|host| !host.refuses)
            .ok_or(io::ErrorKind::ConnectionRefused)?;
        let (ours, theirs) = duplex(PIPE);
        let served = tokio::spawn(servers::serve_stream(theirs, host.service.clone()));
        host.connections.retain(|task| !task.is_finished());
        host.connections.push(served.abort_handle());
        Ok(ours)
    }
}

#[cfg(test)]
mod tests;
