//! What a node counts about itself. Plain atomics, bumped by whoever does the work.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Declares the counters and a snapshot of them in one place.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one node, since its start.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        /// The counters of a node at one moment, counted since its start.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
        #[non_exhaustive]
        pub struct CountersSnapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> CountersSnapshot {
                CountersSnapshot { $($name: self.$name.load(Relaxed),)* }
            }
        }

        impl CountersSnapshot {
            /// Name and value of each, for metric exporters.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Requests that reached a shard.
    requests,
    /// Campaigns started here.
    elections,
    /// Times a replica here became leader.
    leaders_elected,
    /// Groups that went mute because something impossible came.
    groups_faulted,
    /// Replicas that may have forgotten a vote, and that a leader here replaced by fresh ones.
    replicas_replaced,
    /// Times a replica forgot its log from a damaged entry on while it ran, to learn it again.
    logs_refilled,
    /// Snapshots of this node that were found damaged, or gone, when a peer could make nothing of
    /// them or all were read, and that were taken anew.
    snapshots_retaken,
    /// Entries that a snapshot here leaves in the log, and that could not be read when a peer fetched them.
    kept_entries_lost,
    /// Messages for a group, a life of a group or a replica that is not here.
    messages_dropped,
    /// Words of peers that no correct one says, and that were passed over: terms or indexes that no
    /// cluster counts to.
    words_disbelieved,
    /// Times somebody claimed to be a newer life of a peer while another answered at its address.
    claims_refuted,
    /// Writes of a batch to the log.
    log_appends,
    /// Times the log was made durable (fdatasync, or a write that returns when it is).
    fsyncs,
    /// Times a sync was put off to keep the log's pace.
    log_paced,
    /// Bytes of entries that were read to see whether they still can be.
    log_scrubbed_bytes,
    /// Times all of the log was read through for that.
    log_scrubs,
    /// Entries found damaged in that way.
    log_damage_found,
    /// Bytes of snapshots that were read to see whether they still can be.
    snapshots_scrubbed_bytes,
    /// Times all snapshots were read through for that.
    snapshot_scrubs,
    /// Group operations made durable; over `fsyncs`, the groups per fsync.
    group_writes,
    /// Entries written to the log.
    log_entries,
    /// Bytes written to the log, with headers and padding.
    log_bytes,
    /// Of them, those in a segment that was needed before it was prepared, where a sync takes
    /// longer: the appends outrun the disk.
    log_unprepared_bytes,
    /// Checkpoints of the log made.
    log_checkpoints,
    /// Checkpoints of the log that failed: without them no space comes back.
    log_checkpoints_failed,
    /// Segments of the log that were written again.
    log_segments_reused,
    /// Bytes of entries that were moved out of segments that were nearly empty.
    log_bytes_moved,
    /// Calls of the log that took longer than the log may stall.
    log_stalls,
    /// Leaderships that were handed over because the log here was not well.
    leaderships_moved_off_log,
    /// Times entries were not taken because the log had too much to do.
    log_overloaded,
    /// Turns the shards took.
    turns,
    /// Commands applied in all groups, replay included.
    commands_applied,
    /// Times log was kept beyond its snapshot because a peer was fetching or lagged behind.
    compactions_held,
    /// Times it was not, or no longer, because it was more than is allowed.
    compactions_forced,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Relaxed);
    }

    /// Of what is counted elsewhere.
    pub(crate) fn set(counter: &AtomicU64, count: u64) {
        counter.store(count, Relaxed);
    }
}
