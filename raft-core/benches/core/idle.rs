//! What many idle groups cost in memory, as leaders and as followers.
//!
//! All replicas of all groups are built and elected, and carry a few commands, so that every
//! queue was in use; then only heartbeats go on. At the end they are dropped, leaders apart from
//! followers, and what that frees is what they held.

use std::collections::VecDeque;
use std::sync::Arc;

use raft_core::{Effects, Group, Input, LogTime, Message, Micros, Outgoing, Settings, Token};

use crate::counting::live_bytes;
use crate::trio::{LIFE, REPLICAS, new_group, place, replica_id};

/// Bytes of one idle replica: its struct and what it owns on the heap.
pub(crate) struct Idle {
    /// While it leads.
    pub(crate) leader: f64,
    /// While it follows.
    pub(crate) follower: f64,
}

/// Measures so many groups of three, each having committed `commands` at once, and so many
/// heartbeats ago.
pub(crate) fn measure(groups: u32, commands: u64, heartbeats: u64) -> Idle {
    let settings = Arc::new(Settings::default());
    let mut leaders = Vec::with_capacity(groups as usize);
    let mut followers = Vec::with_capacity(groups as usize * (REPLICAS - 1));
    for group in 0..groups {
        let mut members: Vec<Group> =
            (0..REPLICAS).map(|at| new_group(group, at, &settings)).collect();
        let mut effects: Vec<Effects> = (0..REPLICAS).map(|_| Effects::default()).collect();
        let mut inputs = VecDeque::from([(0, Input::Campaign)]);
        let mut now = Micros::ZERO;
        run(now, &mut members, &mut effects, &mut inputs);
        for token in (0..commands).map(Token::new) {
            let time = LogTime::default();
            inputs.push_back((0, Input::Propose { token, bytes: 64, time }));
        }
        run(now, &mut members, &mut effects, &mut inputs);
        for _ in 0..heartbeats {
            now = members[0].next_deadline().expect("the leader's next heartbeat");
            inputs.push_back((0, Input::Deadline));
            run(now, &mut members, &mut effects, &mut inputs);
        }
        assert!(members[0].is_leader(), "the only candidate wins");
        assert_eq!(members[0].commit_index(), members[0].last_index());
        let mut members = members.into_iter();
        leaders.extend(members.next());
        followers.extend(members);
    }
    let owned = |replicas: &mut Vec<Group>| {
        let before = live_bytes();
        let count = replicas.len() as f64;
        replicas.clear();
        (before - live_bytes()) as f64 / count + size_of::<Group>() as f64
    };
    Idle { leader: owned(&mut leaders), follower: owned(&mut followers) }
}

/// Steps the members until nothing is left to do. Entries have no payloads here.
fn run(
    now: Micros,
    members: &mut [Group],
    effects: &mut [Effects],
    inputs: &mut VecDeque<(usize, Input)>,
) {
    while let Some((at, input)) = inputs.pop_front() {
        let (group, effects) = (&mut members[at], &mut effects[at]);
        group.step(now, input, effects);
        if let Some(persist) = effects.persist.take() {
            let seq = persist.seq;
            group.step(now, Input::Persisted(seq), effects);
            let durable = raft_core::Durable::attest(seq);
            for gated in effects.messages.drain_gated() {
                let outgoing = gated.open(durable).expect("it just became durable");
                inputs.push_back(envelope(at, outgoing));
            }
        }
        inputs.extend(effects.messages.drain_ready().map(|outgoing| envelope(at, outgoing)));
        for to in (0..REPLICAS).map(replica_id) {
            while let Some(append) = group.make_append(now, to, u64::MAX, |_| Some(64)) {
                inputs.push_back(envelope(at, Outgoing { to, message: Message::Append(append) }));
            }
        }
        effects.outcomes.clear();
        effects.log_changes.clear();
        effects.appliable = None;
    }
}

fn envelope(from: usize, Outgoing { to, message }: Outgoing) -> (usize, Input) {
    let from = replica_id(from);
    (place(to), Input::Message { from, from_incarnation: LIFE, to_incarnation: LIFE, message })
}
