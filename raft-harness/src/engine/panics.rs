//! In whose name a thread panicked: code of the embedder runs on threads of the node, and when it
//! breaks one, the node says which group's it was.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use raft_core::GroupId;

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Calls what works for a group; a panic in it goes on, and is remembered on this thread.
pub(crate) fn at_work_for<T>(group: GroupId, work: impl FnOnce() -> T) -> T {
    // Nothing is looked at again after a panic: the thread ends by it.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = format!("at work for group {group}: {}", message(&*panic));
        LAST.set(Some(text));
        resume_unwind(panic)
    })
}

/// What the last panic on this thread said, if it was in a group's name.
pub(crate) fn take() -> Option<String> {
    LAST.take()
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a word")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_goes_on_and_is_remembered_with_its_group() {
        let group = GroupId::new(7);
        assert_eq!(at_work_for(group, || 5), 5);
        assert_eq!(take(), None);
        let panicked = catch_unwind(|| at_work_for(group, || panic!("no {}", "room")));
        assert!(panicked.is_err());
        assert_eq!(take().as_deref(), Some("at work for group 7: no room"));
    }
}
