mod leaving;

use tokio::task;

use super::*;
use crate::{
    register::{Registration, Written},
    registry::{MemoryRegistry, memory::Outage},
    resolve::{Resolve, Snapshot},
};

const TTL: Duration = Duration::from_secs(15);
const INTERVAL: Duration = Duration::from_secs(5);
const DRAIN: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(5);
/// The timer's resolution, and the rounding of tests.
const SLACK: Duration = Duration::from_millis(50);

fn orders(id: &str) -> Instance {
    Instance::new("orders", id).with_endpoint("http://10.0.0.1:80".parse().unwrap())
}

fn register(registry: &MemoryRegistry, id: &str) -> Registration {
    Registration::start(registry.clone(), orders(id), RegisterConfig::default()).unwrap()
}

async fn registered(registry: &MemoryRegistry, id: &str) -> Registration {
    let registration = register(registry, id);
    registration.registered().await;
    registration
}

fn present(registry: &MemoryRegistry) -> Snapshot {
    registry.instances("orders")
}

/// Lets every task run that can, without time going by.
async fn settle() {
    for _ in 0..20 {
        task::yield_now().await;
    }
}

/// Counts what is written to a registry.
#[derive(Clone, Default)]
struct Counted {
    registry: MemoryRegistry,
    writes: Arc<Mutex<Vec<(&'static str, Instant)>>>,
}

impl Counted {
    fn note(&self, what: &'static str) {
        self.writes.lock().push((what, Instant::now()));
    }

    fn count(&self, what: &str) -> usize {
        self.writes
            .lock()
            .iter()
            .filter(|(write, _)| *write == what)
            .count()
    }
}

impl Register for Counted {
    fn put<'a>(&'a self, lease: &'a Lease) -> Written<'a> {
        self.note("put");
        self.registry.put(lease)
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> Written<'a> {
        self.note("renew");
        self.registry.renew(lease)
    }

    fn remove<'a>(&'a self, lease: &'a Lease) -> Written<'a> {
        self.note("remove");
        Register::remove(&self.registry, lease)
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats_keep_it_registered_without_a_gap_for_a_day() {
    let registry = Counted::default();
    let registration =
        Registration::start(registry.clone(), orders("a"), RegisterConfig::default()).unwrap();
    assert_eq!(registration.state(), State::Registering);
    registration.registered().await;
    let mut states = registration.states();
    states.mark_unchanged();
    let day = Duration::from_secs(86_400);
    tokio::select! {
        _ = states.changed() => panic!("now {}", registration.state()),
        () = time::sleep(day) => {}
    }
    assert_eq!(present(&registry.registry).len(), 1);
    assert_eq!(registry.count("put"), 1);
    let beats = registry.count("renew") as f64;
    let expected = day.as_secs_f64() / (INTERVAL.as_secs_f64() * 0.9);
    assert!(
        (0.95..1.05).contains(&(beats / expected)),
        "{beats} of {expected}"
    );
}

/// Row D8 of the promises: without an end to the tries, and without leaks.
#[tokio::test(start_paused = true)]
async fn an_outage_of_ten_minutes_is_survived_five_times() {
    for outage in [Outage::Refuses, Outage::Hangs] {
        let registry = MemoryRegistry::new();
        let registration = registered(&registry, "a").await;
        let mut states = registration.states();
        for _ in 0..5 {
            registry.outage(outage);
            let down = Instant::now();
            let lapsed = *states
                .wait_for(|state| matches!(state, State::Lapsed { .. }))
                .await
                .unwrap();
            let State::Lapsed { since } = lapsed else {
                unreachable!()
            };
            assert!(since - down <= TTL && since - down >= TTL - INTERVAL - SLACK);
            assert!(registration.last_error().is_some());
            time::sleep_until(down + Duration::from_secs(600)).await;
            assert_eq!(present(&registry).len(), 0);

            registry.recover();
            let back = Instant::now();
            registration.registered().await;
            assert!(
                back.elapsed() <= Duration::from_secs(30) + INTERVAL,
                "{:?}",
                back.elapsed()
            );
            assert_eq!(registration.state(), State::Registered);
            assert!(registration.last_error().is_none());
            assert_eq!(present(&registry).len(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_costs_no_lapse() {
    let registry = MemoryRegistry::new();
    let registration = registered(&registry, "a").await;
    for _ in 0..20 {
        time::sleep(Duration::from_secs(7)).await;
        registry.fail_next(3);
        time::sleep(Duration::from_secs(12)).await;
        assert_eq!(
            (registration.state(), present(&registry).len()),
            (State::Registered, 1)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_forgot_it_is_told_again_by_the_next_heartbeat() {
    let registry = MemoryRegistry::new();
    let registration = registered(&registry, "a").await;
    for _ in 0..10 {
        time::sleep(Duration::from_secs(7)).await;
        assert!(registry.expire("orders", "a"));
        time::sleep(INTERVAL + SLACK).await;
        assert_eq!(
            (registration.state(), present(&registry).len()),
            (State::Registered, 1)
        );
    }
}

/// As with SIGSTOP: the clock went on, and nobody ran.
#[tokio::test(start_paused = true)]
async fn a_process_that_was_asleep_for_a_minute_returns_at_once() {
    let registry = MemoryRegistry::new();
    let registration = registered(&registry, "a").await;
    time::advance(Duration::from_secs(60)).await;
    let awake = Instant::now();
    settle().await;
    assert_eq!(
        (registration.state(), present(&registry).len()),
        (State::Registered, 1)
    );
    assert!(awake.elapsed() < SLACK, "{:?}", awake.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_returns_is_not_overrun() {
    const SERVICES: usize = 500;
    let registry = MemoryRegistry::new();
    let all: Vec<_> = (0..SERVICES)
        .map(|n| {
            let seed = fastrand::Rng::with_seed(n as u64);
            let target: Arc<dyn Register> = Arc::new(registry.clone());
            let config = RegisterConfig::default();
            Registration::start_with(target, orders(&n.to_string()), config, seed).unwrap()
        })
        .collect();
    time::sleep(Duration::from_secs(60)).await;
    registry.outage(Outage::Refuses);
    time::sleep(Duration::from_secs(300)).await;
    registry.recover();
    let back = Instant::now();
    let mut seconds = [0; 40];
    let returns = all.iter().map(async |registration| {
        registration.registered().await;
        back.elapsed().as_secs()
    });
    for second in futures_util::future::join_all(returns).await {
        seconds[second as usize] += 1;
    }
    let most = SERVICES * 15 / 100;
    assert!(seconds.iter().all(|writes| *writes <= most), "{seconds:?}");
}

#[tokio::test(start_paused = true)]
async fn two_with_one_id_do_not_fight() {
    let registry = Counted::default();
    let start = || {
        let config = RegisterConfig::default();
        Registration::start(registry.clone(), orders("a"), config).unwrap()
    };
    let old = start();
    old.registered().await;
    let new = start();
    new.registered().await;
    time::sleep(Duration::from_secs(600)).await;
    assert_eq!(new.state(), State::Registered);
    assert!(matches!(old.state(), State::Lapsed { .. }));
    assert!(matches!(old.last_error(), Some(RegisterError::Taken)));
    assert_eq!(registry.count("put"), 2);
    // The old one may leave without taking the new one with it, or stay and return later.
    new.close().await.unwrap();
    time::sleep(INTERVAL).await;
    assert_eq!(old.state(), State::Registered);
    let newer = start();
    newer.registered().await;
    old.close().await.unwrap();
    assert_eq!(present(&registry.registry)[0].status, Status::Up);
    assert_eq!(newer.state(), State::Registered);
}

#[tokio::test(start_paused = true)]
async fn what_is_changed_is_written_at_once_or_as_soon_as_possible() {
    let registry = MemoryRegistry::new();
    let registration = registered(&registry, "a").await;
    registration.update(|instance| instance.weight = 7).unwrap();
    settle().await;
    assert_eq!(present(&registry)[0].weight, 7);
    registration.set_status(Status::Draining);
    settle().await;
    assert_eq!(present(&registry)[0].status, Status::Draining);

    registry.outage(Outage::Refuses);
    registration.set_status(Status::Up);
    registration.update(|instance| instance.weight = 8).unwrap();
    time::sleep(Duration::from_secs(100)).await;
    registry.recover();
    registration.registered().await;
    let instance = &present(&registry)[0];
    assert_eq!((instance.weight, instance.status), (8, Status::Up));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_registered_is_refused_with_its_field() {
    let registry = MemoryRegistry::new();
    let config = RegisterConfig {
        ttl: Duration::ZERO,
        ..Default::default()
    };
    let error = Registration::start(registry.clone(), orders("a"), config).unwrap_err();
    assert_eq!(error.path(), "ttl");
    let bad = orders("a").with_weight(0);
    let error = Registration::start(registry.clone(), bad, RegisterConfig::default()).unwrap_err();
    assert_eq!(error.path(), "instance.weight");

    let registration = registered(&registry, "a").await;
    let error = registration
        .update(|instance| instance.endpoints.clear())
        .unwrap_err();
    assert_eq!(error.path(), "instance.endpoints");
    let error = registration
        .update(|instance| instance.id.push('b'))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "instance.id: got `ab`, expected `a`, as it was registered"
    );
    settle().await;
    assert_eq!(*present(&registry)[0], orders("a"));
}

/// Panics on every second write.
struct Buggy(MemoryRegistry, Mutex<u32>);

impl Buggy {
    fn step(&self) {
        let mut n = self.1.lock();
        *n += 1;
        if *n % 2 == 1 {
            drop(n);
            panic!("a bug");
        }
    }
}

impl Register for Buggy {
    fn put<'a>(&'a self, lease: &'a Lease) -> Written<'a> {
        self.step();
        self.0.put(lease)
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> Written<'a> {
        Box::pin(async {
            self.step();
            self.0.renew(lease).await
        })
    }

    fn remove<'a>(&'a self, lease: &'a Lease) -> Written<'a> {
        self.step();
        Register::remove(&self.0, lease)
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_registrys_code_is_an_error_like_others() {
    let registry = MemoryRegistry::new();
    let buggy = Buggy(registry.clone(), Mutex::default());
    let registration = Registration::start(buggy, orders("a"), RegisterConfig::default()).unwrap();
    registration.registered().await;
    time::sleep(20 * TTL).await;
    assert_eq!(
        (registration.state(), present(&registry).len()),
        (State::Registered, 1)
    );
    registration.close().await.unwrap();
    assert_eq!(present(&registry).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn states_and_failures_are_metrics() {
    let registry = MemoryRegistry::new();
    let service = "measured by this test alone";
    let service = service.replace(' ', "-");
    let start = |id: &str| {
        let instance = Instance {
            service: service.clone(),
            ..orders(id)
        };
        Registration::start(registry.clone(), instance, RegisterConfig::default()).unwrap()
    };
    let gauge = |state: &str| {
        let seen = tower_mesh_layers::metrics::snapshot();
        seen.gauge(
            "mesh_registration_state",
            &[("service_name", &service), ("state", state)],
        )
    };
    let (a, b) = (start("a"), start("b"));
    assert_eq!(gauge("registering"), Some(2.0));
    a.registered().await;
    settle().await;
    assert_eq!(
        (gauge("registering"), gauge("registered")),
        (Some(0.0), Some(2.0))
    );
    registry.outage(Outage::Refuses);
    time::sleep(2 * TTL).await;
    assert_eq!(
        (gauge("registered"), gauge("lapsed")),
        (Some(0.0), Some(2.0))
    );
    let seen = tower_mesh_layers::metrics::snapshot();
    let labels = [("service_name", &*service)];
    assert_eq!(
        seen.counter("mesh_registration_lapses_total", &labels),
        Some(2)
    );
    assert!(
        seen.counter("mesh_registration_failures_total", &labels)
            .unwrap()
            > 8
    );
    registry.recover();
    a.close().await.unwrap();
    b.registered().await;
    assert_eq!(
        gauge("registered"),
        Some(1.0),
        "the gauge of one that is closed leaves"
    );
}

/// Whatever happens, it comes back as it should be; and when it is closed, nothing is left.
#[tokio::test(start_paused = true)]
async fn after_any_history_the_registry_holds_what_it_should() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let registry = MemoryRegistry::new();
        let target: Arc<dyn Register> = Arc::new(registry.clone());
        let registration =
            Registration::start_with(target, orders("a"), RegisterConfig::default(), rng.fork())
                .unwrap();
        let mut weight = Instance::DEFAULT_WEIGHT;
        for _ in 0..rng.u32(0..30) {
            match rng.u32(0..8) {
                0 => registry.outage(Outage::Refuses),
                1 => registry.outage(Outage::Hangs),
                2 | 3 => registry.recover(),
                4 => registry.fail_next(rng.u32(1..6)),
                5 => {
                    registry.expire("orders", "a");
                }
                6 => {
                    weight = rng.u32(1..1_000);
                    registration
                        .update(|instance| instance.weight = weight)
                        .unwrap();
                }
                _ => {
                    MemoryRegistry::remove(&registry, "orders", "a");
                }
            }
            time::sleep(Duration::from_millis(rng.u64(0..20_000))).await;
        }
        registry.recover();
        registry.fail_next(0);
        time::sleep(Duration::from_secs(36)).await;
        assert_eq!(registration.state(), State::Registered, "seed {seed}");
        assert_eq!(present(&registry)[0].weight, weight, "seed {seed}");
        registration.close().await.unwrap();
        assert_eq!(present(&registry).len(), 0, "seed {seed}");
    }
}

/// What a watcher sees of a life: up, draining, down, in this order and nothing twice.
#[tokio::test(start_paused = true)]
async fn a_watcher_sees_up_draining_and_down() {
    let registry = MemoryRegistry::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut answers = registry.resolve("orders");
    let log = Arc::clone(&seen);
    let watcher = tokio::spawn(async move {
        while let Some(answer) = futures_util::StreamExt::next(&mut answers).await {
            log.lock()
                .push(answer.unwrap().first().map(|instance| instance.status));
        }
    });
    settle().await;
    let registration = registered(&registry, "a").await;
    time::sleep(10 * TTL).await;
    registration.close().await.unwrap();
    time::sleep(2 * TTL).await;
    let expected = [
        None,
        Some(Status::Up),
        Some(Status::Draining),
        Some(Status::Down),
        None,
    ];
    assert_eq!(*seen.lock(), expected);
    watcher.abort();
}
