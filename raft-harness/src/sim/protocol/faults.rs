//! Trouble as data: what goes wrong, when, and for how long.

use std::fmt;
use std::sync::Arc;

use raft_core::{DiskSpace, GroupId, Membership, Promise, ReplicaId};

use super::disk::Stop;
use super::network::NodeAt;
use super::node::Running;
use super::world::{Event, World};
use crate::sim::marks::Mark;
use crate::sim::rng::Rng;
use crate::sim::trace::EventKind;

/// One piece of trouble.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Fault {
    /// When it begins, in microseconds.
    pub(crate) at: u64,
    /// How long it lasts; irrelevant for what happens at once.
    pub(crate) lasts: u64,
    pub(crate) kind: FaultKind,
}

/// What goes wrong. Nodes are named by their places.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum FaultKind {
    /// These directed links carry nothing.
    Cut(Vec<(NodeAt, NodeAt)>, Shape),
    /// These directed links are slow.
    Slow(Vec<(NodeAt, NodeAt)>),
    /// The node dies and comes back when the fault ends.
    Crash(NodeAt, Stop),
    /// It dies within its next turn, after so many effects.
    CrashMidTurn(NodeAt, u64),
    /// Everybody dies, one after the other.
    Storm(Stop),
    /// The node stands still.
    Pause(NodeAt),
    /// Nothing the disk is given completes.
    DiskStall(NodeAt),
    DiskSlow(NodeAt, u64),
    DiskFull(NodeAt),
    /// The next flush fails.
    SyncFails(NodeAt),
    /// The node dies, and the log of a group is found damaged.
    Damage(NodeAt, GroupId),
    /// The node loses its disk.
    Wipe(NodeAt),
    /// The wall clock jumps ahead by so many milliseconds.
    WallJump(NodeAt, u64),
}

/// What a cut looks like, for the record.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Shape {
    Isolated,
    OneWay,
    Halves,
    Bridge,
    Chain,
    Star,
    LeaderCutOff,
}

impl FaultKind {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Cut(_, Shape::Isolated) => "isolate",
            Self::Cut(_, Shape::OneWay) => "one-way",
            Self::Cut(_, Shape::Halves) => "halves",
            Self::Cut(_, Shape::Bridge) => "bridge",
            Self::Cut(_, Shape::Chain) => "chain",
            Self::Cut(_, Shape::Star) => "star",
            Self::Cut(_, Shape::LeaderCutOff) => "leader-cut-off",
            Self::Slow(_) => "slow-links",
            Self::Crash(_, Stop::Process) => "kill",
            Self::Crash(_, Stop::Power) => "power-cut",
            Self::CrashMidTurn(..) => "crash-mid-turn",
            Self::Storm(_) => "restart-storm",
            Self::Pause(_) => "pause",
            Self::DiskStall(_) => "disk-stall",
            Self::DiskSlow(..) => "disk-slow",
            Self::DiskFull(_) => "disk-full",
            Self::SyncFails(_) => "sync-fails",
            Self::Damage(..) => "damage",
            Self::Wipe(_) => "wipe",
            Self::WallJump(..) => "wall-jump",
        }
    }
}

impl FaultKind {
    /// Whether a replica forgets what it promised by it.
    pub(crate) const fn forgets(&self) -> bool {
        matches!(self, Self::Damage(..) | Self::Wipe(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, lasts) = (self.at / 1000, self.lasts / 1000);
        write!(f, "{at:>6} ms  for {lasts:>6} ms  {:<15} {:?}", self.kind.name(), self.kind)
    }
}

/// Draws the trouble of a run: a few kinds of it, each at times.
pub(crate) fn draw(rng: &mut Rng, nodes: usize, groups: &[GroupId], faults_us: u64) -> Vec<Fault> {
    let mut faults = Vec::new();
    let kinds = 15;
    // Which kinds this run knows at all.
    let mut known: Vec<u64> = (0..kinds).filter(|_| rng.chance(1, 3)).collect();
    if known.is_empty() && rng.chance(9, 10) {
        known.push(rng.below(kinds));
    }
    let every = 400_000 + rng.below(3_000_000);
    let mut at = 1_000_000 + rng.below(1_000_000);
    let mut wipes = 0;
    while at < faults_us && !known.is_empty() {
        let node = rng.below(nodes as u64) as usize;
        let lasts = 50_000 + rng.below(4_000_000);
        let stop = if rng.chance(1, 2) { Stop::Power } else { Stop::Process };
        let group = groups[rng.below(groups.len() as u64) as usize];
        let kind = match known[rng.below(known.len() as u64) as usize] {
            0 => FaultKind::Cut(isolate(node, nodes), Shape::Isolated),
            1 => {
                let to = rng.below(nodes as u64) as usize;
                FaultKind::Cut(vec![(node, to)], Shape::OneWay)
            }
            2 => {
                let mask = rng.below(1 << nodes);
                FaultKind::Cut(halves(mask, nodes), Shape::Halves)
            }
            3 => match rng.below(3) {
                0 => FaultKind::Cut(bridge(node, nodes), Shape::Bridge),
                1 => FaultKind::Cut(chain(nodes), Shape::Chain),
                _ => FaultKind::Cut(star(node, nodes), Shape::Star),
            },
            4 => FaultKind::Slow(isolate(node, nodes)),
            5 => FaultKind::Crash(node, stop),
            6 => FaultKind::CrashMidTurn(node, rng.below(12)),
            7 => FaultKind::Storm(stop),
            8 => FaultKind::Pause(node),
            9 => match rng.below(2) {
                0 => FaultKind::DiskStall(node),
                _ => FaultKind::DiskSlow(node, 5 + rng.below(200)),
            },
            10 => FaultKind::DiskFull(node),
            11 => FaultKind::SyncFails(node),
            12 => FaultKind::Damage(node, group),
            13 if wipes == 0 => {
                wipes += 1;
                FaultKind::Wipe(node)
            }
            14 => FaultKind::Cut(Vec::new(), Shape::LeaderCutOff),
            _ => FaultKind::WallJump(node, rng.below(100_000)),
        };
        faults.push(Fault { at, lasts, kind });
        at += every / 2 + rng.below(every);
    }
    faults
}

fn all_pairs(nodes: usize) -> impl Iterator<Item = (NodeAt, NodeAt)> {
    (0..nodes).flat_map(move |a| (0..nodes).map(move |b| (a, b))).filter(|(a, b)| a != b)
}

pub(crate) fn isolate(node: NodeAt, nodes: usize) -> Vec<(NodeAt, NodeAt)> {
    all_pairs(nodes).filter(|(a, b)| *a == node || *b == node).collect()
}

fn halves(mask: u64, nodes: usize) -> Vec<(NodeAt, NodeAt)> {
    let side = |node: NodeAt| mask >> node & 1;
    all_pairs(nodes).filter(|(a, b)| side(*a) != side(*b)).collect()
}

/// Two halves that only one node connects.
fn bridge(node: NodeAt, nodes: usize) -> Vec<(NodeAt, NodeAt)> {
    let side = |other: NodeAt| (other + nodes - node) % nodes * 2 > nodes;
    all_pairs(nodes).filter(|(a, b)| *a != node && *b != node && side(*a) != side(*b)).collect()
}

/// Each speaks with its neighbours only.
fn chain(nodes: usize) -> Vec<(NodeAt, NodeAt)> {
    all_pairs(nodes).filter(|(a, b)| a.abs_diff(*b) > 1).collect()
}

/// All speak with one and with nobody else.
fn star(centre: NodeAt, nodes: usize) -> Vec<(NodeAt, NodeAt)> {
    all_pairs(nodes).filter(|(a, b)| *a != centre && *b != centre).collect()
}

impl World {
    pub(crate) fn fault_begins(&mut self, at: usize) {
        let fault = self.faults[at].clone();
        self.queue.push(self.now + fault.lasts, Event::FaultEnds(at));
        *self.injected.entry(fault.kind.name()).or_default() += 1;
        self.tell(0, None, EventKind::Fault, at as u64, || fault.to_string());
        match &fault.kind {
            FaultKind::Cut(_, Shape::LeaderCutOff) => {
                let group = self.groups[0];
                let links = match self.leader_of(group) {
                    Some(leader) => isolate(leader, self.nodes.len()),
                    None => Vec::new(),
                };
                self.faults[at].kind = FaultKind::Cut(links, Shape::LeaderCutOff);
                self.cut(at);
            }
            FaultKind::Cut(..) => self.cut(at),
            FaultKind::Slow(links) => {
                for (from, to) in links {
                    self.network.slow(*from, *to, true);
                }
            }
            FaultKind::Crash(node, stop) => self.crash(*node, *stop),
            FaultKind::CrashMidTurn(node, after) => self.nodes[*node].crash_after = Some(*after),
            FaultKind::Storm(stop) => {
                for node in 0..self.nodes.len() {
                    self.crash(node, *stop);
                    let back = self.now + 10_000 + self.rng_crash.below(fault.lasts + 1);
                    self.queue.push(back, Event::Restart { node });
                }
            }
            FaultKind::Pause(node) => {
                let node = &mut self.nodes[*node];
                if node.running == Running::Up {
                    node.running = Running::Paused;
                }
            }
            FaultKind::DiskStall(node) => self.nodes[*node].disk_weather.stalled = true,
            FaultKind::DiskSlow(node, by) => self.nodes[*node].disk_weather.slowness = *by,
            FaultKind::DiskFull(node) => self.disk_space(*node, DiskSpace::Full),
            FaultKind::SyncFails(node) => self.nodes[*node].disk_weather.fails_next = true,
            FaultKind::Damage(node, group) => {
                self.crash(*node, Stop::Power);
                if self.may_lose(*node, *group) {
                    self.damage(*node, *group);
                }
            }
            FaultKind::Wipe(node) => {
                let groups = self.groups.clone();
                if groups.into_iter().all(|group| self.may_lose(*node, group)) {
                    self.wipe(*node);
                } else {
                    self.crash(*node, Stop::Power);
                }
            }
            FaultKind::WallJump(node, by) => self.nodes[*node].clock.wall_offset_ms += by,
        }
    }

    fn cut(&mut self, at: usize) {
        let FaultKind::Cut(links, _) = self.faults[at].kind.clone() else { return };
        for (from, to) in links {
            self.network.cut(from, to);
        }
    }

    pub(crate) fn fault_ends(&mut self, at: usize) {
        let fault = self.faults[at].clone();
        match fault.kind {
            FaultKind::Cut(links, _) => {
                for (from, to) in links {
                    self.network.mend(from, to);
                }
            }
            FaultKind::Slow(links) => {
                for (from, to) in links {
                    self.network.slow(from, to, false);
                }
            }
            FaultKind::Crash(node, _) | FaultKind::Damage(node, _) | FaultKind::Wipe(node) => {
                self.start(node);
            }
            FaultKind::CrashMidTurn(node, _) => {
                self.nodes[node].crash_after = None;
                self.start(node);
            }
            FaultKind::Pause(node) => self.resume(node),
            FaultKind::DiskStall(node) => {
                self.nodes[node].disk_weather.stalled = false;
                self.kick_disk(node);
            }
            FaultKind::DiskSlow(node, _) => self.nodes[node].disk_weather.slowness = 1,
            FaultKind::DiskFull(node) => self.disk_space(node, DiskSpace::Ample),
            FaultKind::SyncFails(node) => {
                self.nodes[node].disk_weather.fails_next = false;
                self.start(node);
            }
            FaultKind::Storm(_) | FaultKind::WallJump(..) => {}
        }
    }

    /// Whether a group survives it that one more of its replicas forgets: fewer than half of its
    /// voters, in either half of a membership, may be without their promises at any time.
    pub(crate) fn may_lose(&self, at: NodeAt, group: GroupId) -> bool {
        let Some(image) = self.nodes[at].disk.images.get(&group) else { return true };
        let lost = |replica: ReplicaId| {
            replica == image.replica
                || !self.nodes.iter().any(|node| {
                    node.disk.images.get(&group).is_some_and(|image| {
                        image.replica == replica && image.promise.promise == Promise::Kept
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
        // Memberships long left name replicas long gone; only the newest few matter, and a group
        // that is in the middle of a change is left alone.
        let newest = known.iter().map(|membership| membership.last_replica()).max();
        known
            .iter()
            .filter(|membership| Some(membership.last_replica()) == newest)
            .all(|membership| unharmed(membership.incoming()) && unharmed(membership.outgoing()))
    }

    fn damage(&mut self, at: NodeAt, group: GroupId) {
        if self.nodes[at].disk.damage(group, &mut self.rng_crash) {
            self.mark(Mark::DamageReported);
        }
    }

    /// Everything is mended, and everybody comes back.
    pub(crate) fn heal(&mut self) {
        self.network.mend_all();
        self.network.weather = super::network::Weather::CALM;
        self.healed = true;
        for at in 0..self.nodes.len() {
            self.nodes[at].crash_after = None;
            self.nodes[at].disk_weather = super::node::DiskWeather::default();
            self.disk_space(at, DiskSpace::Ample);
            self.resume(at);
            self.start(at);
            self.kick_disk(at);
        }
    }
}
