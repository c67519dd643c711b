//! Each check against a short history that lies, and honest histories that none may refuse.
//!
//! The world below is a hand-made cluster without a protocol: tests move its marks as they like
//! and see what the checker says.

mod group;
mod membership;
mod pre_vote;
mod promises;
mod replica;

use super::*;
use crate::sim::observe::{Activity, EntryClass, EntryIdentity, LogView, MembershipView, Promises};
use raft_core::{Fault, Incarnation, VoteRequest};

const GROUP: GroupId = GroupId::new(7);

#[derive(Clone, Default)]
struct Log {
    base: u64,
    base_term: u64,
    entries: Vec<EntryIdentity>,
}

impl LogView for Log {
    fn entry(&self, index: LogIndex) -> Option<EntryIdentity> {
        let at = index.get().checked_sub(self.base + 1)?;
        self.entries.get(at as usize).copied()
    }
}

#[derive(Clone)]
struct Config {
    index: u64,
    voters: Vec<ReplicaId>,
    outgoing: Vec<ReplicaId>,
    learners: Vec<ReplicaId>,
}

#[derive(Clone)]
struct Peer {
    id: u64,
    life: u64,
    term: u64,
    vote: Option<u64>,
    role: RoleKind,
    leader: Option<u64>,
    commit: u64,
    durable: u64,
    verified: u64,
    log: Log,
    /// The configurations in force over time; the last that is in the log acts.
    configs: Vec<Config>,
    lease_until: Option<u64>,
    activity: Activity,
    next_deadline: Option<Micros>,
    in_flight: u64,
    promises: Promises,
    fault: Option<Fault>,
}

impl Peer {
    fn new(id: u64, voters: &[u64]) -> Self {
        Self {
            id,
            life: 1,
            term: 0,
            vote: None,
            role: RoleKind::Follower,
            leader: None,
            commit: 0,
            durable: 0,
            verified: 0,
            log: Log::default(),
            configs: vec![config(0, voters, &[])],
            lease_until: None,
            activity: Activity::Awake,
            next_deadline: Some(Micros::new(1)),
            in_flight: 0,
            promises: Promises::Kept,
            fault: None,
        }
    }

    fn last(&self) -> u64 {
        self.log.base + self.log.entries.len() as u64
    }

    fn acts_under(&self) -> &Config {
        self.configs.last().expect("never empty")
    }

    fn truncate(&mut self, keep: u64) {
        self.log.entries.truncate((keep - self.log.base) as usize);
        self.configs.retain(|config| config.index <= keep);
        self.durable = self.durable.min(keep);
    }

    fn snapshot(&mut self, base: u64) {
        let term = self.log.entry(LogIndex::new(base)).expect("in the log").term.get();
        self.log.entries.drain(..(base - self.log.base) as usize);
        self.log.base = base;
        self.log.base_term = term;
    }

    fn view(&self) -> ReplicaView<'_> {
        let config = self.acts_under();
        ReplicaView {
            node: NodeId::new(self.id),
            group: GROUP,
            replica: ReplicaId::new(self.id),
            incarnation: Incarnation::new(self.life),
            term: Term::new(self.term),
            vote: self.vote.map(ReplicaId::new),
            role: self.role,
            leader: self.leader.map(ReplicaId::new),
            commit: LogIndex::new(self.commit),
            appliable: LogIndex::new(self.commit.min(self.durable).max(self.log.base)),
            written: LogIndex::new(self.durable),
            durable: LogIndex::new(self.durable),
            last: LogIndex::new(self.last()),
            base: LogIndex::new(self.log.base),
            base_term: Term::new(self.log.base_term),
            verified: LogIndex::new(self.verified),
            membership: MembershipView {
                index: LogIndex::new(config.index),
                voters: &config.voters,
                outgoing: &config.outgoing,
                learners: &config.learners,
            },
            lease_until: self.lease_until.map(Micros::new),
            activity: self.activity,
            next_deadline: self.next_deadline,
            in_flight: self.in_flight,
            promises: self.promises,
            fault: self.fault.as_ref(),
            log: &self.log,
        }
    }
}

fn config(index: u64, voters: &[u64], outgoing: &[u64]) -> Config {
    let ids = |numbers: &[u64]| numbers.iter().copied().map(ReplicaId::new).collect();
    Config { index, voters: ids(voters), outgoing: ids(outgoing), learners: vec![] }
}

fn plain(term: u64, hash: u64) -> EntryIdentity {
    EntryIdentity { term: Term::new(term), hash, class: EntryClass::Plain }
}

/// The peers' marks are their disks.
struct PeerDisks<'a>(&'a [Peer]);

impl Disks for PeerDisks<'_> {
    fn holds(&self, _: GroupId, replica: ReplicaId, index: LogIndex, term: Term) -> bool {
        self.0
            .iter()
            .filter(|p| p.id == replica.get() && index.get() <= p.durable)
            .any(|p| index.get() <= p.log.base || p.log.term(index) == Some(term))
    }

    fn hard_state(&self, _: GroupId, replica: ReplicaId) -> Option<HardState> {
        let peer = self.0.iter().find(|p| p.id == replica.get())?;
        Some(HardState { term: Term::new(peer.term), vote: peer.vote.map(ReplicaId::new) })
    }
}

struct World {
    checker: Checker,
    now: u64,
    peers: Vec<Peer>,
}

type Seen = Result<(), Violation>;

impl World {
    /// A group of these voters that has just begun.
    fn new(voters: &[u64]) -> Self {
        let peers = voters.iter().map(|id| Peer::new(*id, voters)).collect();
        let mut world = Self { checker: Checker::new(), now: 0, peers };
        for id in voters {
            world.see(*id).expect("an empty group is sound");
        }
        world
    }

    fn peer(&mut self, id: u64) -> &mut Peer {
        self.peers.iter_mut().find(|peer| peer.id == id).expect("a peer of the test")
    }

    /// The peer takes a step: it becomes what `change` makes of it.
    fn step(&mut self, id: u64, change: impl FnOnce(&mut Peer)) -> Seen {
        change(self.peer(id));
        self.see(id)
    }

    /// The peer is asked by `from`, and becomes what `change` makes of it.
    fn pre_vote(
        &mut self,
        id: u64,
        from: u64,
        request: VoteRequest,
        change: impl FnOnce(&mut Peer),
    ) -> Seen {
        let deadline = self.peer(id).next_deadline;
        change(self.peer(id));
        let peer = self.peers.iter().find(|peer| peer.id == id).expect("a peer of the test");
        self.checker.pre_vote_asked(&peer.view(), ReplicaId::new(from), request, deadline)
    }

    fn see(&mut self, id: u64) -> Seen {
        self.now += 1;
        let disks = PeerDisks(&self.peers);
        let peer = self.peers.iter().find(|peer| peer.id == id).expect("a peer of the test");
        self.checker.observe(Micros::new(self.now), &peer.view(), &disks)
    }

    fn says(&mut self, id: u64, promise: Promise) -> Seen {
        self.checker.promised(GROUP, ReplicaId::new(id), promise, &PeerDisks(&self.peers))
    }

    fn stand(&mut self, id: u64, term: u64) -> Seen {
        self.step(id, |p| {
            p.term = term;
            p.vote = Some(id);
            p.role = RoleKind::Candidate;
            p.leader = None;
        })
    }

    fn elect(&mut self, id: u64, term: u64) -> Seen {
        self.stand(id, term)?;
        self.step(id, |p| {
            p.role = RoleKind::Leader;
            p.leader = Some(id);
        })?;
        self.append(id, plain(term, term * 1000))
    }

    fn append(&mut self, id: u64, entry: EntryIdentity) -> Seen {
        self.step(id, |p| {
            p.log.entries.push(entry);
            p.durable = p.last();
        })
    }

    /// `to` gets all of `from`'s log above its own base, and its disk has it.
    fn replicate(&mut self, from: u64, to: u64) -> Seen {
        let source = self.peer(from).clone();
        self.step(to, |p| {
            let skip = (p.log.base - source.log.base) as usize;
            p.log.entries = source.log.entries[skip..].to_vec();
            p.configs = source.configs.clone();
            if p.term < source.term {
                p.vote = None;
            }
            p.term = source.term;
            p.leader = Some(from);
            p.role = RoleKind::Follower;
            p.durable = p.last();
            p.verified = p.last();
        })
    }

    fn commit(&mut self, id: u64, index: u64) -> Seen {
        self.step(id, |p| p.commit = index)
    }

    /// The leader appends `change` and acts under it at once.
    fn reconfigure(&mut self, id: u64, voters: &[u64], outgoing: &[u64]) -> Seen {
        self.step(id, |p| {
            let index = p.last() + 1;
            let hash = 77_000 + index;
            p.log.entries.push(EntryIdentity { class: EntryClass::Config, ..plain(p.term, hash) });
            p.durable = p.last();
            p.configs.push(config(index, voters, outgoing));
        })
    }

    fn restart(&mut self, id: u64, change: impl FnOnce(&mut Peer)) -> Seen {
        self.checker.crashed(NodeId::new(id));
        let peer = self.peer(id);
        peer.life += 1;
        peer.role = RoleKind::Follower;
        peer.leader = None;
        peer.lease_until = None;
        peer.verified = 0;
        change(peer);
        self.see(id)
    }

    /// r1 leads term 1; its no-op is everywhere and committed.
    fn led(voters: &[u64]) -> Self {
        let mut world = Self::new(voters);
        world.elect(1, 1).expect("sound");
        for id in &voters[1..] {
            world.replicate(1, *id).expect("sound");
        }
        world.commit(1, 1).expect("sound");
        world
    }
}

fn refused(seen: Seen, check: Check) {
    match seen {
        Ok(()) => panic!("{} saw nothing", check.id()),
        Err(violation) => assert_eq!(violation.check, check, "{violation}"),
    }
}
