//! Where a run has been: the rare states that a sweep should have reached.
//!
//! Wires, disks, nodes and clients note what they see when they see it; what replicas go through
//! is read off them after each step. Nothing here decides anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use raft_core::{Group, GroupId, Incarnation, LogIndex, Micros, Promise, RoleKind, Term};

use super::network::Place;
use crate::sim::marks::{Mark, Marks};

/// The marks of a run. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Sightings(Arc<Mutex<Marks>>);

impl Sightings {
    pub(super) fn hit(&self, mark: Mark) {
        self.0.lock().hit(mark);
    }

    pub(super) fn hit_if(&self, seen: bool, mark: Mark) {
        if seen {
            self.hit(mark);
        }
    }

    pub(super) fn marks(&self) -> Marks {
        self.0.lock().clone()
    }
}

/// Whether this profile can see a mark: it has bytes, lanes and sectors, and no way to sleep.
pub(crate) const fn concerns(mark: Mark) -> bool {
    matches!(
        mark,
        Mark::LeaderElected
            | Mark::ElectionLost
            | Mark::CandidateSawHigherTerm
            | Mark::LeaderDeposedByTerm
            | Mark::LeaderWithoutQuorum
            | Mark::ConflictTruncated
            | Mark::AppendRejected
            | Mark::AppendStale
            | Mark::UncommittedLimit
            | Mark::CommitSkipped
            | Mark::TailSuperseded
            | Mark::BatchOfManyGroups
            | Mark::BatchSplit
            | Mark::LargeOnSlowLane
            | Mark::PutBack
            | Mark::FrameInChunks
            | Mark::LaneDownToTwo
            | Mark::LearnerAdded
            | Mark::LearnerPromoted
            | Mark::PromotionTooEarly
            | Mark::JointEntered
            | Mark::JointLeftByOther
            | Mark::ConfigTruncated
            | Mark::ConfigRefusedPending
            | Mark::LeaderRemoved
            | Mark::ReplicaReplaced
            | Mark::ElectionUnderJoint
            | Mark::ReplicaDeleted
            | Mark::GroupReborn
            | Mark::GoneReplicaAskedFor
            | Mark::EarlierLifeSpoke
            | Mark::TombstoneSpoke
            | Mark::SnapshotSent
            | Mark::SnapshotInstalled
            | Mark::SnapshotInterrupted
            | Mark::SnapshotRefused
            | Mark::SnapshotConflict
            | Mark::SnapshotWithConfig
            | Mark::CrashDuringInstall
            | Mark::SnapshotConflictCrash
            | Mark::SnapshotOutpaced
            | Mark::SnapshotOfLaggard
            | Mark::SnapshotResumed
            | Mark::DeclinedUnderCompaction
            | Mark::ConfigTailLost
            | Mark::EntryKept
            | Mark::EntryFetched
            | Mark::LogHeld
            | Mark::LogHeldTooLong
            | Mark::ReadConfirmed
            | Mark::ReadFailedOver
            | Mark::ReadAtFollower
            | Mark::ReadOvertookRead
            | Mark::LeaseRead
            | Mark::LeaseExpired
            | Mark::LeaseExpiredInPause
            | Mark::LeaseEndedByTransfer
            | Mark::TransferDone
            | Mark::TransferTimedOut
            | Mark::TransferRefused
            | Mark::ProposalDuringTransfer
            | Mark::TornTail
            | Mark::UnsyncedLost
            | Mark::PersistReordered
            | Mark::FsyncFailed
            | Mark::AnswerLeftOut
            | Mark::KeptEntryUnreadable
            | Mark::DiskFullSeen
            | Mark::DiskStallSeen
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
            | Mark::LedByNoHungDisk
            | Mark::MostDisksHung
            | Mark::DiskHungAgain
            | Mark::ElectedBesideAiling
            | Mark::LogOverloaded
            | Mark::LogReadOvertook
            | Mark::SealedBatchDamaged
            | Mark::BlockUnreadable
            | Mark::SnapshotRetaken
            | Mark::StateLost
            | Mark::DamageRepaired
            | Mark::DamagedWhileRunning
            | Mark::DamageReported
            | Mark::SyncOfBoth
            | Mark::KillVouchedFor
            | Mark::PowerTookCounted
            | Mark::LossAccepted
            | Mark::LossWithoutRoom
            | Mark::CommittedLost
            | Mark::PromiseLostBegan
            | Mark::PromiseLostFenced
            | Mark::LeaderCrashed
            | Mark::CrashBeforePersist
            | Mark::CrashBetweenEffects
            | Mark::CrashAtCheckpoint
            | Mark::CrashInReused
            | Mark::CrashInRecovery
            | Mark::AllDown
            | Mark::QuorumRestarted
            | Mark::PausedLeaderReturned
            | Mark::StoodAfterLook
            | Mark::StoodBetweenLooks
            | Mark::LaneStalled
            | Mark::LaneKilled
            | Mark::LaneChanged
            | Mark::CreditsExhausted
            | Mark::QuestionHeld
            | Mark::FrameCut
            | Mark::OldGenerationFenced
            | Mark::WallJumpOnLeader
            | Mark::WallJumpOnFollower
            | Mark::WallMajorityWrong
            | Mark::StampAtHalfPace
            | Mark::StampHealed
            | Mark::MajorityCutOff
            | Mark::BridgeLed
            | Mark::OneWayCut
            | Mark::StaleLeaderServed
    )
}

/// Looks at each replica after each of its steps.
pub(super) struct Onlooker {
    sightings: Sightings,
    seen: BTreeMap<(GroupId, Place), Glimpse>,
    /// Who was elected, for the world to look at; it takes them after each event.
    pub(super) elected: Vec<(GroupId, Place)>,
    /// Nodes whose disks are full.
    pub(super) full: BTreeSet<Place>,
    /// Where the membership of a replica stood when its process died.
    left: BTreeMap<(GroupId, Place), LogIndex>,
}

/// A replica when it was looked at last.
#[derive(Clone, Copy)]
struct Glimpse {
    life: Incarnation,
    role: RoleKind,
    term: Term,
    commit: LogIndex,
    last: (LogIndex, Term),
    base: LogIndex,
    snapshot: LogIndex,
    /// Where the membership in force stands, and what it is.
    config: (LogIndex, Form),
    disk: Disk,
    lease: Option<Micros>,
    rest: Rest,
    is_mute: bool,
    promise: Promise,
}

/// What a membership is.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Form {
    Simple,
    Joint,
}

/// Whether a replica's disk has all that its log has.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Disk {
    KeepsUp,
    LagsBehind,
}

/// Whether a process was stopped in this life.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Rest {
    None,
    Paused,
}

/// Such a leap of the commit index is more than a window of small appends.
const LEAP: u64 = 64;
/// A machine that lags by so many entries is far behind, where snapshots are taken every few.
const LAGS: u64 = 12;

impl Glimpse {
    fn of(core: &Group, rest: Rest) -> Self {
        let status = core.status();
        let lags = status.durable_index < status.last_index;
        let form = if core.membership().is_joint() { Form::Joint } else { Form::Simple };
        Self {
            life: core.incarnation(),
            role: status.role,
            term: status.term,
            commit: status.commit_index,
            last: (status.last_index, status.last_term),
            base: status.base_index,
            snapshot: status.snapshot_index,
            config: (core.membership_index(), form),
            disk: if lags { Disk::LagsBehind } else { Disk::KeepsUp },
            lease: core.lease_until(),
            rest,
            is_mute: status.fault.is_some(),
            promise: status.promise.promise,
        }
    }
}

impl Onlooker {
    pub(super) fn new(sightings: Sightings) -> Self {
        let (full, left) = (BTreeSet::new(), BTreeMap::new());
        Self { sightings, seen: BTreeMap::new(), elected: Vec::new(), full, left }
    }

    /// A replica has made a step, at this moment by its own clock.
    pub(super) fn stepped(&mut self, place: Place, now: Micros, core: &Group) {
        let key = (core.id(), place);
        let before = self.seen.get(&key).filter(|before| before.life == core.incarnation());
        let Some(before) = before.copied() else {
            let begins = Glimpse::of(core, Rest::None);
            self.sightings.hit_if(begins.promise == Promise::Lost, Mark::PromiseLostBegan);
            self.seen.insert(key, begins);
            let left = self.left.remove(&key);
            let lost = left.is_some_and(|index| core.last_index() < index);
            self.sightings.hit_if(lost, Mark::ConfigTailLost);
            return;
        };
        let after = Glimpse::of(core, before.rest);
        self.compare(now, before, after, core);
        if after.role == RoleKind::Leader && before.role != RoleKind::Leader {
            self.elected.push((core.id(), place));
        }
        self.seen.insert(key, after);
    }

    fn compare_logs(&self, before: Glimpse, after: Glimpse, core: &Group) {
        let marks = &self.sightings;
        let (last, last_term) = before.last;
        let contradicted = last > after.base && core.entry_term(last) != Some(last_term);
        marks.hit_if(contradicted, Mark::ConflictTruncated);
        marks.hit_if(after.commit.get() > before.commit.get() + LEAP, Mark::CommitSkipped);
        // The log is compacted no further than it was committed.
        if after.base > before.commit {
            marks.hit(Mark::SnapshotInstalled);
            let mut others = self.seen.range((core.id(), 0)..=(core.id(), Place::MAX));
            let outpaced = others
                .any(|(_, other)| other.role == RoleKind::Leader && other.snapshot > after.base);
            marks.hit_if(outpaced, Mark::SnapshotOutpaced);
            marks.hit_if(last > after.base, Mark::SnapshotConflict);
            marks.hit_if(after.config.0 > last, Mark::SnapshotWithConfig);
        }
        let lags = after.commit.get() > after.snapshot.get() + LAGS;
        marks.hit_if(after.snapshot > before.snapshot && lags, Mark::SnapshotOfLaggard);
        if after.role == RoleKind::Leader && after.base > before.base {
            let behind = |place: &Place| {
                let seen = self.seen.get(&(core.id(), *place));
                seen.is_some_and(|seen| seen.last.0 < after.base)
            };
            marks.hit_if(self.full.iter().any(behind), Mark::DeclinedUnderCompaction);
        }
        let ((was_at, was), (is_at, is)) = (before.config, after.config);
        marks.hit_if(is_at < was_at, Mark::ConfigTruncated);
        if is_at > was_at && is == Form::Joint {
            marks.hit(Mark::JointEntered);
        } else if is_at > was_at && was == Form::Joint && after.role == RoleKind::Leader {
            let began = core.entry_term(was_at);
            marks.hit_if(began.is_some_and(|term| term < after.term), Mark::JointLeftByOther);
        }
    }

    fn compare(&self, now: Micros, before: Glimpse, after: Glimpse, core: &Group) {
        let marks = &self.sightings;
        let (led, leads) = (before.role == RoleKind::Leader, after.role == RoleKind::Leader);
        if leads && !led {
            marks.hit(Mark::LeaderElected);
            marks.hit_if(after.config.1 == Form::Joint, Mark::ElectionUnderJoint);
            let mut others = self.seen.range((core.id(), 0)..=(core.id(), Place::MAX));
            let also = others.any(|(_, other)| other.role == RoleKind::Leader);
            marks.hit_if(also, Mark::StaleLeaderServed);
        }
        if led && !leads {
            if after.term > before.term {
                marks.hit(Mark::LeaderDeposedByTerm);
                marks.hit_if(before.rest == Rest::Paused, Mark::PausedLeaderReturned);
            } else if core.membership().member(core.replica()).is_none() {
                marks.hit(Mark::LeaderRemoved);
            } else if !after.is_mute && core.membership().is_voter(core.replica()) {
                marks.hit(match before.disk {
                    Disk::KeepsUp => Mark::LeaderWithoutQuorum,
                    Disk::LagsBehind => Mark::DiskStallSeen,
                });
            }
        }
        if let Some(until) = before.lease
            && leads
            && after.lease.is_none()
        {
            marks.hit(match before.rest {
                _ if until > now => Mark::LeaseEndedByTransfer,
                Rest::None => Mark::LeaseExpired,
                Rest::Paused => Mark::LeaseExpiredInPause,
            });
        }
        if before.role == RoleKind::Candidate && after.role == RoleKind::Follower {
            marks.hit(if after.term > before.term {
                Mark::CandidateSawHigherTerm
            } else {
                Mark::ElectionLost
            });
        }
        let fenced = before.promise == Promise::Lost && after.promise == Promise::Kept;
        marks.hit_if(fenced, Mark::PromiseLostFenced);
        self.compare_logs(before, after, core);
    }

    /// Who leads, as far as they know themselves.
    pub(super) fn leaders(&self) -> Vec<(GroupId, Place)> {
        let led = self.seen.iter().filter(|(_, seen)| seen.role == RoleKind::Leader);
        led.map(|(key, _)| *key).collect()
    }

    /// A process that was stopped goes on.
    pub(super) fn resumed(&mut self, place: Place) {
        let here = self.seen.iter_mut().filter(|((_, at), _)| *at == place);
        here.for_each(|(_, seen)| seen.rest = Rest::Paused);
    }

    /// A replica is gone from a node.
    pub(super) fn buried(&mut self, place: Place, group: GroupId) {
        self.seen.remove(&(group, place));
    }

    /// A process is gone. Says which groups it led.
    pub(super) fn gone(&mut self, place: Place) -> Vec<GroupId> {
        let mut led = Vec::new();
        self.seen.retain(|(group, at), seen| {
            if *at == place && seen.role == RoleKind::Leader {
                led.push(*group);
            }
            if *at == place {
                self.left.insert((*group, place), seen.config.0);
            }
            *at != place
        });
        led
    }
}
