use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

fn current_deadline() -> Option<Instant> {
    CallContext::current_deadline()
}

#[test]
fn a_client_call_inherits_from_the_handler_around_it() {
    let mut server = CallContext::new();
    server.shorten_deadline(server.start + Duration::from_secs(1));
    server.deadline_covers = Covers::Head;
    server.attempt.number = 3;
    let deadline = server.deadline;
    server.ambient().enter(|| {
        let mut extensions = Extensions::new();
        let client = CallContext::get_or_insert(&mut extensions);
        assert_eq!(client.deadline, deadline);
        assert_eq!(client.deadline_covers, Covers::Head);
        assert_eq!(client.attempt.number, 1);
    });
    assert_eq!(current_deadline(), None);
}

#[test]
fn scopes_nest_and_come_back_after_a_panic() {
    let now = Instant::now();
    let ambient = |seconds| {
        let mut context = CallContext::new();
        context.deadline = Some(now + Duration::from_secs(seconds));
        context.ambient()
    };
    let (mut outer, mut inner) = (ambient(10), ambient(1));
    let (outer_deadline, inner_deadline) = (outer.deadline(), inner.deadline());
    outer.enter(|| {
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            inner.enter(|| {
                assert_eq!(current_deadline(), inner_deadline);
                panic!("in the handler");
            });
        }));
        assert!(panicked.is_err());
        assert_eq!(current_deadline(), outer_deadline);
    });
    assert_eq!(current_deadline(), None);
    assert_eq!(inner.deadline(), inner_deadline);
}

#[test]
fn what_is_shared_comes_and_goes_with_the_scope() {
    fn seen() -> Option<(bool, Option<Arc<Identity>>)> {
        let current = CallContext::current()?;
        Some((current.metadata().is_some(), current.identity().cloned()))
    }
    let identity = Some(Arc::new(Identity::new("a", AuthMethod::Key)));
    let (mut outer, mut inner) = (CallContext::new(), CallContext::new());
    outer.identity.clone_from(&identity);
    inner.metadata = Some(Arc::default());
    let (mut outer, mut inner) = (outer.ambient(), inner.ambient());
    for _ in 0..2 {
        outer.enter(|| {
            assert_eq!(seen(), Some((false, identity.clone())));
            inner.enter(|| {
                assert_eq!(seen(), Some((true, None)));
                let mut bare = CallContext::new().ambient();
                bare.enter(|| assert_eq!(seen(), Some((false, None))));
                assert_eq!(seen(), Some((true, None)));
            });
            assert_eq!(seen(), Some((false, identity.clone())));
        });
        assert_eq!(seen(), None);
    }
    assert_eq!(outer.identity(), identity.as_ref());
    assert!(inner.metadata().is_some());
}

#[test]
fn a_deadline_only_ever_shortens() {
    let mut context = CallContext::new();
    let soon = context.start + Duration::from_secs(1);
    context.shorten_deadline(soon);
    context.shorten_deadline(soon + Duration::from_secs(1));
    assert_eq!(context.deadline, Some(soon));
    assert_eq!(
        context.remaining(soon + Duration::from_secs(5)),
        Some(Duration::ZERO)
    );
}

#[test]
fn the_last_four_endpoints_are_remembered() {
    let ids: Vec<_> = (0..6).map(|_| EndpointId::new()).collect();
    let mut tried = Tried::default();
    assert!(tried.is_empty());
    ids.iter().for_each(|id| tried.push(*id));
    let known: Vec<_> = ids.iter().map(|id| tried.contains(*id)).collect();
    assert_eq!(known, [false, false, true, true, true, true]);
}

#[test]
fn a_pick_reaches_the_scope_around_it_and_no_other() {
    let (first, second) = (EndpointId::new(), EndpointId::new());
    let ((), outer) = picked::scope(|| {
        picked::record(first);
        let ((), inner) = picked::scope(|| picked::record(second));
        assert_eq!(inner, Some(second));
    });
    assert_eq!(outer, Some(first));
    assert_eq!(picked::scope(|| ()).1, None);
}

#[test]
fn a_context_stays_small() {
    // It is moved once per call and cloned once per attempt.
    assert!(
        size_of::<CallContext>() <= 144,
        "{}",
        size_of::<CallContext>()
    );
}
