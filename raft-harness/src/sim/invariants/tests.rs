//! Each check against a short history that lies, and honest histories that none may refuse.
//!
//! The world below is a hand-made cluster without a protocol: tests move its marks as they like
//! and see what the checker says.

use super::*;
use crate::sim::observe::{Activity, EntryClass, EntryIdentity, LogView, MembershipView, Promises};
use raft_core::{Fault, Incarnation};

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

    fn see(&mut self, id: u64) -> Seen {
        self.now += 1;
        let disks = PeerDisks(&self.peers);
        let peer = self.peers.iter().find(|peer| peer.id == id).expect("a peer of the test");
        self.checker.observe(Micros::new(self.now), &peer.view(), &disks)
    }

    fn says(&mut self, id: u64, promise: Promise) -> Seen {
        self.checker.promised(GROUP, ReplicaId::new(id), promise, &PeerDisks(&self.peers))
    }

    fn elect(&mut self, id: u64, term: u64) -> Seen {
        self.step(id, |p| {
            p.term = term;
            p.vote = Some(id);
            p.role = RoleKind::Candidate;
            p.leader = None;
        })?;
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

#[test]
fn an_honest_history_passes() -> Seen {
    let mut world = World::led(&[1, 2, 3]);
    world.commit(2, 1)?;
    world.append(1, plain(1, 11))?;
    world.replicate(1, 2)?;
    world.commit(1, 2)?;
    world.commit(2, 2)?;
    // An uncommitted tail that the next leader replaces.
    world.append(1, plain(1, 12))?;
    world.append(1, plain(1, 13))?;
    world.elect(2, 2)?;
    world.replicate(2, 3)?;
    world.commit(2, 3)?;
    world.replicate(2, 1)?;
    world.commit(1, 3)?;
    for index in 1..=3 {
        let entry = world.peers[0].log.entry(LogIndex::new(index)).expect("there");
        for id in 1..=2 {
            let index = LogIndex::new(index);
            world.checker.applied(GROUP, ReplicaId::new(id), index, entry.term, entry.hash)?;
            world.checker.digest(GROUP, ReplicaId::new(id), index, index.get() * 31)?;
        }
    }
    world.checker.acknowledged(GROUP, LogIndex::new(2), Term::new(1))?;
    world.step(1, |p| p.snapshot(2))?;
    world.step(1, |p| p.snapshot(3))?;
    world.restart(1, |_| {})?;
    world.commit(3, 3)?;
    world.checker.sweep(world.peers.iter().map(Peer::view))?;
    world.checker.settled(world.peers.iter().map(Peer::view))?;
    assert!(world.checker.steps() > 20);
    assert_eq!(world.checker.committed(GROUP), LogIndex::new(3));
    Ok(())
}

#[test]
fn an_honest_change_of_membership_passes() -> Seen {
    let mut world = World::led(&[1, 2, 3]);
    for id in 4..=5 {
        world.peers.push(Peer::new(id, &[1, 2, 3]));
        world.see(id)?;
    }
    world.reconfigure(1, &[1, 4, 5], &[1, 2, 3])?;
    for id in [2, 4, 5] {
        world.replicate(1, id)?;
    }
    // Leaving is appended in the step that commits the joint configuration.
    world.peer(1).commit = 2;
    world.reconfigure(1, &[1, 4, 5], &[])?;
    world.replicate(1, 4)?;
    world.commit(1, 3)?;
    world.checker.sweep(world.peers.iter().map(Peer::view))
}

#[test]
fn marks_out_of_order_are_refused() {
    let mut world = World::led(&[1, 2, 3]);
    refused(world.step(2, |p| p.durable = 9), Check::MarksOrdered);
    let mut world = World::led(&[1, 2, 3]);
    refused(world.step(2, |p| p.commit = 9), Check::MarksOrdered);
    let mut world = World::led(&[1, 2, 3]);
    let applied =
        world.checker.applied(GROUP, ReplicaId::new(3), LogIndex::new(1), Term::new(1), 1000);
    refused(applied, Check::MarksOrdered);
}

#[test]
fn marks_that_fall_are_refused() {
    for lie in [(|p| p.term = 0) as fn(&mut Peer), |p| p.commit = 0, |p| p.durable = 0] {
        let mut world = World::led(&[1, 2, 3]);
        world.commit(2, 1).expect("sound");
        let seen = world.step(2, |p| {
            p.leader = None;
            lie(p);
        });
        // A log of term 1 in term 0 is found first.
        let check = seen.expect_err("a mark fell").check;
        assert!([Check::MarksMonotone, Check::EntryTerms].contains(&check), "{check:?}");
    }
}

#[test]
fn a_second_vote_in_a_term_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.step(2, |p| (p.term, p.vote, p.leader) = (2, Some(3), None)).expect("sound");
    refused(world.step(2, |p| p.vote = Some(1)), Check::VoteOnce);
    let mut world = World::led(&[1, 2, 3]);
    world.step(2, |p| (p.term, p.vote, p.leader) = (2, Some(3), None)).expect("sound");
    refused(world.step(2, |p| p.vote = None), Check::VoteOnce);
}

#[test]
fn a_vote_given_twice_on_the_wire_is_refused_in_any_life() {
    let mut world = World::led(&[1, 2, 3]);
    let vote =
        |candidate| Promise::Vote { term: Term::new(2), candidate: ReplicaId::new(candidate) };
    world.step(2, |p| (p.term, p.vote, p.leader) = (2, Some(3), None)).expect("sound");
    world.says(2, vote(3)).expect("sound");
    world.says(2, vote(3)).expect("said again");
    refused(world.says(2, vote(1)), Check::VoteOnce);
}

#[test]
fn terms_that_fall_along_a_log_are_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.elect(2, 2).expect("sound");
    refused(world.append(2, plain(1, 5)), Check::EntryTerms);
    let mut world = World::led(&[1, 2, 3]);
    refused(world.append(1, plain(2, 5)), Check::EntryTerms);
}

#[test]
fn a_leader_that_truncates_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    refused(world.step(1, |p| p.truncate(1)), Check::Truncation);
}

#[test]
fn a_follower_that_truncates_without_a_conflict_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    world.replicate(1, 2).expect("sound");
    let seen = world.step(2, |p| {
        p.truncate(1);
        (p.term, p.vote, p.leader) = (2, None, None);
    });
    refused(seen, Check::Truncation);
}

#[test]
fn a_truncation_of_what_the_group_has_committed_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    world.replicate(1, 2).expect("sound");
    world.commit(1, 2).expect("sound");
    // r3 lacks entry 2, wins nevertheless, and r2 follows it. Only r2 is looked at.
    let stolen = plain(2, 2000);
    world.peer(3).log.entries.push(stolen);
    world
        .checker
        .groups
        .get_mut(&GROUP)
        .expect("known")
        .record
        .leaders
        .insert(Term::new(2), ReplicaId::new(2));
    let seen = world.step(2, |p| {
        p.truncate(1);
        p.log.entries.push(stolen);
        (p.term, p.vote, p.leader, p.durable) = (2, None, None, 2);
    });
    refused(seen, Check::Truncation);
}

#[test]
fn a_leader_that_commits_an_earlier_terms_entry_by_counting_is_refused() {
    let mut world = World::new(&[1, 2, 3]);
    world.elect(1, 1).expect("sound");
    world.replicate(1, 2).expect("sound");
    world.elect(2, 2).expect("sound");
    // The no-op of term 2 is not replicated; only entry 1 of term 1 is on a majority.
    refused(world.commit(2, 1), Check::CommitOwnTerm);
}

#[test]
fn acting_under_another_than_the_last_configuration_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    let seen = world.step(1, |p| {
        p.log.entries.push(EntryIdentity { class: EntryClass::Config, ..plain(1, 5) });
    });
    refused(seen, Check::ActiveConfig);
    let mut world = World::led(&[1, 2, 3]);
    world.reconfigure(1, &[1, 2, 3, 4], &[]).expect("sound");
    world.replicate(1, 2).expect("sound");
    world.elect(3, 2).expect("sound");
    // The entry is gone, its configuration is kept.
    let seen = world.step(2, |p| {
        let kept = p.configs.clone();
        p.truncate(1);
        p.log.entries.push(plain(2, 2000));
        p.configs = kept;
        (p.term, p.vote, p.leader, p.durable) = (2, None, Some(3), 2);
    });
    refused(seen, Check::ActiveConfig);
}

#[test]
fn a_second_change_before_the_first_is_committed_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.reconfigure(1, &[1, 2, 3, 4], &[]).expect("sound");
    refused(world.reconfigure(1, &[1, 2, 3, 4, 5], &[]), Check::ActiveConfig);
}

#[test]
fn a_change_before_the_leader_has_committed_in_its_term_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.elect(2, 2).expect("sound");
    refused(world.reconfigure(2, &[1, 2, 3, 4], &[]), Check::ActiveConfig);
}

#[test]
fn a_replica_that_votes_and_learns_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.peer(1).commit = 1;
    let seen = world.step(1, |p| {
        p.log.entries.push(EntryIdentity { class: EntryClass::Config, ..plain(1, 5) });
        let mut both = config(2, &[1, 2, 3], &[]);
        both.learners.push(ReplicaId::new(3));
        p.configs.push(both);
    });
    refused(seen, Check::ActiveConfig);
}

#[test]
fn a_follower_that_commits_beyond_what_it_verified_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    world.replicate(1, 2).expect("sound");
    world.commit(1, 2).expect("sound");
    world.step(2, |p| p.verified = 1).expect("sound");
    refused(world.commit(2, 2), Check::CommitVerified);
}

#[test]
fn candidates_outside_of_the_configuration_are_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.peers.push(Peer::new(4, &[1, 2, 3]));
    world.see(4).expect("sound");
    refused(world.step(4, |p| p.role = RoleKind::PreCandidate), Check::CandidatePromotable);
}

#[test]
fn a_voter_awake_without_a_deadline_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    refused(world.step(2, |p| p.next_deadline = None), Check::Deadline);
}

#[test]
fn a_sleeper_that_waits_for_something_is_refused() {
    let asleep = |p: &mut Peer| (p.activity, p.next_deadline) = (Activity::Quiesced, None);
    let mut world = World::led(&[1, 2, 3]);
    world.step(1, asleep).expect("everything is committed");
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    refused(world.step(1, asleep), Check::Deadline);
    let mut world = World::led(&[1, 2, 3]);
    let seen = world.step(2, |p| {
        asleep(p);
        p.in_flight = 1;
    });
    refused(seen, Check::Deadline);
    let mut world = World::led(&[1, 2, 3]);
    refused(world.step(2, |p| p.activity = Activity::Quiesced), Check::Deadline);
}

#[test]
fn two_leaders_of_one_term_are_refused_even_apart_in_time() {
    let mut world = World::led(&[1, 2, 3]);
    world
        .step(1, |p| (p.role, p.term, p.vote, p.leader) = (RoleKind::Follower, 2, None, None))
        .expect("sound");
    world.step(3, |p| p.role = RoleKind::Candidate).expect("sound");
    refused(world.step(3, |p| p.role = RoleKind::Leader), Check::ElectionSafety);
    let mut world = World::led(&[1, 2, 3]);
    refused(world.step(3, |p| p.leader = Some(2)), Check::ElectionSafety);
}

#[test]
fn logs_that_do_not_match_are_refused() {
    // The same place and term, another payload.
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    refused(world.append(2, plain(1, 12)), Check::LogMatching);
    // The same entry after another predecessor.
    let mut world = World::new(&[1, 2, 3]);
    world.elect(1, 1).expect("sound");
    world.elect(2, 2).expect("sound");
    world.append(2, plain(2, 21)).expect("sound");
    world
        .step(1, |p| (p.role, p.term, p.vote, p.leader) = (RoleKind::Follower, 2, None, None))
        .expect("sound");
    refused(world.append(1, plain(2, 21)), Check::LogMatching);
    // An entry its term's leader never had.
    let mut world = World::led(&[1, 2, 3]);
    refused(world.append(2, plain(1, 12)), Check::LogMatching);
}

#[test]
fn a_log_rewritten_in_place_is_found_by_the_sweep() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    world.replicate(1, 2).expect("sound");
    world.peer(2).log.entries[0].hash += 1;
    world.see(2).expect("the end looks the same");
    refused(world.checker.sweep(world.peers.iter().map(Peer::view)), Check::LogMatching);
}

#[test]
fn a_leader_without_a_committed_entry_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    world.replicate(1, 2).expect("sound");
    world.commit(1, 2).expect("sound");
    refused(world.elect(3, 2), Check::LeaderCompleteness);
}

#[test]
fn a_late_winner_of_an_old_term_owes_only_what_was_committed_before_it() {
    let mut world = World::led(&[1, 2, 3]);
    world
        .step(3, |p| (p.term, p.vote, p.role, p.leader) = (2, Some(3), RoleKind::Candidate, None))
        .expect("sound");
    world.elect(2, 3).expect("sound");
    world.replicate(2, 1).expect("sound");
    world.commit(2, 2).expect("sound");
    world.step(3, |p| (p.role, p.leader) = (RoleKind::Leader, Some(3))).expect("late but sound");
}

#[test]
fn applying_something_else_is_refused() {
    let apply = |index, term, hash| {
        let mut world = World::led(&[1, 2, 3]);
        world.append(1, plain(1, 11)).expect("sound");
        world.replicate(1, 2).expect("sound");
        world.commit(1, 2).expect("sound");
        world.checker.applied(GROUP, ReplicaId::new(1), LogIndex::new(1), Term::new(1), 1000)?;
        world.checker.applied(GROUP, ReplicaId::new(1), LogIndex::new(index), Term::new(term), hash)
    };
    apply(2, 1, 11).expect("sound");
    refused(apply(2, 1, 12), Check::StateMachineSafety);
    refused(apply(2, 2, 11), Check::StateMachineSafety);
    // Twice.
    refused(apply(1, 1, 1000), Check::StateMachineSafety);
}

#[test]
fn skipping_an_entry_and_installing_an_uncommitted_snapshot_are_refused() {
    let mut world = World::led(&[1, 2, 3]);
    for hash in 11..=12 {
        world.append(1, plain(1, hash)).expect("sound");
    }
    world.replicate(1, 2).expect("sound");
    world.commit(1, 3).expect("sound");
    let r1 = ReplicaId::new(1);
    world.checker.installed(GROUP, r1, LogIndex::new(1), Term::new(1)).expect("sound");
    let skipped = world.checker.applied(GROUP, r1, LogIndex::new(3), Term::new(1), 12);
    refused(skipped, Check::StateMachineSafety);
    let early = world.checker.installed(GROUP, r1, LogIndex::new(4), Term::new(1));
    refused(early, Check::StateMachineSafety);
}

#[test]
fn states_that_differ_after_the_same_entry_are_refused() {
    let mut world = World::led(&[1, 2, 3]);
    let at = LogIndex::new(1);
    world.checker.digest(GROUP, ReplicaId::new(1), at, 5).expect("sound");
    world.checker.digest(GROUP, ReplicaId::new(2), at, 5).expect("sound");
    let other = world.checker.digest(GROUP, ReplicaId::new(3), at, 6);
    refused(other, Check::StateMachineSafety);
}

#[test]
fn a_commit_on_less_than_a_durable_quorum_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    refused(world.commit(1, 2), Check::DurableQuorum);
    // In memory everywhere, on disk nowhere else.
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    for id in 2..=3 {
        world.replicate(1, id).expect("sound");
        world.peer(id).durable = 1;
    }
    refused(world.commit(1, 2), Check::DurableQuorum);
}

#[test]
fn a_joint_commit_without_the_outgoing_half_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    for id in 4..=5 {
        world.peers.push(Peer::new(id, &[1, 2, 3]));
        world.see(id).expect("sound");
    }
    world.reconfigure(1, &[1, 4, 5], &[1, 2, 3]).expect("sound");
    for id in [4, 5] {
        world.replicate(1, id).expect("sound");
    }
    // Three of the five have it, one of the outgoing three. In the step that leaves, too.
    world.peer(1).commit = 2;
    refused(world.reconfigure(1, &[1, 4, 5], &[]), Check::DurableQuorum);
}

#[test]
fn a_follower_that_commits_first_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    world.replicate(1, 2).expect("sound");
    refused(world.commit(2, 2), Check::DurableQuorum);
}

#[test]
fn a_committed_entry_that_changes_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    world.replicate(1, 2).expect("sound");
    world.commit(1, 2).expect("sound");
    // r3 never had entry 2, so nothing is truncated when it takes another one and commits it.
    world
        .checker
        .groups
        .get_mut(&GROUP)
        .expect("known")
        .record
        .leaders
        .insert(Term::new(2), ReplicaId::new(3));
    world
        .step(3, |p| {
            p.log.entries.push(plain(2, 2000));
            (p.term, p.vote, p.leader, p.durable, p.verified) = (2, None, None, 2, 2);
        })
        .expect("not committed yet");
    refused(world.commit(3, 2), Check::CommittedForever);
}

#[test]
fn a_snapshot_of_what_nobody_committed_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    let seen = world.step(3, |p| {
        p.log = Log { base: 5, base_term: 1, entries: vec![] };
        (p.commit, p.durable, p.verified) = (5, 5, 5);
    });
    refused(seen, Check::CommittedForever);
}

#[test]
fn a_leap_between_configurations_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    refused(world.reconfigure(1, &[3, 4, 5], &[]), Check::QuorumsIntersect);
}

#[test]
fn disjoint_electable_quorums_are_found_by_the_sweep() {
    let world = disjointly_reconfigured();
    let sweep = world.checker.sweep(world.peers.iter().map(Peer::view));
    refused(sweep, Check::QuorumsIntersect);
}

/// The single-server bug: two leaders each change one voter, the second before it has committed
/// anything in its term. {1, 4, 5} decide under the one configuration, {2, 3} under the other.
fn disjointly_reconfigured() -> World {
    let mut world = World::led(&[1, 2, 3, 4]);
    world.peers.push(Peer::new(5, &[1, 2, 3, 4]));
    world.see(5).expect("sound");
    world.reconfigure(1, &[1, 2, 3, 4, 5], &[]).expect("sound");
    for id in [4, 5] {
        world.replicate(1, id).expect("sound");
    }
    world.elect(2, 2).expect("sound");
    let Err(_) = world.reconfigure(2, &[2, 3, 4], &[]) else { panic!("no own-term commit") };
    // Carry on as if that check did not exist: only the sweep is asked.
    let peer = world.peers[1].view();
    let marks = Marks::of(&peer);
    let key = membership::ConfigKey { index: LogIndex::new(3), term: Term::new(2) };
    let view = MembershipView { ..peer.membership };
    let group = world.checker.groups.get_mut(&GROUP).expect("known");
    group.record.configs.note(key, &view).expect("new");
    let state = group.replica(ReplicaId::new(2)).expect("known");
    state.config = Some(key);
    state.marks = marks;
    world
}

#[test]
fn a_commit_in_a_later_term_during_a_lease_is_refused() {
    let lead = |lease_until| {
        let mut world = World::led(&[1, 2, 3]);
        world.step(1, |p| p.lease_until = Some(lease_until)).expect("sound");
        world.elect(2, 2).expect("sound");
        world.replicate(2, 3).expect("sound");
        world.commit(2, 2)
    };
    lead(5).expect("the lease is over by then");
    refused(lead(1000), Check::LeaseSafety);
}

#[test]
fn a_lease_taken_after_a_later_terms_commit_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.elect(2, 2).expect("sound");
    world.replicate(2, 3).expect("sound");
    world.commit(2, 2).expect("sound");
    world.step(1, |p| p.lease_until = Some(1)).expect("it is over already");
    refused(world.step(1, |p| p.lease_until = Some(1000)), Check::LeaseSafety);
}

#[test]
fn a_crash_ends_a_lease() {
    let mut world = World::led(&[1, 2, 3]);
    world.step(1, |p| p.lease_until = Some(1000)).expect("sound");
    world.checker.crashed(NodeId::new(1));
    world.elect(2, 2).expect("sound");
    world.replicate(2, 3).expect("sound");
    world.commit(2, 2).expect("nobody serves from the lease");
}

#[test]
fn a_promise_forgotten_over_a_restart_is_refused() {
    let promising = || {
        let mut world = World::led(&[1, 2, 3]);
        world.step(2, |p| (p.term, p.vote, p.leader) = (2, Some(3), None)).expect("sound");
        let vote = Promise::Vote { term: Term::new(2), candidate: ReplicaId::new(3) };
        world.says(2, vote).expect("sound");
        let held = Promise::Held { index: LogIndex::new(1), term: Term::new(1) };
        world.says(2, held).expect("sound");
        world
    };
    promising().restart(2, |_| {}).expect("it remembers");
    refused(promising().restart(2, |p| (p.term, p.vote) = (1, None)), Check::Externalisation);
    refused(promising().restart(2, |p| p.vote = None), Check::Externalisation);
    refused(promising().restart(2, |p| p.truncate(0)), Check::Externalisation);
    refused(promising().restart(2, |p| p.role = RoleKind::Leader), Check::Externalisation);
}

#[test]
fn an_acknowledged_entry_may_be_missing_if_a_later_leader_replaced_it() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    world.replicate(1, 2).expect("sound");
    let held = Promise::Held { index: LogIndex::new(2), term: Term::new(1) };
    world.says(2, held).expect("sound");
    world.elect(3, 2).expect("sound");
    world.replicate(3, 2).expect("sound");
    world.restart(2, |_| {}).expect("sound");
}

#[test]
fn promising_what_is_not_on_disk_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    world.replicate(1, 2).expect("sound");
    world.peer(2).durable = 1;
    let held = Promise::Held { index: LogIndex::new(2), term: Term::new(1) };
    refused(world.says(2, held), Check::Externalisation);
    let mut world = World::led(&[1, 2, 3]);
    refused(world.says(2, Promise::Term(Term::new(2))), Check::Externalisation);
}

#[test]
fn a_wiped_replica_must_say_so_and_abstain() {
    let wiped = |promises| {
        let mut world = World::led(&[1, 2, 3]);
        let held = Promise::Held { index: LogIndex::new(1), term: Term::new(1) };
        world.says(2, held).expect("sound");
        world.checker.wiped(NodeId::new(2));
        let seen = world.restart(2, |p| {
            *p = Peer { life: p.life, promises, ..Peer::new(2, &[1, 2, 3]) };
        });
        (world, seen)
    };
    refused(wiped(Promises::Kept).1, Check::PromiseLost);
    let (mut world, seen) = wiped(Promises::Lost);
    seen.expect("it says so");
    refused(world.step(2, |p| p.role = RoleKind::PreCandidate), Check::PromiseLost);
    let (mut world, _) = wiped(Promises::Lost);
    refused(world.step(2, |p| (p.term, p.vote) = (1, Some(3))), Check::PromiseLost);
    let (mut world, _) = wiped(Promises::Lost);
    let vote = Promise::Vote { term: Term::new(2), candidate: ReplicaId::new(3) };
    refused(world.says(2, vote), Check::PromiseLost);
}

#[test]
fn taking_part_again_below_a_forgotten_term_is_refused() {
    let lost = |term| {
        let mut world = World::led(&[1, 2, 3]);
        world.step(2, |p| (p.term, p.vote, p.leader) = (3, Some(3), None)).expect("sound");
        world.says(2, Promise::Term(Term::new(3))).expect("sound");
        world
            .restart(2, |p| (p.term, p.vote, p.promises) = (1, None, Promises::Lost))
            .expect("it says so");
        world.step(2, |p| (p.term, p.promises) = (term, Promises::Kept))
    };
    refused(lost(2), Check::PromiseLost);
    lost(3).expect("the fence covers it");
}

#[test]
fn an_acknowledged_write_that_is_not_committed_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.checker.acknowledged(GROUP, LogIndex::new(1), Term::new(1)).expect("sound");
    let never = world.checker.acknowledged(GROUP, LogIndex::new(2), Term::new(1));
    refused(never, Check::AcknowledgedLost);
    let other = world.checker.acknowledged(GROUP, LogIndex::new(1), Term::new(2));
    refused(other, Check::AcknowledgedLost);
}

#[test]
fn a_replica_that_ends_without_a_committed_entry_is_refused() {
    let world = World::led(&[1, 2, 3]);
    // r2 and r3 have not heard of the commit.
    let settled = world.checker.settled(world.peers.iter().map(Peer::view));
    refused(settled, Check::AcknowledgedLost);
}

#[test]
fn one_configuration_entry_with_two_contents_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.reconfigure(1, &[1, 2, 3, 4], &[]).expect("sound");
    let source = world.peer(1).log.clone();
    let seen = world.step(2, |p| {
        p.log = source;
        p.configs.push(config(2, &[1, 2, 3, 5], &[]));
    });
    refused(seen, Check::ConfigChain);
}

#[test]
fn a_removed_replica_that_wins_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.reconfigure(1, &[1, 2], &[]).expect("sound");
    world.replicate(1, 2).expect("sound");
    world.commit(1, 2).expect("sound");
    // It never heard of its removal.
    let seen = world.elect(3, 2);
    let check = seen.expect_err("it was removed").check;
    assert_eq!(check, Check::ConfigChain);
}

#[test]
fn a_replica_id_that_comes_back_is_refused() {
    let mut world = World::led(&[1, 2, 3]);
    world.reconfigure(1, &[1, 2], &[]).expect("sound");
    world.replicate(1, 2).expect("sound");
    world.commit(1, 2).expect("sound");
    world.reconfigure(1, &[1, 2, 3], &[]).expect("not committed yet");
    world.replicate(1, 2).expect("sound");
    refused(world.commit(1, 3), Check::ConfigChain);
}

#[test]
fn a_fault_is_a_finding_unless_it_is_excused() {
    let fault = || Some(Fault::LogUnreadable { index: LogIndex::new(1) });
    let mut world = World::led(&[1, 2, 3]);
    refused(world.step(2, |p| p.fault = fault()), Check::UnexpectedFault);
    let mut world = World::led(&[1, 2, 3]);
    world.checker.excuse_fault(GROUP, ReplicaId::new(2));
    world.step(2, |p| p.fault = fault()).expect("excused");
}

#[test]
fn a_resurrected_entry_is_noticed_on_the_next_commit() {
    // The truncation of r1's tail never reached its disk, so the old tail is back.
    let mut world = World::led(&[1, 2, 3]);
    world.append(1, plain(1, 11)).expect("sound");
    let old = world.peer(1).log.clone();
    world.elect(2, 2).expect("sound");
    world.replicate(2, 3).expect("sound");
    world.commit(2, 2).expect("sound");
    world.replicate(2, 1).expect("sound");
    let held = Promise::Held { index: LogIndex::new(2), term: Term::new(2) };
    world.says(1, held).expect("sound");
    refused(world.restart(1, |p| p.log = old), Check::Externalisation);
}
