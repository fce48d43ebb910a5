//! Where the bytes of a connection go: sockets, unless somebody says otherwise.

use std::{fmt, future::Future, io, pin::Pin, sync::Arc};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::instance::EndpointUrl;

/// Opens the byte stream that a connection runs over, in the place of a socket: through a proxy, over
/// vsock, within the process. TLS and HTTP go on top of it as the URL says.
///
/// ```
/// use std::{io, sync::Arc};
/// use tokio::net::TcpStream;
/// use tower_mesh_discovery::{
///     endpoint::http::{Dial, Dialing, HttpEndpoints, Io},
///     instance::EndpointUrl,
/// };
///
/// /// Every connection goes through one port of this machine.
/// struct Tunnel;
///
/// impl Dial for Tunnel {
///     fn dial(&self, _: &EndpointUrl) -> Dialing {
///         Box::pin(async {
///             let stream = TcpStream::connect("127.0.0.1:1080").await?;
///             Ok(Box::new(stream) as Box<dyn Io>)
///         })
///     }
/// }
///
/// let endpoints = HttpEndpoints::default().with_dial(Tunnel);
/// ```
pub trait Dial: Send + Sync + 'static {
    /// Opens a stream to the endpoint. It counts towards the `connectTimeout`.
    fn dial(&self, url: &EndpointUrl) -> Dialing;
}

/// A byte stream that is being opened.
pub type Dialing = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// A byte stream in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A [`Dial`] that clones share.
#[derive(Clone)]
pub(super) struct Dialer(Arc<dyn Dial>);

// ===== impl Dialer =====

impl Dialer {
    pub(super) fn new(dial: impl Dial) -> Self {
        Self(Arc::new(dial))
    }

    pub(super) fn dial(&self, url: &EndpointUrl) -> Dialing {
        self.0.dial(url)
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").finish_non_exhaustive()
    }
}
