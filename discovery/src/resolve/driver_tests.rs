use futures_util::stream;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::*;
use crate::{
    instance::Instance,
    resolve::{Answers, Resolver, Watch, snapshot},
};

type Answer = Result<Snapshot, ResolveError>;

/// A registry that says what the test sends, and counts how often it is asked.
#[derive(Default)]
struct Script {
    state: Mutex<(usize, Option<mpsc::UnboundedSender<Answer>>)>,
}

impl Script {
    fn say(&self, answer: Answer) {
        self.state
            .lock()
            .1
            .as_ref()
            .expect("a stream is open")
            .send(answer)
            .expect("polled");
    }

    fn hang_up(&self) {
        self.state.lock().1 = None;
    }

    fn opened(&self) -> usize {
        self.state.lock().0
    }
}

impl Resolve for Script {
    fn resolve(&self, _service: &str) -> Answers {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.state.lock();
        *state = (state.0 + 1, Some(sender));
        Box::pin(stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|answer| (answer, receiver))
        }))
    }
}

fn instances(n: usize) -> Snapshot {
    snapshot((0..n).map(|i| Instance::new("orders", format!("orders-{i}"))))
}

fn down() -> ResolveError {
    ResolveError::unavailable("connection refused")
}

/// Lets the driver run until it waits.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

async fn followed() -> (Arc<Script>, Watch) {
    let script = Arc::new(Script::default());
    let watch = Resolver::new(Arc::clone(&script), "orders").watch();
    settle().await;
    (script, watch)
}

fn served(watch: &Watch) -> usize {
    watch.snapshot().expect("a set is known").len()
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_gone_for_an_hour_takes_no_instance_with_it() {
    let (script, watch) = followed().await;
    script.say(Ok(instances(10)));
    settle().await;
    let start = Instant::now();
    script.say(Err(down()));
    script.hang_up();
    // Ten calls a second look for instances; each time the registry is tried again, it fails.
    for _ in 0..36_000 {
        time::sleep(Duration::from_millis(100)).await;
        if script.state.lock().1.is_some() {
            script.say(Err(down()));
            script.hang_up();
        }
        assert_eq!(served(&watch), 10);
    }
    let staleness = watch.health().staleness(Instant::now());
    assert_eq!(staleness, start.elapsed());
    assert!(staleness >= Duration::from_secs(3_600));
    let opened = script.opened();
    assert!(
        (120..400).contains(&opened),
        "{opened} attempts in an hour with delays up to 30 s"
    );

    while script.state.lock().1.is_none() {
        time::sleep(Duration::from_millis(100)).await;
    }
    script.say(Ok(instances(11)));
    settle().await;
    assert_eq!((served(&watch), watch.health().stale_since), (11, None));
}

#[tokio::test(start_paused = true)]
async fn ten_to_none_keeps_ten_for_thirty_seconds() {
    let (script, mut watch) = followed().await;
    script.say(Ok(instances(10)));
    assert_eq!(watch.changed().await.len(), 10);
    let start = Instant::now();
    script.say(Ok(instances(0)));
    settle().await;
    assert_eq!((served(&watch), watch.health().held), (10, 10));
    assert_eq!(watch.changed().await.len(), 0);
    assert_eq!(start.elapsed(), Duration::from_secs(30));
    assert_eq!(watch.health().staleness(Instant::now()), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn single_losses_are_applied_at_once_down_to_the_last() {
    let (script, mut watch) = followed().await;
    script.say(Ok(instances(10)));
    watch.changed().await;
    let start = Instant::now();
    for left in (0..10).rev() {
        script.say(Ok(instances(left)));
        assert_eq!(watch.changed().await.len(), left);
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_says_nothing_new_wakes_nobody() {
    let (script, mut watch) = followed().await;
    script.say(Ok(instances(3)));
    watch.changed().await;
    script.say(Ok(instances(3)));
    script.say(Err(down()));
    let woken = time::timeout(Duration::from_secs(5), watch.changed()).await;
    assert!(woken.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_is_opened_again_for_ever() {
    let (script, watch) = followed().await;
    script.say(Ok(instances(3)));
    for _ in 0..20 {
        settle().await;
        let opened = script.opened();
        script.hang_up();
        time::sleep(CAP).await;
        assert!(script.opened() > opened);
        assert_eq!(served(&watch), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_watch_closes_the_stream() {
    let (script, watch) = followed().await;
    let clone = watch.clone();
    drop(watch);
    settle().await;
    assert!(!script.state.lock().1.as_ref().unwrap().is_closed());
    drop(clone);
    settle().await;
    assert!(script.state.lock().1.as_ref().unwrap().is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_never_answered_leaves_its_reason() {
    let (script, watch) = followed().await;
    script.say(Err(down()));
    settle().await;
    assert!(watch.snapshot().is_none());
    let error = watch.health().last_error.unwrap().to_string();
    assert_eq!(error, "the registry is unavailable: connection refused");
}

fn booting(script: &Arc<Script>) -> Watch {
    let (publisher, watch) = Watch::channel("orders");
    let registry: Arc<dyn Resolve> = Arc::clone(script) as _;
    let driver = Driver::new(registry, "orders".into(), None, publisher);
    let saved = Saved {
        set: instances(4),
        age: Duration::from_secs(60),
    };
    let task = tokio::spawn(driver.run(async { Some(saved) }));
    watch.driven_by([task.abort_handle()])
}

#[tokio::test(start_paused = true)]
async fn a_saved_set_serves_within_a_second_when_the_registry_is_silent() {
    let mut watch = booting(&Arc::default());
    let start = Instant::now();
    assert_eq!(watch.changed().await.len(), 4);
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(
        watch.health().staleness(Instant::now()),
        Duration::from_secs(60)
    );
}

#[tokio::test(start_paused = true)]
async fn a_saved_set_serves_at_once_when_the_registry_is_down() {
    let script = Arc::default();
    let mut watch = booting(&script);
    settle().await;
    let start = Instant::now();
    script.say(Err(down()));
    assert_eq!(watch.changed().await.len(), 4);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_saved_set_is_not_used_when_the_registry_answers() {
    let script = Arc::default();
    let mut watch = booting(&script);
    settle().await;
    script.say(Ok(instances(2)));
    assert_eq!(watch.changed().await.len(), 2);
    time::sleep(2 * BOOT_WAIT).await;
    assert_eq!(served(&watch), 2);
}

/// What is published of a service; each test has a name of its own, since all share the metrics.
fn staleness(service: &str) -> Option<f64> {
    tower_mesh_layers::metrics::snapshot().gauge(
        "mesh_resolve_staleness_seconds",
        &[("server_address", service)],
    )
}

#[tokio::test(start_paused = true)]
async fn the_published_staleness_grows_in_an_outage_and_ends_with_it() {
    let script = Arc::new(Script::default());
    let watch = Resolver::new(Arc::clone(&script), "stale-once").watch();
    settle().await;
    script.say(Ok(instances(3)));
    settle().await;
    assert_eq!(staleness("stale-once"), Some(0.0));
    time::advance(Duration::from_secs(60)).await;
    assert_eq!(staleness("stale-once"), Some(0.0), "confirmed, however old");

    script.say(Err(down()));
    settle().await;
    time::advance(Duration::from_secs(5)).await;
    assert_eq!(staleness("stale-once"), Some(5.0));
    script.say(Err(down()));
    settle().await;
    time::advance(Duration::from_secs(85)).await;
    assert_eq!(staleness("stale-once"), Some(90.0));

    script.say(Ok(instances(3)));
    settle().await;
    assert_eq!(staleness("stale-once"), Some(0.0));
    drop(watch);
    settle().await;
    assert_eq!(staleness("stale-once"), None);
}

#[tokio::test(start_paused = true)]
async fn the_staleness_of_a_service_watched_twice_is_the_longer_one() {
    let script = Arc::new(Script::default());
    let silent = Resolver::new(Arc::clone(&script), "stale-twice").watch();
    settle().await;
    time::advance(Duration::from_secs(4)).await;
    let _later = Resolver::new(Arc::clone(&script), "stale-twice").watch();
    settle().await;
    time::advance(Duration::from_secs(3)).await;
    assert_eq!(staleness("stale-twice"), Some(7.0));
    drop(silent);
    settle().await;
    assert_eq!(staleness("stale-twice"), Some(3.0));
}
