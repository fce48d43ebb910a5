use std::future::poll_fn;

use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    task::{JoinSet, yield_now},
    time::{advance, timeout},
};
use tokio_test::{assert_pending, assert_ready, task};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn after(wheel: &Wheel, wait: Duration) -> WheelTimer {
    WheelTimer::new(wheel.clone(), Some(Instant::now() + wait))
}

async fn expired(mut timer: WheelTimer) -> Instant {
    poll_fn(|cx| timer.poll_expired(cx)).await;
    Instant::now()
}

fn paused() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_timers_fire_never_early_and_never_late() {
    let wheel = Wheel::new();
    let mut random = fastrand::Rng::with_seed(7);
    let mut timers = JoinSet::new();
    for n in 0..10_000 {
        // Whole and broken milliseconds, from one tick to a day.
        let scale = [10_000, 1_000_000, 60_000_000, 86_400_000_000][n % 4];
        let timer = after(&wheel, Duration::from_micros(random.u64(1..scale)));
        timers.spawn(async move { (timer.deadline().unwrap(), expired(timer).await) });
    }
    while let Some(fired) = timers.join_next().await {
        let (deadline, at) = fired.unwrap();
        assert!(at >= deadline, "early by {:?}", deadline - at);
        assert!(
            at - deadline <= Wheel::PRECISION,
            "late by {:?}",
            at - deadline
        );
    }
    assert!(wheel.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_timer_fires_when_nothing_else_wakes_its_task() {
    let (wheel, start) = (Wheel::new(), Instant::now());
    let timer = after(&wheel, SECOND);
    let at = tokio::spawn(expired(timer)).await.unwrap();
    assert!(at - start >= SECOND && at - start <= SECOND + Wheel::PRECISION);
}

#[tokio::test(start_paused = true)]
async fn an_earlier_timer_wakes_the_driver_out_of_a_longer_sleep() {
    let (wheel, start) = (Wheel::new(), Instant::now());
    let long = tokio::spawn(expired(after(&wheel, 3600 * SECOND)));
    yield_now().await;
    yield_now().await;
    assert!(wheel.is_driven());
    let at = expired(after(&wheel, SECOND)).await;
    assert!(at - start <= SECOND + Wheel::PRECISION);
    assert!(long.await.unwrap() - start >= 3600 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_task_that_polled_last_is_woken() {
    let wheel = Wheel::new();
    let mut timer = after(&wheel, SECOND);
    let (mut first, mut second) = (task::spawn(()), task::spawn(()));
    assert_pending!(first.enter(|cx, _| timer.poll_expired(cx)));
    assert_pending!(second.enter(|cx, _| timer.poll_expired(cx)));
    tokio::time::sleep(2 * SECOND).await;
    assert!(!first.is_woken() && second.is_woken());
    assert_ready!(second.enter(|cx, _| timer.poll_expired(cx)));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_timer_wakes_nobody_and_frees_its_place() {
    let wheel = Wheel::new();
    let mut waiter = task::spawn(());
    for _ in 0..1_000 {
        let mut timer = after(&wheel, SECOND);
        assert_pending!(waiter.enter(|cx, _| timer.poll_expired(cx)));
        assert!(!wheel.is_idle());
    }
    assert!(wheel.is_idle());
    tokio::time::sleep(2 * SECOND).await;
    assert!(!waiter.is_woken());
}

#[tokio::test(start_paused = true)]
async fn a_timer_without_a_deadline_costs_nothing_and_never_fires() {
    let wheel = Wheel::new();
    let mut timer = WheelTimer::new(wheel.clone(), None);
    let fired = timeout(3600 * SECOND, poll_fn(|cx| timer.poll_expired(cx))).await;
    assert!(fired.is_err());
    assert!(!wheel.is_driven() && wheel.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_passed_deadline_is_found_within_the_precision() {
    let wheel = Wheel::new();
    let start = Instant::now();
    advance(SECOND).await;
    let timer = WheelTimer::new(wheel.clone(), Some(start));
    assert!(expired(timer).await - start <= SECOND + Wheel::PRECISION);
}

#[tokio::test(start_paused = true)]
async fn a_reset_timer_goes_by_its_new_deadline() {
    let (wheel, start) = (Wheel::new(), Instant::now());
    let mut timer = after(&wheel, SECOND);
    let mut waiter = task::spawn(());
    assert_pending!(waiter.enter(|cx, _| timer.poll_expired(cx)));
    timer.reset(Some(start + 5 * SECOND));
    assert!(wheel.is_idle());
    assert!(expired(timer).await - start >= 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_idle_wheel_has_no_task() {
    let wheel = Wheel::new();
    assert!(!wheel.is_driven());
    for _ in 0..3 {
        expired(after(&wheel, SECOND)).await;
        tokio::time::sleep(SECOND).await;
        assert!(!wheel.is_driven());
    }
}

#[tokio::test(start_paused = true)]
async fn the_driver_ends_with_the_last_handle_of_the_wheel() {
    let alive = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let wheel = Wheel::new();
    let mut timer = after(&wheel, 3600 * SECOND);
    drop(wheel);
    assert_pending!(task::spawn(()).enter(|cx, _| timer.poll_expired(cx)));
    yield_now().await;
    assert_eq!(alive(), 1);
    drop(timer);
    yield_now().await;
    assert_eq!(alive(), 0);
}

#[test]
fn a_second_runtime_drives_a_wheel_whose_first_is_gone() {
    let wheel = Wheel::new();
    let first = paused();
    first.block_on(async {
        expired(after(&wheel, SECOND)).await;
        let mut long = after(&wheel, 3600 * SECOND);
        assert_pending!(task::spawn(()).enter(|cx, _| long.poll_expired(cx)));
        yield_now().await;
        assert!(wheel.is_driven());
    });
    drop(first);
    assert!(!wheel.is_driven());
    paused().block_on(async {
        let start = Instant::now();
        // Measured on this runtime's clock, which may be behind the first one's.
        assert!(expired(after(&wheel, 10 * SECOND)).await - start >= 10 * SECOND);
    });
}

#[test]
fn a_timer_that_waits_on_another_runtime_survives_the_driver() {
    let wheel = Wheel::new();
    let first = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap();
    let second = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap();
    let (registered, is_registered) = oneshot::channel();

    let mut starter = after(&wheel, 3600 * SECOND);
    first.block_on(async {
        assert_pending!(task::spawn(()).enter(|cx, _| starter.poll_expired(cx)))
    });
    let mut timer = after(&wheel, Duration::from_millis(300));
    let survivor = second.spawn(async move {
        let mut registered = Some(registered);
        poll_fn(|cx| {
            let polled = timer.poll_expired(cx);
            registered.take().map(|registered| registered.send(()));
            polled
        })
        .await;
    });
    second.block_on(is_registered).unwrap();
    first.shutdown_background();
    let fired = second.block_on(async { timeout(60 * SECOND, survivor).await });
    fired.expect("nobody drives the wheel").unwrap();
}

#[test]
fn a_clock_that_was_turned_back_makes_nothing_early() {
    let wheel = Wheel::new();
    paused().block_on(async {
        // The wheel's time is now an hour ahead of every later runtime's.
        expired(after(&wheel, 3600 * SECOND)).await;
    });
    paused().block_on(async {
        let start = Instant::now();
        let at = expired(after(&wheel, SECOND)).await;
        assert!(at - start >= SECOND && at - start <= SECOND + Wheel::PRECISION);
    });
}

#[test]
fn without_a_runtime_it_panics_and_leaves_nothing_behind() {
    let wheel = Wheel::new();
    let mut timer = after(&wheel, SECOND);
    let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        task::spawn(()).enter(|cx, _| timer.poll_expired(cx))
    }));
    assert!(polled.is_err());
    drop(timer);
    assert!(!wheel.is_driven() && wheel.is_idle());
    paused().block_on(expired(after(&wheel, SECOND)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn timers_of_many_threads_all_fire() {
    let wheel = Wheel::new();
    let mut timers = JoinSet::new();
    for n in 0..4_000_u64 {
        let timer = after(&wheel, Duration::from_millis(n % 97));
        // Every second one is dropped while it waits, from whatever thread that is.
        let patience = if n % 2 == 0 {
            60 * SECOND
        } else {
            Duration::from_millis(n % 13)
        };
        timers.spawn(async move {
            let deadline = timer.deadline().unwrap();
            let fired = timeout(patience, expired(timer)).await;
            fired.map_or(n % 2 == 1, |at| at >= deadline)
        });
    }
    while let Some(good) = timers.join_next().await {
        assert!(good.unwrap(), "early, or never");
    }
    assert!(wheel.is_idle());
}
