//! A panic inside a run is a finding like any other.
//!
//! An index out of bounds or an assertion of the core must not end a sweep: it becomes a violation
//! with its message and place, so that the run can be repeated, shrunk and told.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use super::violation::{Check, Violation};

thread_local! {
    /// Whether this thread is inside of [`caught`]: other threads' panics are none of our business.
    static LISTENS: Cell<bool> = const { Cell::new(false) };
    static HEARD: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Calls `run`; a panic in it is a violation of [`Check::Panic`], and is not printed.
///
/// What `run` has changed stays as it was when it panicked; only a report should look at it.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, Violation> {
    listen();
    let outer = LISTENS.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    LISTENS.set(outer);
    result.map_err(|_| {
        let heard = HEARD.take().unwrap_or_else(|| "a panic without a word".to_owned());
        Violation::of_run(Check::Panic, heard)
    })
}

/// Puts a hook before the one there is, once for the whole process.
fn listen() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if LISTENS.get() {
                HEARD.set(Some(info.to_string()));
            } else {
                previous(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_violation_with_its_message_and_place() {
        let violation = caught(|| panic!("no {} here", 7)).expect_err("it panics");
        assert_eq!(violation.check, Check::Panic);
        assert!(violation.evidence.contains("no 7 here"), "{violation}");
        assert!(violation.evidence.contains("panics.rs"), "{violation}");
    }

    #[test]
    fn what_returns_is_returned_and_a_panic_before_it_is_forgotten() {
        assert!(caught(|| panic!("first")).is_err());
        assert_eq!(caught(|| 5), Ok(5));
    }
}
