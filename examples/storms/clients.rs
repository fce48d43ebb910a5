//! The clients of either side. Both speak HTTP/2, where a call that is given up costs no connection.

use std::{
    future::{Ready, ready},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client as Pooled, connect::HttpConnector},
    rt::TokioExecutor,
};
use tower::{ServiceBuilder, ServiceExt, retry::Policy, service_fn};
use tower_mesh::{Mesh, client::Client};

use crate::{Error, Result};

/// What teams have without a mesh: a pooled client, endpoints in turn, a timeout and retries.
#[derive(Clone)]
pub struct Stock {
    client: Pooled<HttpConnector, Empty<Bytes>>,
    endpoints: Arc<[SocketAddr]>,
    turn: Arc<AtomicUsize>,
    timeout: Duration,
    retries: u32,
}

/// Retries at once what failed, until none are left.
#[derive(Clone)]
struct Retries(u32);

// ===== impl Stock =====

impl Stock {
    /// With a `timeout` for each attempt.
    pub fn new(endpoints: &[SocketAddr], timeout: Duration, retries: u32) -> Self {
        Self {
            client: Pooled::builder(TokioExecutor::new())
                .http2_only(true)
                .build_http(),
            endpoints: endpoints.into(),
            turn: Arc::default(),
            timeout,
            retries,
        }
    }

    /// Whether the answer is a good one.
    pub async fn get(self) -> bool {
        let Self {
            client,
            endpoints,
            turn,
            timeout,
            retries,
        } = self;
        let attempt = service_fn(move |mut request: Request<Empty<Bytes>>| {
            let next = turn.fetch_add(1, Relaxed) % endpoints.len();
            let uri = format!("http://{}/", endpoints[next]);
            *request.uri_mut() = uri.parse::<Uri>().expect("an address makes a URI");
            client.request(request)
        });
        let service = ServiceBuilder::new()
            .retry(Retries(retries))
            .timeout(timeout)
            .service(attempt);
        match service.oneshot(Request::new(Empty::new())).await {
            Ok(response) => is_good(response).await,
            Err(_) => false,
        }
    }
}

impl Policy<Request<Empty<Bytes>>, Response<Incoming>, Error> for Retries {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<Empty<Bytes>>,
        result: &mut Result<Response<Incoming>>,
    ) -> Option<Ready<()>> {
        let failed = match result {
            Ok(response) => response.status().is_server_error(),
            Err(_) => true,
        };
        if !failed || self.0 == 0 {
            return None;
        }
        self.0 -= 1;
        Some(ready(()))
    }

    fn clone_request(&mut self, _: &Request<Empty<Bytes>>) -> Option<Request<Empty<Bytes>>> {
        Some(Request::new(Empty::new()))
    }
}

// ===== the protected side =====

/// A mesh whose clients call these endpoints; `config` is the section `clients.defaults` of its file.
pub fn mesh(endpoints: &[SocketAddr], config: &str) -> Result<Mesh> {
    let urls: Vec<_> = endpoints
        .iter()
        .map(|endpoint| format!("h2c://{endpoint}"))
        .collect();
    Ok(Mesh::builder()
        .registry(format!("static:{}", urls.join(",")))
        .client_defaults(serde_json::from_str(config)?)
        .build()?)
}

/// Whether the answer is a good one.
pub async fn get(client: Client) -> bool {
    match client
        .oneshot(Request::new(tower_mesh::Body::empty()))
        .await
    {
        Ok(response) => is_good(response).await,
        Err(_) => false,
    }
}

async fn is_good<B: http_body::Body>(response: Response<B>) -> bool {
    response.status().is_success() && response.into_body().collect().await.is_ok()
}
