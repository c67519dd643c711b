//! I5 and I6: what a leader keeps up to date step by step is what a recount finds.

use raft_core::{Discrepancy, Group};

use crate::sim::violation::{Check, Violation};

/// Has a replica recount. A build with planted bugs leaves them to the checks of what bugs do.
///
/// # Errors
/// What is kept is something else.
pub fn audited(core: &Group) -> Result<(), Violation> {
    let found = if cfg!(planted) { Ok(()) } else { core.audit() };
    let Err(discrepancy) = found else { return Ok(()) };
    let check = match discrepancy {
        Discrepancy::Quorum { .. } | Discrepancy::Uncounted(_) => Check::Quorum,
        _ => Check::Progress,
    };
    let evidence = format!("{discrepancy:?} {:?}", core.status());
    Err(Violation::of_group(check, core.id(), evidence))
}
