//! The other replicas of a group: on which nodes they live, and by which lanes they are spoken to.
//!
//! Members come and go with the membership in force, and a replica may rightly hear from one its
//! own membership does not name: a leader it has not caught up with, or a candidate it forgot.
//! Such a guest is answered where it spoke from; it has no vote in anything that is decided here.
//!
//! Invariant: a member is believed only from the node its membership names.

use raft_core::{Membership, NodeId, ReplicaId};

use super::io::{Route, SendLane};

/// Guests remembered per group, and so the most memory strangers can cost it; the oldest gives
/// way.
const GUESTS_MAX: usize = 8;

/// Another replica of the group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) replica: ReplicaId,
    pub(crate) node: NodeId,
    /// The place of `node` in the engine's table of nodes.
    pub(crate) at: usize,
    /// The lane appends travel on at the moment.
    pub(crate) lane: SendLane,
    /// By which way its newest append came: the answer goes back there.
    pub(crate) ack_route: Option<Route>,
    pub(crate) kind: PeerKind,
}

/// Whether the membership in force names a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PeerKind {
    Member,
    Guest,
}

/// All other replicas that are spoken to, members first.
#[derive(Debug, Default)]
pub(crate) struct Peers(Vec<Peer>);

impl Peers {
    /// Follows the membership in force; who left is a guest for a while, since there are last
    /// words to say. `place` finds a node's place in the engine's table.
    pub(crate) fn follow(
        &mut self,
        me: ReplicaId,
        membership: &Membership,
        mut place: impl FnMut(NodeId) -> usize,
    ) {
        let before = std::mem::take(&mut self.0);
        let members = membership.members().iter().filter(|member| member.replica != me);
        for member in members {
            let known = before
                .iter()
                .find(|peer| peer.replica == member.replica && peer.node == member.node);
            self.0.push(match known {
                Some(peer) => Peer { kind: PeerKind::Member, ..*peer },
                None => Peer {
                    replica: member.replica,
                    node: member.node,
                    at: place(member.node),
                    lane: SendLane::Data,
                    ack_route: None,
                    kind: PeerKind::Member,
                },
            });
        }
        for peer in before {
            if self.get(peer.replica).is_none() && peer.replica != me {
                self.0.push(Peer { kind: PeerKind::Guest, ..peer });
            }
        }
        self.limit_guests();
    }

    /// Whether `replica` may speak from `node`, which has this place; an unknown one is a guest
    /// from now on.
    pub(crate) fn admit(&mut self, replica: ReplicaId, node: NodeId, at: usize) -> bool {
        match self.get_mut(replica) {
            Some(peer) if peer.node == node => true,
            Some(Peer { kind: PeerKind::Member, .. }) => false,
            Some(guest) => {
                guest.node = node;
                guest.at = at;
                guest.ack_route = None;
                true
            }
            None => {
                self.0.push(Peer {
                    replica,
                    node,
                    at,
                    lane: SendLane::Data,
                    ack_route: None,
                    kind: PeerKind::Guest,
                });
                self.limit_guests();
                true
            }
        }
    }

    fn limit_guests(&mut self) {
        let is_guest = |peer: &Peer| peer.kind == PeerKind::Guest;
        while self.0.iter().filter(|peer| is_guest(peer)).count() > GUESTS_MAX
            && let Some(oldest) = self.0.iter().position(is_guest)
        {
            self.0.remove(oldest);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.0.iter()
    }

    pub(crate) fn get(&self, replica: ReplicaId) -> Option<&Peer> {
        self.0.iter().find(|peer| peer.replica == replica)
    }

    pub(crate) fn get_mut(&mut self, replica: ReplicaId) -> Option<&mut Peer> {
        self.0.iter_mut().find(|peer| peer.replica == replica)
    }

    /// The replicas on a node: one, but for a replica that replaces another there.
    pub(crate) fn on(&self, at: usize) -> impl Iterator<Item = &Peer> {
        self.0.iter().filter(move |peer| peer.at == at)
    }

    pub(crate) fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        self.get(replica).map(|peer| peer.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::MemberChange;

    fn r(id: u64) -> ReplicaId {
        ReplicaId::new(id)
    }

    fn n(id: u64) -> NodeId {
        NodeId::new(id)
    }

    fn place(node: NodeId) -> usize {
        node.get() as usize
    }

    fn of_three() -> (Peers, Membership) {
        let membership = Membership::of_voters([1, 2, 3].map(r)).unwrap();
        let mut peers = Peers::default();
        peers.follow(r(1), &membership, place);
        (peers, membership)
    }

    #[test]
    fn a_member_is_believed_from_its_own_node_only() {
        let (mut peers, _) = of_three();
        assert!(peers.admit(r(2), n(2), 2));
        assert!(!peers.admit(r(2), n(3), 3));
        assert_eq!(peers.node_of(r(2)), Some(n(2)));
    }

    #[test]
    fn guests_are_answered_where_they_speak_from_and_cost_a_bounded_amount() {
        let (mut peers, _) = of_three();
        for id in 10..100 {
            assert!(peers.admit(r(id), n(4), 4));
        }
        assert_eq!(peers.iter().count(), 2 + GUESTS_MAX);
        assert_eq!(peers.node_of(r(99)), Some(n(4)));
        assert!(peers.admit(r(99), n(5), 5), "it moved: nobody says where it belongs");
        assert_eq!(peers.node_of(r(99)), Some(n(5)));
    }

    #[test]
    fn peers_follow_the_membership_and_keep_what_is_known_of_them() {
        let (mut peers, membership) = of_three();
        peers.get_mut(r(2)).unwrap().ack_route = Some(Route::Control);
        let add = MemberChange::AddLearner { replica: r(4), node: n(9) };
        let changed = membership.change(&[add, MemberChange::Remove(r(3))]).unwrap();
        peers.follow(r(1), &changed, place);
        assert_eq!(peers.get(r(2)).unwrap().ack_route, Some(Route::Control));
        assert_eq!(peers.node_of(r(4)), Some(n(9)));
        assert_eq!(peers.get(r(3)).unwrap().kind, PeerKind::Guest, "there are last words to say");
        assert_eq!(peers.on(9).map(|peer| peer.replica).collect::<Vec<_>>(), [r(4)]);
    }
}
