//! Groups come into being: new, or as the log recovered them.

use std::collections::VecDeque;
use std::sync::Arc;

use raft_core::{
    Base, Group, LogIndex, Member, Membership, MembershipError, PromiseRecord, Standing, Start,
    StartError,
};
use raft_storage::{GroupCreate, GroupWrite, RecoveredGroup};
use tracing::error;

use super::io::{
    ApplyJob, ApplyTask, CreateGroup, CreateRefusal, Created, MakeMachine, PersistTicket,
    TurnOutput,
};
use super::machine::MachineHost;
use super::payloads::Payloads;
use super::peers::Peers;
use super::shard_engine::{Durability, ShardEngine};
use super::slot::Slot;
use super::timers::Armed;
use crate::group_spec::GroupSpec;
use crate::state_machine::ApplyMode;

/// Why a group does not start from its spec and what the log recovered.
#[derive(Debug, thiserror::Error)]
pub(super) enum SlotError {
    /// Spec and log contradict each other, or themselves.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The spec names no sound membership.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The spec names no replica for this node.
    #[error("no replica of the group lives on this node")]
    NotHere,
}

impl ShardEngine {
    pub(super) fn on_create(&mut self, create: CreateGroup, out: &mut TurnOutput) {
        let CreateGroup { spec, machine, recovered, done } = create;
        let group = spec.group;
        if let Some(at) = self.slot_of(group) {
            let slot = &mut self.slots[at as usize];
            if *slot.spec != spec {
                done(Err(CreateRefusal::SpecDiffers(GroupSpec::clone(&slot.spec))));
            } else if slot.is_on_disk {
                done(Ok(Created::Existed));
            } else {
                slot.created.push((done, Created::Existed));
            }
            return;
        }
        if self.unusable.contains(&group) {
            done(Err(CreateRefusal::Unusable));
            return;
        }
        let is_new = recovered.is_none();
        match self.add_slot(spec, machine, recovered, out) {
            Ok(at) => {
                self.by_group.insert(group, at);
                #[cfg(feature = "sim")]
                self.show(at);
                self.touch(at);
                let slot = &mut self.slots[at as usize];
                slot.is_on_disk = !is_new || self.options.durability == Durability::Memory;
                if !is_new {
                    done(Ok(Created::Existed));
                    return;
                }
                match self.options.durability {
                    Durability::Memory => done(Ok(Created::New)),
                    Durability::Log => {
                        let mut write = GroupWrite::new(group);
                        write.create = Some(GroupCreate {
                            incarnation: slot.incarnation,
                            spec: slot.spec.encode(),
                        });
                        out.persist.push(write);
                        out.persist_tickets.push((group, PersistTicket::Create));
                        slot.created.push((done, Created::New));
                    }
                }
            }
            Err(error) => {
                // The spec was checked before it came here; this is a recovered log that
                // contradicts itself, and the group stays down while the others go on.
                error!(%group, %error, "cannot start the group");
                self.unusable.insert(group);
                done(Err(CreateRefusal::Unusable));
            }
        }
    }

    pub(super) fn add_slot(
        &mut self,
        spec: GroupSpec,
        machine: MakeMachine,
        recovered: Option<RecoveredGroup>,
        out: &mut TurnOutput,
    ) -> Result<u32, SlotError> {
        let node = self.options.node;
        let replica = spec.replica_on(node).ok_or(SlotError::NotHere)?;
        let membership = Membership::new(spec.replicas.iter().map(|(replica, node)| Member {
            replica: *replica,
            node: *node,
            standing: Standing::Voter,
        }))?;
        let (hard_state, term_runs, last_index, last_time) = match recovered {
            None => Default::default(),
            Some(r) => (r.hard_state, r.term_runs, r.last_index, r.last_time),
        };
        let core = Group::new(
            self.now,
            Start {
                group: spec.group,
                replica,
                incarnation: self.options.incarnation,
                base: Base::first(membership),
                configs: Vec::new(),
                seed: self.options.seed ^ (u64::from(spec.group.get()) << 20) ^ node.get(),
                hard_state,
                term_runs,
                last_index,
                log_time: last_time,
                applied: LogIndex::ZERO,
                promise: PromiseRecord::default(),
                settings: Arc::clone(&self.options.settings),
            },
        )?;
        let mut peers = Peers::default();
        peers.follow(replica, core.membership(), |node| self.place_of(node));
        let machine = machine(&spec);
        let inline = match machine.mode() {
            ApplyMode::Inline => Some(MachineHost::new(machine)),
            ApplyMode::Worker => {
                let task = ApplyTask::Start(machine);
                out.apply.push(ApplyJob { group: spec.group, task });
                None
            }
        };
        let at = self.slots.len() as u32;
        self.slots.push(Slot {
            incarnation: spec.incarnation,
            spec: Arc::new(spec),
            core,
            peers,
            payloads: Payloads::after(last_index),
            uses_window: false,
            cold: Vec::new(),
            fetching: None,
            persist: None,
            gated: Vec::new(),
            appliable: LogIndex::ZERO,
            dispatched: LogIndex::ZERO,
            waiters: VecDeque::new(),
            reads_new: Vec::new(),
            reads_asked: VecDeque::new(),
            reads_confirmed: VecDeque::new(),
            inline,
            applied: Default::default(),
            jobs: 0,
            armed: Armed::default(),
            touched: false,
            was_leader: false,
            known_leader: None,
            is_on_disk: false,
            created: Vec::new(),
        });
        Ok(at)
    }
}
