//! Callers that come and go on several threads, while the peer closes connections.

use std::time::Duration;

use tokio::task::JoinSet;
use tower_service::Service;

use super::{
    server::{Behaviour, Server},
    *,
};

/// One of the ways in which a caller behaves.
async fn one_call(endpoint: &HttpEndpoint, random: &mut fastrand::Rng) -> bool {
    match random.u8(..10) {
        // Takes a place, gives up at a random moment.
        0 => {
            let mut undecided = endpoint.clone();
            let _ = poll_once(std::pin::pin!(ready(&mut undecided))).await;
            if random.bool() {
                tokio::task::yield_now().await;
            }
            true
        }
        // Drops the call while it is on its way.
        1 => {
            let mut caller = endpoint.clone();
            if ready(&mut caller).await.is_ok() {
                let mut call = std::pin::pin!(caller.call(post("/", "dropped")));
                for _ in 0..random.u8(..4) {
                    if poll_once(call.as_mut()).await.is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            true
        }
        // Drops the body unread.
        2 => call(endpoint, post("/", vec![b'x'; 100_000])).await.is_ok(),
        _ => fetch(endpoint, post("/", "read")).await.is_ok(),
    }
}

async fn stress(scheme: &str, behaviour: Behaviour, config: HttpEndpointConfig) -> (usize, usize) {
    let server = Server::start(behaviour).await;
    let endpoint = endpoint_with(config, &server.url(scheme));
    let mut callers = JoinSet::new();
    for seed in 0..16 {
        let endpoint = endpoint.clone();
        callers.spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut failed = 0;
            for _ in 0..100 {
                failed += usize::from(!one_call(&endpoint, &mut random).await);
            }
            failed
        });
    }
    let ended = tokio::time::timeout(Duration::from_secs(60), callers.join_all()).await;
    let failed = ended.expect("nobody waits for ever").into_iter().sum();
    let settled = async {
        while endpoint.pool.unsettled() != (0, 0, 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let settled = tokio::time::timeout(Duration::from_secs(10), settled).await;
    assert!(
        settled.is_ok(),
        "left on the books: {:?}",
        endpoint.pool.unsettled()
    );
    (failed, server.connections())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_over_http1() {
    let config = HttpEndpointConfig {
        max_idle: 4,
        ..HttpEndpointConfig::default()
    };
    let (failed, _) = stress("http", Behaviour::default(), config).await;
    assert_eq!(failed, 0);
}

/// A peer that closes without a word while requests are under way makes some of them fail: they may
/// have been processed, so they are not ours to repeat.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_when_http1_connections_close() {
    let behaviour = Behaviour {
        close_after: 5,
        ..Behaviour::default()
    };
    let (failed, connections) = stress("http", behaviour, HttpEndpointConfig::default()).await;
    assert!(
        failed < connections,
        "{failed} failed on {connections} connections"
    );
}

/// hyper hands back what is still in its queue when a GOAWAY comes, so that only a request that it was
/// about to open a stream for can fail; see `a_connection_that_says_goaway_is_replaced_without_an_error`
/// for calls one after another, of which none may.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_over_http2_with_few_streams_and_goaway() {
    let behaviour = Behaviour {
        close_after: 20,
        max_streams: Some(3),
        ..Behaviour::default()
    };
    let config = HttpEndpointConfig {
        http2: crate::endpoint::http::Http2Config {
            max_connections: 2,
            ..Default::default()
        },
        ..HttpEndpointConfig::default()
    };
    let (failed, connections) = stress("h2c", behaviour, config).await;
    assert!(
        failed < connections / 2,
        "{failed} failed on {connections} connections"
    );
}
