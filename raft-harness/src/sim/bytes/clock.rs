//! A node's clocks: one that drifts, and one that jumps.

use std::cell::Cell;

use raft_core::{LogTime, Micros};

/// One life's clocks against virtual time.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeClock {
    /// When the life began, in virtual microseconds.
    born: u64,
    /// How much faster or slower than virtual time it runs, in parts per million.
    drift_ppm: i64,
    /// How far the wall clock is off, in milliseconds.
    pub(super) wall_offset_ms: i64,
}

/// The wall clocks start here: some morning in 2026, in milliseconds.
const EPOCH_MS: i64 = 1_790_000_000_000;

impl NodeClock {
    pub(super) fn new(born: u64, drift_ppm: i64, wall_offset_ms: i64) -> Self {
        Self { born, drift_ppm, wall_offset_ms }
    }

    fn rate(self) -> i128 {
        1_000_000 + i128::from(self.drift_ppm)
    }

    /// How much faster than virtual time it runs, in parts per million.
    pub(super) fn drift_ppm(self) -> i64 {
        self.drift_ppm
    }

    /// The monotonic clock at a virtual moment.
    pub(super) fn local(self, at: u64) -> Micros {
        let since = i128::from(at.saturating_sub(self.born));
        Micros::new((since * self.rate() / 1_000_000) as u64)
    }

    /// The first virtual moment at which the monotonic clock shows this.
    pub(super) fn global(self, local: Micros) -> u64 {
        let scaled = i128::from(local.get()) * 1_000_000;
        let since = (scaled + self.rate() - 1) / self.rate();
        self.born.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }

    /// What a wall clock that is right shows at a virtual moment.
    pub(super) fn right(at: u64) -> LogTime {
        Self::new(0, 0, 0).wall(at)
    }

    /// The wall clock at a virtual moment.
    pub(super) fn wall(self, at: u64) -> LogTime {
        let shown = EPOCH_MS + (at / 1000) as i64 + self.wall_offset_ms;
        LogTime::new(shown.max(0) as u64)
    }
}

/// A thread is to stand still within one of its turns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Still {
    /// Just before this look at its clocks, counted from one.
    pub(super) before_look: u32,
    /// For so long, in microseconds.
    pub(super) for_us: u64,
}

/// How a thread looks at its clocks in one round. Time stands still but where a fault lets the
/// thread stand still instead: then whatever follows in the round happens that much later.
pub(super) struct Looks<'a> {
    clock: NodeClock,
    now: &'a Cell<u64>,
    /// When the first look was and its clocks then, if the thread has stood still since.
    first: Option<(u64, NodeClock)>,
    still: Option<Still>,
    taken: Cell<u32>,
    /// Told of the moment at which the thread goes on.
    stood: &'a dyn Fn(u64),
}

impl<'a> Looks<'a> {
    /// Of a round at the virtual moment in `now`, which moves on if the thread stands still.
    pub(super) fn new(
        clock: NodeClock,
        now: &'a Cell<u64>,
        first: Option<(u64, NodeClock)>,
        still: Option<Still>,
        stood: &'a dyn Fn(u64),
    ) -> Self {
        Self { clock, now, first, still, taken: Cell::new(0), stood }
    }

    /// The next look.
    pub(super) fn look(&self) -> (Micros, LogTime) {
        self.taken.set(self.taken.get() + 1);
        let first = self.first.filter(|_| self.taken.get() == 1);
        if let Some(still) = self.still.filter(|still| still.before_look == self.taken.get()) {
            self.now.set(self.now.get() + still.for_us);
            (self.stood)(self.now.get());
        }
        let (at, clock) = first.unwrap_or_else(|| (self.now.get(), self.clock));
        (clock.local(at), clock.wall(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_stands_still_finds_out_at_a_later_look() {
        let told = Cell::new(0);
        let stood = |until| told.set(until);
        let clock = NodeClock::new(0, 0, 0);
        let shown = |first: Option<u64>, still| {
            let now = Cell::new(1_000);
            let looks = Looks::new(clock, &now, first.map(|at| (at, clock)), still, &stood);
            let shown = [(); 3].map(|()| looks.look().0.get());
            (shown, now.get())
        };
        assert_eq!(shown(None, None), ([1_000; 3], 1_000));
        // It has stood still since its first look.
        assert_eq!(shown(Some(400), None), ([400, 1_000, 1_000], 1_000));
        let still = Some(Still { before_look: 3, for_us: 50 });
        assert_eq!(shown(None, still), ([1_000, 1_000, 1_050], 1_050));
        assert_eq!(told.get(), 1_050, "what it says from now on leaves that late");
    }

    #[test]
    fn a_deadline_is_never_early_and_at_most_a_tick_late() {
        for drift in [-200_000, -50, 0, 50, 200_000] {
            let clock = NodeClock::new(1234, drift, 0);
            for local in [0, 1, 999, 1_000_000, 59_999_999] {
                let local = Micros::new(local);
                let at = clock.global(local);
                assert!(clock.local(at) >= local, "{drift} {local:?}");
                assert!(at == 1234 || clock.local(at - 1) < local, "{drift} {local:?}");
            }
        }
    }
}
