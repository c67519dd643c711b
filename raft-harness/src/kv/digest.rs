//! The digest of a set of keys, kept up to date at a constant cost per change.
//!
//! Each item is hashed by itself and the hashes are summed, so the order of insertion does not
//! matter and an item is taken out by subtracting. It finds replicas that differ by accident; it
//! is no defence against a client who looks for collisions.
//!
//! Invariant: the hash is the same on every machine, build and run.

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const MIX_A: u64 = 0xa076_1d64_78bd_642f;
const MIX_B: u64 = 0xe703_7ed1_a0b4_28db;
const MIX_C: u64 = 0x8ebc_6af0_9c88_c6e3;
const MIX_D: u64 = 0x5899_65cc_7537_4cc3;

/// The hash of one item; a deadline of `None` differs from every `Some`.
pub(super) fn item(key: &[u8], value: &[u8], deadline: Option<u64>) -> u64 {
    let mut state = bytes(SEED, key);
    state = bytes(state, value);
    match deadline {
        None => fold(state, MIX_A),
        Some(at) => fold(state ^ MIX_B, at ^ MIX_A),
    }
}

/// Mixes the sum of the items with the other numbers of the state.
pub(super) fn whole(items: u64, count: u64, log_time: u64) -> u64 {
    fold(fold(items ^ SEED, count ^ MIX_A), log_time ^ MIX_B)
}

fn bytes(mut state: u64, bytes: &[u8]) -> u64 {
    let mut chunks = bytes.chunks_exact(16);
    for chunk in &mut chunks {
        let (low, high) = chunk.split_at(8);
        state = fold(state ^ word(low), word(high) ^ MIX_A);
    }
    let rest = chunks.remainder();
    let (low, high) = rest.split_at(rest.len().min(8));
    // The length comes last, so that neither padding nor a moved border goes unseen.
    state = fold(state ^ word(low), word(high) ^ MIX_B);
    fold(state ^ bytes.len() as u64, MIX_A)
}

/// Up to eight bytes as a little-endian number.
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// Multiplies to 128 bits and folds the halves; adding `a` keeps a zero factor from erasing it.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ MIX_C) * u128::from(b ^ MIX_D);
    ((product >> 64) as u64 ^ product as u64).wrapping_add(a)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn items_that_differ_anywhere_hash_differently() {
        let mut seen = HashSet::new();
        for length in 0..40usize {
            for flip in 0..=length {
                let mut value = vec![7; length];
                if let Some(byte) = value.get_mut(flip) {
                    *byte = 8;
                }
                for deadline in [None, Some(0), Some(1), Some(u64::MAX)] {
                    assert!(seen.insert(item(b"key", &value, deadline)));
                }
            }
        }
        assert!(seen.insert(item(b"keyx", b"", None)));
        assert!(seen.insert(item(b"", b"keyx", None)));
        assert!(seen.insert(item(b"k", b"eyx", None)));
    }

    #[test]
    fn the_hash_is_the_same_in_every_build() {
        assert_eq!(item(b"key", b"value", None), 3_831_744_542_370_287_323);
        assert_eq!(item(b"a key of 19 bytes..", b"", Some(7)), 1_556_449_989_716_971_456);
    }
}
