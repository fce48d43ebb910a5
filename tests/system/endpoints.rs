//! Endpoints that come, go, refuse and break, as the callers of `mesh.client` and `mesh.channel` see it.

use std::net::SocketAddr;

use tokio::net::TcpSocket;
use tonic::{
    Code,
    service::Routes,
    transport::{Channel, Endpoint},
};
use tower_mesh::{
    client::ClientConfig,
    discovery::balance::EndpointState,
    layers::{
        Protocol,
        test_util::{Fault, FaultProxy, grpc, servers::Server},
    },
};

use crate::support;

/// A port that refuses every connection, for as long as this lives: bound, and not listened at.
struct Refusing(TcpSocket);

impl Refusing {
    fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self(socket)
    }

    fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }
}

/// How many of `calls` fail.
async fn errors<T>(client: &mut grpc::Client<T>, calls: usize) -> usize
where
    T: tonic::client::GrpcService<tonic::body::Body>,
    T::Error: Into<tower::BoxError>,
    T::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<tower::BoxError> + Send,
{
    let mut errors = 0;
    for _ in 0..calls {
        match client.unary("Unary", "hello").await {
            Ok(response) => assert_eq!(response.into_inner(), "hello"),
            Err(_) => errors += 1,
        }
    }
    errors
}

#[tokio::test]
async fn a_refused_endpoint_costs_no_call() {
    const CALLS: usize = 1_000;
    let (service, probe) = grpc::service();
    let server = Server::tonic(Routes::new(service));
    let refusing = Refusing::new();

    let registry = format!("static:grpc://{},grpc://{}", refusing.addr(), server.addr());
    let mesh = support::mesh(registry, ClientConfig::default());
    let mut client = grpc::Client::new(mesh.channel("kit"));
    assert_eq!(errors(&mut client, CALLS).await, 0);
    assert_eq!(probe.calls(), CALLS as u64);
    let refused = format!("grpc://{}", refusing.addr());
    for endpoint in mesh.endpoints("kit", Protocol::Grpc) {
        let is_refused = endpoint.url.to_string() == refused;
        assert_eq!(endpoint.state == EndpointState::Refused, is_refused);
        assert_eq!(endpoint.in_flight, 0);
    }

    // What callers see without us.
    let endpoint = |addr| Endpoint::from_shared(format!("http://{addr}")).unwrap();
    let endpoints = [refusing.addr(), server.addr()].map(endpoint);
    let mut client = grpc::Client::new(Channel::balance_list(endpoints.into_iter()));
    let of_tonic = errors(&mut client, CALLS).await;
    println!(
        "one endpoint of two refuses: 0 errors in {CALLS} calls; tonic's balancing: {of_tonic}"
    );
    assert!(
        of_tonic > 100,
        "only {of_tonic} errors: what is there to show?"
    );
}

/// Callers tell a peer that is down from one with a bug by the status: so it must be UNAVAILABLE, as
/// with every gRPC client, and not UNKNOWN.
#[tokio::test]
async fn a_broken_transport_is_unavailable_to_the_callers_of_a_channel() {
    let channel = |addr: SocketAddr| {
        let mesh = support::mesh(format!("static:grpc://{addr}"), ClientConfig::default());
        grpc::Client::new(mesh.channel("kit"))
    };

    let refusing = Refusing::new();
    let refused = channel(refusing.addr()).unary("Unary", "hello").await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("refused"), "{refused}");

    let (service, probe) = grpc::service();
    let server = Server::tonic(Routes::new(service));
    let proxy = FaultProxy::start(server.addr()).await.unwrap();
    let mut client = channel(proxy.addr());
    let mut stream = client.stream("Open", "").await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap(), "abc");
    proxy.set(Fault::Reset).await;
    let broken = stream.message().await.unwrap_err();
    assert_eq!(broken.code(), Code::Unavailable, "{broken}");
    let broken = client.unary("Unary", "hello").await.unwrap_err();
    assert_eq!(broken.code(), Code::Unavailable, "{broken}");
    assert_eq!(probe.calls(), 1);
}
