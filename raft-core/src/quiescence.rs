//! Sleep: a group in which nothing happens costs nothing, and before that little memory.
//!
//! A leader that was asked nothing for a while, and whose members all hold and know everything,
//! sends one last heartbeat that says so, and wants no deadline any more; nor does a follower that
//! agrees. Whatever happens to the group ends its sleep. That its leader died is not something
//! that happens to a follower, so the driver must say it
//! ([`Input::PeerUnreachable`](crate::Input::PeerUnreachable)).
//!
//! Invariants: a sleeping group has nothing in flight and nothing uncommitted; a sleeping replica
//! refuses its vote to others as one that hears its leader, and once woken gives the leader a
//! full timeout to speak up.

use crate::group::{Group, Role};
use crate::io::DiskSpace;
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
            && leader.reads.is_empty()
            && leader.transfer.is_none()
            && !leader.is_joint
            && leader.standing.is_some();
        let all_hold = leader.peers.iter().all(|peer| {
            peer.match_index == last
                && peer.promise == Promise::Kept
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
