//! What can happen in a run.

use super::super::faults::Power;
use super::super::network::{NetEvent, Place};
use super::super::tasks::NodeTask;

/// What happens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::sim::bytes) enum Event {
    /// A thread of a node takes its turn.
    Run {
        place: Place,
        life: u32,
        task: NodeTask,
    },
    Net(NetEvent),
    /// The log's sync has ended.
    Synced {
        place: Place,
        life: u32,
    },
    /// The log tries again to get a segment.
    LogRetry {
        place: Place,
        life: u32,
    },
    /// The log has been silent for a while.
    LogIdle {
        place: Place,
        life: u32,
        taken: u64,
    },
    /// A read of the log has ended.
    Read {
        place: Place,
        life: u32,
    },
    /// The apply worker takes its next job.
    Apply {
        place: Place,
        life: u32,
    },
    /// The snapshot desk does the next thing that waits.
    Desk {
        place: Place,
        life: u32,
    },
    /// It looks for what is late.
    DeskAlarm {
        place: Place,
        life: u32,
    },
    /// A client begins an operation.
    Ask {
        client: usize,
    },
    /// Its request reaches a node.
    Request {
        client: usize,
        attempt: u64,
    },
    /// The answer reaches the client.
    Answer {
        client: usize,
        attempt: u64,
    },
    /// The client waits no longer.
    GiveUp {
        client: usize,
        attempt: u64,
    },
    Fault(usize),
    FaultEnd(usize),
    /// A process leaves because its log has failed.
    Exit {
        place: Place,
        life: u32,
    },
    Restart {
        place: Place,
        boot: u32,
    },
    Resume {
        place: Place,
    },
    /// The machine of a dead process loses power as well.
    PowerCut {
        place: Place,
        power: Power,
        down_us: u64,
    },
    /// Whether a disk that hangs is its node's affair.
    HangLook,
    /// One of those who lead in the place of a node whose disk hung dies.
    HungLed {
        at: usize,
    },
    Heal,
    /// The clients stop, and every group is asked for a sign of life.
    Probe,
    /// Slow links are slow no more.
    FullPace,
    /// From here on nothing may change any more.
    Settle,
    /// The snapshot workshop does its next job.
    Workshop {
        place: Place,
        life: u32,
    },
    /// Operators do the next thing.
    Operator,
    /// Somebody looks whether a loss is to be accepted.
    Losses,
    /// All replicas are asked for their states.
    Digest,
    /// All logs are read from end to end.
    Sweep,
}

impl Event {
    /// What the hash of a run takes of it.
    pub(super) fn number(&self) -> u64 {
        let number = match *self {
            Self::Run { place, task, .. } => 1 << 8 | place << 4 | task.number(),
            Self::Net(event) => match event {
                NetEvent::Arrive { pipe, from } => 2 << 40 | (pipe as usize) << 1 | from,
                NetEvent::Syn { pipe } => 3 << 40 | pipe as usize,
                NetEvent::Connected { pipe } => 4 << 40 | pipe as usize,
                NetEvent::Refused { pipe } => 5 << 40 | pipe as usize,
                NetEvent::DialTimeout { pipe } => 6 << 40 | pipe as usize,
                NetEvent::PrefixTimeout { pipe } => 7 << 40 | pipe as usize,
                NetEvent::Reset { pipe, side } => 8 << 40 | (pipe as usize) << 1 | side,
            },
            Self::Synced { place, .. } => 2 << 8 | place,
            Self::LogRetry { place, .. } => 3 << 8 | place,
            Self::LogIdle { place, .. } => 4 << 8 | place,
            Self::Read { place, .. } => 5 << 8 | place,
            Self::Apply { place, .. } => 6 << 8 | place,
            Self::Ask { client } => 7 << 8 | client,
            Self::Request { client, .. } => 8 << 8 | client,
            Self::Answer { client, .. } => 9 << 8 | client,
            Self::GiveUp { client, .. } => 10 << 8 | client,
            Self::Fault(at) => 11 << 16 | at,
            Self::FaultEnd(at) => 12 << 16 | at,
            Self::Exit { place, .. } => 13 << 8 | place,
            Self::Restart { place, .. } => 14 << 8 | place,
            Self::Resume { place } => 15 << 8 | place,
            Self::PowerCut { place, .. } => 16 << 8 | place,
            Self::Heal => 17 << 8,
            Self::Probe => 18 << 8,
            Self::FullPace => 30 << 8,
            Self::HangLook => 31 << 8,
            Self::HungLed { at } => 32 << 16 | at,
            Self::Settle => 19 << 8,
            Self::Sweep => 20 << 8,
            Self::Desk { place, .. } => 21 << 8 | place,
            Self::DeskAlarm { place, .. } => 22 << 8 | place,
            Self::Operator => 23 << 8,
            Self::Digest => 24 << 8,
            Self::Losses => 26 << 8,
            Self::Workshop { place, .. } => 25 << 8 | place,
        };
        number as u64
    }
}
