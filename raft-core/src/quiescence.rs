//! Sleep: a group in which nothing happens costs nothing, and before that little memory.
//!
//! A leader that was asked nothing for a while, and whose members all hold and know everything,
//! sends one last heartbeat that says so, and wants no deadline any more; nor does a follower that
//! agrees. Whatever happens to the group ends its sleep. That its leader died is not something
//! that happens to a follower, so the driver must say it
//! ([`Input::PeerUnreachable`](crate::Input::PeerUnreachable)). Nor is it something that happens to
//! a sleeping leader that a member begins anew, or missed its last word: that member hears nothing
//! for an election timeout, and then stands for election or, if it may not, asks for its leader.
//!
//! Invariants: a sleeping group has nothing in flight and nothing uncommitted; a sleeping replica
//! refuses its vote to others as one that hears its leader, and once woken gives the leader a
//! full timeout to speak up.

use crate::group::{Group, Role};
use crate::io::DiskSpace;
use crate::membership::Standing;
use crate::message::{Heartbeat, Message, Promise, Rest};
use crate::progress::State;

impl Group {
    /// Whether the group sleeps: it has no deadline, and heartbeats have stopped.
    pub const fn is_asleep(&self) -> bool {
        self.asleep
    }

    /// Gives back the room that queues keep from busier times, if nothing was written since the
    /// last heartbeat. Of many groups few are busy at once, and each would keep room for the
    /// largest burst it has seen. In a busy group this changes nothing, so that its queues are
    /// not allocated again and again.
    pub(crate) fn release_spare(&mut self) {
        if !self.durability.release_spare() {
            return;
        }
        self.proposals.shrink_to_fit();
        self.orphans.release_spare();
        self.forwarded.release_spare();
        if let Role::Leader(leader) = &mut self.role {
            leader.release_spare();
        }
    }

    /// What the next heartbeat says about those after it.
    pub(crate) fn may_rest(&self) -> Rest {
        let Some(patience) = self.settings.quiesce_after else {
            return Rest::Awake;
        };
        let last = self.log.last_index();
        let Role::Leader(leader) = &self.role else {
            return Rest::Awake;
        };
        let settled = self.now.since(leader.busy) >= patience
            && self.commit == last
            && self.durability.durable() == last
            && self.durability.waits_since().is_none()
            && self.disk == DiskSpace::Ample
            && leader.reads_pending() == 0
            && leader.transfer.is_none()
            && !leader.is_joint
            && leader.standing.is_some();
        let all_hold = leader.peers.iter().all(|peer| {
            peer.match_index == last
                && peer.promise == Promise::Kept
                && peer.standing != Some(Standing::Successor)
                && matches!(peer.state, State::Replicate(_))
                && self.now.since(peer.contact) < self.settings.election_timeout_min
        });
        if settled && all_hold { Rest::Quiesce } else { Rest::Awake }
    }

    /// A leader goes to sleep.
    pub(crate) fn fall_asleep(&mut self) {
        if let Role::Leader(leader) = &mut self.role {
            leader.heartbeat_due = None;
            leader.quorum_due = None;
            self.asleep = true;
        }
    }

    /// A follower goes to sleep if the leader does and it holds and knows everything as well.
    pub(crate) fn rest(&mut self, heartbeat: &Heartbeat) {
        let last = self.log.last_index();
        self.asleep = heartbeat.rest == Rest::Quiesce
            && heartbeat.commit == last
            && self.commit == last
            && self.verified == last
            && self.durability.durable() == last
            && self.durability.hard_state_gate().is_none()
            && self.forwarded.is_empty()
            && self.receiving.is_none()
            && !self.is_lost();
    }

    /// Ends the sleep, if there is one.
    pub(crate) fn wake(&mut self) {
        if !self.asleep {
            return;
        }
        self.asleep = false;
        let (now, timeout) = (self.now, self.settings.election_timeout_min);
        if let Role::Leader(leader) = &mut self.role {
            leader.busy = now;
            if leader.has_peers() {
                leader.heartbeat_due = Some(now);
                leader.quorum_due = Some(now.after(timeout));
            }
            // Nobody was asked to answer meanwhile.
            for peer in &mut leader.peers {
                peer.contact = now;
            }
        } else {
            if let Some(leader) = self.leader {
                self.leader_contact = Some((leader, now));
            }
            self.reset_election_deadline();
        }
    }

    /// A peer spoke into the sleep. What only repeats the leader's last word, or answers it, does
    /// not end it.
    pub(crate) fn wake_for(&mut self, message: &Message) {
        let goes_on = match message {
            Message::Heartbeat(heartbeat) => {
                heartbeat.term == self.hard_state.term
                    && heartbeat.rest == Rest::Quiesce
                    && !self.is_leader()
            }
            Message::HeartbeatReply(reply) => reply.term == self.hard_state.term,
            Message::AppendReply(reply) => reply.term == self.hard_state.term && self.is_leader(),
            Message::PreVote(_) if crate::planted!(SleepsThroughLoss) => true,
            Message::PreVote(_)
            | Message::PreVoteReply(_)
            | Message::Vote(_)
            | Message::VoteReply(_)
            | Message::Append(_)
            | Message::ReadConfirm(_)
            | Message::TimeoutNow(_)
            | Message::TransferRefused(_)
            | Message::ReadIndex(_)
            | Message::ReadIndexReply(_)
            | Message::Snapshot(_)
            | Message::Recover(_)
            | Message::Fence(_) => false,
        };
        if !goes_on {
            self.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;
    use alloc::vec::Vec;

    use super::*;
    use crate::{
        Effects, GroupId, Input, LogTime, Membership, Micros, ReplicaId, Settings, Start, Token,
    };

    /// A leader of three whose peers acknowledge all that it sends, at once.
    struct Leading {
        group: Group,
        effects: Effects,
        now: Micros,
    }

    impl Leading {
        fn new() -> Self {
            let members = Membership::of_voters([1, 2, 3].map(ReplicaId::new)).unwrap();
            let settings = Arc::new(Settings::default());
            let start = Start::fresh(GroupId::new(1), ReplicaId::new(1), members, settings);
            let group = Group::new(Micros::ZERO, start).unwrap();
            let mut leading = Self { group, effects: Effects::default(), now: Micros::ZERO };
            leading.input(Input::Campaign);
            assert!(leading.group.is_leader());
            leading
        }

        fn input(&mut self, input: Input) {
            self.group.step(self.now, input, &mut self.effects);
            self.settle();
        }

        fn propose(&mut self, count: u64) {
            for token in (0..count).map(Token::new) {
                let proposal = Input::Propose { token, bytes: 64, time: LogTime::new(0) };
                self.group.step(self.now, proposal, &mut self.effects);
            }
            self.settle();
        }

        /// Everything is durable here, and everybody agrees.
        fn settle(&mut self) {
            loop {
                let mut said: Vec<(ReplicaId, Message)> = Vec::new();
                if let Some(persist) = self.effects.persist.take() {
                    let durable = crate::Durable::attest(persist.seq);
                    self.group.step(self.now, Input::Persisted(persist.seq), &mut self.effects);
                    let gated: Vec<_> = self.effects.messages.drain_gated().collect();
                    said.extend(gated.into_iter().map(|message| {
                        let message = message.open(durable).expect("it is durable");
                        (message.to, message.message)
                    }));
                }
                said.extend(self.effects.messages.drain_ready().map(|m| (m.to, m.message)));
                for peer in [2, 3].map(ReplicaId::new) {
                    while let Some(append) =
                        self.group.make_append(self.now, peer, u64::MAX, |_| Some(64))
                    {
                        said.push((peer, Message::Append(append)));
                    }
                }
                if said.is_empty() {
                    return;
                }
                for (from, message) in said {
                    let Some(message) = agree(&message) else { continue };
                    let life = self.group.incarnation();
                    let input = Input::Message {
                        from,
                        from_incarnation: life,
                        to_incarnation: life,
                        message,
                    };
                    self.group.step(self.now, input, &mut self.effects);
                }
            }
        }

        fn heartbeat(&mut self) {
            self.now = self.group.next_deadline().expect("a leader's heartbeat");
            self.input(Input::Deadline);
        }

        fn room(&self) -> [usize; 2] {
            let Role::Leader(leader) = &self.group.role else { panic!("still leading") };
            let open = |peer: &crate::progress::Progress| match &peer.state {
                State::Replicate(window) => usize::from(!window.is_forgotten()),
                State::Probe { .. } | State::Snapshot { .. } => panic!("{peer:?}"),
            };
            [self.group.proposals.capacity(), leader.peers.iter().map(open).sum()]
        }
    }

    fn agree(message: &Message) -> Option<Message> {
        match message {
            Message::PreVote(request) | Message::Vote(request) => {
                let reply = crate::VoteReply {
                    term: request.term,
                    attempt: request.attempt,
                    verdict: crate::Verdict::Granted,
                };
                let pre = matches!(message, Message::PreVote(_));
                Some(if pre { Message::PreVoteReply(reply) } else { Message::VoteReply(reply) })
            }
            Message::Append(append) => {
                let last = append.last_index();
                Some(Message::AppendReply(crate::AppendReply {
                    term: append.term,
                    session: append.session,
                    result: crate::AppendResult::Accepted {
                        durable: last,
                        written: last,
                        verified: last,
                        promise: Promise::Kept,
                    },
                }))
            }
            Message::Heartbeat(heartbeat) => Some(Message::HeartbeatReply(crate::HeartbeatReply {
                term: heartbeat.term,
                read_seq: heartbeat.read_seq,
                sent: heartbeat.sent,
            })),
            Message::PreVoteReply(_)
            | Message::VoteReply(_)
            | Message::AppendReply(_)
            | Message::HeartbeatReply(_)
            | Message::ReadConfirm(_)
            | Message::TimeoutNow(_)
            | Message::TransferRefused(_)
            | Message::ReadIndex(_)
            | Message::ReadIndexReply(_)
            | Message::Snapshot(_)
            | Message::Recover(_)
            | Message::Fence(_) => None,
        }
    }

    #[test]
    fn a_quiet_leader_gives_back_what_a_burst_took_and_goes_on_as_before() {
        let mut leading = Leading::new();
        for round in 0..2 {
            leading.propose(100);
            assert_eq!(leading.effects.outcomes.drain(..).count(), 100, "round {round}");
            // The first heartbeat only sees that something was written since the last one.
            leading.heartbeat();
            assert!(leading.room()[0] >= 100, "round {round}: {:?}", leading.room());
            assert_eq!(leading.room()[1], 2, "round {round}");
            leading.heartbeat();
            assert_eq!(leading.room(), [0, 0], "round {round}");
        }
    }

    #[test]
    fn a_busy_leader_keeps_its_room() {
        let mut leading = Leading::new();
        for _ in 0..5 {
            leading.propose(100);
            leading.heartbeat();
            assert!(leading.room()[0] >= 100);
        }
    }
}
