//! How OTLP goes over HTTP: through our own endpoint, so that there is one HTTP client in the process and
//! not two.

use std::{collections::HashMap, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use opentelemetry_http::{HttpClient, HttpError};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tower_mesh_discovery::{
    endpoint::{
        Body, MakeEndpoint,
        http::{HttpEndpoint, HttpEndpoints},
    },
    instance::{EndpointUrl, Instance},
};
use tower_service::Service;

/// A collector answers with a few bytes.
const MOST_ANSWER: usize = 1 << 20;

/// Sends requests on a runtime of its own: the exporter calls from a thread that has none.
#[derive(Clone)]
pub(super) struct Client {
    runtime: Handle,
    timeout: Duration,
    /// By scheme and authority: one, as there is one collector.
    endpoints: Arc<Mutex<HashMap<String, HttpEndpoint>>>,
}

// ===== impl Client =====

impl Client {
    pub(super) fn new(runtime: Handle, timeout: Duration) -> Self {
        Self {
            runtime,
            timeout,
            endpoints: Arc::default(),
        }
    }

    fn endpoint(&self, request: &Request<Bytes>) -> Result<HttpEndpoint, HttpError> {
        let uri = request.uri();
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(format!("{uri} is no absolute URL").into());
        };
        let url = format!("{scheme}://{authority}");
        let mut endpoints = self.endpoints.lock();
        if let Some(endpoint) = endpoints.get(&url) {
            return Ok(endpoint.clone());
        }
        let parsed: EndpointUrl = url.parse()?;
        let instance = Instance::at("otlp", parsed);
        let endpoint = HttpEndpoints::default().make_endpoint(&instance, &instance.endpoints[0])?;
        endpoints.insert(url, endpoint.clone());
        Ok(endpoint)
    }

    async fn send(self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut endpoint = self.endpoint(&request)?;
        std::future::poll_fn(|cx| Service::<Request<Body>>::poll_ready(&mut endpoint, cx)).await?;
        let response = endpoint.call(request.map(Body::from)).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MOST_ANSWER).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}

impl HttpClient for Client {
    fn send_bytes<'life0, 'async_trait>(
        &'life0 self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let timeout = self.timeout;
        let sent = self.clone().send(request);
        let sent = self
            .runtime
            .spawn(async move { tokio::time::timeout(timeout, sent).await? });
        Box::pin(async move { sent.await? })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
