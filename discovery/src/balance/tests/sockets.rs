//! Over real sockets, with our own endpoint: connections are refused and servers die.

use tower_mesh_layers::test_util::servers::{Port, Server};

use super::*;
use crate::endpoint::{Body, http::HttpEndpoints};

type Wire = Balance<HttpEndpoints>;

fn serve(port: Port) -> Server {
    port.hyper(tower::service_fn(
        |_: Request<hyper::body::Incoming>| async {
            Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from_static(
                b"hello",
            ))))
        },
    ))
}

fn over(urls: impl IntoIterator<Item = String>) -> Wire {
    let instances = urls
        .into_iter()
        .enumerate()
        .map(|(i, url)| Instance::new("orders", id(i)).with_endpoint(url.parse().unwrap()));
    let (publisher, watch) = Watch::channel("orders");
    publisher.publish(snapshot(instances));
    Balance::builder(watch)
        .endpoints(HttpEndpoints::default())
        .build()
}

async fn get(balance: &Wire) -> Result<http::StatusCode, TransportError> {
    let response = balance.clone().call(Request::new(Body::empty())).await?;
    let status = response.status();
    let _ = response.into_body().collect().await;
    Ok(status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_live_and_one_refused_endpoint_lose_no_call_of_a_thousand() {
    for scheme in ["http", "h2c"] {
        let live = serve(Port::any());
        let dead = Port::any().addr(); // the listener is gone
        let balance = over([
            format!("{scheme}://{}", live.addr()),
            format!("{scheme}://{dead}"),
        ]);
        let calls = (0..8).map(|_| {
            let balance = balance.clone();
            tokio::spawn(async move {
                for _ in 0..125 {
                    assert_eq!(get(&balance).await.unwrap(), 200);
                }
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
        let views = balance.endpoints();
        assert_eq!((views[0].calls, views[1].calls), (1_000, 0), "{scheme}");
        assert_eq!(views[1].state, EndpointState::Refused);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_is_found_without_a_failed_call() {
    let (live, port) = (serve(Port::any()), Port::any());
    let addr = port.addr();
    drop(port);
    let balance = over([format!("http://{}", live.addr()), format!("http://{addr}")]);
    for _ in 0..50 {
        assert_eq!(get(&balance).await.unwrap(), 200);
    }
    let _back = serve(Port::at(addr));
    let start = std::time::SystemTime::now();
    while balance.endpoints()[1].calls < 5 {
        assert_eq!(get(&balance).await.unwrap(), 200);
        tokio::time::sleep(ms(2)).await;
        assert!(
            start.elapsed().unwrap().as_secs() < 12,
            "{:?}",
            balance.endpoints()
        );
    }
}
