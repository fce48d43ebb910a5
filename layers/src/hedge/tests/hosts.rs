//! Over real sockets, and around the clients that people have: no glue, casts or turbofish.

use axum::{Router, routing::get as on_get};
use bytes::Bytes;
use http_body_util::{Empty, Full};
use tonic::transport::Endpoint;
use tower::ServiceBuilder;

use super::*;
use crate::test_util::{Scripted, clients, grpc::Client, servers::Server};

/// The first call hangs.
fn hanging_once(good: Answer) -> (Scripted, ProbeHandle) {
    Scripted::answering(move |call, _| {
        if call == 0 {
            Answer::never()
        } else {
            good.clone()
        }
    })
}

fn soon() -> HedgeBuilder {
    generous().delay(20 * MS)
}

#[tokio::test]
async fn around_a_tonic_channel_into_a_generated_client() {
    let (service, probe) = hanging_once(crate::test_util::grpc::unary("hello"));
    let server = Server::hyper(service);
    let channel = Endpoint::new(server.uri("/").to_string())
        .unwrap()
        .connect_lazy();
    let layer = soon().idempotent(RequestMatch::path_prefix("/")).build();
    let layer = layer.unwrap();
    let hedges = layer.handle();
    let mut client = Client::new(ServiceBuilder::new().layer(layer).service(channel));
    let answer = client.unary("Unary", "question").await.unwrap();
    assert_eq!(answer.into_inner(), "hello");
    // NOTE: on a busy machine it may be the hedge that comes first and hangs.
    assert_eq!((hedges.stats().hedges, probe.calls()), (1, 2));
}

#[tokio::test]
async fn around_hyper_clients_of_every_body() {
    for client in [clients::h1(), clients::h2()] {
        let (service, probe) = hanging_once(Answer::ok());
        let server = Server::hyper(service);
        let request = Request::get("/").body(Empty::<Bytes>::new()).unwrap();
        let request = clients::send_to(server.addr(), request);
        let service = soon().build().unwrap().layer(client);
        assert_eq!(service.oneshot(request).await.unwrap().status(), 200);
        assert_eq!(probe.calls(), 2);
    }
    let (service, probe) = hanging_once(Answer::ok());
    let server = Server::hyper(service);
    let request = Request::post("/")
        .header("idempotency-key", "7")
        .body(Full::new(Bytes::from("order")))
        .unwrap();
    let request = clients::send_to(server.addr(), request);
    let service = soon().build().unwrap().layer(clients::h2());
    assert_eq!(service.oneshot(request).await.unwrap().status(), 200);
    assert_eq!(probe.requests()[1].body, "order");
}

#[tokio::test]
async fn on_an_axum_router() {
    let app: Router = Router::new()
        .route("/", on_get(|| async { "hello" }))
        .layer(HedgeLayer::default());
    let server = Server::axum(app);
    let request = Request::get("/").body(Empty::<Bytes>::new()).unwrap();
    let request = clients::send_to(server.addr(), request);
    assert_eq!(clients::h1().request(request).await.unwrap().status(), 200);
}
