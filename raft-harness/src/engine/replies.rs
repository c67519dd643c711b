//! Replies that are owed, by token.
//!
//! A token is a place in a table, so finding a reply is an index, not a hash.

use raft_core::{GroupId, Token};

use crate::request::{Answer, Reply, RequestError};

#[derive(Debug, Default)]
pub(crate) struct Replies {
    places: Vec<Place>,
    free: Vec<u32>,
    abandoned: usize,
}

#[derive(Debug)]
enum Place {
    Free,
    /// Somebody waits.
    Owed(GroupId, Reply),
    /// Answered early as unknown; the core's outcome is still to come and frees the place.
    Abandoned(GroupId),
}

impl Replies {
    pub(crate) fn insert(&mut self, group: GroupId, reply: Reply) -> Token {
        let place = Place::Owed(group, reply);
        match self.free.pop() {
            Some(at) => {
                self.places[at as usize] = place;
                Token::new(u64::from(at))
            }
            None => {
                self.places.push(place);
                Token::new(self.places.len() as u64 - 1)
            }
        }
    }

    /// Takes the reply of a token whose outcome has come.
    pub(crate) fn take(&mut self, token: Token) -> Option<Reply> {
        let at = usize::try_from(token.get()).ok()?;
        let place = self.places.get_mut(at)?;
        match std::mem::replace(place, Place::Free) {
            Place::Free => None,
            Place::Owed(_, reply) => {
                self.free.push(at as u32);
                Some(reply)
            }
            Place::Abandoned(_) => {
                self.abandoned -= 1;
                self.free.push(at as u32);
                None
            }
        }
    }

    /// Answers a token's reply at once.
    pub(crate) fn answer(&mut self, token: Token, answer: Answer) {
        if let Some(reply) = self.take(token) {
            reply.send(answer);
        }
    }

    /// Answers everything a group still owes as unknown. The places stay taken until the core's
    /// outcomes come.
    pub(crate) fn abandon(&mut self, group: GroupId) {
        for place in &mut self.places {
            if matches!(place, Place::Owed(of, _) if *of == group)
                && let Place::Owed(_, reply) = std::mem::replace(place, Place::Abandoned(group))
            {
                self.abandoned += 1;
                reply.send(Err(RequestError::Unknown));
            }
        }
    }

    /// Whether somebody waits for an answer of this group.
    pub(crate) fn owes(&self, group: GroupId) -> bool {
        self.places.iter().any(|place| matches!(place, Place::Owed(of, _) if *of == group))
    }

    /// Frees the places of a group whose outcomes will never come, answering what is owed as
    /// unknown.
    pub(crate) fn forget(&mut self, group: GroupId) {
        for (at, place) in self.places.iter_mut().enumerate() {
            let (of, was_abandoned) = match place {
                Place::Free => (None, 0),
                Place::Owed(of, _) => (Some(*of), 0),
                Place::Abandoned(of) => (Some(*of), 1),
            };
            if of == Some(group) {
                self.abandoned -= was_abandoned;
                // A reply that is dropped says that nobody knows.
                *place = Place::Free;
                self.free.push(at as u32);
            }
        }
    }

    /// How many places are taken, whether somebody still waits or not.
    #[cfg(feature = "sim")]
    pub(crate) fn taken(&self) -> usize {
        (self.places.len() - self.free.len()).max(self.abandoned)
    }

    /// How many replies are owed. What was answered early waits for nobody: a leader cut off with
    /// open proposals must not take the room of the shard's other groups until it is back. Such
    /// places are bounded by what a group may have uncommitted.
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len() - self.abandoned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Proposed, Request, RequestKind, Ticket};
    use raft_core::ReadPath;

    fn reply(group: GroupId) -> (Reply, Ticket<Proposed>) {
        let (request, ticket) =
            Request::new(group, RequestKind::Read(ReadPath::Quorum, bytes::Bytes::new()));
        (request.reply, ticket)
    }

    #[test]
    fn what_was_answered_early_takes_no_room() {
        let (stuck, other) = (GroupId::new(1), GroupId::new(2));
        let mut replies = Replies::default();
        let (first, ticket) = reply(stuck);
        let token = replies.insert(stuck, first);
        let (second, _waits) = reply(other);
        replies.insert(other, second);
        assert_eq!(replies.len(), 2);
        replies.abandon(stuck);
        assert_eq!(ticket.wait(), Err(RequestError::Unknown));
        assert_eq!(replies.len(), 1);
        // The core's outcome comes at last: the place is free, and counted once.
        assert!(replies.take(token).is_none());
        assert_eq!(replies.len(), 1);
    }
}
