//! What the machine answers, encoded for the way from the apply step to the front.
//!
//! Both ends run in one process and one build, so this encoding has no version.

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::{DecodeError, Reader, put_bytes, put_number, put_signed};

/// The answer to one command or query.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Done, and there is nothing to tell.
    Done,
    /// There is no such key, or the condition did not hold.
    Nil,
    /// A number.
    Integer(i64),
    /// A value.
    Value(Bytes),
    /// One value per key asked for; `None` where the key is missing.
    Values(Vec<Option<Bytes>>),
    /// The key exists; its deadline in log time (milliseconds since the epoch), if it has one.
    Deadline(Option<u64>),
    /// The values asked for have so many bytes, more than the asker has room for.
    TooLarge {
        /// Bytes of all values together.
        bytes: u64,
    },
    /// The command had no effect.
    Error(KvError),
}

/// Why a command had no effect. Every replica comes to the same error.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// The value is no decimal number of 64 bits.
    #[error("value is not an integer or out of range")]
    NotAnInteger,
    /// The sum has more than 64 bits.
    #[error("increment or decrement would overflow")]
    Overflow,
    /// The value would grow past [`VALUE_BYTES_MAX`](super::machine::VALUE_BYTES_MAX).
    #[error("string exceeds maximum allowed size")]
    ValueTooLarge,
    /// The deadline lies past the end of time.
    #[error("invalid expire time")]
    InvalidExpiry,
    /// The log holds a command of a version this build does not know.
    #[error("command of an unknown version")]
    UnknownVersion,
    /// The log holds something that is no command.
    #[error("undecodable command")]
    Undecodable,
}

const DONE: u8 = 0;
const NIL: u8 = 1;
const INTEGER: u8 = 2;
const VALUE: u8 = 3;
const VALUES: u8 = 4;
const DEADLINE: u8 = 5;
const TOO_LARGE: u8 = 6;
const ERROR: u8 = 7;

impl Output {
    /// The encoding by itself. The most frequent ones cost no allocation.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Self::Done => Bytes::from_static(&[DONE]),
            Self::Nil => Bytes::from_static(&[NIL]),
            Self::Integer(_)
            | Self::Value(_)
            | Self::Values(_)
            | Self::Deadline(_)
            | Self::TooLarge { .. }
            | Self::Error(_) => {
                let mut out = BytesMut::with_capacity(16);
                self.encode(&mut out);
                out.freeze()
            }
        }
    }

    /// Appends the encoding to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Done => out.put_u8(DONE),
            Self::Nil => out.put_u8(NIL),
            Self::Integer(value) => {
                out.put_u8(INTEGER);
                put_signed(out, *value);
            }
            Self::Value(value) => encode_value(out, value),
            Self::Values(values) => {
                out.put_u8(VALUES);
                put_number(out, values.len() as u64);
                for value in values {
                    encode_item(out, value.as_deref());
                }
            }
            Self::Deadline(deadline) => {
                out.put_u8(DEADLINE);
                put_deadline(out, *deadline);
            }
            Self::TooLarge { bytes } => {
                out.put_u8(TOO_LARGE);
                put_number(out, *bytes);
            }
            Self::Error(error) => {
                out.put_u8(ERROR);
                out.put_u8(match error {
                    KvError::NotAnInteger => 0,
                    KvError::Overflow => 1,
                    KvError::ValueTooLarge => 2,
                    KvError::InvalidExpiry => 3,
                    KvError::UnknownVersion => 4,
                    KvError::Undecodable => 5,
                });
            }
        }
    }

    /// Reads one output, which must fill `bytes`; values are slices of it.
    ///
    /// # Errors
    /// Any other bytes give a [`DecodeError`].
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let output = Self::read(bytes, &mut reader)?;
        reader.finish()?;
        Ok(output)
    }

    fn read(all: &Bytes, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match reader.byte()? {
            DONE => Self::Done,
            NIL => Self::Nil,
            INTEGER => Self::Integer(reader.signed()?),
            VALUE => {
                let start = all.len() - reader.rest().len();
                *reader = Reader::new(&[]);
                Self::Value(all.slice(start..))
            }
            VALUES => {
                let count = reader.count()?;
                let mut values = Vec::with_capacity(count);
                for _ in 0..count {
                    values.push(match reader.byte()? {
                        0 => None,
                        1 => Some(all.slice_ref(reader.bytes()?)),
                        choice => return Err(DecodeError::Choice { choice }),
                    });
                }
                Self::Values(values)
            }
            DEADLINE => Self::Deadline(read_deadline(reader)?),
            TOO_LARGE => Self::TooLarge { bytes: reader.number()? },
            ERROR => Self::Error(match reader.byte()? {
                0 => KvError::NotAnInteger,
                1 => KvError::Overflow,
                2 => KvError::ValueTooLarge,
                3 => KvError::InvalidExpiry,
                4 => KvError::UnknownVersion,
                5 => KvError::Undecodable,
                choice => return Err(DecodeError::Choice { choice }),
            }),
            operation => return Err(DecodeError::Operation { operation }),
        })
    }
}

/// The answer to a query, with what the asker needs to judge its age.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReadOutput {
    /// Log time of the applied state, milliseconds since the Unix epoch.
    pub log_time: u64,
    /// The earliest deadline among the keys asked about. It lies after `log_time`; if it has
    /// passed on the leader's wall clock, the answer holds a key that is due to vanish.
    pub next_deadline: Option<u64>,
    /// The answer.
    pub output: Output,
}

impl ReadOutput {
    /// Appends the encoding to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        encode_read_header(out, self.log_time, self.next_deadline);
        self.output.encode(out);
    }

    /// Reads one answer, which must fill `bytes`; values are slices of it.
    ///
    /// # Errors
    /// Any other bytes give a [`DecodeError`].
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let log_time = reader.number()?;
        let next_deadline = read_deadline(&mut reader)?;
        let output = Output::read(bytes, &mut reader)?;
        reader.finish()?;
        Ok(Self { log_time, next_deadline, output })
    }
}

/// Writes what precedes the output in a [`ReadOutput`], so that the machine can write a value
/// behind it straight from its own memory.
pub(super) fn encode_read_header(out: &mut BytesMut, log_time: u64, deadline: Option<u64>) {
    put_number(out, log_time);
    put_deadline(out, deadline);
}

/// Same as encoding [`Output::Value`], without owning the value.
pub(super) fn encode_value(out: &mut BytesMut, value: &[u8]) {
    out.reserve(value.len() + 1);
    out.put_u8(VALUE);
    out.put_slice(value);
}

/// Begins what [`Output::Values`] encodes to; `count` calls of [`encode_item`] follow.
pub(super) fn encode_values_header(out: &mut BytesMut, count: usize) {
    out.put_u8(VALUES);
    put_number(out, count as u64);
}

pub(super) fn encode_item(out: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        None => out.put_u8(0),
        Some(value) => {
            out.put_u8(1);
            put_bytes(out, value);
        }
    }
}

fn put_deadline(out: &mut BytesMut, deadline: Option<u64>) {
    match deadline {
        None => out.put_u8(0),
        Some(at) => {
            out.put_u8(1);
            put_number(out, at);
        }
    }
}

fn read_deadline(reader: &mut Reader<'_>) -> Result<Option<u64>, DecodeError> {
    match reader.byte()? {
        0 => Ok(None),
        1 => Ok(Some(reader.number()?)),
        choice => Err(DecodeError::Choice { choice }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_output_comes_back() {
        let outputs = [
            Output::Done,
            Output::Nil,
            Output::Integer(i64::MIN),
            Output::Value(Bytes::from_static(b"")),
            Output::Value(Bytes::from_static(b"bytes\r\n")),
            Output::Values(vec![None, Some(Bytes::from_static(b"x")), Some(Bytes::new())]),
            Output::Deadline(None),
            Output::Deadline(Some(u64::MAX)),
            Output::TooLarge { bytes: 1 << 40 },
            Output::Error(KvError::NotAnInteger),
            Output::Error(KvError::Overflow),
            Output::Error(KvError::ValueTooLarge),
            Output::Error(KvError::InvalidExpiry),
            Output::Error(KvError::UnknownVersion),
            Output::Error(KvError::Undecodable),
        ];
        for output in outputs {
            assert_eq!(Output::decode(&output.to_bytes()), Ok(output.clone()));
            let read = ReadOutput { log_time: 300, next_deadline: Some(4), output };
            let mut out = BytesMut::new();
            read.encode(&mut out);
            assert_eq!(ReadOutput::decode(&out.freeze()), Ok(read));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let bytes = Bytes::from(bytes);
            let _ = Output::decode(&bytes);
            let _ = ReadOutput::decode(&bytes);
        }
    }
}
