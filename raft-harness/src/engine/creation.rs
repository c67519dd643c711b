//! Groups come into being: new, or as the log recovered them.

use std::collections::VecDeque;
use std::sync::Arc;

use raft_core::{
    Base, Candidacy, DiskSpace, Group, Input, LogIndex, LogTime, Membership, MembershipError,
    PersistSeq, Promise, Start, StartError,
};
use raft_storage::{GroupCreate, GroupWrite, RecoveredGroup};

use super::io::{
    ApplyJob, ApplyTask, CreateGroup, CreateRefusal, Created, MakeMachine, PersistTicket,
    TurnOutput,
};
use super::log_time::LogClock;
use super::machine::MachineHost;
use super::payloads::Payloads;
use super::peers::Peers;
use super::reads::NewReads;
use super::shard_engine::{Durability, ShardEngine};
use super::slot::Slot;
use super::snapshots::Snapshots;
use super::timers::Armed;
use super::unusable::{Unusable, stateless};
use crate::group_spec::{GroupSpec, Origin};
use crate::persistence::Strategy;
use crate::snapshot::Restored;
use crate::snapshot::fitting::is_stateless;
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
    /// Its machine leaves payloads in the log, and this node keeps none.
    #[error("its state machine keeps entries in the log, and this node keeps no log")]
    NeedsLog,
}

impl ShardEngine {
    pub(super) fn on_create(&mut self, create: CreateGroup, out: &mut TurnOutput) {
        let CreateGroup { mut spec, maker, recovered, restored, done } = create;
        let group = spec.group;
        if let Some(at) = self.slot_of(group) {
            let slot = &mut self.slots[at as usize];
            if !slot.spec.is_wanted(&spec, self.options.node) {
                done(Err(CreateRefusal::SpecDiffers(GroupSpec::clone(&slot.spec))));
            } else if slot.is_on_disk {
                done(Ok(Created::Existed));
            } else {
                slot.created.push((done, Created::Existed));
            }
            return;
        }
        if let Some(leaving) = self.leaving.get(&group) {
            let node = self.options.node;
            let is_wanted = leaving
                .successor
                .as_ref()
                .is_some_and(|successor| successor.spec.is_wanted(&spec, node));
            done(if is_wanted { Ok(Created::Existed) } else { Err(CreateRefusal::Leaving) });
            return;
        }
        if let Some((incarnation, tombstone)) = self.tombstones.get(&group) {
            let replica = spec.replica_on(self.options.node);
            let used = spec.incarnation <= *incarnation
                && replica.is_none_or(|replica| replica <= tombstone.replica);
            if used || spec.incarnation < *incarnation {
                done(Err(CreateRefusal::ReplicaUsed(tombstone.replica)));
                return;
            }
        }
        if self.unusable.contains_key(&group) {
            done(Err(CreateRefusal::Unusable));
            return;
        }
        let is_new = recovered.is_none();
        if is_new && self.options.creations_lost && spec.origin == Origin::Founding {
            done(Err(CreateRefusal::MayBeForgotten));
            return;
        }
        // From here on it is what its log says.
        spec.strategy.get_or_insert(self.options.persistence.strategy);
        let held = recovered.as_ref().map(|log| Unusable::holding(&spec, log, self.options.node));
        match self.add_slot(spec, maker, recovered, restored, out) {
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
            Err(SlotError::NeedsLog) => done(Err(CreateRefusal::NeedsLog)),
            Err(error) => {
                // The spec was checked before it came here; this is a recovered log that
                // contradicts itself, and the group stays down while the others go on.
                if let Some(held) = held {
                    self.note_unusable(held, &error);
                }
                done(Err(CreateRefusal::Unusable));
            }
        }
    }

    pub(super) fn add_slot(
        &mut self,
        spec: GroupSpec,
        maker: MakeMachine,
        recovered: Option<RecoveredGroup>,
        restored: Option<Restored>,
        out: &mut TurnOutput,
    ) -> Result<u32, SlotError> {
        let (node, group) = (self.options.node, spec.group);
        let replica = spec.replica_on(node).ok_or(SlotError::NotHere)?;
        let mut recovered = recovered.unwrap_or_default();
        let last_index = recovered.last_index;
        let snapshot = restored.as_ref().map(|restored| restored.meta.clone());
        // Where it is behind the beginning of its log, nobody has the state that it begins with.
        let applied = snapshot.as_ref().map_or(recovered.base.index, |meta| meta.index);
        let is_stateless = is_stateless(&recovered, restored.as_ref());
        if is_stateless {
            recovered.promise.promise = Promise::Unproven;
        }
        let mut snapshots = Snapshots::default();
        if let Some(restored) = &restored {
            snapshots.stands_at(restored);
        }
        snapshots.has_fetched = recovered.has_fetched;
        // A log that is whole does not say with whom the group began.
        let mut base = match (recovered.base, spec.origin) {
            (Base { index: LogIndex::ZERO, membership: None, .. }, Origin::Founding) => {
                Base::first(Membership::new(spec.founders())?)
            }
            (base, Origin::Founding | Origin::Joining) => base,
        };
        base.snapshot = applied;
        // The log of a group may hold no entry any more, and its snapshot still tells the time.
        let mut log_time = snapshot.as_ref().map(|meta| meta.time).unwrap_or_default();
        log_time = log_time.max(recovered.log_time);
        if raft_core::planted!(StampForgottenAtRestart)
            || raft_core::planted!(StampForgottenWithLog) && last_index == base.index
        {
            log_time = LogTime::default();
        }
        let strategy = spec.strategy.unwrap_or_default();
        let mut core = Group::new(
            self.now,
            Start {
                group: spec.group,
                replica,
                incarnation: self.options.incarnation,
                base,
                configs: recovered.configs,
                seed: self.options.seed ^ (u64::from(spec.group.get()) << 20) ^ node.get(),
                hard_state: recovered.hard_state,
                term_runs: recovered.term_runs,
                last_index,
                log_time,
                applied,
                promise: recovered.promise,
                settings: Arc::clone(match strategy {
                    Strategy::DiskFirst => &self.options.settings,
                    Strategy::MemFirst => &self.written_settings,
                }),
            },
        )?;
        let mut peers = Peers::default();
        peers.follow(replica, core.membership(), |node| self.place_of(node));
        let new = match restored {
            Some(restored) => restored.new,
            None => maker(&spec),
        };
        if new.bodies.as_ref().is_some_and(|bodies| !bodies.has_log()) {
            return Err(SlotError::NeedsLog);
        }
        let mode = new.machine.mode();
        let host = match is_stateless {
            true => MachineHost::stateless(group, new),
            false => MachineHost::starting(group, new, snapshot),
        };
        let reached = host.applied();
        let inline = match mode {
            ApplyMode::Inline => Some(host),
            ApplyMode::Worker => {
                let task = ApplyTask::Start(Box::new(host));
                out.apply.push(ApplyJob { group: spec.group, task });
                None
            }
        };
        if self.disk == DiskSpace::Full {
            core.step(self.now, Input::Disk(self.disk), &mut self.effects);
        }
        if self.stopping {
            let withheld = Input::Candidacy(Candidacy::Withheld);
            core.step(self.now, withheld, &mut self.effects);
        }
        let slot = Slot {
            incarnation: spec.incarnation,
            flush: self.options.persistence.flush_of(strategy, spec.flush),
            spec: Arc::new(spec),
            log_clock: LogClock::starting(log_time, self.now),
            core,
            peers,
            payloads: Payloads::after(last_index),
            uses_window: false,
            cold: Vec::new(),
            fetching: None,
            doubted: None,
            persist: None,
            persisting: PersistSeq::default(),
            gated: Vec::new(),
            appliable: applied,
            dispatched: applied,
            waiters: VecDeque::new(),
            reads_new: NewReads::default(),
            reads_asked: VecDeque::new(),
            reads_leased: Vec::new(),
            reads_confirmed: VecDeque::new(),
            maker,
            snapshots,
            inline,
            applied: reached,
            replay_until: last_index,
            broken: is_stateless.then(|| stateless(applied)),
            jobs: 0,
            replaced: 0,
            armed: Armed::default(),
            touched: false,
            was_leader: false,
            known_leader: None,
            declines: false,
            is_withheld: self.stopping,
            is_gone: false,
            is_on_disk: false,
            created: Vec::new(),
        };
        let at = self.take_place(slot);
        self.note_office(at);
        if is_stateless {
            self.note_stateless(at);
        }
        Ok(at)
    }
}
