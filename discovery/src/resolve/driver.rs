//! The task behind a watch: it keeps the registry's stream open for ever.

use std::sync::Arc;

use futures_util::StreamExt;
use tokio::time;

use super::{Health, Publisher, Resolve, backoff::Backoff};

/// Follows `service` until the task is aborted.
pub(super) async fn run(registry: Arc<dyn Resolve>, service: Arc<str>, publisher: Publisher) {
    let mut backoff = Backoff::new(fastrand::Rng::new());
    loop {
        let mut answers = registry.resolve(&service);
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(set) => {
                    backoff.reset();
                    publisher.publish(set);
                }
                Err(error) => publisher.report(Health {
                    last_error: Some(error),
                    ..Health::default()
                }),
            }
        }
        time::sleep(backoff.next()).await;
    }
}
