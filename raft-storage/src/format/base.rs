//! The payload of the two records after which a log begins anew: what is in force at its base.
//!
//! Index and term are in the header of the record; here are the rest of the base and the time of
//! the newest entry, which no entry may be left to say, and which entries outlive the beginning.

use std::sync::Arc;

use raft_core::{Base, LogIndex, LogTime, Membership, SnapshotMeta, Term};

use crate::append::write::Compaction;
use crate::format::field::{put, u32_at, u64_at};
use crate::format::live::LiveEntries;
use crate::format::record::RecordHeader;

/// Time, place of the membership, end of the snapshot, length of the membership.
const FIXED_BYTES: usize = 28;

/// The base of a log that an installed snapshot replaces.
pub(crate) fn of_snapshot(meta: &SnapshotMeta) -> Compaction {
    Compaction { base: Base::of_snapshot(meta), time: meta.time }
}

/// The base, and the entries up to it that stay.
pub(crate) fn encode(compaction: &Compaction, live: &LiveEntries) -> Vec<u8> {
    let Compaction { base, time } = compaction;
    let mut bytes = vec![0; FIXED_BYTES];
    put(&mut bytes, 0, &time.get().to_le_bytes());
    put(&mut bytes, 8, &base.config_index.get().to_le_bytes());
    put(&mut bytes, 16, &base.snapshot.get().to_le_bytes());
    if let Some(membership) = &base.membership {
        let membership = membership.encode();
        put(&mut bytes, 24, &(membership.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&membership);
    }
    bytes.extend_from_slice(&live.encode());
    bytes
}

/// Reads [`encode`]'s bytes; `None` if they are none.
pub(crate) fn decode(record: &RecordHeader, payload: &[u8]) -> Option<(Compaction, LiveEntries)> {
    decode_at(LogIndex::new(record.index), Term::new(record.term), payload)
}

/// The same, where index and term of the base are known from elsewhere.
pub(crate) fn decode_at(
    index: LogIndex,
    term: Term,
    payload: &[u8],
) -> Option<(Compaction, LiveEntries)> {
    let (fixed, rest) = payload.split_at_checked(FIXED_BYTES)?;
    let (membership, live) = rest.split_at_checked(u32_at(fixed, 24) as usize)?;
    let live = LiveEntries::decode(live)?;
    let membership = match membership {
        [] => None,
        bytes => Some(Arc::new(Membership::decode(bytes).ok()?)),
    };
    let base = Base {
        index,
        term,
        config_index: LogIndex::new(u64_at(fixed, 8)),
        membership,
        snapshot: LogIndex::new(u64_at(fixed, 16)),
    };
    let sound = base.config_index <= base.index
        && base.index <= base.snapshot
        && live.last().is_none_or(|last| last <= base.index);
    sound.then_some((Compaction { base, time: LogTime::new(u64_at(fixed, 0)) }, live))
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::ReplicaId;

    #[test]
    fn base_has_its_golden_bytes_and_comes_back() {
        let membership = Membership::of_voters([ReplicaId::new(2)]).unwrap();
        let base = Base {
            index: LogIndex::new(11),
            term: Term::new(5),
            config_index: LogIndex::new(3),
            membership: Some(Arc::new(membership)),
            snapshot: LogIndex::new(12),
        };
        let compaction = Compaction { base, time: LogTime::new(7) };
        let mut live = LiveEntries::default();
        assert!(live.push_run(LogIndex::new(4), 3, Term::new(2)));
        assert!(live.push(LogIndex::new(9), Term::new(5)));
        let bytes = encode(&compaction, &live);
        let golden = [
            [7, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0].as_slice(),
            &[27, 0, 0, 0],
            &[1, 2, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0],
            &[2, 4, 2, 5, 3, 4, 3, 2, 1],
        ];
        assert_eq!(bytes, golden.concat());
        let record = RecordHeader {
            bytes: 0,
            code: 5,
            flags: 0,
            count: 0,
            group: Default::default(),
            incarnation: Default::default(),
            index: 11,
            term: 5,
            payload_bytes: bytes.len() as u32,
        };
        assert_eq!(decode(&record, &bytes), Some((compaction.clone(), live)));
        let bare = encode(&compaction, &LiveEntries::default());
        assert_eq!(bare, bytes[..55]);
        assert_eq!(decode(&record, &bare), Some((compaction, LiveEntries::default())));
        for cut in (0..55).chain(56..bytes.len()) {
            assert_eq!(decode(&record, &bytes[..cut]), None, "{cut}");
        }
        let beyond = RecordHeader { index: 13, ..record };
        assert_eq!(decode(&beyond, &bytes), None, "the snapshot ends before the base");
    }
}
