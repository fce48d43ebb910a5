//! The gate against a model that is obviously right: a number and a list.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
};

use proptest::prelude::*;
use tokio::time::Instant;

use crate::{
    concurrency_limit::{
        gate::{Entry, Gate, Limits},
        queue::Ticket,
    },
    test_util::drive::Wakes,
};

#[derive(Debug, Clone)]
enum Op {
    Enter,
    /// One of those who wait, or were let in and do not know yet, by number.
    Poll(usize),
    GiveUp(usize),
    Leave,
    Limit(u32, u32),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        5 => Just(Op::Enter),
        3 => any::<usize>().prop_map(Op::Poll),
        2 => any::<usize>().prop_map(Op::GiveUp),
        4 => Just(Op::Leave),
        1 => (1_u32..6, 0_u32..80).prop_map(|(limit, queue)| Op::Limit(limit, queue)),
    ];
    prop::collection::vec(op, 0..400)
}

/// One in the queue, or let in from it.
struct Waiter {
    number: u32,
    ticket: Ticket,
    wakes: Arc<Wakes>,
}

#[derive(Default)]
struct Model {
    limit: usize,
    queue: usize,
    in_flight: usize,
    waiting: VecDeque<u32>,
}

impl Model {
    fn let_in(&mut self) {
        while self.in_flight < self.limit && self.waiting.pop_front().is_some() {
            self.in_flight += 1;
        }
    }
}

proptest! {
    #[test]
    fn the_gate_is_a_number_and_a_list(ops in ops()) {
        let now = Instant::now();
        let limits = Arc::new(Limits::new(2, 3));
        let gate = Gate::new(limits.clone());
        let mut model = Model { limit: 2, queue: 3, ..Model::default() };
        let (mut waiters, mut known, mut next) = (Vec::<Waiter>::new(), 0_usize, 0_u32);
        for op in ops {
            match op {
                Op::Enter => {
                    next += 1;
                    let fits = model.waiting.is_empty() && model.in_flight < model.limit;
                    prop_assert_eq!(gate.enter(), fits);
                    if fits {
                        model.in_flight += 1;
                        known += 1;
                        continue;
                    }
                    match gate.enter_or_wait(now) {
                        Entry::Waits(ticket, _) => {
                            model.waiting.push_back(next);
                            waiters.push(Waiter { number: next, ticket, wakes: Wakes::new() });
                            prop_assert!(model.waiting.len() <= model.queue);
                        }
                        Entry::Full => prop_assert!(model.waiting.len() >= model.queue),
                        Entry::Entered => prop_assert!(false, "there was no room"),
                    }
                }
                Op::Poll(which) if !waiters.is_empty() => {
                    let at = which % waiters.len();
                    let waiter = &waiters[at];
                    let is_in = !model.waiting.contains(&waiter.number);
                    let waker = waiter.wakes.waker();
                    let polled = gate.poll(waiter.ticket, &Context::from_waker(&waker));
                    prop_assert_eq!(polled, if is_in { Poll::Ready(()) } else { Poll::Pending });
                    if is_in {
                        known += 1;
                        waiters.swap_remove(at);
                    }
                }
                Op::GiveUp(which) if !waiters.is_empty() => {
                    let waiter = waiters.swap_remove(which % waiters.len());
                    let is_in = !model.waiting.contains(&waiter.number);
                    prop_assert_eq!(gate.give_up(waiter.ticket), is_in);
                    if is_in {
                        known += 1;
                    } else {
                        model.waiting.retain(|&number| number != waiter.number);
                    }
                }
                Op::Leave if known > 0 => {
                    gate.leave();
                    known -= 1;
                    model.in_flight -= 1;
                    model.let_in();
                }
                Op::Limit(limit, queue) => {
                    limits.set(limit, queue);
                    gate.let_in();
                    (model.limit, model.queue) = (limit as usize, queue as usize);
                    model.let_in();
                }
                Op::Poll(_) | Op::GiveUp(_) | Op::Leave => {}
            }
            prop_assert_eq!(gate.in_flight() as usize, model.in_flight);
            prop_assert_eq!(gate.waiting() as usize, model.waiting.len());
            for waiter in &waiters {
                let is_in = !model.waiting.contains(&waiter.number);
                prop_assert!(waiter.wakes.count() <= u64::from(is_in), "woken before its turn");
            }
        }
    }
}
