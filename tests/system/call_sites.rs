//! How our layers are written down where they are used: with no glue, no casts and no annotations that a
//! call site should not need. Each of these is code from the documentation that must compile, and work.

use std::{error::Error, net::SocketAddr, time::Duration};

use axum::{Router, extract::Path, routing::get};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use tokio::net::TcpListener;
use tonic::{
    Code, Status,
    service::{InterceptorLayer, Routes},
    transport::{Channel, Server as TonicServer, server::TcpIncoming},
};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient},
};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::trace::TraceLayer;
use tower_mesh::{
    Body, Mesh,
    discovery::{
        balance::{Balance, Picker},
        endpoint::http::HttpEndpoints,
        instance::Instance,
        registry::{FileRegistry, resolver},
    },
    layers::{
        Key,
        circuit_breaker::{BreakerConfig, CircuitBreakerLayer},
        deadline::DeadlineLayer,
        rate_limit::RateLimitLayer,
        reqwest::Reqwest,
        retry::RetryLayer,
        test_util::{
            Answer, Scripted, clients,
            servers::{Port, Server},
        },
    },
    prelude::{ClientConfig, ServerConfig},
};

use crate::support::{self, Connection, read};

type Result<T = (), E = Box<dyn Error>> = std::result::Result<T, E>;

async fn order(Path(id): Path<String>) -> String {
    format!("order {id}")
}

fn orders() -> Router {
    Router::new().route("/orders/{id}", get(order))
}

fn get_order<B: Default>(uri: impl std::fmt::Display) -> Request<B> {
    let request = Request::get(format!("{uri}orders/7"));
    request.body(B::default()).unwrap()
}

fn serving() -> HealthCheckResponse {
    HealthCheckResponse {
        status: ServingStatus::Serving as i32,
    }
}

#[tokio::test]
async fn on_axum_beside_the_layers_of_tower_http() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let trusted_hops = 0;

    let app = Router::new()
        .route("/orders/{id}", get(order))
        .layer(
            RateLimitLayer::per_minute(1)
                .burst(2)
                .key(Key::client_ip(trusted_hops))
                .build()?,
        )
        .layer(TraceLayer::new_for_http());
    let serving = axum::serve(
        listener,
        app.into_make_service_with_connect_info::<SocketAddr>(),
    )
    .into_future();

    let serving = tokio::spawn(serving);
    let mut connection = Connection::h1(addr).await;
    for expected in [
        StatusCode::OK,
        StatusCode::OK,
        StatusCode::TOO_MANY_REQUESTS,
    ] {
        assert_eq!(connection.get("/orders/7").await.status(), expected);
    }
    serving.abort();
    Ok(())
}

#[tokio::test]
async fn on_a_part_of_axums_routes() -> Result {
    let limit = || RateLimitLayer::per_minute(1).burst(1).build();
    let app = Router::new()
        .route("/orders/{id}", get(order).layer(limit()?))
        .route("/users/{id}", get(order))
        .route_layer(DeadlineLayer::server())
        .nest("/v2", orders().layer(limit()?))
        .layer(
            ServiceBuilder::new()
                .layer(TraceLayer::new_for_http())
                .layer(CircuitBreakerLayer::default()),
        );

    let server = Server::axum(app);
    let mut connection = Connection::h1(server.addr()).await;
    for (path, expected) in [
        ("/orders/7", 200),
        ("/orders/7", 429),
        ("/users/7", 200),
        ("/users/7", 200),
        ("/v2/orders/7", 200),
        ("/v2/orders/7", 429),
    ] {
        assert_eq!(connection.get(path).await.status(), expected, "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn around_a_tonic_channel_into_a_generated_client() -> Result {
    let (server, _reporter) = Server::health();
    let uri = server.uri("/").to_string();

    let svc = ServiceBuilder::new()
        .layer(RetryLayer::default()) // replays tonic's body type as it is
        .layer(CircuitBreakerLayer::new(BreakerConfig {
            failure_rate: "50%".parse()?,
            ..Default::default()
        })?)
        .service(Channel::from_shared(uri)?.connect_lazy());
    let mut health = HealthClient::new(svc);

    let response = health.check(HealthCheckRequest::default()).await?;
    assert_eq!(response.into_inner(), serving());
    let mut watched = health
        .watch(HealthCheckRequest::default())
        .await?
        .into_inner();
    assert_eq!(watched.message().await?, Some(serving()));
    Ok(())
}

#[tokio::test]
async fn around_a_tonic_channel_under_an_interceptor() -> Result {
    let (server, _reporter) = Server::health();
    let channel = Channel::from_shared(server.uri("/").to_string())?.connect_lazy();

    let svc = ServiceBuilder::new()
        .layer(DeadlineLayer::default())
        .layer(RateLimitLayer::per_minute(1).burst(1).build()?)
        .layer(CircuitBreakerLayer::default())
        .service(channel);
    let mut health = HealthClient::with_interceptor(svc, Ok);

    let response = health.check(HealthCheckRequest::default()).await?;
    assert_eq!(response.into_inner(), serving());
    let refused = health
        .check(HealthCheckRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    Ok(())
}

#[tokio::test]
async fn on_a_tonic_server_under_an_interceptor() -> Result {
    let (_reporter, health) = tonic_health::server::health_reporter();
    let limit = RateLimitLayer::per_minute(1).burst(2).build()?;
    let server = Port::any().serve(|listener, stop| async move {
        let authenticate = |request: tonic::Request<()>| match request.metadata().get("x-key") {
            Some(_) => Ok(request),
            None => Err(Status::unauthenticated("no key")),
        };
        TonicServer::builder()
            .layer(InterceptorLayer::new(authenticate))
            .layer(DeadlineLayer::server())
            .layer(limit)
            .add_service(health)
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.requested())
            .await
            .unwrap();
    });

    let channel = Channel::from_shared(server.uri("/").to_string())?.connect_lazy();
    let mut stranger = HealthClient::new(channel.clone());
    let refused = stranger
        .check(HealthCheckRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);

    let mut known = HealthClient::with_interceptor(channel, |mut request: tonic::Request<()>| {
        request.metadata_mut().insert("x-key", "7".parse().unwrap());
        Ok(request)
    });
    for _ in 0..2 {
        known.check(HealthCheckRequest::default()).await?;
    }
    let refused = known
        .check(HealthCheckRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    Ok(())
}

#[tokio::test]
async fn around_a_hyper_client() -> Result {
    let server = Server::axum(orders());
    let hyper_util_client = clients::h1::<Empty<Bytes>>();

    let mut client = ServiceBuilder::new()
        .layer(DeadlineLayer::default())
        .layer(RetryLayer::default())
        .layer(CircuitBreakerLayer::default())
        .service(hyper_util_client);

    let request = get_order(server.uri("/"));
    let response = client.ready().await?.call(request).await?;
    assert_eq!(read(response).await.body(), "order 7");
    Ok(())
}

#[tokio::test]
async fn around_a_reqwest_client() -> Result {
    let server = Server::axum(orders());
    let reqwest_client = reqwest::Client::new();

    let mut client = ServiceBuilder::new()
        .layer(RetryLayer::default())
        .service(Reqwest::from(reqwest_client));

    let request = get_order(server.uri("/"));
    let response = client.ready().await?.call(request).await?;
    assert_eq!(response.status(), StatusCode::OK);
    let text = reqwest::Response::from(response.map(reqwest::Body::wrap))
        .text()
        .await?;
    assert_eq!(text, "order 7");
    Ok(())
}

#[tokio::test]
async fn balancing_over_a_registry() -> Result {
    let server = Server::axum(orders());
    let registry = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    let url = format!("http://{}", server.addr()).parse()?;
    FileRegistry::write(registry.path(), &[Instance::at("orders", url)])?;
    let url = format!("file:{}", registry.path().display());

    let mut balance = Balance::builder(resolver(&url, "orders")?)
        .picker(Picker::p2c_ewma())
        .endpoints(HttpEndpoints::default())
        .build();

    let request = get_order::<Body>("/");
    let response = balance.ready().await?.call(request).await?;
    assert_eq!(read(response).await.body(), "order 7");
    Ok(())
}

#[tokio::test]
async fn balancing_over_services_of_ones_own() -> Result {
    let balance = Balance::builder(resolver("static:http://a:80,http://b:80", "orders")?)
        .endpoints(|instance: &Instance| {
            let id = instance.id.clone();
            service_fn(move |_: Request<Body>| {
                let body = id.clone();
                async move { Ok::<_, std::convert::Infallible>(http::Response::new(body)) }
            })
        })
        .build();

    let mut client = ServiceBuilder::new()
        .layer(RetryLayer::default())
        .service(balance);
    let response = client.ready().await?.call(get_order("/")).await?;
    let body = response.into_body().collect().await?.to_bytes();
    assert!(
        ["http://a:80", "http://b:80"]
            .map(Bytes::from)
            .contains(&body)
    );
    Ok(())
}

#[tokio::test]
async fn everything_from_one_mesh() -> Result {
    let (handler, _) = Scripted::always(Answer::ok());
    let (greeter, _reporter) = {
        let (reporter, health) = tonic_health::server::health_reporter();
        (
            Server::tonic(Routes::new(health).add_service(handler)),
            reporter,
        )
    };
    let quota = serde_json::from_str(r#"{"rate": "1/m", "burst": 2}"#)?;
    let front = Mesh::builder()
        .server(ServerConfig {
            rate_limit: Some(quota),
            ..Default::default()
        })
        .build()?;
    let app = orders().layer(front.server());
    let app = Server::axum(app);

    let url = format!("static:http://{},grpc://{}", app.addr(), greeter.addr());
    let config = ClientConfig {
        retry: None,
        ..Default::default()
    };
    let mesh = support::mesh(url, config);
    let mut orders = mesh.client("orders");
    let mut greeter = HealthClient::new(mesh.channel("greeter"));

    for expected in [200, 200, 429] {
        let response = orders.ready().await?.call(get_order("/")).await?;
        assert_eq!(read(response).await.status(), expected);
    }
    let response = greeter.check(HealthCheckRequest::default()).await?;
    assert_eq!(response.into_inner(), serving());
    Ok(())
}

/// Deadlines that no call site asks for are none: a call may take its time.
#[tokio::test]
async fn the_defaults_hold_nobody_up() -> Result {
    let slow = || async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        "done"
    };
    let server = Server::axum(
        Router::new()
            .route("/", get(slow))
            .layer(DeadlineLayer::server()),
    );
    let mut connection = Connection::h1(server.addr()).await;
    assert_eq!(connection.get("/").await.status(), StatusCode::OK);
    Ok(())
}
