//! Real servers on loopback: axum, tonic, hyper, or your own.
//!
//! Each runs on a thread and a runtime of its own, so that it can be [stopped](Server::stop) as an
//! orderly process stops, or [killed](Server::kill) as SIGKILL does: with whatever it was doing.
//!
//! ```
//! use axum::{Router, routing::get};
//! use tower_mesh_layers::test_util::{clients, servers::Server};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let server = Server::axum(Router::new().route("/", get(|| async { "hello" })));
//! let client = clients::h1();
//! let request = http::Request::get(server.uri("/")).body(String::new()).unwrap();
//! assert_eq!(client.request(request).await.unwrap().status(), 200);
//! server.stop().await;
//! # });
//! ```

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    thread::JoinHandle,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{oneshot, watch},
    task::JoinSet,
};
use tonic::{service::Routes, transport::server::TcpIncoming};
use tonic_health::server::HealthReporter;
use tower_service::Service;

use super::BoxError;

/// A port of 127.0.0.1 that is listened at, before it is known what serves it.
///
/// Connections that come before the server runs wait in the backlog.
#[derive(Debug)]
pub struct Port(std::net::TcpListener);

/// A server that runs. It is [killed](Self::kill) when it is dropped.
pub struct Server {
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    kill: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Tells a server when to stop: give [`requested`](Self::requested) to its graceful shutdown.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

// ===== impl Port =====

impl Port {
    /// A free port.
    ///
    /// # Panics
    ///
    /// Panics if there is none.
    pub fn any() -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// This very port, for a server that comes back where it was.
    ///
    /// # Panics
    ///
    /// Panics if somebody else has it.
    pub fn at(addr: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind(addr);
        Self(listener.unwrap_or_else(|error| panic!("cannot listen at {addr}: {error}")))
    }

    /// Which address.
    ///
    /// # Panics
    ///
    /// Panics if the system does not know.
    pub fn addr(&self) -> SocketAddr {
        self.0.local_addr().expect("a listener has an address")
    }

    /// `axum::serve(listener, router)`, with the peers' addresses as `ConnectInfo<SocketAddr>` if
    /// `with_connect_info`.
    pub fn axum(self, router: axum::Router, with_connect_info: bool) -> Server {
        self.serve(move |listener, stop| async move {
            if with_connect_info {
                let service = router.into_make_service_with_connect_info::<SocketAddr>();
                axum::serve(listener, service)
                    .with_graceful_shutdown(stop.requested())
                    .await
            } else {
                axum::serve(listener, router)
                    .with_graceful_shutdown(stop.requested())
                    .await
            }
            .expect("axum serves until it is stopped");
        })
    }

    /// tonic's server without layers; for one with layers use [`serve`](Self::serve):
    ///
    /// ```
    /// # use tower_mesh_layers::test_util::servers::Port;
    /// # let layer = tower_layer::Identity::new();
    /// # let routes = tonic::service::Routes::default();
    /// use tonic::transport::{Server, server::TcpIncoming};
    ///
    /// let server = Port::any().serve(move |listener, stop| async move {
    ///     Server::builder()
    ///         .layer(layer)
    ///         .add_routes(routes)
    ///         .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.requested())
    ///         .await
    ///         .unwrap();
    /// });
    /// ```
    pub fn tonic(self, routes: Routes) -> Server {
        self.serve(move |listener, stop| async move {
            tonic::transport::Server::builder()
                .add_routes(routes)
                .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.requested())
                .await
                .expect("tonic serves until it is stopped");
        })
    }

    /// hyper's server for HTTP/1.1 and HTTP/2 with prior knowledge, with upgrades.
    pub fn hyper<S, B>(self, service: S) -> Server
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.serve(move |listener, stop| async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        // An error belongs to one connection that is gone already.
                        if let Ok((stream, _)) = accepted {
                            _ = stream.set_nodelay(true);
                            connections.spawn(connection(stream, service.clone(), stop.clone()));
                        }
                    }
                    () = stop.clone().requested() => break,
                }
            }
            drop(listener);
            while connections.join_next().await.is_some() {}
        })
    }

    /// Your own server: a future that serves `listener` until [`Stop`] says so.
    ///
    /// # Panics
    ///
    /// Panics if no thread can be started.
    pub fn serve<F, Fut>(self, server: F) -> Server
    where
        F: FnOnce(TcpListener, Stop) -> Fut + Send + 'static,
        Fut: Future<Output = ()>,
    {
        let addr = self.addr();
        let (stop, stopped) = watch::channel(false);
        let (kill, killed) = oneshot::channel();
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime for the server");
            runtime.block_on(async {
                self.0
                    .set_nonblocking(true)
                    .expect("a socket that does not block");
                let listener = TcpListener::from_std(self.0).expect("a listener for tokio");
                tokio::select! {
                    () = server(listener, Stop(stopped)) => {}
                    _ = killed => {}
                }
            });
            // With the runtime go all connections, whatever they are doing.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name(format!("test server {addr}"));
        let thread = thread.spawn(serve).expect("a thread for the server");
        Server {
            addr,
            stop,
            kill: Some(kill),
            thread: Some(thread),
        }
    }
}

/// Serves HTTP/1.1, or HTTP/2 with prior knowledge, over one stream until it ends: over a
/// [duplex](tokio::io::duplex) within the process, say.
pub async fn serve_stream<I, S, B>(stream: I, service: S)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (_never, stopped) = watch::channel(false);
    connection(stream, service, Stop(stopped)).await;
}

async fn connection<I, S, B>(stream: I, service: S, stop: Stop)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let builder = auto::Builder::new(TokioExecutor::new());
    let service = TowerToHyperService::new(service);
    let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    // Errors are the client's matter: it sees the connection break.
    tokio::select! {
        _ = served.as_mut() => {}
        () = stop.requested() => {
            served.as_mut().graceful_shutdown();
            _ = served.await;
        }
    }
}

// ===== impl Server =====

impl Server {
    /// [`Port::axum`] on a free port, without connect info: `axum::serve(listener, router)`.
    pub fn axum(router: axum::Router) -> Self {
        Port::any().axum(router, false)
    }

    /// [`Port::tonic`] on a free port.
    pub fn tonic(routes: Routes) -> Self {
        Port::any().tonic(routes)
    }

    /// tonic with the health service, `grpc.health.v1`, on a free port: unary `Check` and streaming
    /// `Watch`, with the handle that sets what they say.
    pub fn health() -> (Self, HealthReporter) {
        let (reporter, service) = tonic_health::server::health_reporter();
        (Self::tonic(Routes::new(service)), reporter)
    }

    /// [`Port::hyper`] on a free port.
    pub fn hyper<S, B>(service: S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Port::any().hyper(service)
    }

    /// Where the server listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The `http` URI of a path of this server.
    ///
    /// # Panics
    ///
    /// Panics if `path` does not make a valid URI.
    pub fn uri(&self, path: &str) -> Uri {
        format!("http://{}{path}", self.addr)
            .parse()
            .expect("a path that fits into a URI")
    }

    /// Stops accepting, lets the calls that run come to their end, and waits for that.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            _ = tokio::task::spawn_blocking(|| thread.join()).await;
        }
    }

    /// Ends the server as SIGKILL ends a process: every connection breaks, the port is closed.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(kill) = self.kill.take() {
            _ = kill.send(());
        }
        if let Some(thread) = self.thread.take() {
            // The error is a panic of the server, which was printed.
            _ = thread.join();
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

// ===== impl Stop =====

impl Stop {
    /// Waits until the server is to stop.
    pub async fn requested(mut self) {
        // The error is a server handle that is gone, which kills the server anyway.
        _ = self.0.wait_for(|stop| *stop).await;
    }
}
