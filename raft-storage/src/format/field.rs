//! Little-endian numbers at fixed places of a fixed block.
//!
//! All headers of the log are blocks of a size known at compile time, so every place given here
//! is a constant of the format and lies inside its block.

pub(crate) fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(block, at))
}

pub(crate) fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(block, at))
}

pub(crate) fn u64_at(block: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(block, at))
}

pub(crate) fn u128_at(block: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(bytes_at(block, at))
}

/// Copies `value` to `at`.
pub(crate) fn put(block: &mut [u8], at: usize, value: &[u8]) {
    block[at..at + value.len()].copy_from_slice(value);
}

/// Whether nothing was ever written here.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Eight bytes a step: recovery looks at the whole unused rest of a segment.
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().all(|word| u64::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

fn bytes_at<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&block[at..at + N]);
    value
}
