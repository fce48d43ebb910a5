use std::time::Duration;

use http::{Request, StatusCode};
use tower::ServiceExt;
use tower_mesh_discovery::balance::{BalanceConfig, Balancing};
use tower_mesh_layers::{
    Protocol,
    deadline::DeadlineConfig,
    test_util::{Gate, grpc},
};

use super::*;
use crate::{Body, client::ClientConfig};

async fn get(mesh: &Mesh) -> StatusCode {
    let request = Request::get("/orders/7").body(Body::empty()).unwrap();
    let response = mesh.client("orders").oneshot(request).await.unwrap();
    response.status()
}

#[tokio::test(start_paused = true)]
async fn each_endpoint_answers_by_its_script_and_remembers() {
    let mock = MockMesh::new();
    let busy = mock.endpoint("orders", |_, _| Answer::status(503));
    let healthy = mock.endpoint("orders", |_, _| Answer::ok());
    let mesh = mock.mesh();
    for _ in 0..50 {
        assert_eq!(get(&mesh).await, 200);
    }
    healthy.assert_calls(50);
    assert!(busy.calls() < 10, "it was passed over, and ejected");
    assert_eq!(healthy.requests()[7].uri.path(), "/orders/7");
}

#[tokio::test(start_paused = true)]
async fn timeouts_take_no_time() {
    let mock = MockMesh::new();
    let orders = mock.endpoint("orders", |_, _| Answer::never());
    let deadline = DeadlineConfig {
        timeout: Some(Duration::from_secs(3600)),
        ..DeadlineConfig::default()
    };
    let config = ClientConfig {
        deadline: Some(deadline),
        ..ClientConfig::default()
    };
    let mesh = mock.builder().client_defaults(config).build().unwrap();
    assert_eq!(get(&mesh).await, 504);
    orders.assert_calls(1);
    orders.assert_header("grpc-timeout", "3600000m");
}

#[tokio::test(start_paused = true)]
async fn one_that_dies_is_left_and_one_that_comes_back_is_found() {
    let mock = MockMesh::new();
    let gate = Gate::new();
    let held = gate.clone();
    let dying = mock.endpoint("orders", move |call, _| match call {
        0 => Answer::ok().gated(&held),
        _ => Answer::ok(),
    });
    let mesh = mock.mesh();
    let call = tokio::spawn({
        let mesh = mesh.clone();
        async move { get(&mesh).await }
    });
    while dying.in_flight() == 0 {
        tokio::task::yield_now().await;
    }
    let other = mock.endpoint("orders", |_, _| Answer::ok());
    while mesh.endpoints("orders", Protocol::Http).len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    dying.kill();
    assert_eq!(call.await.unwrap(), 200, "tried again at the other one");
    other.assert_calls(1);
    dying.accept();
    other.remove();
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(get(&mesh).await, 200);
    assert_eq!(dying.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_the_registry_says_of_one_can_change() {
    let mock = MockMesh::new();
    let [light, heavy] = [(); 2].map(|()| mock.endpoint("orders", |_, _| Answer::ok()));
    heavy.update(|instance| instance.weight *= 3);
    let config = ClientConfig {
        balance: BalanceConfig {
            picker: Balancing::RoundRobin,
            ..BalanceConfig::default()
        },
        ..ClientConfig::default()
    };
    let mesh = mock.builder().client_defaults(config).build().unwrap();
    for _ in 0..40 {
        assert_eq!(get(&mesh).await, 200);
    }
    assert_eq!((light.calls(), heavy.calls()), (10, 30));
}

#[cfg(feature = "tonic")]
#[tokio::test(start_paused = true)]
async fn channels_reach_the_same_endpoints() {
    use tower_mesh_layers::test_util::TestBody;
    let mock = MockMesh::new();
    let greeter = mock.endpoint("greeter", |_, _| {
        Answer::grpc(TestBody::stream().trailer("grpc-status", "5"))
    });
    let mut client = grpc::Client::new(mock.mesh().channel("greeter"));
    let status = client.unary("Unary", "hello").await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
    greeter.assert_calls(1);
}

#[test]
#[should_panic(expected = "orders (mock-0) was called 0 times and not 1: []")]
fn an_assertion_says_what_was_seen_instead() {
    let mock = MockMesh::new();
    let orders = mock.endpoint("orders", |_, _| Answer::ok());
    orders.assert_calls(1);
}
