//! Our own HTTP endpoint: a lean connection pool over hyper.
//!
//! [`HttpEndpoints`] makes an [`HttpEndpoint`] for each address. It speaks HTTP/1.1 and HTTP/2, in
//! the clear, over TLS (rustls) and over Unix sockets:
//!
//! | URL | with `protocol: auto` | `http1` | `http2` |
//! |---|---|---|---|
//! | `http://`, `unix://` | HTTP/1.1 | HTTP/1.1 | HTTP/2, prior knowledge |
//! | `https://` | by ALPN, HTTP/1.1 if the peer knows none | HTTP/1.1 | HTTP/2 |
//! | `h2c://`, `grpc://`, `grpc+unix://` | HTTP/2, prior knowledge | same | same |
//! | `grpcs://` | HTTP/2 | same | same |
//!
//! # Connections
//!
//! `poll_ready` reserves a connection, and opens one if none is free; `call` sends at once. So a
//! refused connection is an error of `poll_ready`, where the balancer still holds the request and
//! picks again. An HTTP/1 connection is taken for one call at a time and goes back when the response
//! body has ended. HTTP/2 connections are shared up to the number of streams that the peer allows;
//! beyond it another one is opened, and beyond `http2.maxConnections` callers wait.
//!
//! A request that reached a connection just as it closed is sent on another one if hyper hands it
//! back whole, whatever its method: nothing of it was sent. An error says otherwise with
//! [`TransportError::is_unsent`](tower_mesh_layers::TransportError::is_unsent).
//!
//! # The authority
//!
//! `Host` (HTTP/1) or `:authority` (HTTP/2) is the first of: the configured `authority`; the
//! request's `Host` header; the authority in its URI; the endpoint's own `host:port`. TLS asks for
//! `tls.serverName`, or else what the instance's metadata calls so
//! ([`Instance::SERVER_NAME`]: DNS registries say it), or else the endpoint's host, whatever the request
//! says.
//!
//! # Options
//!
//! | option | default | range | |
//! |---|---|---|---|
//! | `protocol` | `auto` | `auto`, `http1`, `http2` | see the first table |
//! | `authority` | none | `host[:port]` | goes before what callers write |
//! | `connectTimeout` | 1s | 1ms to 1m | for look-up, socket, TLS and handshake together |
//! | `idleTimeout` | 1m30s | 1s to 1h | unused connections close after 1 to 1.5 times this |
//! | `maxIdle` | 256 | 0 to 65536 | unused HTTP/1 connections kept per endpoint |
//! | `http2.maxConnections` | 4 | 1 to 1024 | per endpoint |
//! | `http2.keepAliveInterval` | off | 100ms to 1h | PINGs find dead peers; gRPC servers limit them |
//! | `http2.keepAliveTimeout` | 20s | 10ms to 1h | for the answer to a PING |
//! | `http2.keepAliveWhileIdle` | false | | PING without open streams too |
//! | `http2.adaptiveWindow` | false | | flow control follows the bandwidth-delay product |
//! | `tls.ca` | the system's | PEM text or file | whom to trust |
//! | `tls.certificate`, `tls.key` | none | PEM text or file | who we are |
//! | `tls.serverName` | the instance's, or the endpoint's host | DNS name or IP address | SNI and the name to verify |
//!
//! # Example
//!
//! ```no_run
//! use http::Request;
//! use tower::ServiceExt;
//! use tower_mesh_discovery::{
//!     endpoint::{Body, MakeEndpoint, http::HttpEndpoints},
//!     instance::Instance,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let url = "http://127.0.0.1:8080".parse()?;
//! let instance = Instance::at("orders", url);
//! let endpoint = HttpEndpoints::default().make_endpoint(&instance, &instance.endpoints[0])?;
//! let response = endpoint.oneshot(Request::get("/orders/1").body(Body::empty())?).await?;
//! assert_eq!(response.status(), 200);
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use http::uri;
use rustls_pki_types::ServerName;
use tower_mesh_layers::config::ConfigError;

use super::{Connectivity, MakeEndpoint};
use crate::instance::{EndpointUrl, Instance, Scheme};

mod config;
mod connect;
mod dial;
mod error;
mod future;
mod handover;
mod lane;
mod pool;
mod response;
mod service;
mod stream;
mod target;
#[cfg(test)]
mod tests;
mod tls;

pub use self::{
    config::{Http2Config, HttpEndpointConfig, HttpProtocol, Pem, TlsConfig},
    dial::{Dial, Dialing, Io},
    future::ResponseFuture,
    response::IncomingBody,
    service::HttpEndpoint,
};
use self::{
    connect::{Address, Connector},
    dial::Dialer,
    lane::Speaks,
    pool::Pool,
    target::Target,
    tls::{Offer, Tls},
};

/// Makes an [`HttpEndpoint`] for each address. See the [module](self) for the options.
///
/// Clones share the compiled TLS settings.
#[derive(Debug, Clone)]
pub struct HttpEndpoints {
    config: Arc<HttpEndpointConfig>,
    tls: Arc<Tls>,
    dialer: Option<Dialer>,
}

/// Why an address cannot be called, whatever happens later.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MakeHttpError {
    /// The host is neither a DNS name nor an IP address that a certificate could have.
    #[error("`{0}` is no name that a TLS certificate can have")]
    ServerName(String),
    /// The authority cannot be written into a request.
    #[error("`{0}` is no authority of a URI")]
    Authority(String),
    /// There are no TLS settings to connect with.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

// ===== impl HttpEndpoints =====

impl HttpEndpoints {
    /// Compiles the settings. Certificates and keys are read here; the system's root certificates
    /// when the first endpoint with TLS is made.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] that names the field that is out of range, unreadable or not PEM.
    pub fn new(config: HttpEndpointConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        if let Some(name) = &config.tls.server_name {
            let expected = "a DNS name or an IP address";
            server_name(name).map_err(|_| ConfigError::new("tls.serverName", name, expected))?;
        }
        let tls = Tls::new(&config.tls).map_err(|error| error.at("tls"))?;
        Ok(Self {
            config: Arc::new(config),
            tls: Arc::new(tls),
            dialer: None,
        })
    }

    /// Uses ready-made TLS settings (own verifiers, hardware keys) in place of the configured ones,
    /// except for `tls.serverName`. ALPN is set by each endpoint.
    #[must_use]
    pub fn with_tls(mut self, config: Arc<rustls::ClientConfig>) -> Self {
        self.tls = Arc::new(Tls::ready(config));
        self
    }

    /// Opens connections over something else than sockets.
    #[must_use]
    pub fn with_dial(mut self, dial: impl Dial) -> Self {
        self.dialer = Some(Dialer::new(dial));
        self
    }

    /// The settings.
    pub fn config(&self) -> &HttpEndpointConfig {
        &self.config
    }

    fn connector(
        &self,
        instance: &Instance,
        url: &EndpointUrl,
    ) -> Result<Connector, MakeHttpError> {
        let (speaks, offer) = self.protocol(url.scheme());
        let tls = match url.scheme().is_tls() {
            false => None,
            true => {
                let configured = self.config.tls.server_name.as_deref();
                let own = instance.metadata.get(Instance::SERVER_NAME);
                let name = configured.or(own.map(String::as_str)).or(url.host());
                let name = server_name(name.unwrap_or_default())?;
                Some((self.tls.connector(offer).map_err(MakeHttpError::Tls)?, name))
            }
        };
        Ok(Connector {
            address: match &self.dialer {
                Some(dialer) => Address::Dialed(dialer.clone(), url.clone()),
                None => address(url),
            },
            tls,
            speaks,
            config: self.config.clone(),
        })
    }

    /// What is spoken without ALPN, and what is offered with it.
    fn protocol(&self, scheme: Scheme) -> (Speaks, Offer) {
        match (scheme, self.config.protocol) {
            (Scheme::Http | Scheme::Https, HttpProtocol::Auto) => (Speaks::Http1, Offer::Any),
            (Scheme::Http | Scheme::Https, HttpProtocol::Http1) => (Speaks::Http1, Offer::Http1),
            _ => (Speaks::Http2, Offer::Http2),
        }
    }

    fn target(&self, url: &EndpointUrl) -> Result<Target, MakeHttpError> {
        let scheme = if url.scheme().is_tls() {
            uri::Scheme::HTTPS
        } else {
            uri::Scheme::HTTP
        };
        let fixed = self.config.authority.is_some();
        let authority = self
            .config
            .authority
            .clone()
            .unwrap_or_else(|| url.authority());
        Target::new(scheme, &authority, fixed).ok_or(MakeHttpError::Authority(authority))
    }
}

impl Default for HttpEndpoints {
    fn default() -> Self {
        Self::new(HttpEndpointConfig::default()).expect("the default settings are in range")
    }
}

impl MakeEndpoint for HttpEndpoints {
    type Service = HttpEndpoint;
    type Error = MakeHttpError;

    fn make_endpoint(
        &self,
        instance: &Instance,
        url: &EndpointUrl,
    ) -> Result<HttpEndpoint, MakeHttpError> {
        Ok(HttpEndpoint::new(Pool::new(
            self.connector(instance, url)?,
            self.target(url)?,
        )))
    }

    fn connectivity(&self, service: &HttpEndpoint) -> Connectivity {
        service.connectivity()
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, MakeHttpError> {
    ServerName::try_from(name.to_owned()).map_err(|_| MakeHttpError::ServerName(name.to_owned()))
}

fn address(url: &EndpointUrl) -> Address {
    match (url.socket_addr(), url.unix_path(), url.host(), url.port()) {
        (Some(address), ..) => Address::Socket(address),
        (_, Some(path), ..) => Address::Unix(path.to_owned()),
        (_, _, host, port) => Address::Name(host.unwrap_or_default().into(), port.unwrap_or(0)),
    }
}
