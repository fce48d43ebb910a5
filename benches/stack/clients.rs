//! The clients: a connection of hyper's for each caller, hyper-util's pool, our balancer over our endpoint, and that
//! under the full preset.

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::{future, io};

use bytes::{Buf, Bytes};
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body::Body as HttpBody;
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tower::{Service, ServiceExt};
use tower_mesh::discovery::balance::Balance;
use tower_mesh::discovery::endpoint::http::HttpEndpoints;
use tower_mesh::discovery::instance::Instance;
use tower_mesh::discovery::resolve::Resolver;
use tower_mesh::{Body, Mesh};

/// Callers at a time: over HTTP/1.1 each has a connection, over HTTP/2 all share one.
pub(crate) const CALLERS: usize = 16;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Round = Pin<Box<dyn Future<Output = Result<(), BoxError>>>>;
/// Makes so many calls for each caller, all callers at once.
pub(crate) type Client = Box<dyn FnMut(u32) -> Round>;

/// One that makes a call after another.
trait Caller: Send + 'static {
    fn call(&mut self) -> impl Future<Output = Result<(), BoxError>> + Send;
}

struct RawHttp1 {
    sender: http1::SendRequest<Empty<Bytes>>,
    template: Request<()>,
}

#[derive(Clone)]
struct RawHttp2 {
    sender: http2::SendRequest<Empty<Bytes>>,
    template: Request<()>,
}

/// Calls a tower service.
struct Through<S, B> {
    service: S,
    template: Request<()>,
    body: fn() -> B,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A hyper connection: no pool, no redial.
    Raw,
    /// hyper-util's pooled client.
    Pooled,
    /// Our balancer over our endpoint.
    Balance,
    /// `mesh.client`: every layer of the client preset around it.
    Preset,
}

pub(crate) const PROTOCOLS: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];
pub(crate) const KINDS: [Kind; 4] = [Kind::Pooled, Kind::Raw, Kind::Balance, Kind::Preset];

// ===== impl Protocol =====

impl Protocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "h1",
            Self::Http2 => "h2",
        }
    }

    fn url(self, port: u16) -> String {
        let scheme = match self {
            Self::Http1 => "http",
            Self::Http2 => "h2c",
        };
        format!("{scheme}://127.0.0.1:{port}")
    }
}

// ===== impl Kind =====

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw-hyper",
            Self::Pooled => "hyper-util-pooled",
            Self::Balance => "tower-mesh-balance",
            Self::Preset => "tower-mesh-preset",
        }
    }

    pub(crate) async fn make(self, protocol: Protocol, port: u16) -> Result<Client, BoxError> {
        let path = Uri::from_static("/orders/42");
        let whole: Uri = format!("http://127.0.0.1:{port}/orders/42").parse()?;
        Ok(match (self, protocol) {
            (Self::Raw, Protocol::Http1) => {
                let mut callers = Vec::new();
                for _ in 0..CALLERS {
                    callers.push(RawHttp1::connect(port, with_host(path.clone(), port)).await?);
                }
                client(callers)
            }
            (Self::Raw, Protocol::Http2) => {
                client(vec![RawHttp2::connect(port, bare(whole)).await?; CALLERS])
            }
            (Self::Pooled, protocol) => {
                let service = legacy::Client::builder(TokioExecutor::new())
                    .http2_only(protocol == Protocol::Http2)
                    .build_http::<Empty<Bytes>>();
                through(service, bare(whole), Empty::new)
            }
            (Self::Balance, protocol) => {
                let instance = Instance::at("orders", protocol.url(port).parse()?);
                let service = Balance::builder(Resolver::fixed("orders", [instance]))
                    .endpoints(HttpEndpoints::default())
                    .build();
                through(service, bare(path), Body::empty)
            }
            (Self::Preset, protocol) => {
                let service = mesh(&protocol.url(port))?.client("orders");
                through(service, bare(path), Body::empty)
            }
        })
    }
}

fn through<S: Clone, B>(service: S, template: Request<()>, body: fn() -> B) -> Client
where
    Through<S, B>: Caller,
{
    let caller = |_| Through {
        service: service.clone(),
        template: template.clone(),
        body,
    };
    client((0..CALLERS).map(caller).collect())
}

/// Every layer of the preset is on.
fn mesh(url: &str) -> Result<Mesh, BoxError> {
    let config = serde_json::from_value(json!({
        "version": 1,
        "service": "shop",
        "registries": { "default": format!("static:{url}") },
        "clients": { "orders": {
            "deadline": { "timeout": "5s" },
            "rateLimit": { "rate": "1000000/s", "burst": 1_000_000 },
        } },
        "routes": [{ "host": "orders", "rules": [{ "name": "all", "backends": [{}] }] }],
    }))?;
    Ok(Mesh::builder().config(config).build()?)
}

/// A request without its body: URI and headers were parsed beforehand.
fn bare(uri: Uri) -> Request<()> {
    let mut request = Request::new(());
    *request.uri_mut() = uri;
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(header::ACCEPT, json);
    request
}

/// What the others add to an HTTP/1.1 request themselves.
fn with_host(uri: Uri, port: u16) -> Request<()> {
    let mut request = bare(uri);
    let host = HeaderValue::try_from(format!("{}:{port}", Ipv4Addr::LOCALHOST));
    let host = host.expect("a valid header");
    request.headers_mut().insert(header::HOST, host);
    request
}

/// All callers of one kind; they are kept from round to round, with their connections.
fn client<C: Caller>(callers: Vec<C>) -> Client {
    let kept = Rc::new(RefCell::new(callers));
    Box::new(move |calls| {
        let kept = Rc::clone(&kept);
        Box::pin(async move {
            let mut round: JoinSet<Result<C, BoxError>> = JoinSet::new();
            for mut caller in kept.take() {
                round.spawn(async move {
                    for _ in 0..calls {
                        caller.call().await?;
                    }
                    Ok(caller)
                });
            }
            let callers: Result<Vec<C>, BoxError> = round.join_all().await.into_iter().collect();
            kept.replace(callers?);
            Ok(())
        })
    })
}

/// Reads an answer to its end.
async fn read<B>(response: Response<B>) -> Result<(), BoxError>
where
    B: HttpBody,
    B::Error: Into<BoxError>,
{
    let status = response.status();
    let mut body = pin!(response.into_body());
    let mut bytes = 0;
    while let Some(frame) = future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(Into::into)?;
        bytes += frame.data_ref().map_or(0, Buf::remaining);
    }
    if status == StatusCode::OK && bytes > 0 {
        Ok(())
    } else {
        Err(format!("answered {status} with {bytes} bytes").into())
    }
}

async fn connect(port: u16) -> io::Result<TokioIo<TcpStream>> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(stream))
}

// ===== impl RawHttp1 =====

impl RawHttp1 {
    async fn connect(port: u16, template: Request<()>) -> Result<Self, BoxError> {
        let (sender, connection) = http1::handshake(connect(port).await?).await?;
        tokio::spawn(connection);
        Ok(Self { sender, template })
    }
}

impl Caller for RawHttp1 {
    async fn call(&mut self) -> Result<(), BoxError> {
        self.sender.ready().await?;
        let request = self.template.clone().map(|()| Empty::new());
        read(self.sender.send_request(request).await?).await
    }
}

// ===== impl RawHttp2 =====

impl RawHttp2 {
    async fn connect(port: u16, template: Request<()>) -> Result<Self, BoxError> {
        let stream = connect(port).await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        tokio::spawn(connection);
        Ok(Self { sender, template })
    }
}

impl Caller for RawHttp2 {
    async fn call(&mut self) -> Result<(), BoxError> {
        self.sender.ready().await?;
        let request = self.template.clone().map(|()| Empty::new());
        read(self.sender.send_request(request).await?).await
    }
}

// ===== impl Through =====

impl<S, B, ResB> Caller for Through<S, B>
where
    S: Service<Request<B>, Response = Response<ResB>> + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send,
    B: Send + 'static,
    ResB: HttpBody<Data: Send> + Send + 'static,
    ResB::Error: Into<BoxError>,
{
    async fn call(&mut self) -> Result<(), BoxError> {
        let request = self.template.clone().map(|()| (self.body)());
        let service = self.service.ready().await.map_err(Into::into)?;
        read(service.call(request).await.map_err(Into::into)?).await
    }
}
