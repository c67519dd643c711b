//! Reading in three ways, and changing who belongs to the group while it works.
//!
//! A *linearizable* read asks a quorum whether the leader still leads. A *lease* read trusts that
//! a quorum promised patience a moment ago, and asks nobody. A *follower* read asks the leader for
//! an index and is served where it was asked. All three answer with an index: apply so far, then
//! read. Then a fourth replica joins as a learner, becomes a voter, and the leader is removed.
//!
//! Run with `cargo run -p raft-core --example reads_and_membership`. Disks are memory here; see
//! `own_store` for real ones.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use raft_core::{
    Durable, Effects, Group, GroupId, Incarnation, Input, Lease, LogChange, LogIndex, LogTime,
    MemberChange, Membership, Message, Micros, NodeId, Outcome, Outgoing, ReadPath, ReplicaId,
    Settings, Start, Token,
};

/// Errors end the example.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
type Payloads = BTreeMap<LogIndex, &'static str>;

const LIFE: Incarnation = Incarnation::new(1);
const ONE: ReplicaId = ReplicaId::new(1);
const TWO: ReplicaId = ReplicaId::new(2);
const FOUR: ReplicaId = ReplicaId::new(4);

struct Replica {
    group: Group,
    effects: Effects,
    payloads: Payloads,
    /// The state machine: the last word that was applied.
    register: &'static str,
}

struct Packet {
    from: ReplicaId,
    outgoing: Outgoing,
    payloads: Payloads,
}

struct Cluster {
    now: Micros,
    settings: Arc<Settings>,
    replicas: BTreeMap<ReplicaId, Replica>,
    network: VecDeque<Packet>,
    requests: u64,
    outcomes: BTreeMap<Token, Outcome>,
    /// Messages so far.
    messages: u64,
}

impl Cluster {
    /// Three voters, with leases for clocks that differ by less than one percent.
    fn new() -> Result<Self> {
        let lease = Lease::Within { drift_ppm: 10_000 };
        let mut cluster = Self {
            now: Micros::ZERO,
            settings: Arc::new(Settings { lease, ..Settings::default() }),
            replicas: BTreeMap::new(),
            network: VecDeque::new(),
            requests: 0,
            outcomes: BTreeMap::new(),
            messages: 0,
        };
        let voters = Membership::of_voters((1..=3).map(ReplicaId::new))?;
        for me in (1..=3).map(ReplicaId::new) {
            let settings = Arc::clone(&cluster.settings);
            cluster.start(Start::fresh(GroupId::new(7), me, voters.clone(), settings))?;
        }
        Ok(cluster)
    }

    fn start(&mut self, start: Start) -> Result<()> {
        let (me, group) = (start.replica, Group::new(self.now, start)?);
        let (effects, payloads) = (Effects::default(), Payloads::new());
        self.replicas.insert(me, Replica { group, effects, payloads, register: "nothing" });
        Ok(())
    }

    fn step(&mut self, me: ReplicaId, input: Input, new: &Payloads) {
        let Some(replica) = self.replicas.get_mut(&me) else { return };
        let Replica { group, effects, payloads, register } = replica;
        group.step(self.now, input, effects);
        for change in effects.log_changes.drain(..) {
            match change {
                LogChange::Appended { .. } | LogChange::Received { .. } => payloads.extend(new),
                LogChange::Truncated { from } => drop(payloads.split_off(&from)),
                // This driver never reports a snapshot, so none is offered.
                LogChange::Reset { .. } | LogChange::Compacted { .. } => {}
            }
        }
        if let Some(upto) = effects.appliable.take() {
            *register = payloads.range(..=upto).next_back().map_or("nothing", |(_, word)| word);
        }
        self.outcomes.extend(effects.outcomes.drain(..));
        let mut leaving: Vec<Outgoing> = effects.messages.drain_ready().collect();
        let persist = effects.persist.take();
        if let Some(persist) = &persist {
            // Memory is durable at once.
            let proof = Durable::attest(persist.seq);
            leaving.extend(effects.messages.drain_gated().filter_map(|gate| gate.open(proof).ok()));
        }
        let packet = |outgoing| Packet { from: me, outgoing, payloads: Payloads::new() };
        self.network.extend(leaving.into_iter().map(packet));
        for to in group.replicated_to() {
            while let Some(append) = group.make_append(self.now, to, u64::MAX, |_| Some(64)) {
                let entries = payloads.range(append.prev_index.next()..append.last_index().next());
                let payloads = entries.map(|(index, word)| (*index, *word)).collect();
                let outgoing = Outgoing { to, message: Message::Append(append) };
                self.network.push_back(Packet { from: me, outgoing, payloads });
            }
        }
        if let Some(persist) = persist {
            self.step(me, Input::Persisted(persist.seq), &Payloads::new());
        }
    }

    /// Delivers one message, or lets time jump to the next deadline.
    fn turn(&mut self) -> Result<()> {
        if let Some(Packet { from, outgoing, payloads }) = self.network.pop_front() {
            self.messages += 1;
            let message = outgoing.message;
            let (from_incarnation, to_incarnation) = (LIFE, LIFE);
            let input = Input::Message { from, from_incarnation, to_incarnation, message };
            self.step(outgoing.to, input, &payloads);
            return Ok(());
        }
        let due =
            self.replicas.iter().filter_map(|(me, it)| Some((it.group.next_deadline()?, *me)));
        let (due, me) = due.min().ok_or("nobody waits for anything")?;
        self.now = self.now.max(due);
        self.step(me, Input::Deadline, &Payloads::new());
        Ok(())
    }

    fn run(&mut self, duration: Duration) -> Result<()> {
        let end = self.now.after(duration);
        while self.now < end {
            self.turn()?;
        }
        Ok(())
    }

    fn leader(&self) -> Option<ReplicaId> {
        self.replicas.iter().find(|(_, it)| it.group.is_leader()).map(|(me, _)| *me)
    }

    /// Waits for a leader that others follow.
    fn elect(&mut self) -> Result<ReplicaId> {
        loop {
            if let Some(leader) = self.leader() {
                return Ok(leader);
            }
            self.turn()?;
        }
    }

    /// Asks a replica and waits for the one outcome there is.
    fn ask(
        &mut self,
        me: ReplicaId,
        new: &Payloads,
        input: impl FnOnce(Token) -> Input,
    ) -> Result<Outcome> {
        self.requests += 1;
        let token = Token::new(self.requests);
        self.step(me, input(token), new);
        loop {
            if let Some(outcome) = self.outcomes.remove(&token) {
                return Ok(outcome);
            }
            self.turn()?;
        }
    }

    fn write(&mut self, word: &'static str) -> Result<()> {
        let leader = self.elect()?;
        let next = self.replicas[&leader].group.last_index().next();
        let new = Payloads::from([(next, word)]);
        let time = LogTime::default();
        let outcome = self.ask(leader, &new, |token| Input::Propose { token, bytes: 64, time })?;
        println!("write {word:?} at replica {leader}: {outcome:?}");
        Ok(())
    }

    /// Reads the register at a replica, and tells what it cost.
    fn read(&mut self, me: ReplicaId, path: ReadPath) -> Result<()> {
        // Only the read's own messages shall count.
        while !self.network.is_empty() {
            self.turn()?;
        }
        let before = (self.now, self.messages);
        let outcome = self.ask(me, &Payloads::new(), |token| Input::Read { token, path })?;
        let messages = self.messages - before.1;
        let Outcome::ReadReady { index } = outcome else {
            println!("read {path:?} at replica {me}: {outcome:?}");
            return Ok(());
        };
        while self.replicas[&me].group.status().appliable_index < index {
            self.turn()?;
        }
        let register = self.replicas[&me].register;
        println!("read {path:?} at replica {me}: {register:?} at {index:?}, {messages} messages");
        Ok(())
    }

    fn change(&mut self, change: MemberChange) -> Result<()> {
        let leader = self.elect()?;
        let changes = vec![change];
        let outcome =
            self.ask(leader, &Payloads::new(), |token| Input::ChangeMembership { token, changes })?;
        let membership = self.replicas[&leader].group.membership();
        let members = membership.members().iter();
        let members: Vec<String> =
            members.map(|member| format!("{} {:?}", member.replica, member.standing)).collect();
        println!("{change:?}: {outcome:?}, now {}", members.join(", "));
        Ok(())
    }
}

fn main() -> Result<()> {
    let mut cluster = Cluster::new()?;
    cluster.write("hello")?;
    cluster.run(Duration::from_millis(300))?;

    let leader = cluster.elect()?;
    let follower = if leader == ONE { TWO } else { ONE };
    cluster.read(leader, ReadPath::Quorum)?;
    cluster.read(leader, ReadPath::Lease)?;
    cluster.read(follower, ReadPath::Follower)?;
    cluster.read(follower, ReadPath::Quorum)?;

    // The newcomer is told who belongs to the group by the group itself.
    let settings = Arc::clone(&cluster.settings);
    cluster.start(Start::joining(GroupId::new(7), FOUR, settings))?;
    cluster.change(MemberChange::AddLearner { replica: FOUR, node: NodeId::new(4) })?;
    cluster.run(Duration::from_millis(300))?;
    cluster.read(FOUR, ReadPath::Follower)?;
    cluster.change(MemberChange::Promote(FOUR))?;

    // A leader that removes itself hands over once that is certain.
    cluster.change(MemberChange::Remove(leader))?;
    cluster.run(Duration::from_secs(1))?;
    println!("replica {leader} was removed: {}", cluster.replicas[&leader].group.status().removed);
    cluster.write("goodbye")?;
    let successor = cluster.elect()?;
    cluster.read(successor, ReadPath::Quorum)
}
