//! A queue that leaves its messages in the log.

use std::collections::VecDeque;

use bytes::Bytes;
use raft_core::{Entry, EntryKind, LogIndex};
use raft_harness::{Bodies, RestoreError, SnapshotPieces, StateMachine};

/// Keeps the places of messages; `p` and a body puts one at the end, `o` takes the first away, and `!`
/// and an index makes it name an entry that it does not keep.
#[derive(Default)]
pub struct Queue {
    bodies: Option<Bodies>,
    messages: VecDeque<(LogIndex, u64)>,
    wrong: Option<LogIndex>,
}

pub fn push(body: &[u8]) -> Bytes {
    [b"p", body].concat().into()
}

pub fn pop() -> Bytes {
    Bytes::from_static(b"o")
}

pub fn name_wrongly(index: u64) -> Bytes {
    [&b"!"[..], &index.to_le_bytes()].concat().into()
}

/// A body like no other.
pub fn body(number: u64, bytes: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut body = number.to_le_bytes().to_vec();
    while body.len() < bytes {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        body.extend_from_slice(&state.to_be_bytes()[..4]);
    }
    body.truncate(bytes.max(8));
    body
}

impl Queue {
    fn get(&self, at: usize) -> Bytes {
        let bodies = self.bodies.as_ref().expect("attached first");
        let found = self.messages.get(at).and_then(|(index, _)| bodies.get(*index).ok());
        // What is answered in its place is thrown away.
        found.map(|payload| payload.slice(1..)).unwrap_or_default()
    }
}

impl StateMachine for Queue {
    fn apply(&mut self, entries: &[Entry], outputs: &mut Vec<Bytes>) {
        for entry in entries {
            let is_command = entry.kind == EntryKind::Command;
            let (what, rest) = entry.payload.split_at(usize::from(is_command));
            outputs.push(match what {
                b"p" => {
                    self.messages.push_back((entry.index, entry.payload.len() as u64));
                    Bytes::new()
                }
                b"o" => {
                    let first = self.get(0);
                    if let Some((_, bytes)) = self.messages.pop_front() {
                        self.bodies.as_ref().expect("attached first").release(bytes);
                    }
                    first
                }
                b"!" => {
                    let index = rest.try_into().map(u64::from_le_bytes).unwrap_or_default();
                    self.wrong = Some(LogIndex::new(index));
                    Bytes::new()
                }
                _ => Bytes::new(),
            });
        }
    }

    /// How many there are, or the one at a place.
    fn read(&self, query: &[u8]) -> Bytes {
        match query.try_into().map(u64::from_le_bytes) {
            Ok(at) => self.get(at as usize),
            Err(_) => Bytes::copy_from_slice(&(self.messages.len() as u64).to_le_bytes()),
        }
    }

    /// Of all bodies, in order.
    fn digest(&self) -> u64 {
        let mut hash = self.messages.len() as u64;
        for at in 0..self.messages.len() {
            for byte in self.get(at).iter() {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
        hash
    }

    fn snapshot(&self) -> Option<SnapshotPieces> {
        let pairs = self.messages.iter();
        let pairs: Vec<u8> = pairs
            .flat_map(|(index, bytes)| [index.get().to_le_bytes(), bytes.to_le_bytes()].concat())
            .collect();
        Some(Box::new(std::iter::once(pairs.into())))
    }

    fn restore(&mut self, pieces: &mut dyn Iterator<Item = Bytes>) -> Result<(), RestoreError> {
        let bytes: Vec<u8> = pieces.flatten().collect();
        for pair in bytes.as_chunks::<8>().0.chunks(2) {
            let [index, bytes] = pair else { continue };
            let index = LogIndex::new(u64::from_le_bytes(*index));
            self.messages.push_back((index, u64::from_le_bytes(*bytes)));
        }
        // It can read what its snapshot left in the log by now.
        match &self.bodies {
            Some(bodies) if !self.messages.is_empty() => {
                bodies.get(self.messages[0].0)?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn keeps_entries(&self) -> bool {
        true
    }

    fn attach(&mut self, bodies: Bodies) {
        self.bodies = Some(bodies);
    }

    fn live_entries(&self) -> Box<dyn Iterator<Item = LogIndex> + '_> {
        let all = self.messages.iter().map(|(index, _)| *index);
        Box::new(self.wrong.into_iter().chain(all))
    }
}
