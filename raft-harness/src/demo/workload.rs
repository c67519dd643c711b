//! Keys that are never written twice, and values that can be made again from their key.
//!
//! Every write has a key of its own, so a lost write cannot hide behind a later one, and a value
//! that belongs to another key or another run is told from the right one.

use bytes::Bytes;

use crate::kv::slots::{SlotMap, key_slot};

/// How a write ended, as its client knows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// The server said it is safe.
    Acked,
    /// It did not happen, however often it was tried.
    Failed,
    /// It may have happened.
    Unknown,
}

/// The writes of one client, in order; the position is the last part of the key.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    pub(super) name: String,
    pub(super) outcomes: Vec<Outcome>,
}

impl Stream {
    pub(super) fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes.iter().filter(|found| **found == outcome).count() as u64
    }
}

/// What a run writes.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    run: String,
    seed: u64,
    value_size: usize,
}

impl Workload {
    pub(super) fn new(seed: u64, value_size: usize) -> Self {
        Self { run: format!("{:08x}", seed as u32), seed, value_size }
    }

    /// `demo:<run>:<client>:<n>`
    pub(super) fn key(&self, stream: &str, n: usize) -> String {
        format!("demo:{}:{stream}:{n}", self.run)
    }

    /// Letters that only this key of this run has.
    pub(super) fn value(&self, key: &str) -> Vec<u8> {
        const LETTERS: &[u8; 64] =
            b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
        let mut state = key.bytes().fold(self.seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let mut value = Vec::with_capacity(self.value_size + 8);
        while value.len() < self.value_size {
            // SplitMix64: one step gives ten letters of six bits, of which eight are used.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
            value.extend((0..8).map(|part| LETTERS[(mixed >> (6 * part)) as usize & 63]));
        }
        value.truncate(self.value_size);
        value
    }

    pub(super) fn set(&self, key: &str) -> Bytes {
        super::resp_client::command(&[b"SET", key.as_bytes(), &self.value(key)])
    }

    pub(super) fn get(key: &str) -> Bytes {
        super::resp_client::command(&[b"GET", key.as_bytes()])
    }
}

/// For every group a hash tag that falls into it, in the order of the groups.
pub(super) fn tags(slots: SlotMap) -> Vec<String> {
    let mut tags = vec![None; slots.group_count() as usize];
    let mut missing = tags.len();
    for candidate in 0_u64.. {
        if missing == 0 {
            break;
        }
        let tag = candidate.to_string();
        let place = &mut tags[slots.group_of(key_slot(tag.as_bytes())).get() as usize - 1];
        if place.is_none() {
            *place = Some(tag);
            missing -= 1;
        }
    }
    tags.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_belong_to_their_key_and_run() {
        let run = Workload::new(1, 100);
        let key = run.key("c1", 5);
        assert_eq!(key, "demo:00000001:c1:5");
        assert_eq!(run.value(&key), run.value(&key));
        assert_eq!(run.value(&key).len(), 100);
        assert_ne!(run.value(&key), run.value(&run.key("c1", 6)));
        assert_ne!(run.value(&key), Workload::new(2, 100).value(&key));
    }

    #[test]
    fn every_group_has_a_tag_that_falls_into_it() {
        for groups in [1, 16, 1000] {
            let slots = SlotMap::new(groups).expect("a legal number");
            let tags = tags(slots);
            assert_eq!(tags.len(), groups as usize);
            for (index, tag) in tags.iter().enumerate() {
                let key = format!("demo:x:{{{tag}}}:0");
                assert_eq!(slots.group_of(key_slot(key.as_bytes())).get() as usize, index + 1);
            }
        }
    }
}
