//! The tasks of a run and who woke them: what a runtime's scheduler would know.
//!
//! A node's threads are tasks here, and so is each client that waits for an answer. Waking is a
//! note in a list, taken in the order of the notes; when a task runs is for the world to say.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Wake, Waker};

use parking_lot::Mutex;
use raft_transport::Lane;

use super::network::Place;

/// A node has no more shards than this here.
pub(super) const SHARDS_MAX: usize = 3;

const NODE_TASKS: u32 = 2 + SHARDS_MAX as u32;

/// Clients come behind the tasks of this many nodes.
const NODES_MAX: u32 = 16;

/// A task of the run.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct TaskId(u32);

/// A thread of a node that holds lanes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NodeTask {
    Control,
    Bulk,
    Shard(usize),
}

/// What a task is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Task {
    Node(Place, NodeTask),
    Client(usize),
}

impl NodeTask {
    /// Who holds a lane.
    pub(super) fn of(lane: Lane) -> Self {
        match lane {
            Lane::Control => Self::Control,
            Lane::Bulk => Self::Bulk,
            Lane::Data { shard } => Self::Shard(usize::from(shard)),
        }
    }

    pub(super) fn number(self) -> usize {
        match self {
            Self::Control => 0,
            Self::Bulk => 1,
            Self::Shard(shard) => 2 + shard,
        }
    }
}

impl TaskId {
    pub(super) fn of(place: Place, task: NodeTask) -> Self {
        Self(place as u32 * NODE_TASKS + task.number() as u32)
    }

    pub(super) fn client(client: usize) -> Self {
        Self(NODES_MAX * NODE_TASKS + client as u32)
    }

    pub(super) fn task(self) -> Task {
        let Self(number) = self;
        if number >= NODES_MAX * NODE_TASKS {
            return Task::Client((number - NODES_MAX * NODE_TASKS) as usize);
        }
        let place = (number / NODE_TASKS) as usize;
        let task = match number % NODE_TASKS {
            0 => NodeTask::Control,
            1 => NodeTask::Bulk,
            shard => NodeTask::Shard(shard as usize - 2),
        };
        Task::Node(place, task)
    }
}

/// The tasks that were woken, in order.
#[derive(Clone, Default)]
pub(super) struct Wakes(Arc<Mutex<Vec<TaskId>>>);

impl Wakes {
    /// A waker for a task. It notes the task once, until that is [taken](Note::clear).
    pub(super) fn waker(&self, id: TaskId) -> (Arc<Note>, Waker) {
        let note = Arc::new(Note { id, noted: AtomicBool::new(false), list: Arc::clone(&self.0) });
        (Arc::clone(&note), Waker::from(note))
    }

    pub(super) fn take(&self, into: &mut Vec<TaskId>) {
        into.append(&mut self.0.lock());
    }
}

/// One task's place in the list.
pub(super) struct Note {
    id: TaskId,
    noted: AtomicBool,
    list: Arc<Mutex<Vec<TaskId>>>,
}

impl Note {
    /// The task is about to run: the next wake counts again.
    pub(super) fn clear(&self) {
        self.noted.store(false, Relaxed);
    }
}

impl Wake for Note {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.noted.swap(true, Relaxed) {
            self.list.lock().push(self.id);
        }
    }
}
