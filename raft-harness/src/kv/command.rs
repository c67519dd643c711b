//! Commands (through the log) and queries (from applied state), and their compact encoding.
//!
//! The first byte is the version of the encoding, the second the operation, then its fields.
//! An entry outlives the build that wrote it, so a number once given is never given again.
//!
//! Invariant: a command carries no absolute time of the client's making unless the client asked
//! for one; "in ten seconds" becomes a deadline when it is applied, from the entry's own time.

use bytes::{BufMut, BytesMut};

use super::codec::{DecodeError, Reader, put_bytes, put_number, put_signed};

/// The version this build writes and the only one it reads.
pub const ENCODING_VERSION: u8 = 1;

/// A change to one group's keys. All keys of one command belong to one group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Command<'a> {
    /// No effect except that log time reaches this entry's time. Output: `Done`.
    Tick,
    /// Stores a value. Output: `Done`, or `Nil` if the condition failed; with `return_old` the
    /// old value or `Nil` in both cases.
    Set {
        /// The key.
        key: &'a [u8],
        /// The new value.
        value: &'a [u8],
        /// When to store.
        condition: Condition,
        /// What becomes of the deadline.
        expiry: Expiry,
        /// Answer with the value before.
        return_old: bool,
    },
    /// Stores pairs of key and value, all or none, and clears their deadlines. Output: `Done`.
    SetMany {
        /// Key, value, key, value: an even number of items.
        pairs: Vec<&'a [u8]>,
    },
    /// Removes keys. Output: `Integer`, how many existed.
    Delete {
        /// The keys.
        keys: Vec<&'a [u8]>,
    },
    /// Removes a key. Output: its value, or `Nil`.
    Take {
        /// The key.
        key: &'a [u8],
    },
    /// Adds to a decimal number; a missing key counts as zero. Output: `Integer`, the sum.
    Increment {
        /// The key.
        key: &'a [u8],
        /// What to add.
        by: i64,
    },
    /// Adds bytes at the end. Output: `Integer`, the new length.
    Append {
        /// The key.
        key: &'a [u8],
        /// What to add.
        value: &'a [u8],
    },
    /// Sets or clears the deadline. Output: `Integer`, 1 if anything changed, else 0.
    Expire {
        /// The key.
        key: &'a [u8],
        /// The new deadline; `Keep` changes nothing. A deadline that has passed deletes the key.
        expiry: Expiry,
        /// Which old deadlines may be replaced.
        condition: DeadlineCondition,
    },
}

/// When [`Command::Set`] stores.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Condition {
    /// Always.
    Always,
    /// Only if the key does not exist (`NX`).
    IfAbsent,
    /// Only if the key exists (`XX`).
    IfPresent,
}

/// What becomes of a key's deadline.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expiry {
    /// The key lives until it is removed.
    Never,
    /// The deadline stays as it is.
    Keep,
    /// So many milliseconds after the entry's log time.
    After(u64),
    /// This log time, in milliseconds since the Unix epoch.
    At(u64),
}

/// Which old deadlines [`Command::Expire`] may replace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DeadlineCondition {
    /// Any.
    Always,
    /// Only if there is none (`NX`).
    IfNone,
    /// Only if there is one (`XX`).
    IfSome,
    /// Only if the new one is later (`GT`); no deadline counts as infinitely late.
    IfLater,
    /// Only if the new one is earlier (`LT`).
    IfEarlier,
}

impl<'a> Command<'a> {
    /// Appends the encoding to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(ENCODING_VERSION);
        match self {
            Self::Tick => out.put_u8(0),
            Self::Set { key, value, condition, expiry, return_old } => {
                out.put_u8(1);
                put_bytes(out, key);
                out.put_u8(match condition {
                    Condition::Always => 0,
                    Condition::IfAbsent => 1,
                    Condition::IfPresent => 2,
                });
                put_expiry(out, *expiry);
                out.put_u8(u8::from(*return_old));
                put_bytes(out, value);
            }
            Self::SetMany { pairs } => {
                out.put_u8(2);
                put_list(out, pairs);
            }
            Self::Delete { keys } => {
                out.put_u8(3);
                put_list(out, keys);
            }
            Self::Take { key } => {
                out.put_u8(4);
                put_bytes(out, key);
            }
            Self::Increment { key, by } => {
                out.put_u8(5);
                put_bytes(out, key);
                put_signed(out, *by);
            }
            Self::Append { key, value } => {
                out.put_u8(6);
                put_bytes(out, key);
                put_bytes(out, value);
            }
            Self::Expire { key, expiry, condition } => {
                out.put_u8(7);
                put_bytes(out, key);
                put_expiry(out, *expiry);
                out.put_u8(match condition {
                    DeadlineCondition::Always => 0,
                    DeadlineCondition::IfNone => 1,
                    DeadlineCondition::IfSome => 2,
                    DeadlineCondition::IfLater => 3,
                    DeadlineCondition::IfEarlier => 4,
                });
            }
        }
    }

    /// Reads one command, which must fill `bytes`.
    ///
    /// # Errors
    /// Any other bytes give a [`DecodeError`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = versioned(bytes)?;
        let command = match reader.byte()? {
            0 => Self::Tick,
            1 => {
                let key = reader.bytes()?;
                let condition = match reader.byte()? {
                    0 => Condition::Always,
                    1 => Condition::IfAbsent,
                    2 => Condition::IfPresent,
                    choice => return Err(DecodeError::Choice { choice }),
                };
                let expiry = read_expiry(&mut reader)?;
                let return_old = match reader.byte()? {
                    0 => false,
                    1 => true,
                    choice => return Err(DecodeError::Choice { choice }),
                };
                Self::Set { key, value: reader.bytes()?, condition, expiry, return_old }
            }
            2 => {
                let pairs = reader.list()?;
                if pairs.len() % 2 != 0 {
                    return Err(DecodeError::Truncated);
                }
                Self::SetMany { pairs }
            }
            3 => Self::Delete { keys: reader.list()? },
            4 => Self::Take { key: reader.bytes()? },
            5 => Self::Increment { key: reader.bytes()?, by: reader.signed()? },
            6 => Self::Append { key: reader.bytes()?, value: reader.bytes()? },
            7 => {
                let key = reader.bytes()?;
                let expiry = read_expiry(&mut reader)?;
                let condition = match reader.byte()? {
                    0 => DeadlineCondition::Always,
                    1 => DeadlineCondition::IfNone,
                    2 => DeadlineCondition::IfSome,
                    3 => DeadlineCondition::IfLater,
                    4 => DeadlineCondition::IfEarlier,
                    choice => return Err(DecodeError::Choice { choice }),
                };
                Self::Expire { key, expiry, condition }
            }
            operation => return Err(DecodeError::Operation { operation }),
        };
        reader.finish()?;
        Ok(command)
    }
}

/// A question to the applied state of one group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Query<'a> {
    /// The longest value bytes the asker has room for now. A longer answer is replaced by
    /// `TooLarge`, and the asker comes back when it has room. Zero means no limit.
    pub reply_bytes_max: u64,
    /// What is asked.
    pub kind: QueryKind<'a>,
}

/// What a [`Query`] asks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum QueryKind<'a> {
    /// The value. Output: `Value` or `Nil`.
    Value {
        /// The key.
        key: &'a [u8],
    },
    /// The values. Output: `Values`, one per key.
    Values {
        /// The keys.
        keys: Vec<&'a [u8]>,
    },
    /// How many exist; a key named twice counts twice. Output: `Integer`.
    Exists {
        /// The keys.
        keys: Vec<&'a [u8]>,
    },
    /// The length of the value, zero if missing. Output: `Integer`.
    Length {
        /// The key.
        key: &'a [u8],
    },
    /// The deadline. Output: `Deadline` or `Nil`.
    Deadline {
        /// The key.
        key: &'a [u8],
    },
    /// How many keys the group holds. Output: `Integer`.
    Count,
    /// How many keys one hash slot holds. Output: `Integer`.
    CountInSlot {
        /// The slot.
        slot: u16,
    },
}

impl<'a> Query<'a> {
    /// Appends the encoding to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(ENCODING_VERSION);
        put_number(out, self.reply_bytes_max);
        match &self.kind {
            QueryKind::Value { key } => {
                out.put_u8(0);
                put_bytes(out, key);
            }
            QueryKind::Values { keys } => {
                out.put_u8(1);
                put_list(out, keys);
            }
            QueryKind::Exists { keys } => {
                out.put_u8(2);
                put_list(out, keys);
            }
            QueryKind::Length { key } => {
                out.put_u8(3);
                put_bytes(out, key);
            }
            QueryKind::Deadline { key } => {
                out.put_u8(4);
                put_bytes(out, key);
            }
            QueryKind::Count => out.put_u8(5),
            QueryKind::CountInSlot { slot } => {
                out.put_u8(6);
                put_number(out, u64::from(*slot));
            }
        }
    }

    /// Reads one query, which must fill `bytes`.
    ///
    /// # Errors
    /// Any other bytes give a [`DecodeError`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = versioned(bytes)?;
        let reply_bytes_max = reader.number()?;
        let kind = match reader.byte()? {
            0 => QueryKind::Value { key: reader.bytes()? },
            1 => QueryKind::Values { keys: reader.list()? },
            2 => QueryKind::Exists { keys: reader.list()? },
            3 => QueryKind::Length { key: reader.bytes()? },
            4 => QueryKind::Deadline { key: reader.bytes()? },
            5 => QueryKind::Count,
            6 => {
                let slot = u16::try_from(reader.number()?).map_err(|_| DecodeError::Number)?;
                QueryKind::CountInSlot { slot }
            }
            operation => return Err(DecodeError::Operation { operation }),
        };
        reader.finish()?;
        Ok(Self { reply_bytes_max, kind })
    }
}

fn versioned(bytes: &[u8]) -> Result<Reader<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    match reader.byte()? {
        ENCODING_VERSION => Ok(reader),
        version => Err(DecodeError::Version { version }),
    }
}

fn put_list(out: &mut BytesMut, items: &[&[u8]]) {
    put_number(out, items.len() as u64);
    for item in items {
        put_bytes(out, item);
    }
}

fn put_expiry(out: &mut BytesMut, expiry: Expiry) {
    match expiry {
        Expiry::Never => out.put_u8(0),
        Expiry::Keep => out.put_u8(1),
        Expiry::After(ms) => {
            out.put_u8(2);
            put_number(out, ms);
        }
        Expiry::At(ms) => {
            out.put_u8(3);
            put_number(out, ms);
        }
    }
}

fn read_expiry(reader: &mut Reader<'_>) -> Result<Expiry, DecodeError> {
    Ok(match reader.byte()? {
        0 => Expiry::Never,
        1 => Expiry::Keep,
        2 => Expiry::After(reader.number()?),
        3 => Expiry::At(reader.number()?),
        choice => return Err(DecodeError::Choice { choice }),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(command: &Command<'_>) -> Vec<u8> {
        let mut out = BytesMut::new();
        command.encode(&mut out);
        out.to_vec()
    }

    #[test]
    fn the_encoding_on_disk_is_pinned() {
        let set = Command::Set {
            key: b"k",
            value: b"value",
            condition: Condition::IfAbsent,
            expiry: Expiry::After(300),
            return_old: true,
        };
        assert_eq!(encoded(&set), b"\x01\x01\x01k\x01\x02\xac\x02\x01\x05value");
        assert_eq!(encoded(&Command::Tick), [1, 0]);
        let delete = Command::Delete { keys: vec![b"a", b"bc"] };
        assert_eq!(encoded(&delete), b"\x01\x03\x02\x01a\x02bc");
        assert_eq!(encoded(&Command::Increment { key: b"n", by: -2 }), b"\x01\x05\x01n\x03");
    }

    #[test]
    fn an_unknown_version_operation_or_choice_is_named() {
        assert_eq!(Command::decode(&[]), Err(DecodeError::Truncated));
        assert_eq!(Command::decode(&[9, 0]), Err(DecodeError::Version { version: 9 }));
        assert_eq!(Command::decode(&[1, 99]), Err(DecodeError::Operation { operation: 99 }));
        assert_eq!(Command::decode(b"\x01\x01\x01k\x07"), Err(DecodeError::Choice { choice: 7 }));
        assert_eq!(Command::decode(&[1, 0, 5]), Err(DecodeError::Trailing { bytes: 1 }));
        assert_eq!(Query::decode(&[1, 0, 77]), Err(DecodeError::Operation { operation: 77 }));
    }

    fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..20)
    }

    fn any_expiry() -> impl Strategy<Value = Expiry> {
        prop_oneof![
            Just(Expiry::Never),
            Just(Expiry::Keep),
            any::<u64>().prop_map(Expiry::After),
            any::<u64>().prop_map(Expiry::At),
        ]
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(
            key in any_bytes(),
            value in any_bytes(),
            expiry in any_expiry(),
            by in any::<i64>(),
            keys in proptest::collection::vec(any_bytes(), 0..6),
            limit in any::<u64>(),
            return_old in any::<bool>(),
        ) {
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            let commands = [
                Command::Set { key: &key, value: &value, condition: Condition::IfPresent, expiry, return_old },
                Command::SetMany { pairs: vec![&key, &value] },
                Command::Delete { keys: keys.clone() },
                Command::Take { key: &key },
                Command::Increment { key: &key, by },
                Command::Append { key: &key, value: &value },
                Command::Expire { key: &key, expiry, condition: DeadlineCondition::IfLater },
            ];
            for command in commands {
                let bytes = encoded(&command);
                prop_assert_eq!(Command::decode(&bytes), Ok(command));
            }
            for kind in [
                QueryKind::Value { key: &key },
                QueryKind::Values { keys: keys.clone() },
                QueryKind::Exists { keys },
                QueryKind::Length { key: &key },
                QueryKind::Deadline { key: &key },
                QueryKind::Count,
                QueryKind::CountInSlot { slot: by as u16 },
            ] {
                let query = Query { reply_bytes_max: limit, kind };
                let mut out = BytesMut::new();
                query.encode(&mut out);
                prop_assert_eq!(Query::decode(&out), Ok(query));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Command::decode(&bytes);
            let _ = Query::decode(&bytes);
            // Most random bytes stop at the version, so get past it.
            bytes.insert(0, ENCODING_VERSION);
            let _ = Command::decode(&bytes);
            let _ = Query::decode(&bytes);
        }
    }
}
