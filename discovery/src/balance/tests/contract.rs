//! Updates, waiting, cancellation: what holds whatever the peers do.

use tokio_test::{assert_pending, assert_ready, task};
use tower_mesh_layers::{EndpointId, Reason, context::picked};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_removed_endpoint_gets_no_call() {
    // The case of tower's issue 856: the endpoint that was chosen is removed before it is used.
    for seed in 0..1_000 {
        let world = World::of(3, ms(1));
        let balance = world.balance(BalanceConfig::default(), seeded(seed));
        call(&balance).await.unwrap();
        let chosen = world.calls(3).iter().position(|&calls| calls == 1).unwrap();
        let mut ready = balance.clone();
        std::future::poll_fn(|cx| Service::<Request<()>>::poll_ready(&mut ready, cx))
            .await
            .unwrap();
        world.publish((0..3).filter(|&i| i != chosen));
        sleep(ms(200)).await;
        for _ in 0..3 {
            let response = ready.call(Request::new(())).await.unwrap();
            drop(response);
        }
        assert_eq!(world.calls(3)[chosen], 1, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_removed_while_it_connects_is_left() {
    let world = World::of(1, ms(1));
    world.peer(&id(0)).does(Does::Blackhole);
    let balance = world.balance(BalanceConfig::default(), seeded(1));
    sleep(ms(1)).await;
    let pending = tokio::spawn({
        let balance = balance.clone();
        async move { call(&balance).await }
    });
    sleep(ms(10)).await;
    world.publish([1]);
    assert_eq!(pending.await.unwrap().unwrap(), 200);
    assert_eq!(world.calls(2), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn without_an_endpoint_a_call_is_refused_after_the_wait() {
    let world = World::new();
    let balance = world.balance(BalanceConfig::default(), seeded(1));
    let start = Instant::now();
    let response = balance.clone().call(Request::new(())).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 3);
    assert_eq!(response.status(), 503);
    let rejection = response.extensions().get::<Rejection>().unwrap();
    assert_eq!(rejection.reason(), Reason::NoEndpoint);
    assert_eq!(rejection.detail(), "no endpoint of `orders` is known");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_is_served_when_an_endpoint_comes() {
    let world = World::new();
    let config = BalanceConfig {
        wait_for_ready: true,
        ..Default::default()
    };
    let balance = world.balance(config, seeded(1));
    let (served, refused) = tokio::join!(call_within(&balance, ms(10_000)), async {
        let refused = call_within(&balance, ms(2_000)).await;
        sleep(ms(4_000)).await;
        world.publish([0]);
        refused
    });
    assert_eq!(served, Some(200), "at 6 s, with a deadline of 10 s");
    assert_ne!(refused, Some(200));
}

#[tokio::test(start_paused = true)]
async fn an_update_keeps_what_is_known_about_unchanged_endpoints() {
    let world = World::of(3, ms(1));
    let balance = world.balance(BalanceConfig::default(), seeded(1));
    for _ in 0..30 {
        call(&balance).await.unwrap();
    }
    let known = |balance: &Balance<Made>| {
        let endpoints = balance.endpoints();
        endpoints
            .into_iter()
            .map(|view| (view.instance, view.calls))
            .collect::<Vec<_>>()
    };
    let before = known(&balance);

    let moved = Instance::new("orders", id(1)).with_endpoint("http://10.9.9.9:80".parse().unwrap());
    let changed = instance(0).with_metadata("canary", "true").with_weight(7);
    world
        .publisher
        .publish(snapshot([changed, moved, instance(2)]));
    sleep(ms(200)).await;
    let after = known(&balance);
    assert_eq!(
        (&after[0], &after[2]),
        (&before[0], &before[2]),
        "other metadata, same endpoint"
    );
    assert_eq!(after[1].1, 0, "another address, another endpoint");
}

#[tokio::test(start_paused = true)]
async fn draining_and_down_instances_get_no_new_calls() {
    let world = World::of(3, ms(1));
    let balance = world.balance(BalanceConfig::default(), seeded(1));
    world.publisher.publish(snapshot([
        instance(0).with_status(Status::Draining),
        instance(1).with_status(Status::Down),
        instance(2),
    ]));
    for _ in 0..20 {
        call(&balance).await.unwrap();
    }
    assert_eq!(world.calls(3), [0, 0, 20]);
    assert_eq!(state_of(&balance, 0), EndpointState::Draining);

    world
        .publisher
        .publish(snapshot([instance(0).with_status(Status::Draining)]));
    sleep(ms(200)).await;
    assert_eq!(
        call(&balance).await.unwrap(),
        200,
        "better a draining one than none"
    );
}

#[tokio::test(start_paused = true)]
async fn tried_endpoints_are_not_picked_again_while_another_is_there() {
    for picker in [seeded(1), Picker::round_robin()] {
        let world = World::of(5, ms(1));
        let balance = world.balance(BalanceConfig::default(), picker);
        sleep(ms(1)).await;
        for _ in 0..100 {
            let mut context = CallContext::new();
            let mut seen = Vec::new();
            for attempt in 1..=5 {
                let mut request = Request::new(());
                context.attempt.number = attempt;
                request.extensions_mut().insert(context.clone());
                let (call, picked) = picked::scope(|| balance.clone().call(request));
                let picked = picked.expect("the pick is told");
                assert!(attempt == 5 || !seen.contains(&picked));
                seen.push(picked);
                context.attempt.tried.push(picked);
                call.await.unwrap();
            }
        }
    }
}

/// go-chassis' `retryOnSame`: the same one again while it is there, then another.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_to_stay_goes_where_the_one_before_went() {
    for picker in [seeded(1), Picker::round_robin()] {
        let world = World::of(5, ms(1));
        let balance = world.balance(BalanceConfig::default(), picker);
        sleep(ms(1)).await;
        let pick = |context: &CallContext| {
            let mut request = Request::new(());
            request.extensions_mut().insert(context.clone());
            let (call, picked) = picked::scope(|| balance.clone().call(request));
            (call, picked.expect("the pick is told"))
        };
        for _ in 0..20 {
            let mut context = CallContext::new();
            let (call, first) = pick(&context);
            call.await.unwrap();
            context.attempt.number = 2;
            context.attempt.tried.push(first);
            context.attempt.tried.stay();
            let (call, again) = pick(&context);
            call.await.unwrap();
            assert_eq!(again, first);
            context.attempt.tried.push(again);
            assert_ne!(pick(&context).1, first);
        }
        // One that is gone is no reason to fail.
        let mut context = CallContext::new();
        context.attempt.tried.push(EndpointId::new());
        context.attempt.tried.stay();
        assert_eq!(pick(&context).0.await.unwrap().status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_were_tried_one_of_them_is_picked() {
    let world = World::of(2, ms(1));
    let balance = world.balance(BalanceConfig::default(), seeded(1));
    sleep(ms(1)).await;
    let mut context = CallContext::new();
    for _ in 0..6 {
        let mut request = Request::new(());
        request.extensions_mut().insert(context.clone());
        let (call, picked) = picked::scope(|| balance.clone().call(request));
        context.attempt.tried.push(picked.unwrap());
        assert_eq!(call.await.unwrap().status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_counts_in_flight_until_its_body_ends() {
    let world = World::of(1, ms(1));
    let balance = world.balance(BalanceConfig::default(), seeded(1));
    let response = balance.clone().call(Request::new(())).await.unwrap();
    assert_eq!(in_flight(&balance), 1);
    response.into_body().collect().await.unwrap();
    assert_eq!(in_flight(&balance), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_anywhere_gives_everything_back() {
    // Waiting for an endpoint, connecting, in flight, with the body half read.
    let world = World::new();
    let balance = world.balance(BalanceConfig::default(), seeded(1));
    let mut waiting = task::spawn(balance.clone().call(Request::new(())));
    assert_pending!(waiting.poll());
    drop(waiting);

    world.peer(&id(0)).does(Does::Blackhole);
    world.publish([0]);
    sleep(ms(1)).await;
    let mut connecting = task::spawn(balance.clone().call(Request::new(())));
    assert_pending!(connecting.poll());
    assert_eq!(in_flight(&balance), 1);
    drop(connecting);
    assert_eq!(in_flight(&balance), 0);

    world.peer(&id(0)).does(Does::Hang);
    let mut flying = task::spawn(balance.clone().call(Request::new(())));
    assert_pending!(flying.poll());
    assert_eq!(in_flight(&balance), 1);
    drop(flying);
    let unpolled = balance.clone().call(Request::new(()));
    assert_eq!(in_flight(&balance), 1);
    drop(unpolled);
    assert_eq!(in_flight(&balance), 0);

    world.peer(&id(0)).does(Does::Answer(200, ms(1)));
    let mut answered = task::spawn(balance.clone().call(Request::new(())));
    assert_pending!(answered.poll());
    sleep(ms(2)).await;
    let response = assert_ready!(answered.poll()).unwrap();
    drop(answered);
    assert_eq!(in_flight(&balance), 1);
    drop(response);
    assert_eq!(in_flight(&balance), 0);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_leaves_a_lower_bound() {
    let world = World::of(1, ms(1));
    let balance = world.balance(BalanceConfig::default(), seeded(1));
    call(&balance).await.unwrap();
    world.peer(&id(0)).does(Does::Hang);
    // No deadline is known, so this is a cancellation and no failure.
    let _ = timeout(ms(500), call(&balance)).await;
    let view = balance.endpoints().remove(0);
    assert!(view.ewma.unwrap() >= ms(500), "{:?}", view.ewma);
    assert_eq!((view.failures, view.state), (0, EndpointState::Ready));
}

#[tokio::test(start_paused = true)]
async fn the_task_ends_with_the_last_clone() {
    let world = World::of(1, ms(1));
    let balance = world.balance(BalanceConfig::default(), seeded(1));
    call(&balance).await.unwrap();
    let peer = world.peer(&id(0));
    let held = Arc::strong_count(&peer.0);
    drop(balance);
    sleep(ms(1)).await;
    assert_eq!(
        Arc::strong_count(&peer.0),
        held - 1,
        "the endpoint's service is gone"
    );
}

#[test]
fn a_balancer_built_outside_a_runtime_starts_with_its_first_call() {
    let world = World::of(1, ms(1));
    let balance = world.balance(BalanceConfig::default(), seeded(1));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    assert_eq!(runtime.block_on(call(&balance)).unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_updates_becomes_few_sets() {
    let world = World::of(50, ms(1));
    let balance = world.balance(BalanceConfig::default(), seeded(1));
    sleep(ms(1)).await;
    let (mut sets, mut last) = (0, std::ptr::null());
    for i in 0..10_000_usize {
        world.publish(0..(1 + i % 50));
        sleep(Duration::from_micros(1_000)).await;
        let now = balance.set_address();
        sets += usize::from(now != last);
        last = now;
    }
    sleep(ms(200)).await;
    assert!(sets <= 110, "{sets} sets in 10 s");
    assert_eq!(balance.endpoints().len(), 50, "the last one counts");
}

#[tokio::test(start_paused = true)]
async fn a_changed_configuration_is_taken_up_and_a_bad_one_refused() {
    let world = World::of(2, ms(1));
    let live = tower_mesh_layers::Live::new(BalanceConfig::default());
    let peers = world.peers.clone();
    let balance = Balance::builder(world.watch.clone())
        .endpoints(move |instance: &Instance| peer(&peers, &instance.id))
        .config(live.clone())
        .unwrap()
        .build();
    let bad = BalanceConfig {
        connect_timeout: Duration::ZERO,
        ..Default::default()
    };
    assert!(live.set(bad).is_err());
    let round_robin = BalanceConfig {
        picker: Balancing::RoundRobin,
        ..Default::default()
    };
    sleep(ms(200)).await;
    live.set(round_robin).unwrap();
    sleep(ms(200)).await;
    for _ in 0..10 {
        drop(balance.clone().call(Request::new(())).await.unwrap());
    }
    assert_eq!(world.calls(2), [5, 5]);
}

#[test]
fn a_hot_endpoint_stays_small() {
    assert!(size_of::<Endpoint>() <= 320, "{}", size_of::<Endpoint>());
}
