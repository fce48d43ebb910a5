//! The presets of the clients of a mesh.

use super::*;

#[tokio::test]
async fn a_client_of_the_mesh_takes_layers_for_itself_alone() {
    let log = Log::default();
    let (service, probe) = Scripted::answering(|call, _| match call {
        0 => Answer::status(503),
        _ => Answer::ok(),
    });
    let server = Server::hyper(service);
    let registry = format!("static:http://{}", server.addr());
    let mesh = support::mesh(registry, ClientConfig::default());
    let client = forget(mesh.client_with("orders", |preset| {
        preset
            .before_breaker(log.slot("before_breaker"))
            .before_retry(log.slot("before_retry"))
    }));
    let get = || Request::get("/").body(tower_mesh::Body::empty()).unwrap();

    assert_eq!(answer(&client, get()).await, OK);
    let seen = ["before_retry", "before_breaker", "before_breaker"];
    assert_eq!(log.take_places(), seen);
    assert_eq!(probe.calls(), 2);

    // Another client of the name has none of them, and shares all else.
    let plain = forget(mesh.client("orders"));
    assert_eq!(answer(&plain, get()).await, OK);
    assert_eq!(log.take_places(), [""; 0]);
    let preset = mesh.client_layer("orders", Protocol::Http);
    preset.breakers().force_open();
    let open = Some(Reason::CircuitOpen);
    assert_eq!(answer(&plain, get()).await.1, open);
    assert_eq!(answer(&client, get()).await.1, open);
    assert_eq!(probe.calls(), 3);
}

#[tokio::test]
async fn a_channel_of_the_mesh_takes_layers_for_itself_alone() {
    let log = Log::default();
    let (service, probe) = grpc::service();
    let server = Server::tonic(Routes::new(service));
    let registry = format!("static:grpc://{}", server.addr());
    let mesh = support::mesh(registry, ClientConfig::default());
    let own = ServiceBuilder::new()
        .layer(log.slot("first"))
        .layer(log.slot("second"));
    let channel = mesh.channel_with("kit", |preset| preset.outermost(own));

    let answered = grpc::Client::new(channel).unary("Unary", "hello").await;
    assert_eq!(answered.unwrap().into_inner(), "hello");
    assert_eq!(log.take_places(), ["first", "second"]);
    let mut plain = grpc::Client::new(mesh.channel("kit"));
    plain.unary("Unary", "hello").await.unwrap();
    assert_eq!(log.take_places(), [""; 0]);
    assert_eq!(probe.calls(), 2);
    eventually("the calls are over", || {
        let endpoints = mesh.endpoints("kit", Protocol::Grpc);
        endpoints.iter().all(|endpoint| endpoint.in_flight == 0)
    })
    .await;
}
