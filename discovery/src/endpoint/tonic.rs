//! tonic's own `Channel` as an endpoint.
//!
//! [`TonicEndpoints`] makes a lazy [`Channel`] for each address, for those who have tonic configured
//! the way they like it. Our [`HttpEndpoints`](super::http::HttpEndpoints) serve gRPC as well, with
//! two advantages: they connect in `poll_ready`, so that a refused connection costs the caller
//! nothing, and a call needs no queue and no task of its own. A channel connects in `call`: there,
//! only a retry layer around the balancer tries another instance.
//!
//! `grpcs://` and `https://` connect over TLS with the system's root certificates, unless
//! [`TonicEndpoints::tls`] says otherwise; every other scheme in the clear, always HTTP/2.
//!
//! | setting | default |
//! |---|---|
//! | connect timeout | 1 s, as [`HttpEndpointConfig`](super::http::HttpEndpointConfig) has it |
//! | TLS | the system's root certificates, the endpoint's host as the server's name |
//! | everything else | tonic's |
//!
//! ```
//! use std::time::Duration;
//! use tower_mesh_discovery::endpoint::tonic::TonicEndpoints;
//!
//! let endpoints = TonicEndpoints::default()
//!     .configure(|endpoint| endpoint.http2_keep_alive_interval(Duration::from_secs(300)));
//! # let _ = endpoints;
//! ```

use std::{fmt, sync::Arc, time::Duration};

use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use super::MakeEndpoint;
use crate::instance::{EndpointUrl, Instance};

/// Short, since another endpoint can take the call: see the reasons in the HTTP endpoint's settings.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes a lazy [`Channel`] for each address. See the [module](self).
#[derive(Clone)]
pub struct TonicEndpoints {
    configure: Arc<dyn Fn(Endpoint) -> Endpoint + Send + Sync>,
    tls: ClientTlsConfig,
}

/// Why no channel can be made for an address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MakeTonicError {
    /// tonic refused the address or the TLS settings.
    #[error("tonic refused the endpoint")]
    Refused(#[from] tonic::transport::Error),
    /// A channel runs in a task, and there is no runtime to spawn it on.
    #[error("a tonic channel must be made inside a tokio runtime")]
    NoRuntime,
}

// ===== impl TonicEndpoints =====

impl TonicEndpoints {
    /// Adds settings of tonic's [`Endpoint`]; they go on top of what was added before.
    #[must_use]
    pub fn configure<F>(self, configure: F) -> Self
    where
        F: Fn(Endpoint) -> Endpoint + Send + Sync + 'static,
    {
        let before = self.configure;
        Self {
            configure: Arc::new(move |endpoint| configure(before(endpoint))),
            ..self
        }
    }

    /// Replaces the TLS settings. They apply to `grpcs` and `https` addresses only.
    #[must_use]
    pub fn tls(self, tls: ClientTlsConfig) -> Self {
        Self { tls, ..self }
    }
}

impl Default for TonicEndpoints {
    fn default() -> Self {
        Self {
            configure: Arc::new(|endpoint| endpoint.connect_timeout(CONNECT_TIMEOUT)),
            tls: ClientTlsConfig::new().with_enabled_roots(),
        }
    }
}

impl MakeEndpoint for TonicEndpoints {
    type Service = Channel;
    type Error = MakeTonicError;

    fn make_endpoint(&self, _: &Instance, url: &EndpointUrl) -> Result<Channel, MakeTonicError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(MakeTonicError::NoRuntime);
        }
        let mut endpoint = Endpoint::from_shared(uri(url))?;
        if url.scheme().is_tls() {
            endpoint = endpoint.tls_config(self.tls.clone())?;
        }
        Ok((self.configure)(endpoint).connect_lazy())
    }
}

impl fmt::Debug for TonicEndpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TonicEndpoints")
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// The address as tonic reads it.
fn uri(url: &EndpointUrl) -> String {
    match url.unix_path() {
        Some(path) => format!("unix://{}", path.display()),
        None if url.scheme().is_tls() => format!("https://{}", host_and_port(url)),
        None => format!("http://{}", host_and_port(url)),
    }
}

/// Always with the port: its default depends on the scheme, which tonic sees another one of.
fn host_and_port(url: &EndpointUrl) -> String {
    let (host, port) = (
        url.host().unwrap_or_default(),
        url.port().unwrap_or_default(),
    );
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

    use super::*;

    fn make(endpoints: &TonicEndpoints, url: &str) -> Result<Channel, MakeTonicError> {
        let url: EndpointUrl = url.parse().unwrap();
        endpoints.make_endpoint(&Instance::at("test", url.clone()), &url)
    }

    async fn check(channel: Channel) -> Result<i32, tonic::Status> {
        let request = HealthCheckRequest {
            service: String::new(),
        };
        Ok(HealthClient::new(channel)
            .check(request)
            .await?
            .into_inner()
            .status)
    }

    #[test]
    fn addresses_are_written_as_tonic_reads_them() {
        for (url, expected) in [
            ("grpc://10.0.0.1:50051", "http://10.0.0.1:50051"),
            ("grpcs://orders", "https://orders:443"),
            ("h2c://[::1]", "http://[::1]:80"),
            ("grpc+unix:///run/orders.sock", "unix:///run/orders.sock"),
        ] {
            assert_eq!(uri(&url.parse().unwrap()), expected);
        }
    }

    #[test]
    fn without_a_runtime_it_is_an_error_and_no_panic() {
        let made = make(&TonicEndpoints::default(), "grpc://127.0.0.1:1");
        assert!(matches!(made, Err(MakeTonicError::NoRuntime)));
    }

    #[tokio::test]
    async fn a_channel_is_lazy_and_calls_the_address() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("grpc://{}", listener.local_addr().unwrap());
        let channel = make(&TonicEndpoints::default(), &url).unwrap();
        let (_, health) = tonic_health::server::health_reporter();
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let server = tonic::transport::Server::builder().add_service(health);
        tokio::spawn(server.serve_with_incoming(incoming));
        assert_eq!(check(channel).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn tls_addresses_take_the_tls_settings() {
        let channel = make(&TonicEndpoints::default(), "grpcs://127.0.0.1:1").unwrap();
        assert_eq!(
            check(channel).await.unwrap_err().code(),
            tonic::Code::Unavailable
        );
        let bad = ClientTlsConfig::new().domain_name("not a name");
        let made = make(&TonicEndpoints::default().tls(bad), "grpcs://127.0.0.1:1");
        assert!(matches!(made, Err(MakeTonicError::Refused(_))));
    }
}
