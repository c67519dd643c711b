//! Where the entries lie that outlive the beginning of their group's log.
//!
//! Cost: 8 bytes per entry where they come in runs of two and more, 16 per run and per term beside
//! that; never more than 16 per entry. Made anew whenever the list of them changes.

use raft_core::{LogIndex, Term};

use crate::format::live::LiveEntries;
use crate::read::location::Location;

/// The places of some entries of a group, in the order of their indexes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Kept {
    shape: Shape,
    /// The first index of each term.
    terms: Vec<(LogIndex, Term)>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Shape {
    /// First index of each run, and where its places begin.
    Runs { runs: Vec<(LogIndex, usize)>, places: Vec<Location> },
    /// Few have a neighbour.
    Sparse(Vec<(LogIndex, Location)>),
}

impl Default for Shape {
    fn default() -> Self {
        Self::Sparse(Vec::new())
    }
}

impl Kept {
    /// What is named, where `place` says that it lies.
    pub(crate) fn collect(
        live: &LiveEntries,
        mut place: impl FnMut(LogIndex, Term) -> Option<Location>,
    ) -> Self {
        let found = live.iter().filter_map(|(index, term)| Some((index, place(index, term)?)));
        let (runs, count) = (live.runs().count() as u64, live.count());
        // Two places take as much as a run.
        let shape = if 2 * runs > count {
            let mut sparse = Vec::with_capacity(count as usize);
            sparse.extend(found);
            Shape::Sparse(sparse)
        } else {
            let mut begins: Vec<(LogIndex, usize)> = Vec::with_capacity(runs as usize);
            let mut places = Vec::with_capacity(count as usize);
            for (index, place) in found {
                let follows = begins
                    .last()
                    .is_some_and(|(first, at)| first.plus((places.len() - at) as u64) == index);
                if !follows {
                    begins.push((index, places.len()));
                }
                places.push(place);
            }
            Shape::Runs { runs: begins, places }
        };
        let mut terms = live.terms().to_vec();
        terms.shrink_to_fit();
        Self { shape, terms }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match &self.shape {
            Shape::Runs { places, .. } => places.is_empty(),
            Shape::Sparse(sparse) => sparse.is_empty(),
        }
    }

    pub(crate) fn place(&self, index: LogIndex) -> Option<Location> {
        match &self.shape {
            Shape::Runs { runs, places } => places.get(at_in_runs(runs, places, index)?).copied(),
            Shape::Sparse(sparse) => {
                let at = sparse.binary_search_by_key(&index, |(index, _)| *index).ok()?;
                Some(sparse[at].1)
            }
        }
    }

    pub(crate) fn place_mut(&mut self, index: LogIndex) -> Option<&mut Location> {
        match &mut self.shape {
            Shape::Runs { runs, places } => {
                let at = at_in_runs(runs, places, index)?;
                places.get_mut(at)
            }
            Shape::Sparse(sparse) => {
                let at = sparse.binary_search_by_key(&index, |(index, _)| *index).ok()?;
                Some(&mut sparse[at].1)
            }
        }
    }

    /// The term of an entry that is kept.
    pub(crate) fn term(&self, index: LogIndex) -> Option<Term> {
        self.place(index)?;
        self.term_at(index)
    }

    fn term_at(&self, index: LogIndex) -> Option<Term> {
        let after = self.terms.partition_point(|(first, _)| *first <= index);
        Some(self.terms.get(after.checked_sub(1)?)?.1)
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (LogIndex, Location)> + '_ {
        self.from(LogIndex::ZERO)
    }

    /// Those from an index on, in order. Costs a search and nothing for those before.
    pub(crate) fn from(&self, from: LogIndex) -> impl Iterator<Item = (LogIndex, Location)> + '_ {
        let (runs, places, sparse) = match &self.shape {
            Shape::Runs { runs, places } => {
                let run = runs.partition_point(|(first, _)| *first <= from).saturating_sub(1);
                (&runs[run..], &places[..], &[][..])
            }
            Shape::Sparse(sparse) => {
                let at = sparse.partition_point(|(index, _)| *index < from);
                (&[][..], &[][..], &sparse[at..])
            }
        };
        let in_runs = (0..runs.len()).flat_map(move |run| {
            let (first, begin) = runs[run];
            let end = runs.get(run + 1).map_or(places.len(), |(_, end)| *end);
            let skipped = (from.get().saturating_sub(first.get()) as usize).min(end - begin);
            let indexes = (first.get() + skipped as u64..).map(LogIndex::new);
            indexes.zip(places[begin + skipped..end].iter().copied())
        });
        in_runs.chain(sparse.iter().copied())
    }

    /// What they are called.
    pub(crate) fn names(&self) -> LiveEntries {
        let mut names = LiveEntries::default();
        for (index, _) in self.iter() {
            let is_named = self.term_at(index).is_some_and(|term| names.push(index, term));
            debug_assert!(is_named, "they are in order");
        }
        names
    }
}

fn at_in_runs(runs: &[(LogIndex, usize)], places: &[Location], index: LogIndex) -> Option<usize> {
    let run = runs.partition_point(|(first, _)| *first <= index).checked_sub(1)?;
    let (first, begin) = runs[run];
    let end = runs.get(run + 1).map_or(places.len(), |(_, end)| *end);
    let at = begin.checked_add(usize::try_from(index.since(first)).ok()?)?;
    (at < end).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_finds_what_it_was_given_and_nothing_else() {
        let dense: Vec<u64> = (5..25).chain(40..45).chain([60, 61]).collect();
        let sparse: Vec<u64> = vec![2, 9, 10, 40, 77, 1000];
        for (indexes, is_sparse) in [(dense, false), (sparse, true)] {
            let mut live = LiveEntries::default();
            for index in &indexes {
                assert!(live.push(LogIndex::new(*index), Term::new(1 + index / 10)));
            }
            let place = |index: LogIndex| Location::new(1, 4096 + index.get() * 8, index.get());
            let mut kept = Kept::collect(&live, |index, _| Some(place(index)));
            assert_eq!(matches!(kept.shape, Shape::Sparse(_)), is_sparse);
            assert_eq!(kept.names(), live);
            for index in (0..1100).map(LogIndex::new) {
                let named = live.term(index).map(|_| place(index));
                assert_eq!((kept.place(index), kept.term(index)), (named, live.term(index)));
                assert_eq!(kept.place_mut(index).copied(), named);
            }
            let listed: Vec<_> = kept.iter().map(|(index, place)| (index.get(), place)).collect();
            assert_eq!(listed.len(), indexes.len());
            assert!(listed.iter().all(|(index, at)| *at == place(LogIndex::new(*index))));
        }
        assert!(Kept::default().is_empty() && Kept::default().names().is_empty());
    }
}
