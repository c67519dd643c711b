//! Three replicas in one process, joined by function calls: an election, three proposals, the
//! death of the leader, a new leader, and a read that sees everything.
//!
//! Run with `cargo run -p raft-core --example three_replicas`.

use std::collections::VecDeque;
use std::sync::Arc;

use raft_core::{
    Base, Durable, Effects, Group, GroupId, HardState, Incarnation, Input, LogIndex, LogTime,
    Membership, Message, Micros, Outgoing, PromiseRecord, ReadPath, ReplicaId, Settings, Start,
    StartError, Token,
};

const LIFE: Incarnation = Incarnation::new(1);

struct Cluster {
    now: Micros,
    /// Those that are alive.
    replicas: Vec<(Group, Effects)>,
    network: VecDeque<(ReplicaId, Outgoing)>,
}

impl Cluster {
    fn new() -> Result<Self, StartError> {
        let mut replicas = Vec::new();
        for me in 1..=3 {
            let start = Start {
                group: GroupId::new(7),
                replica: ReplicaId::new(me),
                incarnation: LIFE,
                base: Base::first(
                    Membership::of_voters((1..=3).map(ReplicaId::new)).expect("distinct voters"),
                ),
                configs: Vec::new(),
                log_time: LogTime::default(),
                promise: PromiseRecord::default(),
                seed: 42,
                hard_state: HardState::default(),
                term_runs: vec![],
                last_index: LogIndex::ZERO,
                applied: LogIndex::ZERO,
                settings: Arc::new(Settings::default()),
            };
            replicas.push((Group::new(Micros::ZERO, start)?, Effects::default()));
        }
        Ok(Self { now: Micros::ZERO, replicas, network: VecDeque::new() })
    }

    /// One step of one replica, and everything it asks for. Its disk is fast and never fails.
    fn step(&mut self, at: usize, input: Input) {
        let (group, effects) = &mut self.replicas[at];
        let me = group.replica();
        group.step(self.now, input, effects);
        let mut gated: Vec<_> = effects.messages.drain_gated().collect();
        while let Some(persist) = effects.persist.take() {
            // Here a driver writes and syncs. Only then the gates open.
            let durable = Durable::attest(persist.seq);
            group.step(self.now, Input::Persisted(persist.seq), effects);
            gated.extend(effects.messages.drain_gated());
            let open = gated.drain(..).filter_map(|gate| gate.open(durable).ok());
            self.network.extend(open.map(|message| (me, message)));
        }
        self.network.extend(effects.messages.drain_ready().map(|message| (me, message)));
        for to in (1..=3).map(ReplicaId::new) {
            // Entries have no payload here, so any budget does.
            while let Some(append) = group.make_append(self.now, to, u64::MAX, |_| Some(32)) {
                self.network.push_back((me, Outgoing { to, message: Message::Append(append) }));
            }
        }
        for (token, outcome) in effects.outcomes.drain(..) {
            println!("replica {me}: request {token} ended as {outcome:?}");
        }
        effects.log_changes.clear();
    }

    fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            if let Some((from, outgoing)) = self.network.pop_front() {
                let (message, from_incarnation, to_incarnation) = (outgoing.message, LIFE, LIFE);
                let input = Input::Message { from, from_incarnation, to_incarnation, message };
                let to = |(group, _): &(Group, Effects)| group.replica() == outgoing.to;
                if let Some(at) = self.replicas.iter().position(to) {
                    self.step(at, input);
                }
                continue;
            }
            // Silence: virtual time jumps to the next deadline.
            let deadlines = self.replicas.iter().map(|(group, _)| group.next_deadline());
            let next = deadlines.enumerate().filter_map(|(at, due)| Some((due?, at))).min();
            let (due, at) = next.expect("some replica waits for something");
            self.now = self.now.max(due);
            self.step(at, Input::Deadline);
        }
    }

    fn elect(&mut self) -> usize {
        let leader = |cluster: &Self| cluster.replicas.iter().position(|(it, _)| it.is_leader());
        self.run_until(|cluster| leader(cluster).is_some());
        let leader = leader(self).expect("just elected");
        println!("{:?}: replica {} leads", self.now, self.replicas[leader].0.replica());
        leader
    }

    fn all_committed(&self, index: u64) -> bool {
        self.replicas.iter().all(|(group, _)| group.commit_index().get() == index)
    }
}

fn main() -> Result<(), StartError> {
    let mut cluster = Cluster::new()?;
    let leader = cluster.elect();
    for token in (1..=3).map(Token::new) {
        cluster.step(leader, Input::Propose { token, bytes: 32, time: LogTime::default() });
    }
    // The no-op of the term, and the three.
    cluster.run_until(|cluster| cluster.all_committed(4));
    let (dead, _) = cluster.replicas.remove(leader);
    println!("{:?}: replica {} dies", cluster.now, dead.replica());
    let leader = cluster.elect();
    cluster.step(leader, Input::Read { token: Token::new(4), path: ReadPath::Quorum });
    cluster.run_until(|cluster| cluster.all_committed(5));
    let (group, _) = &cluster.replicas[leader];
    assert!((1..=4).all(|index| group.entry_term(LogIndex::new(index)) == Some(dead.term())));
    Ok(())
}
