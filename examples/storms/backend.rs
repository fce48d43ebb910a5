//! Servers in this process, with a network in front that can be broken.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, routing::get};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, oneshot, watch},
    task::AbortHandle,
    time::sleep,
};
use tower_mesh::layers::test_util::{Fault, FaultProxy};

use crate::{Result, record::Record};

/// A server until it is dropped.
pub struct Backend {
    proxy: FaultProxy,
    server: AbortHandle,
}

/// A database that works on so many queries at once; the others wait in line.
#[derive(Clone)]
pub struct Database {
    slots: Arc<Semaphore>,
    query: watch::Sender<Duration>,
}

// ===== impl Backend =====

impl Backend {
    pub async fn start(app: Router) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let proxy = FaultProxy::start(listener.local_addr()?).await?;
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self {
            proxy,
            server: server.abort_handle(),
        })
    }

    /// Three that take so long for a call, and count it.
    pub async fn three(record: &Record, work: Duration) -> Result<Vec<Self>> {
        let mut backends = Vec::new();
        for _ in 0..3 {
            let record = record.clone();
            let handler = async move || {
                record.attempt();
                sleep(work).await;
                "done"
            };
            backends.push(Self::start(Router::new().route("/", get(handler))).await?);
        }
        Ok(backends)
    }

    /// Where clients connect to.
    pub fn addr(&self) -> SocketAddr {
        self.proxy.addr()
    }

    pub async fn set(&self, fault: Fault) {
        self.proxy.set(fault).await;
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.server.abort();
    }
}

// ===== impl Database =====

impl Database {
    pub fn new(slots: usize, query: Duration) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(slots)),
            query: watch::Sender::new(query),
        }
    }

    /// From now on a query takes this long.
    pub fn set(&self, query: Duration) {
        self.query.send_replace(query);
    }

    /// As databases do, it finishes a query that nobody waits for any more.
    pub async fn query(&self) {
        let (done, finished) = oneshot::channel();
        let this = self.clone();
        tokio::spawn(async move {
            let _slot = this.slots.acquire().await;
            let query = *this.query.borrow();
            sleep(query).await;
            let _ = done.send(()); // nobody may be there
        });
        let _ = finished.await;
    }
}
