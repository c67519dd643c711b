//! Randomness of a run: one seed, and a stream of its own for everyone who draws.
//!
//! A run is replayed and shrunk by its seed, so a consumer that is removed, or that draws once
//! more, must not shift what any other consumer sees. Therefore nobody shares a generator: each
//! takes a stream by its label (and numbers, for "the link from 1 to 2"), and a stream depends on
//! nothing but the seed and that label.
//!
//! Integers only: a decision that passes through a float may differ between two machines.

use std::ops::RangeInclusive;

/// The root of all randomness of one run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Streams {
    seed: u64,
}

impl Streams {
    /// The streams of this seed.
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The seed itself.
    pub const fn seed(self) -> u64 {
        self.seed
    }

    /// The stream with this label and these numbers, from its beginning.
    ///
    /// Asking twice gives the same stream twice; whoever draws keeps what it was given.
    pub fn stream(self, label: &str, numbers: &[u64]) -> Rng {
        Rng::new(self.derive(label, numbers))
    }

    /// A seed for something that keeps its own generator, such as a core.
    pub fn derive(self, label: &str, numbers: &[u64]) -> u64 {
        let mut state = mix(self.seed ^ GOLDEN);
        let mut absorb = |value: u64| state = mix(state.wrapping_add(GOLDEN) ^ mix(value));
        for chunk in label.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            absorb(u64::from_le_bytes(word));
        }
        // Lengths keep ("ab", []) apart from ("a", [..]) and (.., [0]) apart from (.., [0, 0]).
        absorb(label.len() as u64);
        for number in numbers {
            absorb(*number);
        }
        absorb(numbers.len() as u64);
        state
    }
}

/// One stream: xoshiro256**, seeded through SplitMix64 as its authors advise.
///
/// Streams of a plain SplitMix64 would all be pieces of one cycle; these are not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The stream of this seed; any seed will do, zero included.
    pub fn new(seed: u64) -> Self {
        let mut at = seed;
        let state = std::array::from_fn(|_| {
            at = at.wrapping_add(GOLDEN);
            mix(at)
        });
        Self { state }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let drawn = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        drawn
    }

    /// A number below `bound`. The bias is below `bound` in 2^64.
    ///
    /// # Panics
    /// If `bound` is zero: there is no such number.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below zero");
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// A number within `range`, its ends included.
    ///
    /// # Panics
    /// If the range is empty.
    pub fn range(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = range.into_inner();
        assert!(low <= high, "an empty range");
        match (high - low).checked_add(1) {
            Some(width) => low + self.below(width),
            None => self.bits(),
        }
    }

    /// True `numerator` times out of `denominator`; always if the fraction is one or more.
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }

    /// True so many times out of a thousand.
    pub fn permille(&mut self, permille: u32) -> bool {
        self.chance(u64::from(permille), 1000)
    }

    /// A number up to `max` whose magnitude is drawn first: small ones are common, large ones
    /// are seen. For latencies, sizes and pauses, which have long tails.
    pub fn skewed(&mut self, max: u64) -> u64 {
        let magnitude = self.below(u64::from(u64::BITS - max.leading_zeros()) + 1);
        let reach = if magnitude >= 64 { u64::MAX } else { (1 << magnitude) - 1 };
        self.range(0..=reach.min(max))
    }

    /// One of the items, or `None` if there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() {
            return None;
        }
        items.get(self.below(items.len() as u64) as usize)
    }

    /// The position of a weight, each as likely as its share; `None` if all are zero.
    pub fn weighted(&mut self, weights: &[u32]) -> Option<usize> {
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        if total == 0 {
            return None;
        }
        let mut drawn = self.below(total);
        weights.iter().position(|weight| {
            let weight = u64::from(*weight);
            let hit = drawn < weight;
            drawn = drawn.saturating_sub(weight);
            hit
        })
    }

    /// Puts the items into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            let other = self.below(end as u64 + 1) as usize;
            items.swap(end, other);
        }
    }
}

/// 2^64 divided by the golden ratio: the step of SplitMix64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads any difference in the input over all bits of the output (SplitMix64's finisher).
pub(crate) const fn mix(value: u64) -> u64 {
    let mut z = value;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_ten(mut rng: Rng) -> Vec<u64> {
        (0..10).map(|_| rng.bits()).collect()
    }

    #[test]
    fn a_stream_depends_on_seed_label_and_numbers_alone() {
        let streams = Streams::new(7);
        let expected = first_ten(streams.stream("link", &[1, 2]));
        // Others draw in between, and one more exists than before.
        let mut disk = streams.stream("disk", &[1]);
        disk.bits();
        streams.stream("clock", &[]).bits();
        assert_eq!(first_ten(streams.stream("link", &[1, 2])), expected);
    }

    #[test]
    fn different_names_give_different_streams() {
        let streams = Streams::new(7);
        let names: [(&str, &[u64]); 9] = [
            ("link", &[1, 2]),
            ("link", &[2, 1]),
            ("link", &[1]),
            ("link", &[1, 0]),
            ("link", &[]),
            ("lin", &[]),
            ("lin", &[u64::from(b'k')]),
            ("", &[]),
            ("a label longer than one word", &[1, 2]),
        ];
        let mut seen: Vec<_> = names.iter().map(|(l, n)| first_ten(streams.stream(l, n))).collect();
        seen.push(first_ten(Streams::new(8).stream("link", &[1, 2])));
        let total = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), total);
    }

    #[test]
    fn the_generator_is_pinned() {
        // A change here changes the meaning of every recorded seed.
        assert_eq!(Streams::new(1).derive("link", &[1, 2]), PINNED_DERIVED);
        assert_eq!(Rng::new(0).bits(), PINNED_FIRST);
    }

    #[test]
    fn draws_stay_in_their_bounds_and_reach_them() {
        let mut rng = Rng::new(3);
        let mut low = false;
        let mut high = false;
        for _ in 0..1000 {
            assert!(rng.below(3) < 3);
            let drawn = rng.range(5..=9);
            assert!((5..=9).contains(&drawn));
            low |= drawn == 5;
            high |= drawn == 9;
            assert!(rng.skewed(100) <= 100);
            assert_eq!(rng.skewed(0), 0);
            assert!(!rng.chance(0, 10));
            assert!(rng.chance(10, 10));
        }
        assert!(low && high);
        assert_eq!(rng.range(4..=4), 4);
        rng.range(0..=u64::MAX);
        rng.skewed(u64::MAX);
    }

    #[test]
    fn chances_come_out_about_right() {
        let mut rng = Rng::new(4);
        let hits = (0..10_000).filter(|_| rng.chance(1, 4)).count();
        assert!((2200..2800).contains(&hits), "{hits}");
        let mut counts = [0; 3];
        for _ in 0..10_000 {
            counts[rng.weighted(&[1, 0, 3]).expect("a weight is positive")] += 1;
        }
        assert!((2200..2800).contains(&counts[0]), "{counts:?}");
        assert_eq!(counts[1], 0);
        assert_eq!(rng.weighted(&[0, 0]), None);
        assert_eq!(rng.weighted(&[]), None);
    }

    #[test]
    fn small_numbers_are_common_in_a_skewed_draw_and_large_ones_occur() {
        let mut rng = Rng::new(5);
        let drawn: Vec<u64> = (0..10_000).map(|_| rng.skewed(1_000_000)).collect();
        assert!(drawn.iter().filter(|d| **d < 1000).count() > 4000);
        assert!(drawn.iter().any(|d| *d > 900_000));
    }

    #[test]
    fn a_shuffle_keeps_every_item_and_moves_some() {
        let mut rng = Rng::new(6);
        let mut items: Vec<u32> = (0..50).collect();
        rng.shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
        assert!(rng.pick(&items).is_some());
        assert_eq!(rng.pick::<u32>(&[]), None);
    }

    const PINNED_DERIVED: u64 = 3_472_507_912_235_338_044;
    /// As published for xoshiro256** seeded by SplitMix64 from zero.
    const PINNED_FIRST: u64 = 0x99ec_5f36_cb75_f2b4;
}
