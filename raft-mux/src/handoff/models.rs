//! The hand-off under every interleaving of the threads that use it.
//!
//! ```text
//! RUSTFLAGS="--cfg loom_model" cargo test -p raft-mux --lib handoff
//! ```
//!
//! Takes some seconds. A lost wake-up shows as loom's deadlock report. Each item is counted where
//! it ends, so one that is lost or given back twice breaks the sum.

use std::future::poll_fn;

use loom::future::block_on;
use loom::sync::Arc;
use loom::thread;

use super::*;

const GROUP: GroupId = GroupId::new(99);

/// A stand-in for a connection.
#[derive(Debug)]
struct Item;

fn handoff() -> (Arc<Handoff<Item>>, Registration) {
    let handoff = Handoff::new(1);
    let registration = handoff.register(GROUP).expect("a new hand-off has no groups");
    (Arc::new(handoff), registration)
}

fn accept(handoff: &Handoff<Item>, registration: Registration) -> Result<Item, Gone> {
    let mut turn = Turn::default();
    let taken =
        block_on(poll_fn(|context| handoff.poll_accept(GROUP, registration, &mut turn, context)));
    handoff.forget(GROUP, registration, &mut turn);
    taken
}

/// How many items come back to a pusher: 0 if it was queued, 1 if it was refused.
fn push(handoff: &Handoff<Item>) -> usize {
    usize::from(handoff.push(GROUP, Item).is_err())
}

#[test]
fn push_racing_close_is_queued_before_or_refused_after() {
    loom::model(|| {
        let (handoff, _) = handoff();
        let pusher = thread::spawn({
            let handoff = handoff.clone();
            move || push(&handoff)
        });
        let closed = handoff.close().len();
        assert_eq!(pusher.join().unwrap() + closed, 1);
        assert_eq!(handoff.counts(), (0, 0));
        assert_eq!(handoff.close().len(), 0);
    });
}

#[test]
fn push_racing_unregister_and_register_ends_in_exactly_one_place() {
    loom::model(|| {
        let (handoff, _) = handoff();
        let pusher = thread::spawn({
            let handoff = handoff.clone();
            move || push(&handoff)
        });
        let first = handoff.unregister(GROUP, None).map_or(0, |items| items.len());
        handoff.register(GROUP).expect("the id is free again");
        let refused = pusher.join().unwrap();
        let second = handoff.close().len();
        assert_eq!(first + refused + second, 1);
    });
}

#[test]
fn pending_accept_is_woken_by_close() {
    loom::model(|| {
        let (handoff, registration) = handoff();
        let accepter = thread::spawn({
            let handoff = handoff.clone();
            move || accept(&handoff, registration)
        });
        assert_eq!(handoff.close().len(), 0);
        assert_eq!(accepter.join().unwrap().unwrap_err(), Gone::Closed);
    });
}

#[test]
fn pending_accept_is_woken_by_unregister_even_if_registered_again() {
    loom::model(|| {
        let (handoff, registration) = handoff();
        let accepter = thread::spawn({
            let handoff = handoff.clone();
            move || accept(&handoff, registration)
        });
        assert!(handoff.unregister(GROUP, None).is_some());
        handoff.register(GROUP).expect("the id is free again");
        assert_eq!(accepter.join().unwrap().unwrap_err(), Gone::Unregistered);
    });
}

#[test]
fn push_accept_and_close_at_once_lose_no_item_and_leave_no_one_waiting() {
    loom::model(|| {
        let (handoff, registration) = handoff();
        let pusher = thread::spawn({
            let handoff = handoff.clone();
            move || push(&handoff)
        });
        let accepter = thread::spawn({
            let handoff = handoff.clone();
            move || usize::from(accept(&handoff, registration).is_ok())
        });
        let closed = handoff.close().len();
        assert_eq!(pusher.join().unwrap() + accepter.join().unwrap() + closed, 1);
    });
}

#[test]
fn accept_given_up_while_an_item_arrives_does_not_take_its_wake_up_along() {
    loom::model(|| {
        let (handoff, registration) = handoff();
        let patient = thread::spawn({
            let handoff = handoff.clone();
            move || accept(&handoff, registration)
        });
        let pusher = thread::spawn({
            let handoff = handoff.clone();
            move || push(&handoff)
        });
        // Polled once with a waker that does nothing, then given up.
        let mut turn = Turn::default();
        let context = Context::from_waker(Waker::noop());
        let impatient = handoff.poll_accept(GROUP, registration, &mut turn, &context);
        handoff.forget(GROUP, registration, &mut turn);
        if impatient.is_ready() {
            // It was served, so the other one needs an item of its own.
            pusher.join().unwrap();
            assert_eq!(push(&handoff), 0);
        } else {
            assert_eq!(pusher.join().unwrap(), 0);
        }
        assert!(patient.join().unwrap().is_ok());
        assert_eq!(handoff.counts(), (1, 0));
    });
}

#[test]
fn late_drop_of_an_old_listener_leaves_the_new_one_registered() {
    loom::model(|| {
        let (handoff, old) = handoff();
        let dropper = thread::spawn({
            let handoff = handoff.clone();
            move || handoff.unregister(GROUP, Some(old)).is_some()
        });
        let freed_here = handoff.unregister(GROUP, None).is_some();
        let new = handoff.register(GROUP).expect("one of the two has freed the id");
        assert!(freed_here != dropper.join().unwrap());
        assert_ne!(old, new);
        assert_eq!(handoff.counts(), (1, 0));
    });
}
