//! Endpoints that come, go, refuse and break, as the callers of `mesh.client` and `mesh.channel` see it,
//! and those who balance over tonic's channels.

use std::net::SocketAddr;

use futures_util::StreamExt;
use tokio::net::TcpSocket;
use tonic::{
    Code,
    service::Routes,
    transport::{Channel, Endpoint, channel::Change},
};
use tower::{Layer, discover};
use tower_mesh::{
    client::ClientConfig,
    discovery::{
        balance::{Balance, EndpointState, EndpointView, Picker},
        discover::Changes,
        endpoint::tonic::TonicEndpoints,
        instance::{Instance, Status},
        registry::MemoryRegistry,
        resolve::{Resolver, Watch, snapshot},
    },
    layers::{
        Protocol,
        retry::RetryLayer,
        test_util::{Fault, FaultProxy, ProbeHandle, grpc, servers::Server},
    },
};

use crate::support::{self, PATIENCE, eventually};

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

// ===== tonic's channels as endpoints =====

fn instance(addr: SocketAddr) -> Instance {
    Instance::at("kit", format!("grpc://{addr}").parse().unwrap())
}

/// In turn, so that every endpoint is found.
fn over_channels(instances: Watch) -> Balance<TonicEndpoints> {
    Balance::builder(instances)
        .picker(Picker::round_robin())
        .endpoints(TonicEndpoints::default().configure(|it| it.connect_timeout(PATIENCE)))
        .build()
}

/// A channel connects in `call`, so a refused one costs the call that finds it, unless a retry layer
/// goes elsewhere. It is not found often: it is out at once, and is tried ever more rarely.
#[tokio::test]
async fn a_refused_channel_costs_no_call_under_a_retry_and_few_without_one() {
    const CALLS: usize = 500;
    let (service, probe) = grpc::service();
    let server = Server::tonic(Routes::new(service));
    let refusing = Refusing::new();
    let instances = || Resolver::fixed("kit", [refusing.addr(), server.addr()].map(instance));
    let refused = |endpoints: Vec<EndpointView>| {
        assert_eq!(endpoints.len(), 2);
        let state = |endpoint: &EndpointView| (endpoint.url.port(), endpoint.state);
        let states: Vec<_> = endpoints.iter().map(state).collect();
        let expected = (Some(refusing.addr().port()), EndpointState::Refused);
        assert!(states.contains(&expected), "{states:?}");
        assert!(endpoints.iter().all(|endpoint| endpoint.in_flight == 0));
    };

    let balance = over_channels(instances().watch());
    let mut client = grpc::Client::new(RetryLayer::default().layer(balance.clone()));
    assert_eq!(errors(&mut client, CALLS).await, 0);
    assert_eq!(probe.calls(), CALLS as u64);
    refused(balance.endpoints());

    let balance = over_channels(instances().watch());
    let mut client = grpc::Client::new(balance.clone());
    let errors = errors(&mut client, CALLS).await;
    println!("one channel of two refuses: {errors} errors in {CALLS} calls without a retry");
    assert!((1..20).contains(&errors), "{errors} errors");
    refused(balance.endpoints());
}

#[tokio::test]
async fn a_channel_whose_instance_leaves_ends_with_its_last_call() {
    let kits = [(); 2].map(|()| grpc::service());
    let [leaving, staying] = kits.each_ref().map(|(_, probe)| probe);
    let servers = kits
        .each_ref()
        .map(|(service, _)| Server::tonic(Routes::new(service.clone())));
    let leaves = FaultProxy::start(servers[0].addr()).await.unwrap();
    let stays = FaultProxy::start(servers[1].addr()).await.unwrap();

    let (publisher, watch) = Watch::channel("kit");
    publisher.publish(snapshot([leaves.addr(), stays.addr()].map(instance)));
    let balance = over_channels(watch);
    let mut client = grpc::Client::new(balance.clone());
    assert_eq!(errors(&mut client, 10).await, 0);
    let mut streams = Vec::new();
    for _ in 0..2 {
        streams.push(client.stream("Endless", "").await.unwrap().into_inner());
    }
    assert_eq!([leaving.calls(), staying.calls()], [6; 2], "in turn");

    publisher.publish(snapshot([instance(stays.addr())]));
    eventually("the set has one endpoint", || {
        balance.endpoints().len() == 1
    })
    .await;
    assert_eq!(errors(&mut client, 10).await, 0);
    assert_eq!([leaving.calls(), staying.calls()], [6, 16]);

    for stream in &mut streams {
        for _ in 0..1_000 {
            assert_eq!(stream.message().await.unwrap().unwrap(), &grpc::ENDLESS[..]);
        }
    }
    assert_eq!([&leaves, &stays].map(FaultProxy::open_connections), [1; 2]);
    drop(streams);
    eventually("its connection is closed", || {
        leaves.open_connections() == 0
    })
    .await;
    assert_eq!(stays.open_connections(), 1);
    assert_eq!(errors(&mut client, 10).await, 0);
}

/// Our registries behind a balancer that is not ours: tonic's own takes changes of endpoints from a
/// channel, and any registry gives them.
#[tokio::test]
async fn tonics_balanced_channel_follows_a_registry_of_ours() {
    let servers = [(); 2].map(|()| {
        let (service, probe) = grpc::service();
        (Server::tonic(Routes::new(service)), probe)
    });
    let registry = MemoryRegistry::new();
    for (server, _) in &servers {
        let url = format!("grpc://{}", server.addr()).parse().unwrap();
        registry.insert(Instance::at("kit", url));
    }
    let (channel, sender) = Channel::balance_channel(16);
    let mut changes = Changes::new(
        Resolver::new(registry.clone(), "kit"),
        |instance: &Instance| {
            let addr = instance.endpoints[0].socket_addr().unwrap();
            Endpoint::from_shared(format!("http://{addr}")).unwrap()
        },
    );
    tokio::spawn(async move {
        while let Some(change) = changes.next().await {
            // tonic's type says the same as tower's.
            let change = match change {
                Ok(discover::Change::Insert(key, endpoint)) => Change::Insert(key, endpoint),
                Ok(discover::Change::Remove(key)) => Change::Remove(key),
            };
            if sender.send(change).await.is_err() {
                return; // nobody uses the channel any more
            }
        }
    });

    let mut client = grpc::Client::new(channel);
    let called = |client: &mut grpc::Client<Channel>| {
        let mut client = client.clone();
        async move { errors(&mut client, 1).await }
    };
    let both = async {
        while servers.iter().any(|(_, probe)| probe.calls() == 0) {
            assert_eq!(called(&mut client).await, 0);
        }
    };
    tokio::time::timeout(PATIENCE, both)
        .await
        .expect("both are called");

    let gone = registry.instances("kit")[0].clone();
    let mut leaving = Instance::clone(&gone);
    leaving.status = Status::Down;
    registry.insert(leaving);
    let of_gone = |(server, _): &&(Server, ProbeHandle)| {
        gone.endpoints[0].socket_addr() == Some(server.addr())
    };
    let (_, probe) = servers.iter().find(of_gone).unwrap();
    // The change is on its way: a few calls may still go there.
    let left = async {
        loop {
            let before = probe.calls();
            for _ in 0..20 {
                assert_eq!(called(&mut client).await, 0);
            }
            if probe.calls() == before {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, left)
        .await
        .expect("the one that left is called no more");
}
