//! Replies that are owed, by token.
//!
//! A token is a place in a table, so finding a reply is an index, not a hash.

use raft_core::{GroupId, Token};

use crate::request::{Answer, Reply, RequestError};

#[derive(Debug, Default)]
pub(crate) struct Replies {
    places: Vec<Place>,
    free: Vec<u32>,
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
                reply.send(Err(RequestError::Unknown));
            }
        }
    }

    /// Frees the places of a group whose outcomes will never come, answering what is owed as
    /// unknown.
    pub(crate) fn forget(&mut self, group: GroupId) {
        for (at, place) in self.places.iter_mut().enumerate() {
            let of = match place {
                Place::Free => None,
                Place::Owed(of, _) | Place::Abandoned(of) => Some(*of),
            };
            if of == Some(group) {
                // A reply that is dropped says that nobody knows.
                *place = Place::Free;
                self.free.push(at as u32);
            }
        }
    }

    /// How many places are taken.
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}
