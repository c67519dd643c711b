//! Who belongs to a group, and how that changes (thesis chapter 4).
//!
//! A membership is a list of members, each with its standing. Two majorities decide while a
//! change is under way: the *incoming* one of the new voters and the *outgoing* one of the old
//! (joint consensus, thesis 4.3). A change that moves at most one voter needs no joint step,
//! because any two majorities around it overlap (thesis 4.1).
//!
//! Invariants: members ascend by replica id; at least one votes in the new half; a replica id
//! once used is never used again, which the largest id so far enforces at no cost in memory.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::id::{NodeId, ReplicaId};
use crate::quorum::{Joint, MEMBERS_MAX};

/// What a member may do.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Standing {
    /// It votes and is voted for.
    Voter = 0,
    /// It receives the log and has no vote (thesis 4.2.1).
    Learner = 1,
    /// Joint: it votes in the new half only.
    Incoming = 2,
    /// Joint: it votes in the old half only, and leaves the group with it.
    Outgoing = 3,
    /// Joint: it votes in the old half only, and stays as a learner.
    Demoting = 4,
    /// A learner in the place of a voter that may have forgotten its vote: whoever leads promotes it
    /// once it has caught up.
    Successor = 6,
}

impl Standing {
    /// Reserved for members that vote and hold no entries. No version has them yet.
    pub const WITNESS_CODE: u8 = 5;

    /// The number used in encodings.
    pub const fn code(self) -> u8 {
        self as u8
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Voter),
            1 => Some(Self::Learner),
            2 => Some(Self::Incoming),
            3 => Some(Self::Outgoing),
            4 => Some(Self::Demoting),
            6 => Some(Self::Successor),
            _ => None,
        }
    }

    /// Whether it counts toward the majority of the new voters.
    pub const fn votes_incoming(self) -> bool {
        matches!(self, Self::Voter | Self::Incoming)
    }

    /// Whether it counts toward the majority of the old voters while a change is under way.
    pub const fn votes_outgoing(self) -> bool {
        matches!(self, Self::Voter | Self::Outgoing | Self::Demoting)
    }

    const fn is_joint(self) -> bool {
        matches!(self, Self::Incoming | Self::Outgoing | Self::Demoting)
    }
}

/// One replica and the node it lives on.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Member {
    /// The replica.
    pub replica: ReplicaId,
    /// Its node. The core never looks at it; drivers send by it.
    pub node: NodeId,
    /// What it may do.
    pub standing: Standing,
}

/// Who belongs to a group from one index of its log on.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Membership {
    members: Box<[Member]>,
    /// The voters of the new half, or simply the voters; ascending.
    incoming: Box<[ReplicaId]>,
    /// The voters of the old half; empty unless a change is under way.
    outgoing: Box<[ReplicaId]>,
    /// The largest replica id ever used in the group.
    last_replica: ReplicaId,
}

/// One step of a change. Several may be asked for at once; they take effect together.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum MemberChange {
    /// A new replica receives the log, without a vote. Its id must be larger than any before, and
    /// never that of an earlier attempt whose fate is unknown: a membership acts before it is
    /// committed, so a replica may have come to life under it and have promised things, on
    /// another node. Who picks ids draws them from one source.
    AddLearner {
        /// The new replica.
        replica: ReplicaId,
        /// Where it lives.
        node: NodeId,
    },
    /// A learner that has caught up becomes a voter.
    Promote(ReplicaId),
    /// A voter becomes a learner.
    Demote(ReplicaId),
    /// A member leaves for good.
    Remove(ReplicaId),
    /// A member leaves for good, and another replica begins in its place, on the same node. In the
    /// place of a voter comes a [`Standing::Successor`].
    Replace {
        /// Who leaves.
        replica: ReplicaId,
        /// Who comes; as with [`AddLearner`](Self::AddLearner), larger than any before.
        by: ReplicaId,
    },
}

/// Why a membership or a change of it makes no sense.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// Nobody would vote.
    #[error("no voter is left")]
    NoVoter,
    /// A replica is named twice.
    #[error("{0} is named twice")]
    Twice(ReplicaId),
    /// More members than a group can have.
    #[error("{0} members are too many: {MEMBERS_MAX} at most")]
    TooMany(usize),
    /// The id was in use before, by this group, even if by a member long gone.
    #[error("{replica} was used before: new ids are larger than {last}")]
    Reused {
        /// The id asked for.
        replica: ReplicaId,
        /// The largest id used so far.
        last: ReplicaId,
    },
    /// The replica is no member, or has not the standing the change starts from.
    #[error("{0} has not the standing for this change")]
    Standing(ReplicaId),
    /// The changes ask for nothing.
    #[error("nothing would change")]
    Nothing,
    /// The bytes are not a membership of a version this software knows.
    #[error("not a membership: {0}")]
    Encoding(&'static str),
}

impl Membership {
    /// A group's first membership.
    ///
    /// # Errors
    /// [`MembershipError`] if a replica is named twice, nobody votes, a standing belongs to a
    /// change under way, or there are more than [`MEMBERS_MAX`].
    pub fn new(members: impl IntoIterator<Item = Member>) -> Result<Self, MembershipError> {
        let members: Vec<Member> = members.into_iter().collect();
        let last = members.iter().map(|member| member.replica).max().unwrap_or_default();
        if let Some(member) = members.iter().find(|member| member.standing.is_joint()) {
            return Err(MembershipError::Standing(member.replica));
        }
        Self::checked(members, last)
    }

    /// Voters only, each on the node with its own number: for tests, examples and groups whose
    /// driver finds nodes by other means.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_voters(voters: impl IntoIterator<Item = ReplicaId>) -> Result<Self, MembershipError> {
        Self::new(voters.into_iter().map(|replica| Member {
            replica,
            node: NodeId::new(replica.get()),
            standing: Standing::Voter,
        }))
    }

    /// Of a group that nobody has told this replica about: no members, so nobody is elected.
    pub(crate) fn unknown() -> Self {
        Self {
            members: Box::default(),
            incoming: Box::default(),
            outgoing: Box::default(),
            last_replica: ReplicaId::new(0),
        }
    }

    /// Whether this is [`unknown`](Self::unknown).
    pub(crate) fn is_unknown(&self) -> bool {
        self.members.is_empty()
    }

    fn checked(mut members: Vec<Member>, last_replica: ReplicaId) -> Result<Self, MembershipError> {
        if members.len() > MEMBERS_MAX {
            return Err(MembershipError::TooMany(members.len()));
        }
        members.sort_unstable_by_key(|member| member.replica);
        if let Some(pair) = members.windows(2).find(|pair| pair[0].replica == pair[1].replica) {
            return Err(MembershipError::Twice(pair[0].replica));
        }
        if !members.iter().any(|member| member.standing.votes_incoming()) {
            return Err(MembershipError::NoVoter);
        }
        if let Some(member) = members.last().filter(|member| member.replica > last_replica) {
            let replica = member.replica;
            return Err(MembershipError::Reused { replica, last: last_replica });
        }
        let is_joint = members.iter().any(|member| member.standing.is_joint());
        let half = |votes: fn(Standing) -> bool| {
            members.iter().filter(move |m| votes(m.standing)).map(|m| m.replica)
        };
        Ok(Self {
            incoming: half(Standing::votes_incoming).collect(),
            outgoing: half(Standing::votes_outgoing).filter(|_| is_joint).collect(),
            members: members.into_boxed_slice(),
            last_replica,
        })
    }

    /// All members, ascending by replica.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// One member.
    pub fn member(&self, replica: ReplicaId) -> Option<&Member> {
        self.members.iter().find(|member| member.replica == replica)
    }

    /// What a replica may do; `None` if it is no member.
    pub fn standing(&self, replica: ReplicaId) -> Option<Standing> {
        self.member(replica).map(|member| member.standing)
    }

    /// Whether a replica votes in either half.
    pub fn is_voter(&self, replica: ReplicaId) -> bool {
        self.standing(replica).is_some_and(|s| s.votes_incoming() || s.votes_outgoing())
    }

    /// The voters of the new half, or simply the voters; ascending.
    pub fn incoming(&self) -> &[ReplicaId] {
        &self.incoming
    }

    /// The voters of the old half; empty unless a change is under way.
    pub fn outgoing(&self) -> &[ReplicaId] {
        &self.outgoing
    }

    /// Both halves, to be asked for majorities.
    pub fn joint(&self) -> Joint<'_> {
        Joint::new(&self.incoming, &self.outgoing)
    }

    /// The voters of either half.
    pub fn voters(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.members
            .iter()
            .filter(|m| m.standing.votes_incoming() || m.standing.votes_outgoing())
            .map(|m| m.replica)
    }

    /// Whether a change is under way, so that two majorities decide.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `replica` is the only voter.
    pub fn is_sole_voter(&self, replica: ReplicaId) -> bool {
        let mut voters = self.voters();
        voters.next() == Some(replica) && voters.next().is_none()
    }

    /// The largest replica id ever used in the group; a new one must be larger.
    pub const fn last_replica(&self) -> ReplicaId {
        self.last_replica
    }

    /// The membership after `changes`: the final one if majorities before and after surely
    /// overlap (at most one voter moves), else the joint one on the way there.
    ///
    /// # Errors
    /// [`MembershipError`]; a membership already joint takes no further change.
    pub fn change(&self, changes: &[MemberChange]) -> Result<Self, MembershipError> {
        if let Some(member) = self.members.iter().find(|m| m.standing.is_joint()) {
            return Err(MembershipError::Standing(member.replica));
        }
        let mut members = self.members.to_vec();
        let mut last_replica = self.last_replica;
        let mut named: Vec<ReplicaId> = Vec::with_capacity(changes.len());
        let mut voters_moved = 0;
        for change in changes {
            let (MemberChange::AddLearner { replica, .. }
            | MemberChange::Promote(replica)
            | MemberChange::Demote(replica)
            | MemberChange::Remove(replica)
            | MemberChange::Replace { replica, .. }) = *change;
            if named.contains(&replica) {
                return Err(MembershipError::Twice(replica));
            }
            named.push(replica);
            if let MemberChange::AddLearner { replica, node } = *change {
                if replica <= last_replica {
                    return Err(MembershipError::Reused { replica, last: last_replica });
                }
                last_replica = replica;
                members.push(Member { replica, node, standing: Standing::Learner });
                continue;
            }
            let Some(at) = members.iter().position(|member| member.replica == replica) else {
                return Err(MembershipError::Standing(replica));
            };
            let Member { node, standing, .. } = members[at];
            if let MemberChange::Replace { by, .. } = *change {
                if by <= last_replica {
                    return Err(MembershipError::Reused { replica: by, last: last_replica });
                }
                last_replica = by;
                named.push(by);
                let standing = match standing {
                    Standing::Voter | Standing::Successor => Standing::Successor,
                    Standing::Learner => Standing::Learner,
                    Standing::Incoming | Standing::Outgoing | Standing::Demoting => {
                        return Err(MembershipError::Standing(replica));
                    }
                };
                members.push(Member { replica: by, node, standing });
            }
            match (*change, standing) {
                (MemberChange::Promote(_), Standing::Learner | Standing::Successor) => {
                    members[at].standing = Standing::Incoming;
                    voters_moved += 1;
                }
                (MemberChange::Demote(_), Standing::Voter) => {
                    members[at].standing = Standing::Demoting;
                    voters_moved += 1;
                }
                (MemberChange::Remove(_) | MemberChange::Replace { .. }, Standing::Voter) => {
                    members[at].standing = Standing::Outgoing;
                    voters_moved += 1;
                }
                (
                    MemberChange::Remove(_) | MemberChange::Replace { .. },
                    Standing::Learner | Standing::Successor,
                ) => {
                    members.remove(at);
                }
                _ => return Err(MembershipError::Standing(replica)),
            }
        }
        if changes.is_empty() {
            return Err(MembershipError::Nothing);
        }
        let changed = Self::checked(members, last_replica)?;
        if voters_moved <= 1 { changed.leave() } else { Ok(changed) }
    }

    /// The membership after the joint step: the old half is gone.
    ///
    /// # Errors
    /// [`MembershipError::NoVoter`] cannot happen to a membership made by [`change`](Self::change).
    pub fn leave(&self) -> Result<Self, MembershipError> {
        let members = self.members.iter().filter_map(|member| {
            let standing = match member.standing {
                Standing::Voter | Standing::Incoming => Standing::Voter,
                Standing::Learner | Standing::Demoting => Standing::Learner,
                Standing::Successor => Standing::Successor,
                Standing::Outgoing => return None,
            };
            Some(Member { standing, ..*member })
        });
        Self::checked(members.collect(), self.last_replica)
    }

    /// Bytes of one member in the encoding.
    const MEMBER_BYTES: usize = 17;
    const HEADER_BYTES: usize = 10;
    const VERSION: u8 = 1;

    /// The payload of a configuration entry: version, largest id so far, count, then per member
    /// replica, node and standing; numbers are little-endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes =
            Vec::with_capacity(Self::HEADER_BYTES + self.members.len() * Self::MEMBER_BYTES);
        bytes.push(Self::VERSION);
        bytes.extend_from_slice(&self.last_replica.get().to_le_bytes());
        bytes.push(self.members.len() as u8);
        for member in &self.members {
            bytes.extend_from_slice(&member.replica.get().to_le_bytes());
            bytes.extend_from_slice(&member.node.get().to_le_bytes());
            bytes.push(member.standing.code());
        }
        bytes
    }

    /// Reads [`encode`](Self::encode)'s bytes.
    ///
    /// # Errors
    /// [`MembershipError::Encoding`] for bytes that are none, or hold a standing this version
    /// only reserves; the others as in [`new`](Self::new).
    pub fn decode(bytes: &[u8]) -> Result<Self, MembershipError> {
        let number = |at: usize| -> Option<u64> {
            let bytes = bytes.get(at..at + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let short = MembershipError::Encoding("it is cut short");
        if *bytes.first().ok_or(short)? != Self::VERSION {
            return Err(MembershipError::Encoding("of a version not known here"));
        }
        let last_replica = ReplicaId::new(number(1).ok_or(short)?);
        let count = usize::from(*bytes.get(9).ok_or(short)?);
        if bytes.len() != Self::HEADER_BYTES + count * Self::MEMBER_BYTES {
            return Err(MembershipError::Encoding("its length does not fit its count"));
        }
        let mut members = Vec::with_capacity(count);
        for member in 0..count {
            let at = Self::HEADER_BYTES + member * Self::MEMBER_BYTES;
            let code = *bytes.get(at + 16).ok_or(short)?;
            if code == Standing::WITNESS_CODE {
                return Err(MembershipError::Encoding("witnesses are reserved"));
            }
            members.push(Member {
                replica: ReplicaId::new(number(at).ok_or(short)?),
                node: NodeId::new(number(at + 8).ok_or(short)?),
                standing: Standing::from_code(code)
                    .ok_or(MembershipError::Encoding("a standing not known here"))?,
            });
        }
        Self::checked(members, last_replica)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn r(id: u64) -> ReplicaId {
        ReplicaId::new(id)
    }

    fn voters(ids: &[u64]) -> Membership {
        Membership::of_voters(ids.iter().map(|id| r(*id))).unwrap()
    }

    fn ids(replicas: &[ReplicaId]) -> Vec<u64> {
        replicas.iter().map(|replica| replica.get()).collect()
    }

    #[test]
    fn one_moved_voter_needs_no_joint_step_and_two_do() {
        let learner = MemberChange::AddLearner { replica: r(4), node: NodeId::new(4) };
        let four = voters(&[1, 2, 3]).change(&[learner]).unwrap();
        assert!(!four.is_joint());
        let promoted = four.change(&[MemberChange::Promote(r(4))]).unwrap();
        assert!(!promoted.is_joint());
        assert_eq!(ids(promoted.incoming()), [1, 2, 3, 4]);

        let swap = [MemberChange::Promote(r(4)), MemberChange::Remove(r(1))];
        let joint = four.change(&swap).unwrap();
        assert!(joint.is_joint());
        assert_eq!(ids(joint.incoming()), [2, 3, 4]);
        assert_eq!(ids(joint.outgoing()), [1, 2, 3]);
        assert_eq!(joint.change(&swap), Err(MembershipError::Standing(r(1))));
        let left = joint.leave().unwrap();
        assert!(!left.is_joint());
        assert_eq!(ids(left.incoming()), [2, 3, 4]);
        assert!(left.outgoing().is_empty());
    }

    #[test]
    fn a_replica_id_is_never_used_again() {
        let removed = voters(&[1, 2, 3]).change(&[MemberChange::Remove(r(3))]).unwrap();
        for id in 1..=3 {
            let again = MemberChange::AddLearner { replica: r(id), node: NodeId::new(9) };
            let refused = MembershipError::Reused { replica: r(id), last: r(3) };
            assert_eq!(removed.change(&[again]), Err(refused));
        }
        let restored = Membership::decode(&removed.encode()).unwrap();
        assert_eq!(restored, removed, "the memory of used ids survives its encoding");
    }

    #[test]
    fn another_replica_takes_the_place_of_one_on_its_node() {
        let replace = |replica, by| MemberChange::Replace { replica: r(replica), by: r(by) };
        let replaced = voters(&[1, 2, 3]).change(&[replace(3, 4)]).unwrap();
        assert!(!replaced.is_joint(), "one voter moves");
        assert_eq!(ids(replaced.incoming()), [1, 2], "nobody votes in its place yet");
        let successor =
            Member { replica: r(4), node: NodeId::new(3), standing: Standing::Successor };
        assert_eq!(replaced.member(r(4)), Some(&successor));
        assert_eq!(Membership::decode(&replaced.encode()).unwrap(), replaced);
        // It may itself be replaced, and its place goes on to be a voter's.
        let again = replaced.change(&[replace(4, 5)]).unwrap();
        assert_eq!(again.standing(r(5)), Some(Standing::Successor));
        assert_eq!(again.standing(r(4)), None);
        let promoted = again.change(&[MemberChange::Promote(r(5))]).unwrap();
        assert_eq!(ids(promoted.incoming()), [1, 2, 5]);
        // A learner's place stays a learner's.
        let learner = MemberChange::AddLearner { replica: r(4), node: NodeId::new(9) };
        let four = voters(&[1, 2, 3]).change(&[learner]).unwrap();
        let replaced = four.change(&[replace(4, 5)]).unwrap();
        assert_eq!(replaced.standing(r(5)), Some(Standing::Learner));
        let reused = MembershipError::Reused { replica: r(3), last: r(3) };
        assert_eq!(voters(&[1, 2, 3]).change(&[replace(2, 3)]), Err(reused));
        assert_eq!(voters(&[1]).change(&[replace(1, 2)]), Err(MembershipError::NoVoter));
        let stranger = MembershipError::Standing(r(7));
        assert_eq!(voters(&[1, 2, 3]).change(&[replace(7, 8)]), Err(stranger));
    }

    #[test]
    fn the_last_voter_stays() {
        let one = voters(&[1]);
        assert_eq!(one.change(&[MemberChange::Remove(r(1))]), Err(MembershipError::NoVoter));
        assert_eq!(one.change(&[MemberChange::Demote(r(1))]), Err(MembershipError::NoVoter));
        assert_eq!(one.change(&[]), Err(MembershipError::Nothing));
    }

    #[test]
    fn the_encoding_is_pinned_and_refuses_what_is_not_one() {
        let bytes = voters(&[2]).encode();
        let golden =
            [1, 2, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(bytes, golden);
        for cut in 0..bytes.len() {
            assert!(Membership::decode(&bytes[..cut]).is_err());
        }
        let mut witness = bytes.clone();
        witness[26] = Standing::WITNESS_CODE;
        let reserved = MembershipError::Encoding("witnesses are reserved");
        assert_eq!(Membership::decode(&witness), Err(reserved));
        let mut reused = bytes;
        reused[1] = 1;
        assert!(Membership::decode(&reused).is_err(), "an id beyond the largest one");
    }

    #[test]
    fn a_membership_survives_its_encoding_in_every_standing() {
        let at = |id, standing| Member { replica: r(id), node: NodeId::new(id << 40), standing };
        let first = Membership::new([
            at(1, Standing::Voter),
            at(2, Standing::Voter),
            at(3, Standing::Voter),
        ]);
        let newcomer = MemberChange::AddLearner { replica: r(4), node: NodeId::new(u64::MAX) };
        let second = MemberChange::AddLearner { replica: r(5), node: NodeId::new(0) };
        let four = first.unwrap().change(&[newcomer, second]).unwrap();
        let moves =
            [MemberChange::Promote(r(4)), MemberChange::Demote(r(1)), MemberChange::Remove(r(2))];
        let joint = four.change(&moves).unwrap();
        let standings: vec::Vec<Standing> = joint.members().iter().map(|m| m.standing).collect();
        let all = [
            Standing::Demoting,
            Standing::Outgoing,
            Standing::Voter,
            Standing::Incoming,
            Standing::Learner,
        ];
        assert_eq!(standings, all);
        for membership in [four, joint.leave().unwrap(), joint] {
            assert_eq!(Membership::decode(&membership.encode()), Ok(membership));
        }
    }

    #[test]
    fn bytes_of_another_version_or_an_unknown_standing_are_refused_by_name() {
        let bytes = voters(&[2]).encode();
        for version in [0, 2, u8::MAX] {
            let mut other = bytes.clone();
            other[0] = version;
            let refused = MembershipError::Encoding("of a version not known here");
            assert_eq!(Membership::decode(&other), Err(refused));
        }
        for standing in Standing::Successor.code() + 1..=u8::MAX {
            let mut other = bytes.clone();
            other[26] = standing;
            let refused = MembershipError::Encoding("a standing not known here");
            assert_eq!(Membership::decode(&other), Err(refused));
        }
    }

    #[test]
    fn a_first_membership_names_nobody_twice_and_is_not_under_change() {
        let at = |id, standing| Member { replica: r(id), node: NodeId::new(id), standing };
        let twice = [at(1, Standing::Voter), at(2, Standing::Voter), at(1, Standing::Learner)];
        assert_eq!(Membership::new(twice), Err(MembershipError::Twice(r(1))));
        for half in [Standing::Incoming, Standing::Outgoing, Standing::Demoting] {
            let changing = [at(1, Standing::Voter), at(2, half)];
            assert_eq!(Membership::new(changing), Err(MembershipError::Standing(r(2))));
        }
        assert_eq!(Membership::new([at(1, Standing::Learner)]), Err(MembershipError::NoVoter));
    }

    #[test]
    fn a_group_has_a_largest_size() {
        let many: vec::Vec<u64> = (1..=MEMBERS_MAX as u64).collect();
        let full = voters(&many);
        let id = r(MEMBERS_MAX as u64 + 1);
        let one_more = MemberChange::AddLearner { replica: id, node: NodeId::new(1) };
        assert_eq!(full.change(&[one_more]), Err(MembershipError::TooMany(MEMBERS_MAX + 1)));
    }
}
