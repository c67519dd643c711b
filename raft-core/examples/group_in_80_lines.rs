//! A replicated counter: three replicas in one process, joined by function calls. The protocol
//! never sees payloads; here an entry's payload is a number to add to the counter. Run with
//! `cargo run -p raft-core --example group_in_80_lines`.
use std::{collections::BTreeMap, collections::VecDeque, error::Error, sync::Arc};

use raft_core::*;

struct Replica {
    group: Group,
    effects: Effects,
    payloads: Payloads,
    counter: u64,
}

type Payloads = BTreeMap<LogIndex, u64>;
/// Who speaks, what to whom, and the payloads that go along.
type Net = VecDeque<(ReplicaId, Outgoing, Payloads)>;

impl Replica {
    fn step(&mut self, now: Micros, input: Input, new: &Payloads, net: &mut Net) {
        let Self { group, effects, payloads, counter } = self;
        let me = group.replica();
        group.step(now, input, effects);
        for change in effects.log_changes.drain(..) {
            match change {
                LogChange::Appended { .. } | LogChange::Received { .. } => payloads.extend(new),
                LogChange::Truncated { from } => drop(payloads.split_off(&from)),
                LogChange::Reset { .. } | LogChange::Compacted { .. } => {} // nobody asks for it
            }
        }
        if let Some(upto) = effects.appliable.take() {
            *counter = payloads.range(..=upto).map(|(_, number)| number).sum();
            println!("replica {me}: the counter is {counter}");
        }
        effects.outcomes.drain(..).for_each(|(token, end)| println!("request {token}: {end:?}"));
        net.extend(effects.messages.drain_ready().map(|message| (me, message, Payloads::new())));
        for to in (1..=3).map(ReplicaId::new) {
            while let Some(append) = group.make_append(now, to, u64::MAX, |_| Some(40)) {
                let entries = payloads.range(append.prev_index.next()..append.last_index().next());
                let along = entries.map(|(index, number)| (*index, *number)).collect();
                net.push_back((me, Outgoing { to, message: Message::Append(append) }, along));
            }
        }
        if let Some(persist) = effects.persist.take() {
            // A driver with a disk writes and syncs here. Only then may the gated messages leave.
            let proof = Durable::attest(persist.seq);
            let open = effects.messages.drain_gated().filter_map(|gated| gated.open(proof).ok());
            net.extend(open.map(|message| (me, message, Payloads::new())));
            self.step(now, Input::Persisted(persist.seq), &Payloads::new(), net);
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut now, mut net, mut replicas) = (Micros::ZERO, Net::new(), Vec::new());
    for me in (1..=3).map(ReplicaId::new) {
        let voters = Membership::of_voters((1..=3).map(ReplicaId::new))?;
        let start = Start::fresh(GroupId::new(7), me, voters, Arc::new(Settings::default()));
        let (group, effects) = (Group::new(now, start)?, Effects::default());
        replicas.push(Replica { group, effects, payloads: Payloads::new(), counter: 0 });
    }
    let (mut numbers, life) = ([1, 20, 300].into_iter(), Incarnation::new(1));
    while replicas.iter().any(|replica| replica.counter != 321) {
        if let Some((from, Outgoing { to, message }, along)) = net.pop_front() {
            let (from_incarnation, to_incarnation) = (life, life);
            let input = Input::Message { from, from_incarnation, to_incarnation, message };
            replicas[to.get() as usize - 1].step(now, input, &along, &mut net);
        } else if let Some(leader) = replicas.iter_mut().find(|it| it.group.is_leader())
            && let Some(number) = numbers.next()
        {
            let (token, time) = (Token::new(number), LogTime::default());
            let payload = Payloads::from([(leader.group.last_index().next(), number)]);
            leader.step(now, Input::Propose { token, bytes: 40, time }, &payload, &mut net);
        } else if let Some(next) = replicas.iter_mut().min_by_key(|it| it.group.next_deadline()) {
            now = next.group.next_deadline().expect("a voter has a deadline"); // time jumps
            next.step(now, Input::Deadline, &Payloads::new(), &mut net);
        }
    }
    Ok(())
}
