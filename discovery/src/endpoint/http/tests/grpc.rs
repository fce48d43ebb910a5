//! Under tonic's generated client, against tonic's server.

use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic_health::{
    pb::{HealthCheckRequest, health_client::HealthClient},
    server::HealthReporter,
};
use tower::ServiceExt as _;

use super::*;

async fn server() -> (String, HealthReporter) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("grpc://{}", listener.local_addr().unwrap());
    let (reporter, health) = tonic_health::server::health_reporter();
    let server = tonic::transport::Server::builder().add_service(health);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    (url, reporter)
}

#[tokio::test]
async fn a_generated_client_calls_through_our_endpoint() {
    let (url, reporter) = server().await;
    let endpoint =
        endpoint(&url).map_request(|request: Request<tonic::body::Body>| request.map(Body::new));
    let mut client = HealthClient::new(endpoint);
    let request = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    for _ in 0..100 {
        let status = client.check(request("")).await.unwrap().into_inner().status;
        assert_eq!(status, 1);
    }
    let error = client.check(request("unknown")).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);

    // A server stream that stays open, next to unary calls.
    reporter
        .set_service_status("orders", tonic_health::ServingStatus::NotServing)
        .await;
    let mut watch = client.watch(request("orders")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 2);
    client.check(request("")).await.unwrap();
    reporter
        .set_service_status("orders", tonic_health::ServingStatus::Serving)
        .await;
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
}
