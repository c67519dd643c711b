//! The keys of one group: what commands do to them, and when they expire.
//!
//! The only clock is log time: the largest entry time applied so far, stamped by leaders. A key
//! whose deadline is not after log time does not exist. It is removed while the entry that moved
//! log time is applied, so replicas at the same applied index hold the same keys.
//!
//! Invariants: every item with a deadline is in `deadlines` exactly once, and no other; all
//! deadlines lie after `log_time`; `digest` is the sum over all items.

use std::collections::{BTreeSet, HashMap};

use bytes::{Bytes, BytesMut};
use raft_core::{Entry, EntryKind, GroupId};

use super::codec::DecodeError;
use super::command::{Command, Condition, DeadlineCondition, Expiry, Query, QueryKind};
use super::digest;
use super::output::{
    KvError, Output, encode_item, encode_read_header, encode_value, encode_values_header,
};
use super::slots::key_slot;
use crate::group_spec::GroupSpec;
use crate::state_machine::{ApplyMode, StateMachine, StateMachineFactory};

/// The longest value `Append` may make, in bytes. Every replica must use the same number, so it
/// is a constant and no setting.
pub const VALUE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The state machine of one group: a map from keys to values with deadlines.
///
/// A command costs well under a microsecond plus a copy of its value, so it is applied on the
/// shard's own thread. Keys and values are copied out of the entry: a slice would keep the whole
/// network buffer it arrived in alive for as long as the key lives.
#[derive(Debug, Default)]
pub struct KvMachine {
    items: HashMap<Box<[u8]>, Item>,
    deadlines: BTreeSet<(u64, Box<[u8]>)>,
    slot_counts: HashMap<u16, u32>,
    log_time: u64,
    digest: u64,
}

#[derive(Debug)]
struct Item {
    value: Box<[u8]>,
    deadline: Option<u64>,
    hash: u64,
}

/// Makes an empty [`KvMachine`] for every group.
#[derive(Clone, Copy, Debug, Default)]
pub struct KvFactory;

impl StateMachineFactory for KvFactory {
    fn create(&self, _group: GroupId, _spec: &GroupSpec) -> Box<dyn StateMachine> {
        Box::new(KvMachine::new())
    }
}

impl KvMachine {
    /// A machine without keys, at log time zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// The largest entry time applied, in milliseconds since the Unix epoch.
    pub fn log_time(&self) -> u64 {
        self.log_time
    }

    /// How many keys exist.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether no key exists.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn run(&mut self, payload: &[u8]) -> Output {
        let command = match Command::decode(payload) {
            Ok(command) => command,
            Err(DecodeError::Version { .. }) => return Output::Error(KvError::UnknownVersion),
            Err(
                DecodeError::Operation { .. }
                | DecodeError::Choice { .. }
                | DecodeError::Truncated
                | DecodeError::Number
                | DecodeError::Trailing { .. },
            ) => return Output::Error(KvError::Undecodable),
        };
        match command {
            Command::Tick => Ok(Output::Done),
            Command::Set { key, value, condition, expiry, return_old } => {
                self.set(key, value, condition, expiry, return_old)
            }
            Command::SetMany { pairs } => {
                for pair in pairs.chunks_exact(2) {
                    self.put(pair[0], pair[1].into(), None);
                }
                Ok(Output::Done)
            }
            Command::Delete { keys } => {
                let removed = keys.iter().filter(|key| self.remove(key).is_some()).count();
                Ok(Output::Integer(removed as i64))
            }
            Command::Take { key } => Ok(match self.remove(key) {
                None => Output::Nil,
                Some(item) => Output::Value(Bytes::from(item.value)),
            }),
            Command::Increment { key, by } => self.increment(key, by),
            Command::Append { key, value } => self.append(key, value),
            Command::Expire { key, expiry, condition } => self.expire(key, expiry, condition),
        }
        .unwrap_or_else(Output::Error)
    }

    fn set(
        &mut self,
        key: &[u8],
        value: &[u8],
        condition: Condition,
        expiry: Expiry,
        return_old: bool,
    ) -> Result<Output, KvError> {
        let old = self.items.get(key);
        let deadline = match expiry {
            Expiry::Never => None,
            Expiry::Keep => old.and_then(|item| item.deadline),
            Expiry::After(ms) => Some(self.deadline_after(ms)?),
            Expiry::At(ms) => Some(ms),
        };
        let stores = match condition {
            Condition::Always => true,
            Condition::IfAbsent => old.is_none(),
            Condition::IfPresent => old.is_some(),
        };
        if !stores {
            return Ok(match old.filter(|_| return_old) {
                Some(item) => Output::Value(Bytes::copy_from_slice(&item.value)),
                None => Output::Nil,
            });
        }
        let old = if deadline.is_some_and(|at| at <= self.log_time) {
            // Redis deletes the key when told to keep it until a moment that has passed.
            self.remove(key)
        } else {
            self.put(key, value.into(), deadline)
        };
        Ok(match (return_old, old) {
            (false, _) => Output::Done,
            (true, None) => Output::Nil,
            (true, Some(item)) => Output::Value(Bytes::from(item.value)),
        })
    }

    fn increment(&mut self, key: &[u8], by: i64) -> Result<Output, KvError> {
        let (old, deadline) = match self.items.get(key) {
            None => (0, None),
            Some(item) => (parse_integer(&item.value)?, item.deadline),
        };
        let sum = old.checked_add(by).ok_or(KvError::Overflow)?;
        self.put(key, sum.to_string().into_bytes().into(), deadline);
        Ok(Output::Integer(sum))
    }

    fn append(&mut self, key: &[u8], tail: &[u8]) -> Result<Output, KvError> {
        let (old, deadline) = match self.items.get(key) {
            None => (&[] as &[u8], None),
            Some(item) => (&*item.value, item.deadline),
        };
        let length = old.len() as u64 + tail.len() as u64;
        if length > VALUE_BYTES_MAX {
            return Err(KvError::ValueTooLarge);
        }
        let value = [old, tail].concat();
        self.put(key, value.into(), deadline);
        Ok(Output::Integer(length as i64))
    }

    fn expire(
        &mut self,
        key: &[u8],
        expiry: Expiry,
        condition: DeadlineCondition,
    ) -> Result<Output, KvError> {
        let deadline = match expiry {
            Expiry::Never => None,
            Expiry::Keep => return Ok(Output::Integer(0)),
            Expiry::After(ms) => Some(self.deadline_after(ms)?),
            Expiry::At(ms) => Some(ms),
        };
        let Some(item) = self.items.get(key) else {
            return Ok(Output::Integer(0));
        };
        // No deadline is later than every deadline.
        let new = deadline.unwrap_or(u64::MAX);
        let old = item.deadline.unwrap_or(u64::MAX);
        let applies = match condition {
            DeadlineCondition::Always => item.deadline != deadline || deadline.is_some(),
            DeadlineCondition::IfNone => item.deadline.is_none(),
            DeadlineCondition::IfSome => item.deadline.is_some(),
            DeadlineCondition::IfLater => new > old,
            DeadlineCondition::IfEarlier => new < old,
        };
        if !applies {
            return Ok(Output::Integer(0));
        }
        if deadline.is_some_and(|at| at <= self.log_time) {
            self.remove(key);
        } else if let Some(item) = self.remove(key) {
            self.put(key, item.value, deadline);
        }
        Ok(Output::Integer(1))
    }

    fn deadline_after(&self, ms: u64) -> Result<u64, KvError> {
        self.log_time.checked_add(ms).ok_or(KvError::InvalidExpiry)
    }

    /// Stores an item and returns the one it replaced. `deadline` lies after `log_time`.
    fn put(&mut self, key: &[u8], value: Box<[u8]>, deadline: Option<u64>) -> Option<Item> {
        debug_assert!(deadline.is_none_or(|at| at > self.log_time));
        let hash = digest::item(key, &value, deadline);
        self.digest = self.digest.wrapping_add(hash);
        let new = Item { value, deadline, hash };
        let old = match self.items.get_mut(key) {
            Some(item) => Some(std::mem::replace(item, new)),
            None => {
                self.items.insert(key.into(), new);
                *self.slot_counts.entry(key_slot(key)).or_insert(0) += 1;
                None
            }
        };
        let old_deadline = old.as_ref().and_then(|item| item.deadline);
        if old_deadline != deadline {
            if let Some(at) = old_deadline {
                self.deadlines.remove(&(at, Box::from(key)));
            }
            if let Some(at) = deadline {
                self.deadlines.insert((at, key.into()));
            }
        }
        if let Some(old) = &old {
            self.digest = self.digest.wrapping_sub(old.hash);
        }
        old
    }

    fn remove(&mut self, key: &[u8]) -> Option<Item> {
        let item = self.items.remove(key)?;
        if let Some(at) = item.deadline {
            self.deadlines.remove(&(at, Box::from(key)));
        }
        self.forget(key, &item);
        Some(item)
    }

    /// Takes an item that has left `items` and `deadlines` out of the sums.
    fn forget(&mut self, key: &[u8], item: &Item) {
        self.digest = self.digest.wrapping_sub(item.hash);
        let slot = key_slot(key);
        if let Some(count) = self.slot_counts.get_mut(&slot) {
            *count -= 1;
            if *count == 0 {
                self.slot_counts.remove(&slot);
            }
        }
    }

    /// Moves log time on and removes what expired by it.
    fn advance(&mut self, time: u64) {
        self.log_time = self.log_time.max(time);
        while self.deadlines.first().is_some_and(|(at, _)| *at <= self.log_time) {
            let Some((_, key)) = self.deadlines.pop_first() else {
                return;
            };
            if let Some(item) = self.items.remove(&key) {
                self.forget(&key, &item);
            }
        }
    }

    fn answer(&self, query: &Query<'_>, out: &mut BytesMut) {
        let room = |bytes: usize| {
            let bytes = bytes as u64;
            let fits = query.reply_bytes_max == 0 || bytes <= query.reply_bytes_max;
            if fits { Ok(()) } else { Err(Output::TooLarge { bytes }) }
        };
        let value_len = |item: &Item| item.value.len();
        match &query.kind {
            QueryKind::Value { key } => {
                let item = self.items.get(*key);
                self.header(item.and_then(|item| item.deadline), out);
                match (item, room(item.map_or(0, value_len))) {
                    (None, _) => Output::Nil.encode(out),
                    (Some(_), Err(too_large)) => too_large.encode(out),
                    (Some(item), Ok(())) => encode_value(out, &item.value),
                }
            }
            QueryKind::Values { keys } => {
                let items: Vec<Option<&Item>> =
                    keys.iter().map(|key| self.items.get(*key)).collect();
                let bytes = items.iter().flatten().map(|item| item.value.len()).sum();
                self.header(earliest(items.iter().flatten().copied()), out);
                match room(bytes) {
                    Err(too_large) => too_large.encode(out),
                    Ok(()) => {
                        out.reserve(bytes + 8 * items.len());
                        encode_values_header(out, items.len());
                        for item in items {
                            encode_item(out, item.map(|item| &*item.value));
                        }
                    }
                }
            }
            QueryKind::Exists { keys } => {
                let found = || keys.iter().filter_map(|key| self.items.get(*key));
                self.header(earliest(found()), out);
                Output::Integer(found().count() as i64).encode(out);
            }
            QueryKind::Length { key } => {
                let item = self.items.get(*key);
                self.header(item.and_then(|item| item.deadline), out);
                Output::Integer(item.map_or(0, value_len) as i64).encode(out);
            }
            QueryKind::Deadline { key } => {
                let item = self.items.get(*key);
                self.header(item.and_then(|item| item.deadline), out);
                item.map_or(Output::Nil, |item| Output::Deadline(item.deadline)).encode(out);
            }
            QueryKind::Count => {
                self.header(self.deadlines.first().map(|(at, _)| *at), out);
                Output::Integer(self.items.len() as i64).encode(out);
            }
            QueryKind::CountInSlot { slot } => {
                self.header(self.deadlines.first().map(|(at, _)| *at), out);
                let count = self.slot_counts.get(slot).copied().unwrap_or(0);
                Output::Integer(i64::from(count)).encode(out);
            }
        }
    }

    fn header(&self, next_deadline: Option<u64>, out: &mut BytesMut) {
        encode_read_header(out, self.log_time, next_deadline);
    }
}

impl StateMachine for KvMachine {
    fn apply(&mut self, entries: &[Entry], outputs: &mut Vec<Bytes>) {
        for entry in entries {
            self.advance(entry.time.get());
            outputs.push(match entry.kind {
                EntryKind::Noop | EntryKind::Config => Bytes::new(),
                EntryKind::Command => self.run(&entry.payload).to_bytes(),
            });
        }
    }

    fn read(&self, query: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(32);
        match Query::decode(query) {
            Ok(query) => self.answer(&query, &mut out),
            Err(_) => {
                self.header(None, &mut out);
                Output::Error(KvError::Undecodable).encode(&mut out);
            }
        }
        out.freeze()
    }

    fn digest(&self) -> u64 {
        digest::whole(self.digest, self.items.len() as u64, self.log_time)
    }

    fn mode(&self) -> ApplyMode {
        ApplyMode::Inline
    }
}

fn earliest<'a>(items: impl Iterator<Item = &'a Item>) -> Option<u64> {
    items.filter_map(|item| item.deadline).min()
}

/// A decimal number as Redis takes it: no sign but `-`, no leading zero, no blanks.
fn parse_integer(bytes: &[u8]) -> Result<i64, KvError> {
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let canonical = match digits {
        [b'0'] => digits.len() == bytes.len(),
        [b'1'..=b'9', ..] => true,
        _ => false,
    };
    if !canonical {
        return Err(KvError::NotAnInteger);
    }
    core::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).ok_or(KvError::NotAnInteger)
}

#[cfg(test)]
mod tests;
