//! Groups come into being: new, or as the log recovered them.

use std::collections::VecDeque;
use std::sync::Arc;

use raft_core::{Group, LogIndex, Start, StartError};
use raft_storage::{GroupCreate, GroupWrite, RecoveredGroup};
use tracing::error;

use super::io::{
    ApplyJob, ApplyTask, CreateGroup, CreateRefusal, Created, MakeMachine, PersistTicket, SendLane,
    TurnOutput,
};
use super::machine::MachineHost;
use super::payloads::Payloads;
use super::shard_engine::{Durability, ShardEngine};
use super::slot::{Peer, Slot};
use super::timers::Armed;
use crate::group_spec::GroupSpec;
use crate::state_machine::ApplyMode;

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
                // contradicts itself or names nodes that are peers no more, and the group stays
                // down while the others go on.
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
    ) -> Result<u32, StartError> {
        let node = self.options.node;
        let replica = spec.replica_on(node).ok_or(StartError::Voters)?;
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
                voters: spec.replicas.iter().map(|(replica, _)| *replica).collect(),
                seed: self.options.seed ^ (u64::from(spec.group.get()) << 20) ^ node.get(),
                hard_state,
                term_runs,
                last_index,
                applied: LogIndex::ZERO,
                settings: Arc::clone(&self.options.settings),
            },
        )?;
        let peers = spec
            .replicas
            .iter()
            .filter(|(other, _)| *other != replica)
            .map(|(replica, node)| {
                let at = self.peers.iter().position(|peer| peer == node);
                at.map(|at| Peer {
                    replica: *replica,
                    node: *node,
                    at,
                    lane: SendLane::Data,
                    ack_route: None,
                })
            })
            .collect::<Option<Vec<Peer>>>()
            .ok_or(StartError::Voters)?;
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
            payloads: Payloads::after(last_index, last_time),
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
