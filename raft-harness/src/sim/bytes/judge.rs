//! Between the engines and the checks: what a replica looks like, what its disk holds, what it
//! has said.
//!
//! Engines, state machines and the world all report here while a run goes on, each when it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use raft_core::{
    Entry, EntryKind, Fault, GroupId, Incarnation, LogIndex, LogTime, Micros, NodeId, ReplicaId,
    RoleKind, Term,
};

use super::accounts::{Account, Accounts, Buried, Shown, View};
use super::clock::NodeClock;
use super::incarnations::{group_of, life_in, life_of};
use super::network::Place;
use super::patience::Patience;
use super::sightings::{Onlooker, Sightings};
use super::swarm::Swarm;
use super::tap::{Claim, Said};
use super::timekeeper::Timekeeper;
use crate::engine::{Replica, Watch};
use crate::sim::invariants::{Checker, audited};
use crate::sim::marks::Mark;
use crate::sim::observe::{
    Activity, EntryClass, EntryIdentity, LogView, MembershipView, Promise, Promises, ReplicaView,
};
use crate::sim::rng::mix;
use crate::sim::violation::{Check, Violation};

/// The judge of a run. Clones share it.
#[derive(Clone)]
pub(super) struct Judge(Arc<Mutex<Bench>>);

pub(super) struct Bench {
    /// Virtual time.
    pub(super) now: u64,
    pub(super) checker: Checker,
    pub(super) accounts: Accounts,
    pub(super) patience: Patience,
    pub(super) onlooker: Onlooker,
    sightings: Sightings,
    /// Hand-overs that were begun because a log ails, for the world to look at.
    pub(super) handed: Vec<(Place, GroupId)>,
    /// Groups whose only voter went on with what its log holds: from where, and how many committed
    /// entries it goes on without. For the world to look at.
    pub(super) alone: Vec<(GroupId, LogIndex, u64)>,
    /// What was found wrong and not yet taken.
    pub(super) found: Vec<Violation>,
    /// Nodes whose log failed in this life: all that is there goes mute.
    pub(super) failed: BTreeSet<Place>,
    /// Nodes with a damaged disk and machines that read what their snapshots left in the log: who meets the
    /// damage there goes mute, and is started again.
    pub(super) rotten: BTreeSet<Place>,
    pub(super) mute: BTreeSet<Place>,
    /// Entries ever seen, for logs whose payloads are not at hand.
    seen: Seen,
    /// Wall clocks as they were, and the stamps that came of them.
    pub(super) timekeeper: Timekeeper,
    nodes: Vec<NodeId>,
    /// Replicas that trust themselves: since which life, and what they may apply.
    trusted: BTreeMap<(GroupId, ReplicaId), (Incarnation, LogIndex)>,
    /// How often losses were accepted in a replica's log, and in which life that was seen.
    epochs: BTreeMap<(GroupId, ReplicaId), (Incarnation, u32)>,
    /// What replicas might apply before their logs were found damaged, and in which life that was: that
    /// much may be on its way.
    fallen: BTreeMap<(GroupId, ReplicaId), (Incarnation, LogIndex)>,
}

/// What each entry is, by life of a group, index and term.
type Seen = BTreeMap<(GroupId, LogIndex, Term), Known>;

/// What is remembered of an entry.
#[derive(Clone, Copy)]
struct Known {
    hash: u64,
    class: EntryClass,
    time: LogTime,
}

impl Judge {
    pub(super) fn new(swarm: &Swarm, sightings: Sightings) -> Self {
        let policies: BTreeMap<_, _> =
            swarm.groups.iter().map(|spec| (spec.group, spec.flush)).collect();
        let nodes = swarm.nodes.iter().map(|node| Account::new(*node, policies.clone())).collect();
        let mut accounts = Accounts { nodes, places: BTreeMap::new() };
        for spec in &swarm.groups {
            for (replica, node) in &spec.replicas {
                if let Some(place) = swarm.place_of(*node) {
                    accounts.places.insert((life_in(spec), *replica), place);
                }
            }
        }
        let bench = Bench {
            now: 0,
            checker: Checker::new(),
            accounts,
            patience: Patience::new(&swarm.settings),
            onlooker: Onlooker::new(sightings.clone()),
            timekeeper: Timekeeper::new(swarm, sightings.clone()),
            sightings,
            handed: Vec::new(),
            alone: Vec::new(),
            found: Vec::new(),
            failed: BTreeSet::new(),
            rotten: BTreeSet::new(),
            mute: BTreeSet::new(),
            seen: Seen::new(),
            nodes: swarm.nodes.clone(),
            trusted: BTreeMap::new(),
            epochs: BTreeMap::new(),
            fallen: BTreeMap::new(),
        };
        Self(Arc::new(Mutex::new(bench)))
    }

    pub(super) fn at_node(&self, place: Place, clock: NodeClock) -> AtNode {
        AtNode { judge: self.clone(), place, clock }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Bench> {
        self.0.lock()
    }
}

/// A judge that looks at one life of a node.
pub(super) struct AtNode {
    judge: Judge,
    place: Place,
    clock: NodeClock,
}

impl Watch for AtNode {
    fn stepped(&mut self, replica: Replica<'_>, dated: Micros) {
        let mut bench = self.judge.lock();
        bench.stepped(self.place, self.clock, replica);
        let shown = self.clock.local(bench.now);
        if dated != shown {
            let place = self.place;
            let evidence =
                format!("node {place} dates a step {dated:?}, its clock shows {shown:?}");
            let group = life(replica);
            bench.found.push(Violation::of_group(Check::Profile("dated"), group, evidence));
        }
        let stale = replica.stale_gated();
        if stale > 0 {
            let place = self.place;
            let evidence = format!("node {place} keeps {stale} messages that newer ones stand for");
            let group = life(replica);
            bench.found.push(Violation::of_group(Check::Profile("gated"), group, evidence));
        }
    }

    fn took_batch(&mut self, due: u64, steps: u64) {
        if steps < due {
            let place = self.place;
            let evidence =
                format!("node {place} steps {steps} replicas for {due} items of a batch");
            self.judge.lock().found.push(Violation::of_run(Check::BatchWhole, evidence));
        }
    }

    fn hands_over(&mut self, group: GroupId) {
        self.judge.lock().handed.push((self.place, group));
    }

    fn compacts(&mut self, group: GroupId, needed: u64, kept_max: u64) {
        if (1..=kept_max).contains(&needed) {
            let place = self.place;
            let evidence =
                format!("node {place} compacts {needed} bytes that a peer needs of {kept_max}");
            let mut bench = self.judge.lock();
            bench.found.push(Violation::of_group(Check::LogKept, group, evidence));
        }
    }

    fn lane_down(&mut self, group: GroupId, told: u64, in_flight: u64) {
        let mut bench = self.judge.lock();
        bench.sightings.hit_if(told > 1, Mark::LaneDownToTwo);
        if in_flight > 0 {
            let place = self.place;
            let evidence =
                format!("node {place} waits for {in_flight} answers over a lane that is gone");
            bench.found.push(Violation::of_group(Check::LaneDown, group, evidence));
        }
    }
}

impl Bench {
    pub(super) fn account(&mut self, place: Place) -> &mut Account {
        &mut self.accounts.nodes[place]
    }

    /// A replica of a group's life comes to live on a node.
    pub(super) fn settles(&mut self, life: GroupId, replica: ReplicaId, place: Place) {
        self.accounts.places.insert((life, replica), place);
    }

    /// These replicas are gone for good, from this node.
    pub(super) fn buried(&mut self, place: Place, buried: impl IntoIterator<Item = Buried>) {
        for (life, replica) in buried {
            self.checker.destroyed(life, replica);
            self.onlooker.buried(place, group_of(life));
        }
    }

    /// A replica has made a step, in a life with these clocks.
    pub(super) fn stepped(&mut self, place: Place, clock: NodeClock, replica: Replica<'_>) {
        self.onlooker.stepped(place, clock.local(self.now), replica.core());
        let node = self.nodes[place];
        let now = Micros::new(self.now);
        if self.failed.contains(&place)
            && let Some(Fault::PersistFailed { .. }) = replica.core().status().fault
        {
            self.checker.excuse_fault(life(replica), replica.core().replica());
        }
        if self.rotten.contains(&place)
            && let Some(Fault::LogUnreadable { .. }) = replica.core().status().fault
        {
            self.checker.excuse_fault(life(replica), replica.core().replica());
            self.mute.insert(place);
        }
        self.note_damage(place, replica);
        self.note_acceptance(replica);
        let (checker, accounts) = (&mut self.checker, &self.accounts);
        let timekeeper = &mut self.timekeeper;
        let mut log = Log::of(replica, &mut self.seen, |time| {
            timekeeper.stamped(replica.core().id(), time, self.now);
        });
        self.found.extend(log.falls.take());
        self.found.extend(timekeeper.stepped(place, replica, self.now));
        // A lease ends by the leader's own clock; the checks know only the common one.
        let lease = replica.core().lease_until().map(|until| Micros::new(clock.global(until)));
        let judged =
            with_view(node, lease, replica, &log, |view| checker.observe(now, view, accounts));
        self.found.extend(judged.err());
        self.found.extend(audited(replica.core()).err());
    }

    /// A replica whose log is found damaged while it runs goes on as one that began anew.
    fn note_damage(&mut self, place: Place, replica: Replica<'_>) {
        let (life, status) = (life(replica), replica.core().status());
        let key = (life, status.replica);
        let is_damaged = status.promise.promise == raft_core::Promise::Damaged;
        let before = self.trusted.get(&key).copied();
        // A machine that began anew applies it anew.
        let is_over = |(then, _): &(Incarnation, _)| *then != replica.core().incarnation();
        if self.fallen.get(&key).is_some_and(is_over) {
            self.fallen.remove(&key);
        }
        if is_damaged && let Some((incarnation, appliable)) = before {
            self.trusted.remove(&key);
            if incarnation == replica.core().incarnation() {
                self.checker.forgets(life, status.replica);
                self.accounts.nodes[place].forgets(life, status.replica);
                self.fallen.insert(key, (incarnation, appliable));
                self.sightings.hit(Mark::DamagedWhileRunning);
            }
        } else if !is_damaged {
            let now = (replica.core().incarnation(), status.appliable_index);
            self.trusted.insert(key, now);
        }
    }

    /// The only voter of a group may accept by itself that entries are lost: nobody else could know
    /// better. What it goes on without is given up before it acts on that.
    fn note_acceptance(&mut self, replica: Replica<'_>) {
        let (life, core) = (life(replica), replica.core());
        let now = (core.incarnation(), core.status().promise.loss_epoch);
        let before = self.epochs.insert((life, core.replica()), now);
        if !before.is_some_and(|(incarnation, epoch)| incarnation == now.0 && epoch < now.1) {
            return;
        }
        let holds = |index| core.entry_term(index);
        match self.checker.gone_on_alone(life, core.replica(), core.base_index(), holds) {
            Ok((kept, lost)) => {
                self.accounts.nodes.iter_mut().for_each(|account| account.let_lost_be(life));
                self.alone.push((life, kept, lost));
            }
            Err(violation) => self.found.push(violation),
        }
    }

    /// Everything is looked at from end to end.
    pub(super) fn sweep<'a>(&mut self, replicas: impl Iterator<Item = (Place, Replica<'a>)>) {
        for (place, replica) in replicas {
            let node = self.nodes[place];
            let log = Log::of(replica, &mut self.seen, |_| {});
            let checker = &self.checker;
            let judged = with_view(node, None, replica, &log, |view| checker.sweep([*view]));
            self.found.extend(judged.err());
        }
    }

    /// The run is over and healed: this replica has all that was ever committed.
    pub(super) fn settled(&mut self, place: Place, replica: Replica<'_>) {
        let node = self.nodes[place];
        let log = Log::of(replica, &mut self.seen, |_| {});
        let checker = &self.checker;
        let judged = with_view(node, None, replica, &log, |view| checker.settled([*view]));
        self.found.extend(judged.err());
    }

    /// A promise has left its node, at this moment and with this clock.
    pub(super) fn said(&mut self, said: &Said, left: u64, clock: NodeClock) {
        let (group, replica) = (said.group, said.replica);
        let Some(place) = self.nodes.iter().position(|node| *node == said.node) else { return };
        let account = &self.accounts.nodes[place];
        let durable = account.hard_state(group, replica).unwrap_or_default();
        let promise = match said.claim {
            Claim::Greets => return,
            Claim::Clock(wall) => {
                self.found.extend(self.timekeeper.told(place, wall, self.now));
                return;
            }
            Claim::Asks { term, of, sent } => {
                let sent_at = clock.global(sent);
                self.patience.asks(group, (replica, of), (term, sent), sent_at);
                return;
            }
            Claim::Answers { term, to, sent } => {
                self.patience.answers(group, (replica, to), (term, sent), clock.drift_ppm());
                return;
            }
            Claim::HandsOver(term) => {
                self.patience.hands_over(group, term);
                return;
            }
            Claim::Term(term) => Promise::Term(term),
            Claim::Vote { term, candidate } => {
                let owed = self.patience.votes(group, (replica, candidate), term, left);
                self.found.extend(owed.map(|(leader, until)| {
                    let evidence = format!(
                        "{replica:?} votes in {term:?} for {candidate:?} at {left}, and owes \
                         {leader:?} patience until {until}"
                    );
                    Violation::of_group(Check::Patience, group, evidence)
                }));
                Promise::Vote { term, candidate }
            }
            // A newer leader may have cut it since; to that one it is no promise.
            Claim::Held { term, .. } if durable.term > term => {
                self.sightings.hit_if(account.is_buried(group, replica), Mark::TombstoneSpoke);
                return;
            }
            Claim::Written { term, .. }
                if durable.term > term || !account.counts_written(group, replica) =>
            {
                return;
            }
            Claim::Held { index, term } | Claim::Written { index, term } => {
                match account.shows(group, replica, index, view_of(said.claim)) {
                    Shown::Term(term) => Promise::Held { index, term },
                    // An entry that is not there is shown with a term that cannot be there either.
                    Shown::NoEntry => Promise::Held { index, term: Term::ZERO },
                    // Committed, and in a snapshot; or the last words of one that is gone.
                    Shown::Compacted | Shown::NoReplica => Promise::Term(term),
                }
            }
        };
        self.sightings.hit_if(account.is_buried(group, replica), Mark::TombstoneSpoke);
        let judged = self.checker.promised(group, said.replica, promise, &self.accounts);
        self.found.extend(judged.err());
        if let Claim::Held { term, .. } | Claim::Written { term, .. } = said.claim {
            let promise = Promise::Term(term);
            let judged = self.checker.promised(group, said.replica, promise, &self.accounts);
            self.found.extend(judged.err());
        }
    }

    /// A group goes on with the log of this replica, and without what is not in it.
    pub(super) fn accepted_loss(
        &mut self,
        life: GroupId,
        best: u64,
    ) -> Result<(LogIndex, u64), Violation> {
        let best = ReplicaId::new(best);
        let told = self.checker.accepted_loss(life, best, &self.accounts)?;
        self.accounts.nodes.iter_mut().for_each(|account| account.let_lost_be(life));
        Ok(told)
    }

    /// A state machine has the state after an entry, from a snapshot.
    pub(super) fn installed(
        &mut self,
        group: GroupId,
        replica: ReplicaId,
        index: LogIndex,
        term: Term,
    ) {
        let judged = self.checker.installed(group, replica, index, term);
        self.found.extend(judged.err());
    }

    /// A state machine takes an entry.
    pub(super) fn applied(&mut self, group: GroupId, replica: ReplicaId, entry: &Entry) {
        if self.fallen.get(&(group, replica)).is_some_and(|(_, before)| entry.index <= *before) {
            let judged = self.checker.goes_on(group, replica, entry.index);
            self.found.extend(judged.err());
            return;
        }
        let judged = self.checker.applied(group, replica, entry.index, entry.term, hash_of(entry));
        self.found.extend(judged.err());
    }
}

/// Where to look for what is claimed.
fn view_of(claim: Claim) -> View {
    match claim {
        Claim::Written { .. } => View::Written,
        _ => View::Disk,
    }
}

/// The life of its group that a replica belongs to.
fn life(replica: Replica<'_>) -> GroupId {
    life_of(replica.core().id(), replica.incarnation())
}

/// A replica's log as the checks read it.
struct Log<'a> {
    replica: Replica<'a>,
    seen: &'a Seen,
    /// A stamp that is earlier than the one before it, among the entries that are new.
    falls: Option<Violation>,
}

impl<'a> Log<'a> {
    /// Notes what is new at the end of the log on the way, and tells of each stamp that is.
    fn of(replica: Replica<'a>, seen: &'a mut Seen, mut new: impl FnMut(LogTime)) -> Self {
        let core = replica.core();
        let life = life(replica);
        let mut index = core.last_index();
        let mut falls = None;
        let mut after: Option<(LogIndex, LogTime)> = None;
        while index > LogIndex::ZERO {
            let entry = replica.entry(index);
            let Some(term) = entry.map(|entry| entry.term).or_else(|| core.entry_term(index))
            else {
                break;
            };
            let key = (life, index, term);
            let before = seen.get(&key).copied();
            let known = match (before, entry) {
                (Some(known), _) => known,
                (None, Some(entry)) => *seen.entry(key).or_insert_with(|| Known::of(entry)),
                (None, None) => break,
            };
            if let Some((next, time)) = after
                && time < known.time
            {
                let evidence =
                    format!("{} is stamped {}, {next} after it {time}", index, known.time);
                falls = Some(Violation::of_group(Check::StampsRise, core.id(), evidence));
            }
            if entry.is_some_and(|entry| entry.time != known.time) {
                let evidence = format!("{index} of term {term} has two stamps");
                falls = Some(Violation::of_group(Check::StampsRise, core.id(), evidence));
            }
            if before.is_some() {
                break;
            }
            new(known.time);
            after = Some((index, known.time));
            index = index.prev();
        }
        Self { replica, seen, falls }
    }
}

impl Known {
    fn of(entry: &Entry) -> Self {
        let (hash, class) = identity_of(entry);
        Self { hash, class, time: entry.time }
    }
}

impl LogView for Log<'_> {
    fn entry(&self, index: LogIndex) -> Option<EntryIdentity> {
        let term = self.term(index)?;
        let (hash, class) = match self.replica.entry(index) {
            Some(entry) => identity_of(entry),
            None => {
                let known = self.seen.get(&(life(self.replica), index, term))?;
                (known.hash, known.class)
            }
        };
        Some(EntryIdentity { term, hash, class })
    }

    fn term(&self, index: LogIndex) -> Option<Term> {
        let core = self.replica.core();
        if index == LogIndex::ZERO { None } else { core.entry_term(index) }
    }
}

fn with_view<T>(
    node: NodeId,
    lease_until: Option<Micros>,
    replica: Replica<'_>,
    log: &Log<'_>,
    look: impl FnOnce(&ReplicaView<'_>) -> T,
) -> T {
    let core = replica.core();
    let status = core.status();
    let membership = core.membership();
    let learners: Vec<ReplicaId> = membership
        .members()
        .iter()
        .map(|member| member.replica)
        .filter(|replica| !membership.is_voter(*replica))
        .collect();
    let verified = match status.role {
        RoleKind::Leader => status.last_index,
        RoleKind::Follower | RoleKind::PreCandidate | RoleKind::Candidate => status.verified_index,
    };
    look(&ReplicaView {
        node,
        group: life(replica),
        replica: status.replica,
        incarnation: core.incarnation(),
        term: status.term,
        vote: status.vote,
        role: status.role,
        leader: status.leader,
        commit: status.commit_index,
        appliable: status.appliable_index,
        written: status.written_index,
        durable: status.durable_index,
        last: status.last_index,
        base: status.base_index,
        base_term: core.entry_term(status.base_index).unwrap_or_default(),
        verified,
        membership: MembershipView {
            index: core.membership_index(),
            voters: membership.incoming(),
            outgoing: membership.outgoing(),
            learners: &learners,
        },
        lease_until,
        activity: match (status.asleep, status.takes_office) {
            (true, _) => Activity::Quiesced,
            (false, true) => Activity::Awake,
            (false, false) => Activity::Withheld,
        },
        // Who was told of its removal by others waits for nothing but its deletion.
        next_deadline: core
            .next_deadline()
            .or_else(|| (status.removed && !status.asleep).then_some(Micros::ZERO)),
        in_flight: 0,
        promises: match status.promise.promise {
            raft_core::Promise::Kept => Promises::Kept,
            raft_core::Promise::Lost
            | raft_core::Promise::Damaged
            | raft_core::Promise::Unproven => Promises::Lost,
        },
        fault: status.fault.as_ref(),
        log,
    })
}

fn identity_of(entry: &Entry) -> (u64, EntryClass) {
    let class = match entry.kind {
        EntryKind::Noop | EntryKind::Command => EntryClass::Plain,
        EntryKind::Config => EntryClass::Config,
    };
    (hash_of(entry), class)
}

/// A hash of what an entry is for: kind and payload.
fn hash_of(entry: &Entry) -> u64 {
    let kind = match entry.kind {
        EntryKind::Noop => 1,
        EntryKind::Command => 2,
        EntryKind::Config => 3,
    };
    let (words, rest) = entry.payload.as_chunks::<8>();
    let mut hash = mix(kind ^ (entry.payload.len() as u64) << 8);
    for word in words {
        hash =
            (hash.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    rest.iter().fold(hash, |hash, byte| mix(hash ^ u64::from(*byte)))
}
