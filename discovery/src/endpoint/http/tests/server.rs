//! Small servers that count what they see.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinHandle,
};

/// Not `Body`: its boxed error and hyper's bounds on it defeat the compiler's lifetimes.
pub(super) type Sent = UnsyncBoxBody<Bytes, Infallible>;

pub(super) fn sent(text: impl Into<Bytes>) -> Sent {
    Full::new(text.into()).boxed_unsync()
}

pub(super) type Answer = Pin<Box<dyn Future<Output = Response<Sent>> + Send>>;
type Handler = Arc<dyn Fn(Request<Incoming>) -> Answer + Send + Sync>;

/// A server that speaks HTTP/1 and HTTP/2 and counts its connections.
pub(super) struct Server {
    pub(super) addr: SocketAddr,
    pub(super) connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// How a connection is served.
#[derive(Clone)]
pub(super) struct Behaviour {
    pub(super) handler: Handler,
    /// Closes the connection after so many answers, without a word on HTTP/1 and with GOAWAY on
    /// HTTP/2.
    pub(super) close_after: usize,
    pub(super) max_streams: Option<u32>,
    pub(super) tls: Option<tokio_rustls::TlsAcceptor>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            handler: handler(echo),
            close_after: usize::MAX,
            max_streams: None,
            tls: None,
        }
    }
}

pub(super) fn handler<F, Fut>(handle: F) -> Handler
where
    F: Fn(Request<Incoming>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Response<Sent>> + Send + 'static,
{
    Arc::new(move |request| Box::pin(handle(request)))
}

/// Answers with what it saw: `version method uri host body`.
pub(super) async fn echo(request: Request<Incoming>) -> Response<Sent> {
    let (head, body) = request.into_parts();
    let host = head
        .headers
        .get("host")
        .map_or("-", |host| host.to_str().unwrap());
    let mut text = format!("{:?} {} {} {host} ", head.version, head.method, head.uri).into_bytes();
    match body.collect().await {
        Ok(body) => text.extend_from_slice(&body.to_bytes()),
        Err(_) => text.extend_from_slice(b"(broken)"),
    }
    Response::new(sent(text))
}

impl Server {
    pub(super) async fn start(behaviour: Behaviour) -> Self {
        Self::on("127.0.0.1:0".parse().unwrap(), behaviour).await
    }

    pub(super) async fn on(addr: SocketAddr, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let task = tokio::spawn(async move {
            // The connections live in the set, so that they die with the server.
            let mut serving = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                count.fetch_add(1, SeqCst);
                let behaviour = behaviour.clone();
                serving.spawn(async move {
                    match behaviour.tls.clone() {
                        None => serve(stream, behaviour).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, behaviour).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            addr,
            connections,
            task,
        }
    }

    pub(super) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.addr)
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    /// Closes the listener and every connection, like a killed process.
    pub(super) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Serves one connection.
pub(super) async fn serve<S>(stream: S, behaviour: Behaviour)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answered = Arc::new(tokio::sync::Notify::new());
    let left = Arc::new(AtomicUsize::new(behaviour.close_after));
    let (done, limit) = (answered.clone(), left.clone());
    let is_http2 = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let saw_http2 = is_http2.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        saw_http2.store(request.version() == http::Version::HTTP_2, SeqCst);
        let answer = (behaviour.handler)(request);
        let (done, limit) = (done.clone(), limit.clone());
        async move {
            let answer = answer.await;
            if limit.fetch_sub(1, SeqCst) == 1 {
                done.notify_one();
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .max_concurrent_streams(behaviour.max_streams);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = answered.notified() => {}
    }
    if is_http2.load(SeqCst) {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    } else {
        // A few polls more write the last answer out, then the socket just closes.
        for _ in 0..3 {
            tokio::select! {
                biased;
                _ = connection.as_mut() => return,
                () = std::future::ready(()) => {}
            }
            tokio::task::yield_now().await;
        }
    }
}
