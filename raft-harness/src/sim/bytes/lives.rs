//! Nodes are born, die and come back.

use super::accounts::After;
use super::faults::Power;
use super::incarnations::{group_of, incarnation_of, life_in, life_of};
use super::network::{Machine, Place};
use super::process::{Birth, Born, CLUSTER, LogState, Process, Stillborn};
use super::world::{Event, Phase, Standing, World};
use crate::engine::Replica;
use crate::group_spec::GroupSpec;
use crate::node::sim::Noted;
use crate::sim::marks::Mark;
use crate::sim::violation::{Check, Violation};
use raft_core::{GroupId, Membership, Promise, ReplicaId};
use raft_storage::{
    Disk, InitError, InitOptions, Lsn, OpenError, RecoveredGroup, StoreId, init_on,
    is_out_of_descriptors, is_out_of_room,
};

/// How long whoever starts nodes waits before trying again.
const RETRY_US: u64 = 500_000;

/// Whether a replica that was opened without what its log had lost is one to be replaced, or is gone.
fn has_forgotten(born: &Born) -> bool {
    let unproven = |group: &RecoveredGroup| group.promise.promise == Promise::Unproven;
    born.report.creations_lost || born.recovered.values().any(unproven)
}

impl World {
    pub(super) fn plan_restart(&mut self, place: Place, in_us: u64) {
        self.nodes[place].boots += 1;
        let boot = self.nodes[place].boots;
        self.plan_in(in_us, Event::Restart { place, boot });
    }

    /// A process is started on what its disk holds.
    pub(super) fn start(&mut self, place: Place) {
        if self.nodes[place].standing == Standing::Out {
            return;
        }
        let clock = self.clock(place);
        let node = &mut self.nodes[place];
        node.fuse.replace();
        node.life += 1;
        node.paused_until = None;
        // Machines that broke their contract ended with the life before.
        let _ = node.slip.came();
        // Some die again before they are up.
        if self.phase == Phase::Faults && node.life > 1 && self.delays.chance(1, 8) {
            node.fuse.light(self.delays.skewed(48));
            let power = if self.delays.chance(1, 2) { Power::Fails } else { Power::Stays };
            node.crash = Some((power, self.delays.range(10_000..=500_000)));
        } else {
            node.crash = None;
        }
        let number = (place as u64, self.nodes[place].store);
        let store = self.streams.derive("store", &[number.0, number.1]);
        let store = InitOptions { store: Some(StoreId::new(u128::from(store) << 64 | 1)) };
        let node = &mut self.nodes[place];
        // Made by `init`, once; repeating it is refused, and harmless if it was interrupted.
        let made = init_on(&node.disk, CLUSTER, self.swarm.nodes[place], &store);
        node.disk.process_died();
        node.snapshots.process_died();
        if let Err(InitError::Io { source, .. }) = &made
            && is_out_of_room(source)
        {
            self.mark("init-on-full-disk");
            self.plan_restart(place, RETRY_US);
            return;
        }
        let (record, judge) = match node.standing {
            Standing::Stranger => (&self.strangers.0, &self.strangers.1),
            Standing::Member | Standing::Damaged | Standing::Out => (&self.record, &self.judge),
        };
        let homes = match node.standing {
            Standing::Stranger => self.swarm.groups.clone(),
            Standing::Member | Standing::Damaged | Standing::Out => self.operator.homes_on(place),
        };
        let birth = Birth {
            place,
            homes,
            snapshots: &node.snapshots,
            disk: &node.disk,
            clock,
            swarm: &self.swarm,
            net: &self.net,
            wakes: &self.wakes,
            slip: &node.slip,
            record,
            judge,
            words: &self.words,
            memory: &node.memory,
            seed: self.streams.derive("core", &[place as u64, u64::from(node.life)]),
        };
        match Process::start(&birth) {
            Ok(born) => {
                let report = &born.report;
                self.sightings.hit_if(report.checkpoint > Lsn::ZERO, Mark::StartFromCheckpoint);
                let unreadable = report.checkpoints_unreadable > 0;
                self.sightings.hit_if(unreadable, Mark::CheckpointUnreadable);
                self.sightings.hit_if(born.noted == Noted::NoRoom, Mark::LossWithoutRoom);
                if let Some(torn) = born.report.torn_tail {
                    self.sightings.hit(Mark::TornTail);
                    self.absorb(torn.lsn.get());
                }
                let reopened = std::mem::take(&mut self.nodes[place].reopened);
                let is_damaged = reopened || !report.damage.is_empty();
                if is_damaged && has_forgotten(&born) {
                    // Nobody here replaces a replica in place, or founds a group that the log may have
                    // forgotten: the node stays away as one that refuses to start.
                    self.sightings.hit(Mark::DamageReported);
                    self.note(Some(place), || "forgot a vote or a group".to_owned());
                    self.stays_away(place);
                    return;
                }
                if let Some(group) = born.stateless.first().copied() {
                    self.note(Some(place), || format!("lost the state of {group}"));
                    if is_damaged || self.nodes[place].snapshot_rots {
                        // Nobody replaces it in place, as above.
                        self.sightings.hit_if(is_damaged, Mark::DamageReported);
                        self.sightings.hit_if(!is_damaged, Mark::StateLost);
                        self.stays_away(place);
                        return;
                    }
                    let evidence = format!("no snapshot of place {place} can be read any more");
                    self.fail(Violation::of_group(Check::Profile("state-lost"), group, evidence));
                }
                if is_damaged {
                    self.sightings.hit(Mark::DamageRepaired);
                    self.nodes[place].after = After::Damage;
                    self.nodes[place].log_end = None;
                }
                let judge = self.judge_of(place);
                let node = &mut self.nodes[place];
                let after = std::mem::replace(&mut node.after, After::Process);
                let gone = born
                    .tombstones
                    .values()
                    .map(|(incarnation, gone)| (life_of(gone.group, *incarnation), gone.replica));
                let gone: Vec<(GroupId, ReplicaId)> = gone.collect();
                let broken = {
                    let mut judge = judge.lock();
                    judge.buried(place, gone.iter().copied());
                    let account = judge.account(place);
                    let broken = account.recovered(&born.recovered, &born.tombstones, after);
                    for (group, anew) in &born.anew {
                        account.begins_anew(*group, anew);
                    }
                    broken
                };
                let node_id = self.swarm.nodes[place];
                for (life, replica) in gone.iter().filter(|_| self.delays.chance(1, 4)) {
                    // Whatever life it was of, and whoever lives there now.
                    let spec = GroupSpec {
                        incarnation: incarnation_of(*life),
                        ..GroupSpec::joining(group_of(*life), *replica, node_id)
                    };
                    born.process.create_again(spec);
                    self.sightings.hit(Mark::GoneReplicaAskedFor);
                }
                self.operator.found_gone(place, node_id, &gone);
                if node.disk.is_full() {
                    self.sightings.hit(Mark::StartOnFullDisk);
                }
                let tasks: Vec<_> = born.process.tasks().collect();
                node.process = Some(Box::new(born.process));
                node.started = Some(self.now);
                if node.standing == Standing::Damaged {
                    // Whatever was hit holds nothing.
                    node.standing = Standing::Member;
                    if !is_damaged {
                        self.mark("damage-harmless");
                    }
                }
                self.absorb(born.report.end_lsn.get());
                // What a stranger holds is not what it promised, and nobody believes it.
                let counts = self.nodes[place].standing != Standing::Stranger;
                for (group, evidence) in broken.into_iter().filter(|_| counts) {
                    self.fail(Violation::of_group(Check::Externalisation, group, evidence));
                }
                let end = born.report.end_lsn;
                let written = self.nodes[place].log_end.take().filter(|_| counts);
                if let Some(written) = written.filter(|written| end > *written) {
                    let evidence = format!(
                        "the log of place {place} was written up to {written:?}, and ends at {end:?}"
                    );
                    self.fail(Violation::of_run(Check::Profile("log-end"), evidence));
                }
                self.note(Some(place), || format!("up, log ends at {end:?}, after {after:?}"));
                self.note_restart(place);
                for task in tasks {
                    let at = self.now + self.delays.below(self.swarm.wake_us);
                    self.schedule(place, task, at);
                }
            }
            Err(stillborn) => self.not_born(place, &stillborn),
        }
    }

    /// A node that has just been started is as one that refuses to.
    fn stays_away(&mut self, place: Place) {
        let node = &mut self.nodes[place];
        node.disk.process_died();
        node.snapshots.process_died();
        node.standing = Standing::Out;
    }

    fn not_born(&mut self, place: Place, why: &Stillborn) {
        self.note(Some(place), || format!("does not start: {why:?}"));
        let node = &mut self.nodes[place];
        node.disk.process_died();
        // It may have noted something before it ended.
        node.log_end = None;
        if node.fuse.is_dead() {
            self.sightings.hit(Mark::CrashInRecovery);
            let node = &mut self.nodes[place];
            node.reopened |= node.standing == Standing::Damaged;
            let (power, down) = node.crash.take().unwrap_or((Power::Fails, RETRY_US));
            let power = self.bearable(place, power);
            let node = &mut self.nodes[place];
            if power == Power::Fails {
                node.memory.power_cut();
                node.disk.power_cut();
                node.snapshots.power_cut();
                node.after = After::Power;
            }
            self.plan_restart(place, down);
            return;
        }
        // But for the very first, a start needs no room, so a full disk is no excuse.
        let is_first = !node.disk.list().is_ok_and(|names| names.iter().any(|n| n == "lives"));
        let passes = match why {
            Stillborn::Log(OpenError::Io { source, .. }) | Stillborn::Directory(source) => {
                is_out_of_descriptors(source) || is_first && is_out_of_room(source)
            }
            Stillborn::Log(_) | Stillborn::Spec { .. } => false,
        };
        if passes {
            self.mark("start-without-descriptors");
            self.plan_restart(place, RETRY_US);
        } else if self.nodes[place].standing == Standing::Damaged {
            self.sightings.hit(Mark::DamageReported);
            self.nodes[place].standing = Standing::Out;
        } else {
            let node = self.swarm.nodes[place];
            let evidence = format!("node {node} does not start: {why:?}");
            self.fail(Violation::of_run(Check::Profile("start"), evidence));
        }
    }

    /// A process ends without a word; its machine may end with it.
    pub(super) fn crash(&mut self, place: Place, power: Power, down_us: u64) {
        let power = self.bearable(place, power);
        self.note(Some(place), || format!("crashes, power {power:?}"));
        let within_write = self.nodes[place].fuse.is_dead();
        self.nodes[place].fuse.put_out();
        let machine = match power {
            Power::Stays => Machine::Empty,
            Power::Fails => Machine::Off,
        };
        self.net.lock().process_gone(place, machine);
        let node = &mut self.nodes[place];
        node.paused_until = None;
        node.life += 1;
        let led = {
            let mut judge = self.judge.lock();
            judge.checker.crashed(self.swarm.nodes[place]);
            judge.failed.remove(&place);
            judge.onlooker.gone(place)
        };
        self.sightings.hit_if(!led.is_empty(), Mark::LeaderCrashed);
        self.sightings.hit_if(self.fetches_contradiction(place), Mark::SnapshotConflictCrash);
        let node = &mut self.nodes[place];
        // Whoever waits for an answer learns that there is none.
        let process = node.process.take();
        if let Some(process) = &process {
            process.note_lanes(&self.sightings);
            self.judge.lock().found.extend(process.disbelieves());
            // What departed and was not written is lost with the process.
            if process.log.flight.as_ref().is_some_and(|flight| flight.steps() > 0) {
                self.nodes[place].after = After::Flight;
            }
            let fails = process.log.state == LogState::Failed;
            let end = process.log.work.stats().end;
            self.nodes[place].log_end = (!within_write && !fails).then_some(end);
            let writes = process.log.state == LogState::Busy;
            self.sightings.hit_if(writes, Mark::CrashBeforePersist);
            self.sightings.hit_if(process.desk.is_fetching(), Mark::CrashDuringInstall);
        }
        drop(process);
        self.note_all_down(place);
        if self.judge_of(place).lock().account(place).is_ahead() {
            self.sightings.hit(match power {
                Power::Stays => Mark::KillVouchedFor,
                Power::Fails => Mark::PowerTookCounted,
            });
        }
        let node = &mut self.nodes[place];
        node.disk.process_died();
        if power == Power::Fails {
            node.memory.power_cut();
            let resolved = node.disk.power_cut();
            node.snapshots.power_cut();
            node.after = After::Power;
            self.sightings.hit_if(resolved.old > 0, Mark::UnsyncedLost);
            self.sightings.hit_if(resolved.overtook > 0, Mark::PersistReordered);
            for (mark, count) in [
                ("sector-lost", resolved.old),
                ("sector-survived", resolved.new),
                ("sector-torn", resolved.torn),
                ("name-lost", resolved.names_lost),
            ] {
                *self.marks.entry(mark).or_default() += count;
                self.absorb(count);
            }
        }
        self.plan_restart(place, down_us);
    }

    /// How much of a crash the groups bear that count what is written: where so many would forget that
    /// no quorum is left, only the process dies.
    fn bearable(&self, place: Place, power: Power) -> Power {
        match power {
            Power::Fails if self.swarm.accepts_losses || self.may_forget(place) => Power::Fails,
            Power::Fails | Power::Stays => Power::Stays,
        }
    }

    /// Whether the groups that count what is written can bear it that a place forgets.
    pub(super) fn may_forget(&self, place: Place) -> bool {
        let homes = self.operator.homes_on(place);
        let counted = homes.iter().filter(|spec| spec.counts_written());
        counted.map(life_in).all(|life| self.spares(life, place))
    }

    /// Whether a quorum of a life of a group remembers all without one place. If memberships differ
    /// nobody can tell.
    fn spares(&self, life: GroupId, place: Place) -> bool {
        let group = group_of(life);
        // What is asked of its members may be decided at any moment.
        if self.operator.is_busy(group) {
            return false;
        }
        let (mut kept, mut memberships) = (Vec::new(), Vec::new());
        for at in self.operator.places_of(group) {
            let Some(process) = &self.nodes[at].process else { continue };
            let mut here = process.replicas();
            let of = |replica: &Replica<'_>| life_of(group, replica.incarnation()) == life;
            let is_it = |replica: &Replica<'_>| replica.core().id() == group && of(replica);
            let Some(replica) = here.find(is_it) else { continue };
            let core = replica.core();
            memberships.push((core.membership_index(), Membership::clone(core.membership())));
            // Whose log fails has nobody who vouches for it.
            let fails = process.log.state == LogState::Failed || self.nodes[at].disk.is_to_fail();
            if at != place && !fails && core.status().promise.promise == Promise::Kept {
                kept.push(core.replica());
            }
        }
        let Some((at, membership)) = memberships.first() else { return false };
        let agree = memberships.iter().all(|(other, _)| other == at);
        let voters: Vec<ReplicaId> = membership.voters().collect();
        let remember = voters.iter().filter(|voter| kept.contains(voter)).count();
        agree && !membership.is_joint() && remember > voters.len() / 2
    }

    /// Whether the last node of a group has gone down.
    fn note_all_down(&self, place: Place) {
        let all = self.swarm.groups.iter().any(|spec| {
            let places = self.operator.places_of(spec.group);
            let down = |at: &Place| self.nodes[*at].process.is_none();
            places.len() > 1 && places.contains(&place) && places.iter().all(down)
        });
        self.sightings.hit_if(all, Mark::AllDown);
    }

    /// Whether a quorum of some group has come back within one election timeout.
    fn note_restart(&self, place: Place) {
        let timeout = self.swarm.settings.election_timeout_min.as_micros() as u64;
        let is_back = |at: &&Place| {
            let state = &self.nodes[**at];
            let recent = state.started.is_some_and(|at| at + timeout > self.now);
            state.process.is_some() && state.life > 1 && recent
        };
        let quorum = self.swarm.groups.iter().any(|spec| {
            let places = self.operator.places_of(spec.group);
            let back = places.iter().filter(is_back).count();
            places.len() > 1 && places.contains(&place) && back > places.len() / 2
        });
        self.sightings.hit_if(quorum, Mark::QuorumRestarted);
    }

    /// A stopped process goes on.
    pub(super) fn resume(&mut self, place: Place) {
        if self.nodes[place].paused_until.is_some_and(|until| until <= self.now) {
            self.nodes[place].paused_until = None;
            self.nodes[place].resumed = self.now;
            self.net.lock().unpause(place);
            self.judge.lock().onlooker.resumed(place);
        }
    }
}
