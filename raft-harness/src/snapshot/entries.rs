//! The entries that a snapshot leaves in the log, on their way from one log to another.
//!
//! They are asked for by the same questions as the snapshot's bytes are, told apart by a bit of the
//! offset: so many entries from this one on, whose index and term take the place of the snapshot's. An
//! answer holds as many of them as have room, and of one that has none its bytes from an offset on.
//! Who answers remembers nothing, and who asks asks only for what its own log lacks.
//!
//! Bounds: what is asked for, half here, or here and not durable is about [`AHEAD_BYTES`], or one
//! entry if that is more.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use bytes::Bytes;
use raft_core::{Entry, EntryKind, LogIndex, LogTime, Term};
use raft_storage::{ENTRY_BYTES_MAX, LiveEntries, crc32c, crc32c_append};

/// So much is on its way at a time.
pub(crate) const AHEAD_BYTES: u64 = 8 << 20;
/// Index, term, time, length and sum before the payload.
const HEAD_BYTES: usize = 32;
/// An offset with this bit is a [`Part`] of entries.
const ENTRIES: u64 = 1 << 63;
/// No log takes a later time.
const TIME_END: u64 = 1 << 56;
const COUNT_MAX: u64 = (1 << 31) - 1;

/// What a question for entries asks for, in the place of an offset.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Part {
    /// So many entries, with consecutive indexes.
    pub(crate) count: u64,
    /// Of the first one, its bytes from here on.
    pub(crate) offset: u64,
}

impl Part {
    pub(crate) fn pack(self) -> u64 {
        ENTRIES | self.count.min(COUNT_MAX) << 32 | self.offset & u64::from(u32::MAX)
    }

    /// `None`: the offset is one of the snapshot's own bytes.
    pub(crate) fn unpack(offset: u64) -> Option<Self> {
        let part = Self { count: offset >> 32 & COUNT_MAX, offset: offset & u64::from(u32::MAX) };
        (offset & ENTRIES != 0).then_some(part)
    }
}

/// An answer: the length of the first entry asked for, its sum, and the bytes.
pub(crate) struct Answer {
    pub(crate) total: u64,
    pub(crate) sum: u32,
    pub(crate) data: Vec<u8>,
}

/// Answers a question: `read` gives an entry of an index, `None` if there is none.
pub(crate) fn answer(
    first: LogIndex,
    part: Part,
    bytes_max: usize,
    mut read: impl FnMut(LogIndex) -> Option<Entry>,
) -> Option<Answer> {
    let entry = encode(&read(first)?);
    let (total, sum) = (entry.len() as u64, crc32c(&entry));
    let rest = entry.get(usize::try_from(part.offset).ok()?..)?;
    let mut data = rest[..rest.len().min(bytes_max)].to_vec();
    if data.len() < rest.len() {
        return Some(Answer { total, sum, data });
    }
    let mut longest = total as usize;
    for at in 1..part.count {
        // What is likely not to have room is not read in vain.
        if data.len() + longest > bytes_max {
            break;
        }
        let Some(entry) = read(first.plus(at)) else { break };
        let entry = encode(&entry);
        longest = longest.max(entry.len());
        if data.len() + entry.len() > bytes_max {
            break;
        }
        data.extend_from_slice(&entry);
    }
    Some(Answer { total, sum, data })
}

fn encode(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + entry.payload.len());
    for number in [entry.index.get(), entry.term.get(), entry.time.get()] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&(entry.payload.len() as u32).to_le_bytes());
    let sum = crc32c_append(crc32c(&bytes), &entry.payload);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.extend_from_slice(&entry.payload);
    bytes
}

/// The entry at the beginning of `bytes`, and its length there; `None` if it is not whole.
fn decode(bytes: &[u8]) -> io::Result<Option<(Entry, usize)>> {
    let Some((head, rest)) = bytes.split_at_checked(HEAD_BYTES) else { return Ok(None) };
    let small =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let number = |at: usize| u64::from(small(at)) | u64::from(small(at + 4)) << 32;
    let length = small(24) as usize;
    if length as u64 > ENTRY_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let Some(payload) = rest.get(..length) else { return Ok(None) };
    let sum = crc32c_append(crc32c(&head[..28]), payload);
    if sum != small(28) || number(16) >= TIME_END {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let entry = Entry {
        index: LogIndex::new(number(0)),
        term: Term::new(number(8)),
        kind: EntryKind::Command,
        time: LogTime::new(number(16)),
        payload: Bytes::copy_from_slice(payload),
    };
    Ok(Some((entry, HEAD_BYTES + length)))
}

/// A question that is open or to be asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Question {
    pub(crate) first: LogIndex,
    pub(crate) term: Term,
    pub(crate) part: Part,
}

/// The entries that a log lacks of what a snapshot names, and what of them is on its way.
#[derive(Debug)]
pub(crate) struct Entries {
    missing: LiveEntries,
    /// Of them, those that no question was made of.
    runs: VecDeque<(LogIndex, u64)>,
    /// To be asked, before any of those.
    again: VecDeque<Question>,
    open: VecDeque<Question>,
    /// What is here of entries that came in parts.
    partial: BTreeMap<LogIndex, Vec<u8>>,
    /// About so many bytes has an entry.
    each: u64,
    /// Bytes that are here and not durable.
    unstored: u64,
}

impl Entries {
    /// `each`: about so many bytes has an entry.
    pub(crate) fn new(missing: LiveEntries, each: u64) -> Self {
        let runs = missing.runs().collect();
        Self {
            missing,
            runs,
            again: VecDeque::new(),
            open: VecDeque::new(),
            partial: BTreeMap::new(),
            each: each.max(1) + HEAD_BYTES as u64,
            unstored: 0,
        }
    }

    /// Whether all are here and durable.
    pub(crate) fn is_over(&self) -> bool {
        self.runs.is_empty() && self.again.is_empty() && self.open.is_empty() && self.unstored == 0
    }

    /// The oldest question whose answer did not come.
    pub(crate) fn awaited(&self) -> Option<Question> {
        self.open.front().copied()
    }

    /// What was asked is not answered any more.
    pub(crate) fn interrupt(&mut self) {
        while let Some(question) = self.open.pop_back() {
            self.again.push_front(question);
        }
    }

    /// So much is durable.
    pub(crate) fn stored(&mut self, bytes: u64) {
        self.unstored = self.unstored.saturating_sub(bytes);
    }

    /// The next question, if one may be open beside those that are: `open_max` of them, each for
    /// about `bytes` at most.
    pub(crate) fn next(&mut self, open_max: u64, bytes: u64) -> Option<Question> {
        if self.open.len() as u64 >= open_max {
            return None;
        }
        let half: u64 = self.partial.values().map(|part| part.len() as u64).sum();
        let on_its_way = self.unstored + half + self.open.len() as u64 * self.each.max(bytes);
        let is_first = self.open.is_empty() && self.unstored == 0;
        let question = match self.again.pop_front() {
            Some(question) => question,
            None if on_its_way + self.each.max(bytes) > AHEAD_BYTES && !is_first => return None,
            None => {
                let (first, left) = self.runs.pop_front()?;
                let count = (bytes / self.each).clamp(1, COUNT_MAX).min(left);
                if count < left {
                    self.runs.push_front((first.plus(count), left - count));
                }
                let term = self.missing.term(first).unwrap_or_default();
                Question { first, term, part: Part { count, offset: 0 } }
            }
        };
        self.open.push_back(question);
        Some(question)
    }

    /// Takes the answer to the oldest question: the entries that are whole by it.
    ///
    /// # Errors
    /// They are not there any more, or not what they should be.
    pub(crate) fn take(&mut self, total: u64, sum: u32, data: &[u8]) -> io::Result<Vec<Entry>> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let Some(Question { first, term, part }) = self.open.pop_front() else {
            return Ok(Vec::new());
        };
        if total == 0 {
            return Err(io::ErrorKind::NotFound.into());
        }
        let left = total.checked_sub(part.offset).ok_or_else(invalid)?;
        if data.is_empty() || total > HEAD_BYTES as u64 + ENTRY_BYTES_MAX {
            return Err(invalid());
        }
        let partial = self.partial.remove(&first);
        if partial.is_none() && part.offset > 0 {
            // The answers before this one were longer than expected: the entry is whole.
            return Ok(Vec::new());
        }
        let mut whole = partial.unwrap_or_default();
        if (whole.len() as u64) < part.offset {
            // They were shorter: what lies between comes first.
            self.ask_for_rest(first, term, whole.len() as u64);
            self.partial.insert(first, whole);
            return Ok(Vec::new());
        }
        whole.truncate(part.offset as usize);
        let (own, mut others) = data.split_at((data.len() as u64).min(left) as usize);
        whole.extend_from_slice(own);
        if (whole.len() as u64) < total {
            if part.offset == 0 && part.count > 1 {
                let rest = Part { count: part.count - 1, offset: 0 };
                self.ask_again(first.next(), rest);
            }
            // All that is left of it, in the order in which it is put together.
            let step = own.len() as u64;
            if part.offset == 0 {
                let offsets = (step..total).step_by(step as usize);
                let question = |offset| Question { first, term, part: Part { count: 1, offset } };
                let questions: Vec<Question> = offsets.map(question).collect();
                for question in questions.into_iter().rev() {
                    self.again.push_front(question);
                }
            } else {
                self.ask_for_rest(first, term, whole.len() as u64);
            }
            self.partial.insert(first, whole);
            return Ok(Vec::new());
        }
        if crc32c(&whole) != sum {
            return Err(invalid());
        }
        let (entry, _) = decode(&whole)?.ok_or_else(invalid)?;
        if (entry.index, entry.term) != (first, term) {
            return Err(invalid());
        }
        let mut entries = vec![entry];
        if part.offset > 0 {
            return Ok(self.count(entries));
        }
        while let Some((entry, bytes)) = decode(others)? {
            let expected = first.plus(entries.len() as u64);
            let is_wanted = self.missing.term(expected) == Some(entry.term);
            if entry.index != expected || !is_wanted || entries.len() as u64 >= part.count {
                return Err(invalid());
            }
            entries.push(entry);
            others = &others[bytes..];
        }
        let came = entries.len() as u64;
        if came < part.count {
            self.ask_again(first.plus(came), Part { count: part.count - came, offset: 0 });
        }
        Ok(self.count(entries))
    }

    /// Asks for the bytes of an entry from an offset on, unless something that is asked for already
    /// brings them.
    fn ask_for_rest(&mut self, first: LogIndex, term: Term, offset: u64) {
        let brings = |question: &Question| {
            question.first == first && (1..=offset).contains(&question.part.offset)
        };
        if !self.open.iter().chain(&self.again).any(brings) {
            self.again.push_back(Question { first, term, part: Part { count: 1, offset } });
        }
    }

    fn ask_again(&mut self, first: LogIndex, part: Part) {
        let term = self.missing.term(first).unwrap_or_default();
        self.again.push_front(Question { first, term, part });
    }

    /// Takes account of what is to be made durable.
    fn count(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        self.unstored += entries.iter().map(Entry::cost).sum::<u64>();
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64) -> Entry {
        // Some are longer than an answer.
        let bytes = if index.is_multiple_of(10) { 2_500 } else { 60 + index as usize };
        Entry {
            index: LogIndex::new(index),
            term: Term::new(1 + index / 16),
            kind: EntryKind::Command,
            time: LogTime::new(77 + index),
            payload: (0..bytes).map(|at| (at as u64 * 7 + index) as u8).collect::<Vec<u8>>().into(),
        }
    }

    fn missing() -> LiveEntries {
        let mut live = LiveEntries::default();
        for index in (3..40).chain([45, 50, 60, 61, 62]) {
            assert!(live.push(LogIndex::new(index), entry(index).term));
        }
        live
    }

    const ANSWER_BYTES: usize = 1_000;

    fn answered(question: Question) -> Answer {
        let of = |index: LogIndex| Some(entry(index.get()));
        answer(question.first, question.part, ANSWER_BYTES, of).expect("it is held")
    }

    /// Fetches all of them; every so many answers the lane breaks.
    fn fetched(break_every: usize, shorter: bool) -> Vec<Entry> {
        let mut entries = Entries::new(missing(), 100);
        let mut lane: VecDeque<Question> = VecDeque::new();
        let mut found: Vec<Entry> = Vec::new();
        let mut answers = 0;
        while !entries.is_over() {
            while let Some(question) = entries.next(4, ANSWER_BYTES as u64) {
                let packed = question.part.pack();
                assert_eq!(Part::unpack(packed), Some(question.part));
                lane.push_back(question);
            }
            let question = lane.pop_front().expect("something is asked as long as it is not over");
            assert_eq!(entries.awaited(), Some(question));
            let Answer { total, sum, mut data } = answered(question);
            assert!(data.len() <= ANSWER_BYTES);
            if shorter {
                data.truncate(700);
            }
            let came = entries.take(total, sum, &data).expect("it is sound");
            entries.stored(came.iter().map(Entry::cost).sum());
            found.extend(came);
            answers += 1;
            if answers % break_every == 0 {
                entries.interrupt();
                lane.clear();
            }
            assert!(answers < 1_000, "it does not end");
        }
        found.sort_by_key(|entry| entry.index);
        found
    }

    #[test]
    fn all_that_is_missing_comes_once_whatever_breaks_on_the_way() {
        let expected: Vec<Entry> = missing().iter().map(|(index, _)| entry(index.get())).collect();
        for break_every in [1_000, 7, 3, 2] {
            for shorter in [false, true] {
                assert_eq!(fetched(break_every, shorter), expected, "{break_every} {shorter}");
            }
        }
    }

    #[test]
    fn what_is_not_what_was_asked_for_is_not_taken() {
        let ask = || {
            let mut entries = Entries::new(missing(), 100);
            let question = entries.next(1, 1_000).expect("there is something to ask");
            (entries, answered(question))
        };
        let (mut entries, Answer { total, sum, data }) = ask();
        assert!(entries.take(0, sum, &[]).is_err(), "it is gone");
        for at in (0..data.len()).step_by(3) {
            let (mut entries, _) = ask();
            let mut other = data.clone();
            other[at] ^= 1;
            let taken = entries.take(total, sum, &other);
            let sound =
                |taken: Vec<Entry>| taken.iter().all(|taken| *taken == entry(taken.index.get()));
            assert!(taken.is_err() || taken.is_ok_and(sound), "{at}");
        }
        let (mut entries, _) = ask();
        assert!(entries.take(total, sum, &[]).is_err());
        assert_eq!(Part::unpack(12_345), None);
    }

    #[test]
    fn no_more_is_asked_for_than_may_be_on_its_way() {
        let mut live = LiveEntries::default();
        assert!(live.push_run(LogIndex::new(1), 1_000_000, Term::new(1)));
        let mut entries = Entries::new(live, 1_000_000);
        let open = std::iter::from_fn(|| entries.next(100, 192 << 10)).count() as u64;
        assert!(open * 1_000_000 <= AHEAD_BYTES && open > 4, "{open}");
    }
}
