//! From an address to an open connection: socket, TLS, HTTP handshake.

use std::{
    fmt,
    future::poll_fn,
    io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, time};
use tokio_rustls::TlsConnector;
use tower_mesh_layers::transport::{BoxError, TransportError};

use super::{
    super::Body,
    config::{Http2Config, HttpEndpointConfig},
    dial::Dialer,
    handover::{Driven, Handover},
    lane::Speaks,
    pool::Open,
    stream::{Greeted, Stream},
};
use crate::instance::EndpointUrl;

/// Where to connect to.
#[derive(Debug, Clone)]
pub(super) enum Address {
    /// An IP address needs no look-up.
    Socket(SocketAddr),
    Name(Box<str>, u16),
    Unix(PathBuf),
    /// Wherever the dialer goes for the URL.
    Dialed(Dialer, EndpointUrl),
}

/// Everything that connections of one endpoint have in common.
pub(super) struct Connector {
    pub(super) address: Address,
    /// With TLS, the protocol is whatever ALPN decides; `speaks` is for a peer that knows no ALPN.
    pub(super) tls: Option<(TlsConnector, ServerName<'static>)>,
    pub(super) speaks: Speaks,
    pub(super) config: Arc<HttpEndpointConfig>,
}

/// An open connection, whose driver runs in a task of its own.
pub(super) enum Connection {
    Http1 {
        sender: http1::SendRequest<Body>,
        handover: Arc<Handover>,
    },
    Http2 {
        sender: http2::SendRequest<Body>,
        handover: Arc<Handover>,
        /// The peer's limit on streams, kept up to date.
        limit: Arc<AtomicUsize>,
    },
}

/// Why no connection was made; shared by all the callers that waited for it.
#[derive(Debug, Clone)]
pub(super) struct ConnectError(Arc<BoxError>);

// ===== impl Connector =====

impl Connector {
    pub(super) fn max_idle(&self) -> usize {
        self.config.max_idle
    }

    pub(super) fn idle_timeout(&self) -> Duration {
        self.config.idle_timeout
    }

    /// How many HTTP/2 connections there may be.
    pub(super) fn max_connections(&self) -> usize {
        self.config.http2.max_connections
    }

    /// Connects, within the connect timeout.
    pub(super) async fn connect(&self, open: Open) -> Result<Connection, ConnectError> {
        let limit = self.config.connect_timeout;
        match time::timeout(limit, self.establish(open)).await {
            Ok(result) => result.map_err(ConnectError::new),
            Err(_) => Err(ConnectError::new(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no connection to {self} within {limit:?}"),
            ))),
        }
    }

    async fn establish(&self, open: Open) -> Result<Connection, BoxError> {
        let stream = self.dial().await?;
        let (stream, speaks) = match &self.tls {
            None => (stream, self.speaks),
            Some((tls, name)) => {
                let stream = tls.connect(name.clone(), stream).await?;
                let speaks = match stream.get_ref().1.alpn_protocol() {
                    Some(b"h2") => Speaks::Http2,
                    Some(_) => Speaks::Http1,
                    None => self.speaks,
                };
                (Stream::tls(stream), speaks)
            }
        };
        match speaks {
            Speaks::Http1 => handshake_http1(stream, open).await,
            Speaks::Http2 => handshake_http2(stream, open, &self.config.http2).await,
        }
    }

    async fn dial(&self) -> io::Result<Stream> {
        let tcp = match &self.address {
            Address::Socket(address) => TcpStream::connect(address).await?,
            Address::Name(host, port) => TcpStream::connect((&**host, *port)).await?,
            Address::Unix(path) => return Stream::unix(path).await,
            Address::Dialed(dialer, url) => return dialer.dial(url).await.map(Stream::Dialed),
        };
        // A request is written at once or flushed when it is complete, so waiting for more bytes
        // only adds the peer's delayed acknowledgement to every call.
        tcp.set_nodelay(true)?;
        Ok(Stream::Tcp(tcp))
    }
}

impl fmt::Display for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Socket(address) => address.fmt(f),
            Address::Name(host, port) => write!(f, "{host}:{port}"),
            Address::Unix(path) => path.display().fmt(f),
            Address::Dialed(_, url) => url.fmt(f),
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("address", &self.address)
            .field("tls", &self.tls.as_ref().map(|(_, name)| name))
            .field("speaks", &self.speaks)
            .finish_non_exhaustive()
    }
}

async fn handshake_http1(stream: Stream, open: Open) -> Result<Connection, BoxError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = Driven::new(connection.with_upgrades());
    let handover = connection.handover();
    tokio::spawn(async move {
        let _open = open.begin();
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection ended");
        }
    });
    // Not before the task above has run for the first time.
    sender.ready().await?;
    Ok(Connection::Http1 { sender, handover })
}

/// Like gRPC, counts a connection only when the peer's SETTINGS have come. So a peer that does not
/// speak HTTP/2, or accepts and never says a word, is found out while nothing was sent to it, and its
/// limit on streams is known before the first of them is opened.
async fn handshake_http2(
    stream: Stream,
    open: Open,
    config: &Http2Config,
) -> Result<Connection, BoxError> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(config.keep_alive_interval)
        .keep_alive_timeout(config.keep_alive_timeout)
        .keep_alive_while_idle(config.keep_alive_while_idle)
        .adaptive_window(config.adaptive_window);
    let (stream, greeted) = Greeted::new(stream);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let mut connection = Driven::new(connection);
    greeted
        .await
        .map_err(|_| "the peer closed the connection without HTTP/2 SETTINGS")?;
    // They were read a moment ago; now hyper's task takes them in.
    tokio::task::yield_now().await;
    let ended = poll_fn(|cx| Poll::Ready(Pin::new(&mut connection).poll(cx)));
    if let Poll::Ready(ended) = ended.await {
        let error = ended
            .err()
            .map_or_else(|| "closed at once".into(), BoxError::from);
        return Err(error);
    }
    let max_streams = |connection: &Driven<http2::Connection<_, _, _>>| {
        let connection = connection.get_ref();
        connection.map_or(0, http2::Connection::current_max_send_streams)
    };
    let limit = Arc::new(AtomicUsize::new(max_streams(&connection)));
    let (published, handover) = (limit.clone(), connection.handover());
    tokio::spawn(async move {
        let _open = open.begin();
        let ended = poll_fn(|cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            published.store(max_streams(&connection), Relaxed);
            polled
        });
        if let Err(error) = ended.await {
            tracing::debug!(%error, "connection ended");
        }
    });
    Ok(Connection::Http2 {
        sender,
        handover,
        limit,
    })
}

// ===== impl ConnectError =====

impl ConnectError {
    pub(super) fn new(error: impl Into<BoxError>) -> Self {
        Self(Arc::new(error.into()))
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for ConnectError {
    // The shared error is the source, so that a walk along the sources comes by its type.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&**self.0)
    }
}

impl From<ConnectError> for TransportError {
    fn from(error: ConnectError) -> Self {
        Self::connect(error)
    }
}
