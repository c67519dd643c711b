//! Names of entries that stay when the log before them goes: what a snapshot leaves in the log.
//!
//! An entry is named by its index and its term, since two logs may hold different entries at one
//! index. Names come in runs of indexes: a queue that is worked off in order has one or two, however
//! many entries it keeps.
//!
//! Invariants: indexes ascend, and neighbours are one run; terms do not fall; a term is noted once, at
//! the first index that is named of it.

use raft_core::{LogIndex, Term};

/// Names entries of a group, in the order of their indexes. 16 bytes per run of them, and as much per
/// term.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LiveEntries {
    /// First index and count.
    runs: Vec<(LogIndex, u64)>,
    /// The first index that is named of each term.
    terms: Vec<(LogIndex, Term)>,
}

impl LiveEntries {
    /// About what the list takes in memory and in the log, in bytes.
    pub(crate) fn cost(&self) -> u64 {
        (self.runs.len() + self.terms.len()) as u64 * 16
    }

    /// Names an entry behind all that are named. `false`, and nothing happened: it does not come
    /// behind them, its term is smaller, or its index is none.
    #[must_use]
    pub fn push(&mut self, index: LogIndex, term: Term) -> bool {
        self.push_run(index, 1, term)
    }

    /// Names so many entries from an index on; as [`push`](Self::push).
    #[must_use]
    pub fn push_run(&mut self, first: LogIndex, count: u64, term: Term) -> bool {
        let ascends = self.last().is_none_or(|last| first > last);
        let falls = self.terms.last().is_some_and(|(_, newest)| term < *newest);
        let ends = first.get().checked_add(count).is_some_and(|end| end < u64::MAX);
        if count == 0 || !ascends || falls || !ends || first == LogIndex::ZERO {
            return false;
        }
        match self.runs.last_mut() {
            Some((begin, known)) if begin.plus(*known) == first => *known += count,
            _ => self.runs.push((first, count)),
        }
        if self.terms.last().is_none_or(|(_, newest)| *newest != term) {
            self.terms.push((first, term));
        }
        true
    }

    /// The first index that is named of each term.
    pub(crate) fn terms(&self) -> &[(LogIndex, Term)] {
        &self.terms
    }

    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many entries are named. Cost: a look at each run.
    pub fn count(&self) -> u64 {
        self.runs.iter().map(|(_, count)| count).sum()
    }

    /// The last index that is named.
    pub fn last(&self) -> Option<LogIndex> {
        self.runs.last().map(|(first, count)| first.plus(count - 1))
    }

    /// First index and count of each run.
    pub fn runs(&self) -> impl Iterator<Item = (LogIndex, u64)> + '_ {
        self.runs.iter().copied()
    }

    /// All of them, one by one.
    pub fn iter(&self) -> impl Iterator<Item = (LogIndex, Term)> + '_ {
        let mut terms = self.terms.iter().peekable();
        let mut term = Term::ZERO;
        let indexes = self
            .runs
            .iter()
            .flat_map(|(first, count)| (first.get()..first.get() + count).map(LogIndex::new));
        indexes.map(move |index| {
            while let Some((_, next)) = terms.next_if(|(first, _)| *first <= index) {
                term = *next;
            }
            (index, term)
        })
    }

    /// The term of the entry that is named at an index.
    pub fn term(&self, index: LogIndex) -> Option<Term> {
        let run = self.runs.partition_point(|(first, _)| *first <= index);
        let (first, count) = self.runs.get(run.checked_sub(1)?)?;
        if index.since(*first) >= *count {
            return None;
        }
        let term = self.terms.partition_point(|(first, _)| *first <= index);
        Some(self.terms.get(term.checked_sub(1)?)?.1)
    }

    /// Those of them up to an index.
    #[must_use]
    pub fn upto(&self, last: LogIndex) -> Self {
        let within = self.runs.iter().take_while(|(first, _)| *first <= last);
        let cut = |(first, count): &(LogIndex, u64)| (*first, (*count).min(last.since(*first) + 1));
        let terms = self.terms.iter().take_while(|(first, _)| *first <= last);
        Self { runs: within.map(cut).collect(), terms: terms.copied().collect() }
    }

    /// Those of either. `None`: they disagree about a term, so they are of different logs.
    #[must_use]
    pub fn union(&self, other: &Self) -> Option<Self> {
        if other.is_empty() {
            return Some(self.clone());
        }
        let mut all = Self::default();
        let (mut ours, mut theirs) = (self.iter().peekable(), other.iter().peekable());
        loop {
            let next = match (ours.peek(), theirs.peek()) {
                (Some(our), Some(their)) if our.0 == their.0 => {
                    if our != their {
                        return None;
                    }
                    theirs.next();
                    ours.next()
                }
                (Some(our), Some(their)) if our.0 > their.0 => theirs.next(),
                (Some(_), _) => ours.next(),
                (None, _) => theirs.next(),
            };
            let Some((index, term)) = next else { return Some(all) };
            if !all.push(index, term) {
                return None;
            }
        }
    }

    /// The bytes of the names; none if there are no names.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.is_empty() {
            return bytes;
        }
        put_varint(&mut bytes, self.terms.len() as u64);
        let (mut index, mut before) = (0, 0);
        for (first, term) in &self.terms {
            put_varint(&mut bytes, first.get() - index);
            put_varint(&mut bytes, term.get() - before);
            (index, before) = (first.get(), term.get());
        }
        let mut end = 0;
        for (first, count) in &self.runs {
            put_varint(&mut bytes, first.get() - end);
            put_varint(&mut bytes, *count);
            end = first.get() + count;
        }
        bytes
    }

    /// Reads [`encode`](Self::encode)'s bytes; `None` if they are none.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut live = Self::default();
        if bytes.is_empty() {
            return Some(live);
        }
        let (mut index, mut before) = (0_u64, 0_u64);
        for at in 0..take_varint(&mut bytes)? {
            let (gap, rise) = (take_varint(&mut bytes)?, take_varint(&mut bytes)?);
            if at > 0 && (gap == 0 || rise == 0) {
                return None;
            }
            index = index.checked_add(gap)?;
            before = before.checked_add(rise)?;
            live.terms.push((LogIndex::new(index), Term::new(before)));
        }
        let mut end = 0_u64;
        while !bytes.is_empty() {
            let (gap, count) = (take_varint(&mut bytes)?, take_varint(&mut bytes)?);
            // A gap of nothing would be the same run.
            if gap == 0 || count == 0 {
                return None;
            }
            let first = end.checked_add(gap)?;
            end = first.checked_add(count).filter(|end| *end < u64::MAX)?;
            live.runs.push((LogIndex::new(first), count));
        }
        let begins = live.runs.first().map(|(first, _)| *first);
        let sound = begins.is_some()
            && live.terms.first().map(|(first, _)| *first) == begins
            && live.terms.iter().all(|(first, term)| live.term(*first) == Some(*term));
        sound.then_some(live)
    }
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// In one spelling only: the last byte of a longer one is not zero.
fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return (part != 0 || shift == 0).then_some(value);
        }
    }
    None
}

/// The names of one snapshot take at most so many bytes: some ten millions, if none has a neighbour.
pub const LIVE_BYTES_MAX: u64 = 32 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn live(names: &[(u64, u64)]) -> LiveEntries {
        let mut live = LiveEntries::default();
        for (index, term) in names {
            assert!(live.push(LogIndex::new(*index), Term::new(*term)), "{index}");
        }
        live
    }

    fn all(live: &LiveEntries) -> Vec<(u64, u64)> {
        live.iter().map(|(index, term)| (index.get(), term.get())).collect()
    }

    const NAMES: [(u64, u64); 6] = [(3, 1), (4, 1), (5, 2), (300, 2), (301, 7), (90_000, 7)];

    #[test]
    fn names_come_in_runs_and_keep_their_terms() {
        let live = live(&NAMES);
        assert_eq!(live.runs.len(), 3);
        assert_eq!(live.terms.len(), 3);
        assert_eq!((live.count(), all(&live)), (6, NAMES.to_vec()));
        for index in 0..100_000 {
            let named = NAMES.iter().find(|(at, _)| *at == index).map(|(_, term)| Term::new(*term));
            assert_eq!(live.term(LogIndex::new(index)), named, "{index}");
        }
        for upto in [0, 2, 3, 4, 5, 299, 300, 301, 89_999, 90_000, 100_000] {
            let within: Vec<_> = NAMES.into_iter().filter(|(at, _)| *at <= upto).collect();
            let cut = live.upto(LogIndex::new(upto));
            assert_eq!(all(&cut), within, "{upto}");
            assert_eq!(LiveEntries::decode(&cut.encode()), Some(cut));
        }
    }

    #[test]
    fn what_does_not_ascend_is_no_name() {
        let mut live = live(&NAMES);
        for (index, term) in [(90_000, 7), (1, 7), (90_001, 6), (u64::MAX, 9)] {
            assert!(!live.push(LogIndex::new(index), Term::new(term)), "{index} {term}");
        }
        assert!(!LiveEntries::default().push(LogIndex::ZERO, Term::new(1)));
        assert_eq!(all(&live), NAMES);
    }

    #[test]
    fn a_union_has_the_names_of_both_and_none_of_different_logs() {
        let (odd, even): (Vec<_>, Vec<_>) = NAMES.into_iter().partition(|(at, _)| at % 2 == 1);
        assert_eq!(live(&odd).union(&live(&even)), Some(live(&NAMES)));
        assert_eq!(live(&NAMES).union(&live(&even)), Some(live(&NAMES)));
        assert_eq!(LiveEntries::default().union(&live(&NAMES)), Some(live(&NAMES)));
        assert_eq!(live(&NAMES).union(&live(&[(4, 2)])), None);
        assert_eq!(live(&NAMES).union(&live(&[(6, 9)])), None);
    }

    #[test]
    fn names_have_their_golden_bytes_and_nothing_else_is_read_as_names() {
        let bytes = live(&NAMES).encode();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "0303010201a802050303a60202e2bc0501");
        assert_eq!(LiveEntries::decode(&bytes), Some(live(&NAMES)));
        for cut in 1..bytes.len() {
            let found = LiveEntries::decode(&bytes[..cut]);
            assert!(found.is_none_or(|found| found.encode() == bytes[..cut]), "{cut}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut other = bytes.clone();
                other[at] ^= 1 << bit;
                let found = LiveEntries::decode(&other);
                assert!(found.is_none_or(|found| found.encode() == other), "{at} {bit}");
            }
        }
        assert_eq!(LiveEntries::decode(&[0]), None);
    }
}
