//! Nodes that stop in order: they take no office, hand over what they lead, and go down.
//!
//! The driver's part, as any driver has it: it tells the cores, hands over group by group, tries
//! again what nobody could take over yet, and tells the core of an heir whether its state machine
//! is far enough.

use raft_core::{Candidacy, GroupId, Incarnation, Input, LogIndex, RoleKind};

use super::disk::Stop;
use super::network::NodeAt;
use super::replica::Replica;
use super::timeline::Event;
use super::world::World;
use crate::sim::marks::Mark;
use crate::sim::trace::EventKind;
use crate::sim::violation::{Check, Violation};

/// Entries that the state machine of an heir may lack.
const HEIR_LAG_MAX: u64 = 4;

/// How often a node that stops looks whether it is done.
const LOOK_US: u64 = 20_000;

impl World {
    /// A node is asked to stop. It goes down when it leads nothing any more, `patience_us` later in
    /// any case.
    pub(super) fn ask_to_stop(&mut self, at: NodeAt, patience_us: u64) -> bool {
        let node = &mut self.nodes[at];
        if !node.is_up() || node.stopping {
            return false;
        }
        node.stopping = true;
        let life = node.incarnation;
        let leads = |replica: &Replica| replica.core.is_leader();
        node.hands_over = node.replicas.values().any(|replica| leads(replica));
        let groups: Vec<GroupId> = node.replicas.keys().copied().collect();
        self.tell(at, None, EventKind::Process, 10, || "asked to stop".to_owned());
        for group in groups {
            self.step(at, group, Input::Candidacy(Candidacy::Withheld), &[]);
        }
        let until = self.now + patience_us;
        self.queue.push(self.now, Event::Stopping { node: at, life, until });
        true
    }

    /// Goes on with handing over.
    pub(super) fn stopping(&mut self, at: NodeAt, life: Incarnation, until: u64) {
        let leads = |replica: &Replica| replica.core.is_leader();
        let led: Vec<GroupId> = self.nodes[at]
            .replicas
            .iter()
            .filter(|(_, replica)| leads(replica))
            .map(|(group, _)| *group)
            .collect();
        if led.is_empty() || self.now >= until {
            if led.is_empty() && self.nodes[at].hands_over {
                self.mark(Mark::StopHandedOver);
            }
            self.crash(at, Stop::Process);
            return;
        }
        for group in led {
            let asked = self.nodes[at].transfers.get(&group).copied();
            let Some(replica) = self.nodes[at].replicas.get(&group) else { continue };
            if asked.is_none_or(|asked| !replica.open.contains(&asked)) {
                let token = self.token();
                self.nodes[at].transfers.insert(group, token);
                self.step(at, group, Input::Transfer { token, to: None }, &[]);
            }
        }
        self.queue.push(self.now + LOOK_US, Event::Stopping { node: at, life, until });
    }

    /// A fault that is over starts the node again, whether it is down yet or not.
    pub(super) fn stop_is_over(&mut self, at: NodeAt) {
        if self.nodes[at].stopping {
            self.crash(at, Stop::Process);
        }
        self.start(at);
    }

    /// The core of an heir is told whether it may take over from a leader that has committed so
    /// much.
    pub(super) fn judge_candidacy(&mut self, at: NodeAt, group: GroupId, commit: LogIndex) {
        let Some(replica) = self.nodes[at].replicas.get(&group) else { return };
        let known = replica.core.commit_index().max(commit);
        let candidacy = if self.nodes[at].stopping {
            Candidacy::Withheld
        } else if known > replica.machine.applied.plus(HEIR_LAG_MAX) {
            Candidacy::Behind
        } else {
            Candidacy::Ready
        };
        match candidacy {
            Candidacy::Withheld => self.mark(Mark::StopDeclined),
            Candidacy::Behind => self.mark(Mark::HeirBehind),
            Candidacy::Ready => {}
        }
        self.step(at, group, Input::Candidacy(candidacy), &[]);
    }
}

/// A node that was asked to stop comes to lead nothing, and does not try to.
pub(super) fn takes_no_office(before: RoleKind, replica: &Replica) -> Result<(), Violation> {
    let after = replica.core.role_kind();
    let rightly = match after {
        RoleKind::Follower => true,
        RoleKind::PreCandidate | RoleKind::Candidate => false,
        RoleKind::Leader => before == RoleKind::Leader,
    };
    if rightly || replica.candidacy != Candidacy::Withheld {
        return Ok(());
    }
    let evidence = format!("{:?} was told to take no office, and is {after:?}", replica.id());
    Err(Violation::of_group(Check::NoOffice, replica.group(), evidence))
}
