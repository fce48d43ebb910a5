//! Canaries over real sockets: who gets which version, and that a call stays with the one it got.

use std::{collections::HashMap, net::SocketAddr};

use axum::{Extension, Router, routing::get};
use http::{Request, Response, StatusCode};
use tonic::{
    Code,
    service::Routes,
    transport::{Server as TonicServer, server::TcpIncoming},
};
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt,
    util::{MapRequest, MapRequestLayer},
};
use tower_mesh::{
    Body,
    discovery::{
        balance::{Balance, BalanceConfig},
        endpoint::{
            http::{HttpEndpointConfig, HttpEndpoints},
            tonic::TonicEndpoints,
        },
        instance::Instance,
        resolve::{Publisher, Watch, snapshot},
    },
    layers::{
        CallContext, Live, MatchConfig, Rejection, StringMatch,
        retry::RetryLayer,
        route::{
            BackendConfig, FallbackConfig, RouteConfig, RouteLayer, RuleConfig, Split, StickyConfig,
        },
        test_util::{
            Answer, ProbeHandle, Scripted, clients, grpc,
            servers::{Port, Server},
        },
    },
};

use crate::support::{self, Connection, PATIENCE, channel, eventually};

const STABLE: &str = "1.0";
const CANARY: &str = "2.0";
const USERS: u32 = 200;

/// A server of one version, and the calls that reached it.
struct Version {
    server: Server,
    calls: ProbeHandle,
}

/// A registry that knows both.
struct Versions {
    stable: Version,
    canary: Version,
    publisher: Publisher,
    watch: Watch,
}

// ===== impl Versions =====

impl Versions {
    fn new(make: impl Fn(&'static str) -> Version, scheme: &str) -> Self {
        let (stable, canary) = (make(STABLE), make(CANARY));
        let (publisher, watch) = Watch::channel("carts");
        publisher.publish(snapshot([
            stable.instance(scheme, STABLE),
            canary.instance(scheme, CANARY),
        ]));
        Self {
            stable,
            canary,
            publisher,
            watch,
        }
    }

    /// Answers with their versions; the canary's with this status.
    fn http(canary: u16) -> Self {
        let make = |version: &'static str| {
            let status = if version == CANARY { canary } else { 200 };
            let answer = Answer::status(status).body(version);
            let (service, calls) = Scripted::always(answer);
            let server = Server::hyper(service);
            Version { server, calls }
        };
        Self::new(make, "http")
    }

    fn grpc() -> Self {
        let make = |_| {
            let (service, calls) = grpc::service();
            let server = Server::tonic(Routes::new(service));
            Version { server, calls }
        };
        Self::new(make, "grpc")
    }

    fn balance(&self) -> Balance<HttpEndpoints> {
        let config = HttpEndpointConfig {
            connect_timeout: PATIENCE,
            ..HttpEndpointConfig::default()
        };
        Balance::builder(self.watch.clone())
            .endpoints(HttpEndpoints::new(config).unwrap())
            .config(patient())
            .unwrap()
            .build()
    }

    fn channels(&self) -> Balance<TonicEndpoints> {
        Balance::builder(self.watch.clone())
            .endpoints(TonicEndpoints::default().configure(|it| it.connect_timeout(PATIENCE)))
            .config(patient())
            .unwrap()
            .build()
    }

    fn calls(&self) -> [u64; 2] {
        [self.stable.calls.calls(), self.canary.calls.calls()]
    }
}

impl Version {
    fn instance(&self, scheme: &str, version: &str) -> Instance {
        let url = format!("{scheme}://{}", self.server.addr());
        Instance::at("carts", url.parse().unwrap()).with_version(version)
    }
}

fn patient() -> BalanceConfig {
    let mut config = BalanceConfig {
        wait_for_endpoints: PATIENCE,
        connect_timeout: PATIENCE,
        ..BalanceConfig::default()
    };
    // What a failing canary does to its share is shown here, not what ejection does.
    config.ejection.consecutive_failures = 0;
    config
}

/// Arms of these weights; testers always get the canary.
fn rules(stable: u32, canary: u32) -> RouteConfig {
    let testers = RuleConfig::new("testers")
        .matching(MatchConfig::default().header("x-cohort", "qa"))
        .backend(BackendConfig::new("canary").version(CANARY));
    RouteConfig::new([testers, rollout(stable, canary)])
}

fn rollout(stable: u32, canary: u32) -> RuleConfig {
    RuleConfig::new("rollout")
        .backend(BackendConfig::new("stable").version(STABLE).weight(stable))
        .backend(BackendConfig::new("canary").version(CANARY).weight(canary))
        .sticky(StickyConfig::header("x-user"))
}

fn user(id: u32) -> Request<Body> {
    let request = Request::get("/cart").header("x-user", id);
    request.body(Body::empty()).unwrap()
}

/// The version that answers a call.
async fn version<S, B>(service: &S, request: Request<Body>) -> String
where
    S: Service<Request<Body>, Response = Response<B>, Error: std::fmt::Debug> + Clone,
    B: http_body::Body<Data = bytes::Bytes, Error: std::fmt::Debug>,
{
    let response = service.clone().oneshot(request).await.unwrap();
    let body = support::read(response).await.into_body();
    String::from_utf8(body.to_vec()).unwrap()
}

// ===== over a balancer =====

#[tokio::test]
async fn users_keep_their_version_while_the_canary_grows() {
    let versions = Versions::http(200);
    let live = Live::new(rules(80, 20));
    let layer = RouteLayer::live(live.clone()).unwrap();
    let client = layer.layer(versions.balance());
    let all = async || {
        let mut seen = HashMap::new();
        for id in 0..USERS {
            let first = version(&client, user(id)).await;
            assert_eq!(first, version(&client, user(id)).await);
            seen.insert(id, first);
        }
        seen
    };
    let before = all().await;
    live.set(rules(50, 50)).unwrap();
    let after = all().await;
    let of = |seen: &HashMap<u32, String>| seen.values().filter(|v| *v == CANARY).count();
    assert!((20..60).contains(&of(&before)), "{}", of(&before));
    assert!((70..130).contains(&of(&after)), "{}", of(&after));
    let left = before
        .iter()
        .filter(|(id, v)| *v == CANARY && after[id] != CANARY);
    assert_eq!(left.count(), 0);

    let tester = || {
        let mut request = user(7);
        request
            .headers_mut()
            .insert("x-cohort", "qa".parse().unwrap());
        request
    };
    for _ in 0..20 {
        assert_eq!(version(&client, tester()).await, CANARY);
    }
    let [stable, canary] = versions.calls();
    assert_eq!(stable + canary, 2 * 2 * u64::from(USERS) + 20);
    let stats = layer.handle().stats();
    assert_eq!(stats.calls("rollout", "stable"), stable);
    assert_eq!(stats.calls("testers", "canary"), 20);
}

/// Every attempt of a call goes to the canary, though the stable version would have answered.
#[tokio::test]
async fn a_retry_stays_with_its_version() {
    const CALLS: u64 = 20;
    let attempts = async |routed: bool| {
        let versions = Versions::http(503);
        let share = if routed {
            rules(0, 1)
        } else {
            RouteConfig::default()
        };
        let client = ServiceBuilder::new()
            .layer(RouteLayer::new(share).unwrap())
            .layer(RetryLayer::default())
            .service(versions.balance());
        for id in 0..CALLS as u32 {
            let response = client.clone().oneshot(user(id)).await.unwrap();
            let expected = if routed { 503 } else { 200 };
            assert_eq!(response.status(), expected);
        }
        versions.calls()
    };
    let [stable, canary] = attempts(true).await;
    assert_eq!(stable, 0);
    assert!(canary > CALLS, "{canary} attempts");
    // Without a route they go to whoever answers.
    let [stable, _] = attempts(false).await;
    assert_eq!(stable, CALLS);
}

#[tokio::test]
async fn a_version_that_is_gone_fails_or_falls_back_as_its_rule_says() {
    for (fallback, expected) in [
        (FallbackConfig::Fail, None),
        (FallbackConfig::Any, Some(STABLE)),
        (FallbackConfig::Arm("stable".to_owned()), Some(STABLE)),
    ] {
        let versions = Versions::http(200);
        let rule = rollout(0, 1).fallback(fallback.clone());
        let layer = RouteLayer::builder().rule(rule).build().unwrap();
        let balance = versions.balance();
        let client = layer.layer(balance.clone());
        assert_eq!(version(&client, user(1)).await, CANARY);

        let left = versions.stable.instance("http", STABLE);
        versions.publisher.publish(snapshot([left]));
        eventually("the canary is gone", || balance.endpoints().len() == 1).await;
        let response = client.clone().oneshot(user(1)).await.unwrap();
        match expected {
            Some(expected) => {
                let body = support::read(response).await.into_body();
                assert_eq!(body, expected, "{fallback:?}");
            }
            None => {
                assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
                let rejection = response.extensions().get::<Rejection>().unwrap();
                let detail = rejection.detail();
                assert!(detail.contains("version=2.0"), "{detail}");
            }
        }
    }
}

// ===== on tonic =====

type GrpcRequest = Request<tonic::body::Body>;

/// Makes all calls those of one user.
fn by_user(id: u32) -> MapRequestLayer<impl Fn(GrpcRequest) -> GrpcRequest + Clone> {
    MapRequestLayer::new(move |mut request: GrpcRequest| {
        request.headers_mut().insert("x-user", id.into());
        request
    })
}

#[tokio::test]
async fn users_of_a_grpc_service_have_a_version_over_unary_calls_and_streams() {
    let versions = Versions::grpc();
    let layer = RouteLayer::new(rules(50, 50)).unwrap();
    let service = layer.layer(versions.channels());
    let mut canaries = 0;
    for id in 0..40 {
        let mut client = grpc::Client::new(by_user(id).layer(service.clone()));
        let before = versions.calls();
        for _ in 0..2 {
            client.unary("Unary", "hello").await.unwrap();
        }
        let mut stream = client.stream("Stream", "").await.unwrap().into_inner();
        while stream.message().await.unwrap().is_some() {}
        let calls = versions.calls();
        let took = [calls[0] - before[0], calls[1] - before[1]];
        assert!(took == [3, 0] || took == [0, 3], "user {id}: {took:?}");
        canaries += u32::from(took == [0, 3]);
    }
    assert!((8..32).contains(&canaries), "{canaries} of 40");
}

#[tokio::test]
async fn a_split_over_two_channels_ramps_up_and_does_not_mind_a_dead_one() {
    let versions = Versions::grpc();
    let rollout = |blue, green| {
        let rule = RuleConfig::new("rollout")
            .matching(MatchConfig::default().header("x-user", StringMatch::Present))
            .backend(BackendConfig::new("blue").weight(blue))
            .backend(BackendConfig::new("green").weight(green))
            .sticky(StickyConfig::header("x-user"));
        RouteConfig::new([rule])
    };
    let live = Live::new(rollout(80, 20));
    let split = Split::builder()
        .service("blue", channel(versions.stable.server.addr()))
        .service("green", channel(versions.canary.server.addr()))
        .rules(live.clone())
        .build()
        .unwrap();
    let green = async || {
        let mut users = Vec::new();
        for id in 0..USERS {
            let mut client = grpc::Client::new(by_user(id).layer(split.clone()));
            let before = versions.canary.calls.calls();
            client.unary("Unary", "hello").await.unwrap();
            if versions.canary.calls.calls() > before {
                users.push(id);
            }
        }
        users
    };
    let few = green().await;
    live.set(rollout(50, 50)).unwrap();
    let half = green().await;
    assert!(few.iter().all(|user| half.contains(user)));
    assert!((20..60).contains(&few.len()) && (70..130).contains(&half.len()));

    // Nobody's rule.
    let mut client = grpc::Client::new(split.clone());
    let refused = client.unary("Unary", "hello").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(refused.message(), "no rule is for the call");

    let Versions { canary, stable, .. } = versions;
    canary.server.stop().await;
    for id in 0..USERS {
        let mut client = grpc::Client::new(by_user(id).layer(split.clone()));
        let answer = client.unary("Unary", "hello").await;
        assert_eq!(answer.is_err(), half.contains(&id), "user {id}");
    }
    assert!(stable.calls.calls() > 0);
}

// ===== on hyper =====

#[tokio::test]
async fn a_split_over_two_hyper_clients() {
    /// A client of one address.
    fn client_of(
        addr: SocketAddr,
    ) -> impl Service<
        Request<support::Body>,
        Response = Response<hyper::body::Incoming>,
        Error = hyper_util::client::legacy::Error,
    > + Clone {
        let client = clients::h1::<support::Body>();
        MapRequest::new(client, move |request| clients::send_to(addr, request))
    }
    let versions = Versions::http(200);
    let rule = RuleConfig::new("rollout")
        .backend(BackendConfig::new("blue").weight(3))
        .backend(BackendConfig::new("green").weight(1));
    let split = Split::builder()
        .service("blue", client_of(versions.stable.server.addr()))
        .service("green", client_of(versions.canary.server.addr()))
        .rules(RouteConfig::new([rule]))
        .seed(1)
        .build()
        .unwrap();
    for _ in 0..200 {
        let request = Request::get("/").body(support::Body::default()).unwrap();
        let response = split.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        support::read(response).await;
    }
    let [blue, green] = versions.calls();
    assert_eq!(blue + green, 200);
    assert!((30..75).contains(&green), "{green}");
    assert_eq!(split.handle().stats().calls("rollout", "green"), green);
}

// ===== on servers =====

/// Says which arm the call was sent to.
async fn say_arm(Extension(context): Extension<CallContext>) -> String {
    let arm = context.route.as_ref().map(|route| route.arm());
    arm.map_or_else(String::new, |arm| arm.name.to_string())
}

#[tokio::test]
async fn a_handler_may_ask_which_arm_it_is() {
    let layer = RouteLayer::new(rules(50, 50)).unwrap();
    let routes = layer.handle();
    let app = Router::new()
        .route("/cart", get(say_arm))
        .layer(layer.clone());
    let server = Server::axum(app);
    let mut arms = HashMap::new();
    for connection in 0..5 {
        // axum makes a service for every connection.
        let mut connection = match connection % 2 {
            0 => Connection::h1(server.addr()).await,
            _ => Connection::h2(server.addr()).await,
        };
        for id in 0..20 {
            let request = user(id).map(|_| support::Body::default());
            let answer = support::read(connection.send(request).await).await;
            let arm = arms.entry(id).or_insert_with(|| answer.body().clone());
            assert_eq!(arm, answer.body());
        }
    }
    let stats = routes.stats();
    assert_eq!(
        stats.calls("rollout", "stable") + stats.calls("rollout", "canary"),
        100
    );

    let (service, calls) = grpc::service();
    let on_tonic = Port::any().serve(move |listener, stop| async move {
        TonicServer::builder()
            .layer(layer)
            .add_routes(Routes::new(service))
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.requested())
            .await
            .unwrap();
    });
    let mut client = grpc::Client::new(by_user(7).layer(channel(on_tonic.addr())));
    client.unary("Unary", "hello").await.unwrap();
    assert_eq!(calls.calls(), 1);
    let stats = routes.stats();
    assert_eq!(
        stats.calls("rollout", "stable") + stats.calls("rollout", "canary"),
        101
    );
}

#[tokio::test]
async fn a_split_is_a_service_of_an_axum_router() {
    let (blue, on_blue) = Scripted::always(Answer::ok().body("blue"));
    let (green, on_green) = Scripted::always(Answer::ok().body("green"));
    let rule = RuleConfig::new("rollout")
        .matching(MatchConfig::default().header("x-user", StringMatch::Present))
        .backend(BackendConfig::new("blue"))
        .backend(BackendConfig::new("green"))
        .sticky(StickyConfig::header("x-user"));
    let split = Split::builder()
        .service("blue", blue)
        .service("green", green)
        .rules(RouteConfig::new([rule]))
        .build()
        .unwrap();
    let server = Server::axum(Router::new().fallback_service(split));
    let mut connection = Connection::h1(server.addr()).await;
    for id in 0..40 {
        let mut answers = Vec::new();
        for _ in 0..2 {
            let request = user(id).map(|_| support::Body::default());
            answers.push(
                support::read(connection.send(request).await)
                    .await
                    .into_body(),
            );
        }
        assert_eq!(answers[0], answers[1]);
    }
    assert_eq!(on_blue.calls() + on_green.calls(), 80);
    assert!(on_blue.calls() > 10 && on_green.calls() > 10);
    let refused = connection.get("/").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        refused.headers()["content-type"],
        "application/problem+json"
    );
}
