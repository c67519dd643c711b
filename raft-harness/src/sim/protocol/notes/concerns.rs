//! Which marks the protocol profile can reach: it has messages and no bytes, replicas and no
//! lanes.

use crate::sim::marks::Mark;

/// Whether this profile is deep enough for a mark.
pub(crate) const fn concerns(mark: Mark) -> bool {
    !matches!(
        mark,
        // A log is one queue here, and a crash leaves a prefix of it whole.
        Mark::TornTail
            // A node recovers in no time, so nothing can fall into it.
            | Mark::CrashInRecovery
    )
}
