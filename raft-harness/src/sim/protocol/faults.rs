//! How faults are done to the world, and undone.
//!
//! A target is looked up when its fault begins, and what was done is remembered for its end. What
//! this profile cannot do, and what would go beyond what the promises survive, is skipped and
//! counted.
//!
//! Whatever a fault leaves to chance it draws from a stream of its own, so that its fellows do not
//! notice when it is left out.

use std::sync::Arc;

use raft_core::{DiskSpace, GroupId, Input, Lease, Membership, NodeId, Promise, ReplicaId};

use super::network::{Link, NodeAt, Weather};
use super::node::{DiskWeather, Running};
use super::replica::Replica;
use super::timeline::Event;
use super::world::World;
use crate::sim::marks::Mark;
use crate::sim::rng::{Rng, mix};
use crate::sim::schedule::{Fault, FaultKind, MessageKind, NodeSet, Stop, Target};
use crate::sim::trace::EventKind;
use crate::sim::violation::{Check, Violation};

/// What has to be undone when a fault ends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Undo {
    Mend(Vec<(NodeAt, NodeAt)>),
    Link(Vec<(NodeAt, NodeAt)>, Link),
    Hold(MessageKind, u64),
    Start(NodeAt),
    Stop(NodeAt),
    Resume(NodeAt),
    Drift(NodeAt, i64),
    DiskStall(NodeAt),
    DiskSlow(NodeAt, u64),
    DiskFull(NodeAt),
    SyncFails(NodeAt),
}

/// What came of a fault's beginning.
enum Begun {
    /// It took effect, and this is to be undone.
    Until(Undo),
    /// It took effect at once.
    Once,
    /// It did not take effect.
    Skipped,
}

const fn done(done: bool) -> Begun {
    if done { Begun::Once } else { Begun::Skipped }
}

impl World {
    pub(crate) fn fault_begins(&mut self, at: usize) {
        if self.healed {
            return;
        }
        let fault = self.faults[at].clone();
        let word = fault.kind.word();
        let digest = mix(fault.at_us ^ mix(fault.lasts_us));
        self.tell(0, None, EventKind::Fault, digest, || fault.to_string());
        match self.begin(&fault) {
            Begun::Until(undo) => {
                self.undo.insert(at, undo);
                self.queue.push(self.now + fault.lasts_us, Event::FaultEnds(at));
            }
            Begun::Once => {}
            Begun::Skipped => {
                *self.skipped.entry(word).or_default() += 1;
                return;
            }
        }
        *self.injected.entry(word).or_default() += 1;
    }

    fn begin(&mut self, fault: &Fault) -> Begun {
        let mut rng = self.seeds.stream("fault", &[fault.at_us, fault.lasts_us]);
        match &fault.kind {
            FaultKind::Cut { .. } | FaultKind::Isolate { .. } | FaultKind::Partition { .. } => {
                self.cut(&fault.kind)
            }
            FaultKind::LinkSlow { from, to, extra_us } => {
                self.bend(*from, *to, Link { slow_us: *extra_us, ..Link::default() })
            }
            FaultKind::LinkLossy { from, to, drop, duplicate, reorder } => {
                let link =
                    Link { drop: *drop, duplicate: *duplicate, reorder: *reorder, slow_us: 0 };
                self.bend(*from, *to, link)
            }
            FaultKind::Hold { message, extra_us } => {
                self.network.hold(*message, *extra_us);
                Begun::Until(Undo::Hold(*message, *extra_us))
            }
            FaultKind::Crash { node, after_effects, stop } => self.on(*node, |world, at| {
                if *after_effects == 0 {
                    world.crash(at, *stop);
                } else {
                    world.nodes[at].crash_after = Some((u64::from(*after_effects), *stop));
                }
                Begun::Until(Undo::Start(at))
            }),
            FaultKind::StopNode { node, patience_us } => self.on(*node, |world, at| {
                if world.ask_to_stop(at, *patience_us) {
                    Begun::Until(Undo::Stop(at))
                } else {
                    Begun::Skipped
                }
            }),
            FaultKind::RestartStorm { nodes, stop, rounds } => {
                self.storm(*nodes, *stop, *rounds, fault.lasts_us, &mut rng)
            }
            FaultKind::Pause { node } => self.on(*node, |world, at| {
                let node = &mut world.nodes[at];
                if node.running != Running::Up {
                    return Begun::Skipped;
                }
                node.running = Running::Paused;
                Begun::Until(Undo::Resume(at))
            }),
            // A voter whose clock leaps ends its patience with a leader early, which is what leases
            // rely on: no clock that leases may be used with does that.
            FaultKind::ClockJump { .. } if self.settings.lease != Lease::Never => Begun::Skipped,
            FaultKind::ClockJump { node, by_us } => self.on(*node, |world, at| {
                world.nodes[at].clock.offset_us += by_us;
                world.touch_all(at);
                Begun::Once
            }),
            FaultKind::WallJump { node, by_ms } => self.on(*node, |world, at| {
                let wall = &mut world.nodes[at].clock.wall_offset_ms;
                *wall = wall.saturating_add_signed(*by_ms);
                Begun::Once
            }),
            FaultKind::ClockDrift { node, ppm } => self.on(Target::Node(*node), |world, at| {
                let before = world.nodes[at].clock.drift_ppm;
                world.drift(at, i64::from(*ppm));
                Begun::Until(Undo::Drift(at, before))
            }),
            FaultKind::DiskStall { node } => self.on(*node, |world, at| {
                world.nodes[at].disk_weather.stalled = true;
                Begun::Until(Undo::DiskStall(at))
            }),
            FaultKind::DiskSlow { node, extra_us } => self.on(*node, |world, at| {
                world.nodes[at].disk_weather.slow_us += extra_us;
                Begun::Until(Undo::DiskSlow(at, *extra_us))
            }),
            FaultKind::DiskFull { node } => self.on(*node, |world, at| {
                world.disk_space(at, DiskSpace::Full);
                Begun::Until(Undo::DiskFull(at))
            }),
            FaultKind::FsyncFail { node } => self.on(*node, |world, at| {
                world.nodes[at].disk_weather.fails_next = true;
                Begun::Until(Undo::SyncFails(at))
            }),
            FaultKind::Damage { node, group } => self.on(*node, |world, at| {
                if !world.may_lose(at, *group) {
                    return Begun::Skipped;
                }
                if rng.below(3) == 0 && world.rot(at, *group, &mut rng) {
                    return Begun::Once;
                }
                world.crash(at, Stop::Power);
                // A log without an entry beyond its snapshot has nothing to be damaged.
                if world.nodes[at].disk.damage(*group, &mut rng) {
                    world.mark(Mark::DamageReported);
                }
                Begun::Until(Undo::Start(at))
            }),
            FaultKind::Wipe { node } => self.on(Target::Node(*node), |world, at| {
                let groups = world.groups.clone();
                // One is replaced within a run; a second one would be too many for most groups.
                let first = !world.injected.contains_key(fault.kind.word());
                if !first || !groups.into_iter().all(|group| world.may_lose(at, group)) {
                    return Begun::Skipped;
                }
                world.wipe(at);
                Begun::Until(Undo::Start(at))
            }),
            FaultKind::AddLearner { group, node } => done(self.add_learner(*group, *node)),
            FaultKind::Promote { group, node } => done(self.promote(*group, *node)),
            FaultKind::Remove { group, node } => done(self.remove_member(*group, *node)),
            FaultKind::Replace { group, old, new } => done(self.replace(*group, *old, *new)),
            FaultKind::Transfer { group, to } => done(self.hand_over(*group, *to)),
            FaultKind::Snapshot { group, node } => self.on(*node, |world, at| {
                world.take_snapshot(at, *group);
                Begun::Once
            }),
            FaultKind::Compact { group, node } => self.on(*node, |world, at| {
                world.compact(at, *group, rng.below(4));
                Begun::Once
            }),
            FaultKind::CampaignNow { group, node } => self.on(*node, |world, at| {
                world.step(at, *group, Input::Campaign, &[]);
                Begun::Once
            }),
            FaultKind::Burst { group, entries } => done(self.burst(*group, *entries, &mut rng)),
            FaultKind::ReadAt { group, node } => {
                self.on(*node, |world, at| done(world.read_aside(at, *group, &mut rng)))
            }
            // This profile plans nothing itself.
            FaultKind::Planned { .. } => Begun::Skipped,
        }
    }

    /// Does something to the node a target stands for at the moment.
    fn on(&mut self, target: Target, act: impl FnOnce(&mut Self, NodeAt) -> Begun) -> Begun {
        match self.resolve(target) {
            Some(at) => act(self, at),
            None => Begun::Skipped,
        }
    }

    /// The node a target stands for at the moment, if it stands for one.
    pub(crate) fn resolve(&self, target: Target) -> Option<NodeAt> {
        match target {
            Target::Node(node) => self.place(node),
            Target::Leader(group) => self.leader_of(group),
        }
    }

    /// A node of a schedule, unless the cluster is smaller than the schedule was drawn for.
    fn place(&self, node: NodeId) -> Option<NodeAt> {
        let at = node.get().checked_sub(1)? as usize;
        (at < self.nodes.len()).then_some(at)
    }

    fn links(&self, from: NodeSet, to: NodeSet) -> Vec<(NodeAt, NodeAt)> {
        let places = |nodes: NodeSet| nodes.iter().filter_map(|node| self.place(node));
        let pairs = places(from).flat_map(|a| places(to).map(move |b| (a, b)));
        pairs.filter(|(a, b)| a != b).collect()
    }

    fn cut(&mut self, kind: &FaultKind) -> Begun {
        let all = NodeSet::first(self.nodes.len() as u64);
        let cuts = kind.cuts(all, |target| self.resolve(target).map(|at| self.nodes[at].id));
        let links: Vec<_> = cuts.into_iter().flat_map(|(from, to)| self.links(from, to)).collect();
        if links.is_empty() {
            return Begun::Skipped;
        }
        for (from, to) in &links {
            self.network.cut(*from, *to);
        }
        self.note_cut();
        Begun::Until(Undo::Mend(links))
    }

    fn bend(&mut self, from: NodeSet, to: NodeSet, link: Link) -> Begun {
        let links = self.links(from, to);
        if links.is_empty() {
            return Begun::Skipped;
        }
        for (from, to) in &links {
            self.network.bend(*from, *to, link);
        }
        Begun::Until(Undo::Link(links, link))
    }

    /// The first round is common to all, the others are everybody's own. Each stop is a fault of
    /// its own from then on.
    fn storm(
        &mut self,
        nodes: NodeSet,
        stop: Stop,
        rounds: u32,
        lasts_us: u64,
        rng: &mut Rng,
    ) -> Begun {
        for node in nodes.iter() {
            for round in 0..rounds {
                let at_us = self.now + if round == 0 { 0 } else { rng.below(lasts_us + 1) };
                let down_us = 10_000 + rng.below(lasts_us / u64::from(rounds) + 1);
                let kind = FaultKind::Crash { node: Target::Node(node), after_effects: 0, stop };
                self.queue.push(at_us, Event::Fault(self.faults.len()));
                self.faults.push(Fault { at_us, lasts_us: down_us, kind });
            }
        }
        Begun::Once
    }

    /// A node's clock runs at another rate from now on.
    fn drift(&mut self, at: NodeAt, ppm: i64) {
        let now = self.now;
        self.nodes[at].clock.run_at(now, ppm);
        // Deadlines come earlier on a faster clock.
        self.touch_all(at);
    }

    fn touch_all(&mut self, at: NodeAt) {
        let groups: Vec<GroupId> = self.nodes[at].replicas.keys().copied().collect();
        for group in groups {
            self.touch(at, group);
        }
    }

    pub(crate) fn fault_ends(&mut self, at: usize) {
        let Some(undo) = self.undo.remove(&at) else { return };
        match undo {
            Undo::Mend(links) => {
                self.judge_solitude();
                for (from, to) in links {
                    self.network.mend(from, to);
                }
            }
            Undo::Link(links, link) => {
                for (from, to) in links {
                    self.network.straighten(from, to, link);
                }
            }
            Undo::Hold(message, extra_us) => self.network.release(message, extra_us),
            Undo::Start(at) => {
                self.nodes[at].crash_after = None;
                self.start(at);
            }
            Undo::Stop(at) => self.stop_is_over(at),
            Undo::Resume(at) => self.resume(at),
            Undo::Drift(at, ppm) => self.drift(at, ppm),
            Undo::DiskStall(at) => {
                self.nodes[at].disk_weather.stalled = false;
                self.kick_disk(at);
            }
            Undo::DiskSlow(at, extra_us) => {
                let slow = &mut self.nodes[at].disk_weather.slow_us;
                *slow = slow.saturating_sub(extra_us);
            }
            Undo::DiskFull(at) => self.disk_space(at, DiskSpace::Ample),
            Undo::SyncFails(at) => {
                self.nodes[at].disk_weather.fails_next = false;
                self.start(at);
            }
        }
    }

    /// Who has heard nobody for so long that any quorum may have turned away leads no more.
    fn judge_solitude(&mut self) {
        // A leader that slept heard nobody rightly, and may have been woken a moment ago.
        if self.settings.quiesce_after.is_some() {
            return;
        }
        let patience_us = self.settings.election_timeout_max.as_micros() as u64;
        for at in 0..self.nodes.len() {
            let node = &self.nodes[at];
            // Clocks are at most a tenth off.
            let is_alone = self.now.saturating_sub(node.heard_at) > 3 * patience_us;
            if !node.is_up() || !is_alone {
                continue;
            }
            let leads = |replica: &Replica| {
                let core = &replica.core;
                core.is_leader() && !core.status().asleep && core.membership().incoming().len() > 1
            };
            let Some(replica) = node.replicas.values().find(|replica| leads(replica)) else {
                continue;
            };
            let group = replica.group();
            let evidence = format!(
                "{:?} has heard nobody for {} ms and leads{}",
                replica.id(),
                (self.now - node.heard_at) / 1000,
                self.describe(group)
            );
            self.fail(Violation::of_group(Check::Profile("L3-leads-alone"), group, evidence));
        }
    }

    /// Whether a group survives it that one more of its replicas forgets: fewer than half of its
    /// voters, in either half of a membership, may be without their promises at any time.
    pub(crate) fn may_lose(&self, at: NodeAt, group: GroupId) -> bool {
        if self.is_changing(group) {
            return false;
        }
        let Some(image) = self.nodes[at].disk.images.get(&group) else { return true };
        let lost = |replica: ReplicaId| {
            replica == image.replica
                || !self.nodes.iter().any(|node| {
                    node.disk.images.get(&group).is_some_and(|image| {
                        image.replica == replica && image.promise.promise == Promise::Kept
                    }) && node.replicas.get(&group).is_none_or(|replica| {
                        replica.core.status().promise.promise == Promise::Kept
                    })
                })
        };
        // Every membership that anybody may act under.
        let disks = self.nodes.iter().filter_map(|node| node.disk.images.get(&group));
        let mut known: Vec<Arc<Membership>> = disks
            .flat_map(|image| {
                let logged = image.configs().into_iter().map(|(_, membership)| membership);
                logged.chain(image.base.membership.clone())
            })
            .collect();
        let live = self.nodes.iter().filter_map(|node| node.replicas.get(&group));
        known.extend(live.map(|replica| Arc::clone(replica.core.membership())));
        let unharmed = |half: &[ReplicaId]| {
            let gone = half.iter().filter(|replica| lost(**replica)).count();
            half.is_empty() || half.len() >= 3 && gone * 2 < half.len()
        };
        // Memberships long left name replicas long gone; only the newest few matter.
        let newest = known.iter().map(|membership| membership.last_replica()).max();
        known
            .iter()
            .filter(|membership| Some(membership.last_replica()) == newest)
            .all(|membership| unharmed(membership.incoming()) && unharmed(membership.outgoing()))
    }

    /// An entry of a running replica cannot be read back, from a random place beyond its snapshot on.
    fn rot(&mut self, at: NodeAt, group: GroupId, rng: &mut Rng) -> bool {
        let is_up = self.nodes[at].running == Running::Up;
        let Some(replica) = self.nodes[at].replicas.get(&group).filter(|_| is_up) else {
            return false;
        };
        let (low, last) = (replica.core.snapshot_index(), replica.core.last_index());
        // A page cache may hold what was acknowledged, and no disk shows it.
        if last <= low || replica.restore.is_some() || self.counts_written() {
            return false;
        }
        let index = low.plus(1 + rng.below(last.since(low)));
        self.nodes[at].disk.haunt(group);
        self.step(at, group, Input::LogDamaged(index), &[]);
        self.mark(Mark::DamagedWhileRunning);
        true
    }

    /// Whether replicas act under different memberships. While they do, a voter's log may be behind
    /// that of a learner, and one that forgot can be one too many: nobody could be elected.
    fn is_changing(&self, group: GroupId) -> bool {
        let disks = self.nodes.iter().filter_map(|node| node.disk.images.get(&group));
        let logged = disks.filter_map(|image| {
            let newest = image.configs().pop().map(|(_, membership)| membership);
            newest.or_else(|| image.base.membership.clone())
        });
        let live = self.nodes.iter().filter_map(|node| node.replicas.get(&group));
        let live = live.map(|replica| Arc::clone(replica.core.membership()));
        let in_force: Vec<Arc<Membership>> = logged.chain(live).collect();
        in_force.windows(2).any(|pair| pair[0] != pair[1])
    }

    /// Everything is mended, and everybody comes back.
    pub(crate) fn heal(&mut self) {
        self.network.mend_all();
        self.network.weather = Weather::CALM;
        self.healed = true;
        self.undo.clear();
        for at in 0..self.nodes.len() {
            self.nodes[at].crash_after = None;
            self.nodes[at].disk_weather = DiskWeather::default();
            self.disk_space(at, DiskSpace::Ample);
            self.resume(at);
            self.stop_is_over(at);
            self.kick_disk(at);
        }
    }
}
