//! What goes into a shard's engine and what comes out of a turn: plain data, like the core's own
//! inputs and effects, for many groups at once.

use std::sync::Arc;

use raft_core::{
    DiskSpace, Entry, GroupId, GroupIncarnation, Incarnation, LogIndex, LogTime, MemberChange,
    Micros, NodeId, PersistSeq, ReplicaId, SnapshotMeta, Term, Tombstone,
};
use raft_storage::GroupWrite;
use raft_transport::{
    Condition, ConnectionId, Envelope, Frame, HeartbeatItem, HeartbeatReplyItem, LaneLayout,
};

use super::log_load::LogLoad;
use super::log_time::Told;
use super::machine::{Applied, BrokenMachine, MachineHost, MachineState};
use super::reads::Reads;
use crate::bodies::NewMachine;
use crate::event::Event;
use crate::group_spec::GroupSpec;
use crate::persistence::FlushPolicy;
use crate::request::{Removal, Reply, Request};
use crate::snapshot::desk::DeskInput;
use crate::snapshot::{Restored, SnapshotName};

/// Who sent something, and how its answer travels back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Source {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) route: Route,
    /// What its wall clock showed, if it has told, and when it did.
    pub(crate) clock: Option<Told>,
}

/// The way back to a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Route {
    /// The control lanes.
    Control,
    /// A connection of the data lane that shard `shard` owns.
    Data { shard: usize, connection: ConnectionId },
    /// A connection of a lane that carries for all shards.
    Carried(CarrierConnection),
}

/// The thread that carries for all shards: what it sends on is the layout's choice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Via {
    Control,
    Bulk,
}

impl Via {
    /// Who carries for a node that sends by this layout.
    pub(crate) const fn of(layout: LaneLayout) -> Self {
        match layout {
            LaneLayout::Single => Self::Control,
            LaneLayout::ControlBulk | LaneLayout::ControlDataBulk => Self::Bulk,
        }
    }
}

/// A connection of the lane that one of them carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct CarrierConnection {
    pub(crate) via: Via,
    pub(crate) connection: ConnectionId,
}

/// One thing that happened.
pub(crate) enum EngineInput {
    /// Start a group: new, or as the log recovered it.
    Create(Box<CreateGroup>),
    /// A client asks.
    Request(Request),
    /// A peer's message for one group.
    Message(Source, Envelope),
    /// Heartbeats or read confirmations for several groups.
    Heartbeats(Source, Vec<HeartbeatItem>),
    /// Answers to either.
    HeartbeatReplies(Source, Vec<HeartbeatReplyItem>),
    /// The log has these operations on disk.
    Persisted(Vec<(GroupId, PersistTicket)>),
    /// The log has these in the page cache; they come again once they are on disk.
    Written(Vec<(GroupId, PersistTicket)>),
    /// An apply worker got so far.
    Applied(GroupId, Applied),
    /// The state machine that an apply worker runs for this group is out of use.
    MachineBroken(GroupId, BrokenMachine),
    /// The log cannot be read back from this index on.
    FetchFailed(GroupId, LogIndex),
    /// An entry that nobody has asked for was found damaged. What is there by now may be another, or
    /// another replica's.
    LogDamaged(GroupId, LogIndex),
    /// The log was read.
    Fetched(GroupId, Vec<Entry>),
    /// Whether the log finds room on the disk.
    Disk(DiskSpace),
    /// A lane to a peer works (again).
    LaneUp(NodeId, SendLane),
    /// Whatever was in flight to the peer on a lane of this kind is lost.
    LaneDown(NodeId, SendLane),
    /// The lane that carries for all shards took so many bytes.
    BulkSent(NodeId, u64),
    /// Hand over the leadership of a group, to a node or to whoever is furthest.
    Transfer(GroupId, Option<NodeId>, Reply),
    /// Change who belongs to a group.
    ChangeMembers(GroupId, Vec<MemberChange>, Reply),
    /// Let a replica leave.
    Remove(GroupId, Removal, Reply),
    /// A replica of this life of the group was here and is gone, says the log.
    Remember(GroupIncarnation, Tombstone),
    /// The node is going to stop: take no office any more, and hand over what is led here.
    HandOver,
    /// How the log here is, if that has changed.
    OwnCondition(Condition),
    /// What a node said of its log, and when that was heard.
    PeerCondition(NodeId, Condition, Micros),
    /// A digest of a group at its applied index.
    Digest(GroupId, Reply),
    /// Take a snapshot of a group now.
    Snapshot(GroupId, Reply),
    /// A machine on an apply worker gave its state, or has none to give.
    MachineState(GroupId, SnapshotMeta, Option<MachineState>),
    /// A snapshot is durable and so many bytes long, or was not taken.
    SnapshotDone(SnapshotName, Option<u64>),
    /// A snapshot came, is durable, and a machine was made of it.
    SnapshotFetched(SnapshotName, Box<Restored>),
    /// Entries came that it leaves in the log.
    SnapshotEntries(SnapshotName, Vec<Entry>),
    /// It did not come, and nobody goes on trying.
    SnapshotFetchFailed(SnapshotName),
    /// One of our own can serve nobody any more: it is damaged, or gone.
    SnapshotUseless(GroupId, GroupIncarnation, LogIndex),
    /// The log cannot read an entry that a peer fetches with a snapshot of ours.
    KeptUnreadable((GroupId, GroupIncarnation), LogIndex, Term),
    /// Nothing is under way any more, and nothing kept, in the name of a replica that leaves.
    SnapshotsForgotten(GroupId),
}

/// The lanes appends travel on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SendLane {
    /// The shard's own.
    Data,
    /// The one that carries for all shards, whatever its name in the layout.
    Bulk,
}

/// A group to be started.
pub(crate) struct CreateGroup {
    pub(crate) spec: GroupSpec,
    /// Makes the state machine; asked only if the group is not here yet.
    pub(crate) maker: MakeMachine,
    pub(crate) recovered: Option<raft_storage::RecoveredGroup>,
    /// The machine of the newest snapshot, if there is one.
    pub(crate) restored: Option<Restored>,
    /// Told when the group is on disk, or why it is not. Dropped if the node stops first.
    pub(crate) done: CreateDone,
}

/// Makes a group's state machine.
pub(crate) type MakeMachine = Arc<dyn Fn(&GroupSpec) -> NewMachine + Send + Sync>;

/// Says how a creation ended.
pub(crate) type CreateDone = Box<dyn FnOnce(Result<Created, CreateRefusal>) + Send>;

/// Why a group was not created.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum CreateRefusal {
    /// The id is in use by this group.
    SpecDiffers(GroupSpec),
    /// The log holds the group, and it could not be started from what the log holds. A new one
    /// must not take its place while it is there: it would not remember what the old one promised.
    Unusable,
    /// A replica of the group is just leaving.
    Leaving,
    /// Its machine leaves payloads in the log, and this node keeps none.
    NeedsLog,
    /// This replica was here and is gone: no replica with its id or a smaller one may come.
    ReplicaUsed(ReplicaId),
    /// The log has lost bytes in which the group may have been. A new one under the same name would not
    /// remember what it promised.
    MayBeForgotten,
}

/// Whether a creation made something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Created {
    /// The group is new.
    New,
    /// It was there already, with the same spec.
    Existed,
}

/// Names a persist operation to the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PersistTicket {
    /// The creation of the group.
    Create,
    /// The core's operation.
    Op(PersistSeq),
    /// So many bytes of entries that this snapshot leaves in the log.
    Fetched(SnapshotName, u64),
    /// Of those that were fetched, none is wanted any more.
    DropFetched,
    /// The core's operation in a group that counts entries as soon as they are written: to be told
    /// then, and again when it is on disk. Its sync may wait as the policy says.
    Early(PersistSeq, FlushPolicy),
    /// The end of the group.
    Destroy,
}

/// Everything one turn wants done. Reused; the driver drains it.
#[derive(Default)]
pub(crate) struct TurnOutput {
    /// To be made durable together, in this order.
    pub(crate) persist: Vec<GroupWrite>,
    /// What each of them is to be acknowledged as.
    pub(crate) persist_tickets: Vec<(GroupId, PersistTicket)>,
    /// Bytes that were counted as the log's before it was given them.
    pub(crate) taken: u64,
    /// Messages for the control lane.
    pub(crate) control: Vec<(NodeId, Envelope)>,
    /// Scheduled heartbeats.
    pub(crate) heartbeats: Vec<(NodeId, HeartbeatItem)>,
    /// Read confirmations, to leave at once on the data lane.
    pub(crate) read_confirms: Vec<(NodeId, HeartbeatItem)>,
    /// Messages for the data lane, to leave at once.
    pub(crate) data: Vec<(NodeId, Envelope)>,
    /// Answers to heartbeats that came over the control lane.
    pub(crate) heartbeat_replies: Vec<(NodeId, HeartbeatReplyItem)>,
    /// Frames that answer on the connection their question came by.
    pub(crate) replies: Vec<(Route, Frame)>,
    /// Appends for the lane that carries for all shards.
    pub(crate) bulk: Vec<(NodeId, Envelope, u64)>,
    /// Work for apply workers.
    pub(crate) apply: Vec<ApplyJob>,
    /// Work on snapshots.
    pub(crate) snapshots: Vec<DeskInput>,
    /// Reads of the log.
    pub(crate) fetches: Vec<Fetch>,
    /// Groups that are not led here any more: nobody needs what is left of their appends.
    pub(crate) given_up: Vec<GroupId>,
    /// Groups whose known leader changed.
    pub(crate) leaders: Vec<(GroupId, Option<NodeId>)>,
    /// What else has happened.
    pub(crate) events: Vec<Event>,
}

impl TurnOutput {
    /// Counts what the log is given now, in the place of what was taken for it.
    pub(crate) fn count_load(&mut self, load: &LogLoad) {
        load.add(self.persist.iter().map(GroupWrite::cost).sum());
        load.remove(std::mem::take(&mut self.taken));
    }
}

/// How far a shard is that hands over what it leads.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct HandingOver {
    /// Groups that are still led here.
    pub(crate) led: usize,
    /// Groups that are worth waiting for.
    pub(crate) open: usize,
    /// Those of them that are still led here; nobody takes over the others.
    pub(crate) unfinished: usize,
}

/// Work for an apply worker, in order per group. Entries and reads wait with the shard once a few
/// jobs of the group are under way: a slow machine slows down its own clients, and no queue grows.
pub(crate) struct ApplyJob {
    pub(crate) group: GroupId,
    pub(crate) task: ApplyTask,
}

pub(crate) enum ApplyTask {
    Start(Box<MachineHost>),
    Entries(Vec<Entry>, Vec<(LogIndex, Reply)>),
    Reads(LogTime, Reads),
    Digest(Reply),
    /// The machine gives its state.
    Snapshot(SnapshotMeta),
    /// Another machine takes its place.
    Replace(Box<Restored>),
    /// The machine is dropped.
    Stop,
}

/// A read of the log: entries from `first` to at most `last`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Fetch {
    pub(crate) group: GroupId,
    pub(crate) first: LogIndex,
    pub(crate) last: LogIndex,
}
