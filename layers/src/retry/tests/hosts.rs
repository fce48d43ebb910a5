//! Over real sockets, and around the clients that people have: no glue, casts or turbofish.

use std::net::SocketAddr;

use axum::{Router, routing::post};
use http_body_util::{Empty, Full};
use tonic::{service::Routes, transport::Endpoint};
use tower::ServiceBuilder;

use super::*;
use crate::test_util::{
    Fault, FaultProxy, Scripted, clients,
    grpc::Client,
    servers::{Port, Server},
};

/// Fails twice, then works.
fn flaky(failed: Answer, good: Answer) -> (Scripted, ProbeHandle) {
    Scripted::answering(move |call, _| {
        if call < 2 {
            failed.clone()
        } else {
            good.clone()
        }
    })
}

#[tokio::test]
async fn around_a_tonic_channel_into_a_generated_client() {
    let good = crate::test_util::grpc::unary("hello");
    let (service, probe) = flaky(Answer::grpc_status("14"), good);
    let server = Server::hyper(service);
    let channel = Endpoint::new(server.uri("/").to_string())
        .unwrap()
        .connect_lazy();

    let service = ServiceBuilder::new()
        .layer(RetryLayer::default())
        .service(channel);
    let mut client = Client::new(service);
    let answer = client.unary("Unary", "question").await.unwrap();
    assert_eq!(answer.into_inner(), "hello");
    assert_eq!(probe.calls(), 3);
    let bodies: Vec<_> = probe.requests().into_iter().map(|one| one.body).collect();
    let question = crate::test_util::grpc::message("question");
    assert_eq!(bodies, [question.clone(), question.clone(), question]);
}

/// The status is in trailers, as with servers that send their headers before they know it.
#[tokio::test]
async fn a_status_that_comes_right_behind_the_head_is_retried_over_http2() {
    let failed = Answer::grpc(TestBody::stream().trailer("grpc-status", "14"));
    let good = crate::test_util::grpc::unary("hello");
    let (service, probe) = flaky(failed, good);
    let server = Server::hyper(service);
    let channel = Endpoint::new(server.uri("/").to_string())
        .unwrap()
        .connect_lazy();
    let mut client = Client::new(RetryLayer::default().layer(channel));
    let answer = client.unary("Unary", "question").await.unwrap();
    assert_eq!((answer.into_inner(), probe.calls()), ("hello".into(), 3));
}

#[tokio::test]
async fn around_a_tonic_channel_with_an_interceptor() {
    let (server, _health) = Server::health();
    let channel = Endpoint::new(server.uri("/").to_string())
        .unwrap()
        .connect_lazy();
    let service = ServiceBuilder::new()
        .layer(RetryLayer::default())
        .service(channel);
    let mut client = tonic_health::pb::health_client::HealthClient::with_interceptor(service, Ok);
    let checked = client
        .check(tonic_health::pb::HealthCheckRequest::default())
        .await;
    assert!(checked.is_ok(), "{checked:?}");
}

/// Nobody listens at first: no call fails, since nothing was sent.
#[tokio::test]
async fn a_refused_connection_is_retried_although_grpc_is_post() {
    let (service, probe) = crate::test_util::grpc::service();
    let server = Server::tonic(Routes::new(service));
    let proxy = FaultProxy::start(server.addr()).await.unwrap();
    proxy.set(Fault::Refuse).await;
    let channel = Endpoint::new(format!("http://{}", proxy.addr()))
        .unwrap()
        .connect_lazy();
    let layer = patient();
    let retries = layer.handle();
    let mut client = Client::new(layer.layer(channel));
    let (answer, ()) = tokio::join!(client.unary("Unary", "hello"), async {
        while retries.stats().retries == 0 {
            tokio::time::sleep(MS).await;
        }
        proxy.set(Fault::Pass).await;
    });
    assert_eq!(answer.unwrap().into_inner(), "hello");
    assert_eq!(probe.calls(), 1);
}

fn call<B>(addr: SocketAddr, method: Method, body: B) -> Request<B> {
    let request = Request::builder()
        .method(method)
        .uri("/")
        .body(body)
        .unwrap();
    clients::send_to(addr, request)
}

#[tokio::test]
async fn around_hyper_clients_of_every_body() {
    let layer = ServiceBuilder::new().layer(generous().build().unwrap());
    let serve = || {
        let (service, probe) = flaky(Answer::status(503), Answer::ok());
        (Server::hyper(service), probe)
    };

    let (server, probe) = serve();
    let mut full = layer.clone().service(clients::h1());
    let request = call(server.addr(), Method::PUT, Full::new(Bytes::from("abc")));
    assert_eq!(
        full.ready()
            .await
            .unwrap()
            .call(request)
            .await
            .unwrap()
            .status(),
        200
    );
    assert!(probe.requests().iter().all(|one| one.body == "abc"));

    let (server, probe) = serve();
    let empty = layer.clone().service(clients::h2());
    let request = call(server.addr(), Method::GET, Empty::<Bytes>::new());
    assert_eq!(empty.oneshot(request).await.unwrap().status(), 200);
    assert_eq!(probe.calls(), 3);

    for client in [clients::h1(), clients::h2()] {
        let (server, probe) = serve();
        let axum = layer.clone().service(client);
        let upload = TestBody::stream().data("a").data("b").trailer("x-sum", "7");
        let request = call(server.addr(), Method::PUT, axum::body::Body::new(upload));
        assert_eq!(axum.oneshot(request).await.unwrap().status(), 200);
        assert_eq!(probe.calls(), 3);
        assert!(probe.requests().iter().all(|one| one.body == "ab"));
    }

    let (server, probe) = serve();
    let boxed = layer.clone().service(clients::h1());
    let body = Full::new(Bytes::from("abc")).boxed();
    let request = call(server.addr(), Method::PUT, body);
    assert_eq!(boxed.oneshot(request).await.unwrap().status(), 200);
    assert!(probe.requests().iter().all(|one| one.body == "abc"));
}

#[tokio::test]
async fn around_reqwest() {
    let (service, probe) = flaky(Answer::status(503), Answer::ok().body("hello"));
    let server = Server::hyper(service);
    let mut client = ServiceBuilder::new()
        .layer(RetryLayer::default())
        .service(crate::reqwest::Reqwest::from(::reqwest::Client::new()));
    let request = Request::put(server.uri("/"))
        .body(::reqwest::Body::from("abc"))
        .unwrap();
    let response = client.ready().await.unwrap().call(request).await.unwrap();
    let text = ::reqwest::Response::from(response.map(::reqwest::Body::wrap))
        .text()
        .await;
    assert_eq!(text.unwrap(), "hello");
    let bodies: Vec<_> = probe.requests().into_iter().map(|one| one.body).collect();
    assert_eq!(bodies, ["abc", "abc", "abc"]);
}

#[tokio::test]
async fn on_an_axum_router() {
    let app: Router = Router::new()
        .route("/", post(|| async { "hello" }).get(|| async { "hello" }))
        .layer(RetryLayer::default());
    let server = Server::axum(app);
    let request = call(server.addr(), Method::GET, Empty::<Bytes>::new());
    assert_eq!(clients::h1().request(request).await.unwrap().status(), 200);
}

/// The real REFUSED_STREAM of an HTTP/2 peer: the request was not seen, so even a POST goes out again.
#[tokio::test]
async fn a_stream_that_http2_refuses_is_sent_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(socket).await.unwrap();
        let mut refuse = true;
        while let Some(stream) = connection.accept().await {
            let (_request, mut respond) = stream.unwrap();
            if std::mem::take(&mut refuse) {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
            } else {
                respond.send_response(Response::new(()), true).unwrap();
            }
        }
    });
    let layer = RetryLayer::builder()
        .budget(Ratio::ZERO, 0)
        .build()
        .unwrap();
    let client = layer.layer(clients::h2());
    let request = call(addr, Method::POST, Full::new(Bytes::from("order")));
    assert_eq!(client.oneshot(request).await.unwrap().status(), 200);
    assert_eq!(layer.handle().stats().retries, 1);
}

/// A server that is killed in the middle of a call, and one that comes back in its place.
struct Crash {
    addr: SocketAddr,
    probe: ProbeHandle,
    server: Server,
}

impl Crash {
    fn prepare() -> Self {
        let port = Port::any();
        let addr = port.addr();
        let (service, probe) = Scripted::always(Answer::never());
        let server = port.hyper(service);
        Self {
            addr,
            probe,
            server,
        }
    }

    /// Kills the server once the call is there.
    async fn crash(self, good: Answer) -> Server {
        while self.probe.in_flight() == 0 {
            tokio::time::sleep(MS).await;
        }
        self.server.kill();
        let (service, _) = Scripted::always(good);
        Port::at(self.addr).hyper(service)
    }
}

/// Enough attempts to outlast the time in which nobody listens.
fn patient() -> RetryLayer {
    generous()
        .max_attempts(10)
        .backoff(50 * MS, 400 * MS)
        .build()
        .unwrap()
}

#[tokio::test]
async fn calls_survive_a_server_that_is_killed_in_the_middle() {
    for client in [clients::h1(), clients::h2()] {
        let crash = Crash::prepare();
        let client = patient().layer(client);
        let request = call(crash.addr, Method::PUT, Full::new(Bytes::from("abc")));
        let (answered, _server) = tokio::join!(
            client.oneshot(request),
            crash.crash(Answer::ok().body("hello"))
        );
        assert_eq!(answered.unwrap().status(), 200);
    }

    let crash = Crash::prepare();
    let channel = Endpoint::new(format!("http://{}", crash.addr))
        .unwrap()
        .connect_lazy();
    let layer = ServiceBuilder::new()
        .map_request(|mut request: Request<tonic::body::Body>| {
            request.extensions_mut().insert(Idempotent);
            request
        })
        .layer(patient());
    let mut client = Client::new(layer.service(channel));
    let good = crate::test_util::grpc::unary("hello");
    let (answered, _server) = tokio::join!(client.unary("Unary", "question"), crash.crash(good));
    assert_eq!(answered.unwrap().into_inner(), "hello");

    let crash = Crash::prepare();
    let layer = patient();
    let client = layer.layer(crate::reqwest::Reqwest::from(::reqwest::Client::new()));
    let uri = format!("http://{}/", crash.addr);
    let request = Request::get(uri).body(::reqwest::Body::default()).unwrap();
    let (answered, _server) = tokio::join!(
        client.oneshot(request),
        crash.crash(Answer::ok().body("hello"))
    );
    assert_eq!(answered.unwrap().status(), 200);
}
