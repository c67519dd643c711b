//! What code of the embedder does on threads of the node is a group's affair: a panic in it ends
//! nothing but the call, and whoever called is told in whose name it was.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use raft_core::GroupId;

/// Calls what works for a group.
///
/// # Errors
/// What it panicked with, and for which group. What it was at work on is not to be looked at again:
/// it may be left half changed.
pub(crate) fn at_work_for<T>(group: GroupId, work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|panic| format!("panicked at work for group {group}: {}", message(&*panic)))
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
    fn a_panic_is_told_with_its_group() {
        let group = GroupId::new(7);
        assert_eq!(at_work_for(group, || 5), Ok(5));
        let told = at_work_for(group, || -> u8 { panic!("no {}", "room") });
        assert_eq!(told, Err("panicked at work for group 7: no room".to_owned()));
        let told = at_work_for(group, || -> u8 { std::panic::panic_any(5) });
        assert!(told.unwrap_err().ends_with("a panic without a word"));
    }
}
