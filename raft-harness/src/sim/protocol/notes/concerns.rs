//! Which marks the protocol profile can reach: it has messages and no bytes, replicas and no
//! lanes.

use crate::sim::marks::Mark;

/// Whether this profile is deep enough for a mark.
pub(crate) const fn concerns(mark: Mark) -> bool {
    !matches!(
        mark,
        // Every message travels alone.
        Mark::BatchOfManyGroups
            | Mark::LaneStalled
            | Mark::LaneKilled
            | Mark::OldGenerationFenced
            // A log is one queue of whole operations, of which a crash leaves the first.
            | Mark::TornTail
            | Mark::LogOverlapped
            | Mark::LogLandedLate
            | Mark::WrittenBeside
            | Mark::PieceWritten
            | Mark::BatchSplitByFullDisk
            | Mark::StartOnFullDisk
            | Mark::Checkpoint
            | Mark::StartFromCheckpoint
            | Mark::CheckpointUnreadable
            | Mark::SegmentReused
            | Mark::EntryMoved
            | Mark::DescriptorsGone
            | Mark::LogOverloaded
            | Mark::SealedBatchDamaged
            | Mark::PersistReordered
            // A node recovers in no time, so nothing can fall into it.
            | Mark::CrashInRecovery
            // Each group has one life, and reads of a turn are answered together.
            | Mark::GroupReborn
            | Mark::GoneReplicaAskedFor
            | Mark::EarlierLifeSpoke
            | Mark::ReadOvertookRead
            // A step takes no time.
            | Mark::StoodAfterLook
            | Mark::StoodBetweenLooks
    )
}
