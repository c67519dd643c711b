//! A machine's keys as a snapshot, and back.
//!
//! The first piece says the version and log time; the others hold whole items in order of their
//! keys, so that all replicas write the same bytes. Expiry is judged by log time, as ever.

use bytes::{BufMut, Bytes, BytesMut};

use super::KvMachine;
use crate::kv::codec::{DecodeError, Reader, put_bytes, put_number};
use crate::state_machine::{RestoreError, SnapshotPieces};

const VERSION: u8 = 1;
/// A piece is closed once it has so many bytes.
const PIECE_BYTES: usize = 256 << 10;

impl KvMachine {
    /// Copies everything at once: some milliseconds per 10 MB, during which the shard waits.
    pub(super) fn pieces(&self) -> SnapshotPieces {
        let mut head = BytesMut::new();
        head.put_u8(VERSION);
        put_number(&mut head, self.log_time);
        let mut pieces = vec![head.freeze()];
        let mut items: Vec<_> = self.items.iter().collect();
        items.sort_unstable_by_key(|(key, _)| *key);
        let mut piece = BytesMut::new();
        for (key, item) in items {
            put_bytes(&mut piece, key);
            put_bytes(&mut piece, &item.value);
            // Zero is no deadline: the machine's time is never before it.
            put_number(&mut piece, item.deadline.map_or(0, |at| at.saturating_add(1)));
            if piece.len() >= PIECE_BYTES {
                pieces.push(piece.split().freeze());
            }
        }
        pieces.push(piece.freeze());
        Box::new(pieces.into_iter())
    }

    pub(super) fn take_pieces(
        &mut self,
        pieces: &mut dyn Iterator<Item = Bytes>,
    ) -> Result<(), RestoreError> {
        let refused = |why: &str| RestoreError::Refused(why.to_owned());
        let undecodable = |error: DecodeError| RestoreError::Refused(error.to_string());
        let head = pieces.next().ok_or_else(|| refused("it is empty"))?;
        let mut reader = Reader::new(&head);
        if reader.byte().map_err(undecodable)? != VERSION {
            return Err(refused("its version is not known"));
        }
        self.log_time = reader.number().map_err(undecodable)?;
        reader.finish().map_err(undecodable)?;
        for piece in pieces {
            let mut reader = Reader::new(&piece);
            while !reader.rest().is_empty() {
                let key = reader.bytes().map_err(undecodable)?;
                let value = reader.bytes().map_err(undecodable)?;
                let deadline = reader.number().map_err(undecodable)?.checked_sub(1);
                if deadline.is_some_and(|at| at <= self.log_time) {
                    return Err(refused("a key has expired in it"));
                }
                if self.put(key, value.into(), deadline).is_some() {
                    return Err(refused("a key is there twice"));
                }
            }
        }
        Ok(())
    }
}
