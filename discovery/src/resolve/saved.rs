//! The file that lets a client start while its registry is away.

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tokio::task;

use super::{Snapshot, Watch, driver::Saved, snapshot};
use crate::{instance::Instance, registry::write_atomic};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document<I> {
    version: u32,
    service: String,
    /// In seconds since 1970.
    saved_at: u64,
    instances: Vec<I>,
}

/// Reads what an earlier run saved. A file that is absent or of no use is no reason to fail: the
/// registry is asked anyway.
pub(super) async fn load(path: PathBuf, service: Arc<str>) -> Option<Saved> {
    let read = task::spawn_blocking(move || match std::fs::read(&path) {
        Ok(bytes) => parse(&bytes, &service, SystemTime::now())
            .map(Some)
            .map_err(|e| (path, e)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err((path, error.to_string())),
    });
    match read.await.ok()? {
        Ok(saved) => saved,
        Err((path, error)) => {
            tracing::warn!(path = %path.display(), error, "the snapshot file is ignored");
            None
        }
    }
}

/// Saves every set that the registry confirms, until the task is aborted.
pub(super) async fn save(path: PathBuf, mut watch: Watch) {
    loop {
        let set = watch.changed().await;
        if watch.health().stale_since.is_some() {
            continue; // a held set, or the one that was just read
        }
        let (path, service) = (path.clone(), watch.service().to_owned());
        let written = task::spawn_blocking(move || {
            let text = render(&service, &set, SystemTime::now());
            write_atomic(&path, &text).map_err(|error| (path, error))
        });
        if let Ok(Err((path, error))) = written.await {
            tracing::warn!(path = %path.display(), %error, "the snapshot file is not written");
        }
    }
}

fn parse(bytes: &[u8], service: &str, now: SystemTime) -> Result<Saved, String> {
    let document: Document<Instance> =
        serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if document.version != VERSION {
        return Err(format!(
            "version: got `{}`, expected {VERSION}",
            document.version
        ));
    }
    if document.service != service {
        return Err(format!(
            "service: got `{}`, expected {service}",
            document.service
        ));
    }
    for (i, instance) in document.instances.iter().enumerate() {
        instance
            .validate()
            .map_err(|error| error.at(format!("instances[{i}]")).to_string())?;
    }
    let saved_at = UNIX_EPOCH.checked_add(Duration::from_secs(document.saved_at));
    let age = saved_at
        .and_then(|at| now.duration_since(at).ok())
        .unwrap_or_default();
    Ok(Saved {
        set: snapshot(document.instances),
        age,
    })
}

fn render(service: &str, set: &Snapshot, now: SystemTime) -> String {
    let saved_at = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let instances: Vec<&Instance> = set.iter().map(|instance| &**instance).collect();
    let document = Document {
        version: VERSION,
        service: service.to_owned(),
        saved_at,
        instances,
    };
    serde_json::to_string(&document).expect("a record of strings and numbers is JSON") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::{Answers, Resolve, ResolveError, Resolver};

    fn orders(n: usize) -> Vec<Instance> {
        let url = |i| format!("http://10.0.0.{i}:80").parse().unwrap();
        (0..n).map(|i| Instance::at("orders", url(i))).collect()
    }

    struct Down;

    impl Resolve for Down {
        fn resolve(&self, _service: &str) -> Answers {
            let error = Err(ResolveError::unavailable("connection refused"));
            Box::pin(futures_util::stream::iter([error]))
        }
    }

    #[tokio::test]
    async fn a_client_starts_without_its_registry_from_what_it_saved() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("orders.json");
        let mut watch = Resolver::fixed("orders", orders(3))
            .snapshot_file(&path)
            .watch();
        watch.changed().await;
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(watch);

        let mut watch = Resolver::new(Down, "orders").snapshot_file(&path).watch();
        assert_eq!(watch.changed().await.len(), 3);
        assert!(watch.health().last_error.is_some());

        // The file belongs to one service.
        let watch = Resolver::new(Down, "users").snapshot_file(&path).watch();
        while watch.health().last_error.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(watch.snapshot().is_none());
    }

    #[test]
    fn what_is_saved_reads_back_with_its_age() {
        let set = snapshot(orders(3));
        let then = UNIX_EPOCH + Duration::from_secs(1_000);
        let text = render("orders", &set, then);
        let saved = parse(text.as_bytes(), "orders", then + Duration::from_secs(60)).unwrap();
        assert_eq!((saved.set, saved.age), (set, Duration::from_secs(60)));
    }

    #[test]
    fn a_file_of_no_use_is_refused_with_its_reason() {
        let good = render("orders", &snapshot(orders(1)), UNIX_EPOCH);
        for (text, reason) in [
            (String::new(), "EOF"),
            (good[..good.len() / 2].to_owned(), "EOF"),
            (
                good.replace(r#""version":1"#, r#""version":2"#),
                "version: got `2`, expected 1",
            ),
            (
                good.replace("instances", "instanses"),
                "unknown field `instanses`",
            ),
            (
                good.replace(r#""service":"orders","saved"#, r#""service":"x","saved"#),
                "service:",
            ),
            (
                good.replace(r#""weight":100"#, r#""weight":0"#),
                "got `0`, expected 1 to 65535",
            ),
        ] {
            let error = parse(text.as_bytes(), "orders", UNIX_EPOCH).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
