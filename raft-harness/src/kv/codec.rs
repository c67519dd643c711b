//! The two primitives of our encodings: LEB128 numbers and length-prefixed byte strings.
//!
//! Invariant: decoding never allocates more than the input is long, and never panics.

use bytes::{BufMut, BytesMut};

/// Why bytes are not a command, a query or an output.
///
/// A replica answers an undecodable command with an error output and leaves its state alone, so
/// all replicas of one version agree. A version newer than ours is the operator's mistake: all
/// nodes are upgraded before a new command is used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The encoding has a version this build does not know.
    #[error("encoding version {version} is not known")]
    Version {
        /// The version found.
        version: u8,
    },
    /// The operation number is not known.
    #[error("operation {operation} is not known")]
    Operation {
        /// The number found.
        operation: u8,
    },
    /// A field with few legal values holds another one.
    #[error("choice {choice} is not known")]
    Choice {
        /// The number found.
        choice: u8,
    },
    /// The bytes end inside a field.
    #[error("truncated")]
    Truncated,
    /// A number has more than 64 bits.
    #[error("number has more than 64 bits")]
    Number,
    /// Bytes follow the last field.
    #[error("{bytes} bytes too many")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

/// Takes fields from the front of a byte slice.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&first, rest) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(first)
    }

    pub(super) fn number(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        let mut shift = 0;
        loop {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::Number);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
            shift += 7;
            if shift > 63 {
                return Err(DecodeError::Number);
            }
        }
    }

    pub(super) fn signed(&mut self) -> Result<i64, DecodeError> {
        let zigzag = self.number()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.number()?;
        if length > self.rest.len() as u64 {
            return Err(DecodeError::Truncated);
        }
        let (bytes, rest) = self.rest.split_at(length as usize);
        self.rest = rest;
        Ok(bytes)
    }

    /// A count of items of at least one byte each, so that a lying count cannot allocate.
    pub(super) fn count(&mut self) -> Result<usize, DecodeError> {
        let count = self.number()?;
        if count > self.rest.len() as u64 {
            Err(DecodeError::Truncated)
        } else {
            Ok(count as usize)
        }
    }

    pub(super) fn list(&mut self) -> Result<Vec<&'a [u8]>, DecodeError> {
        let count = self.count()?;
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.bytes()?);
        }
        Ok(items)
    }

    /// The bytes not yet taken.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing { bytes: self.rest.len() })
        }
    }
}

pub(super) fn put_number(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

pub(super) fn put_signed(out: &mut BytesMut, value: i64) {
    put_number(out, ((value << 1) ^ (value >> 63)) as u64);
}

pub(super) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_width_come_back() {
        let mut values: Vec<u64> = (0..64).flat_map(|n| [1 << n, (1 << n) - 1]).collect();
        values.push(u64::MAX);
        for value in values {
            let mut out = BytesMut::new();
            put_number(&mut out, value);
            put_signed(&mut out, value as i64);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.number(), Ok(value));
            assert_eq!(reader.signed(), Ok(value as i64));
            assert_eq!(reader.finish(), Ok(()));
        }
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_refused() {
        let mut bytes = [0xff; 10];
        bytes[9] = 0x02;
        assert_eq!(Reader::new(&bytes).number(), Err(DecodeError::Number));
        assert_eq!(Reader::new(&[0xff; 11]).number(), Err(DecodeError::Number));
    }

    #[test]
    fn a_lying_count_allocates_nothing() {
        let mut out = BytesMut::new();
        put_number(&mut out, u64::MAX);
        assert_eq!(Reader::new(&out).list(), Err(DecodeError::Truncated));
    }
}
