//! CRC32C (Castagnoli), the one checksum of the log, behind one function.
//!
//! Every check on disk goes through here, so that another implementation can be put in without
//! touching a format. [`TEST_VECTOR`] is the published check value that any of them must meet.

/// The bytes of the published check and the sum they must have.
pub const TEST_VECTOR: (&[u8], u32) = (b"123456789", 0xE306_9283);

/// The checksum of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    ::crc32c::crc32c(bytes)
}

/// Continues the checksum `crc` of earlier bytes over `bytes`; also how a sum is seeded.
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    ::crc32c::crc32c_append(crc, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_test_vector_holds_whole_and_in_pieces() {
        let (bytes, sum) = TEST_VECTOR;
        assert_eq!(crc32c(bytes), sum);
        for cut in 0..=bytes.len() {
            assert_eq!(crc32c_append(crc32c(&bytes[..cut]), &bytes[cut..]), sum);
        }
    }
}
