//! How often the log syncs: as often as the disk answers, or a little less where it stalls.
//!
//! A disk that several logs sync as fast as they can, or a volume that is sold by operations per
//! second, does not slow down evenly: it answers at once until it is over its limit, and then not
//! for tens of milliseconds. Whoever stays just below that limit writes as much, in larger batches,
//! and never meets the stall. Where the limit lies only the disk knows, so it is learned: after a
//! stall the log keeps a distance between its syncs, and tries a smaller one after some time
//! without any.
//!
//! Five things keep this from doing harm:
//! - a disk that never stalls, or hiccups now and then, is never waited for;
//! - the time that bytes take is no stall, and while large entries are written nothing is learned: a
//!   sync then waits for them, here or at a neighbour that writes the same, however seldom it is asked;
//! - no wait is made for a batch of one: where few writers ask one after the other, nothing comes
//!   to make the batch larger;
//! - where waiting makes stalls no rarer they are not of our making (a busy processor, a neighbour),
//!   and the log goes at full speed for a while;
//! - what was learned is doubted as time goes by: each smaller gap that meets no stall is followed by
//!   a step twice as large, so a gap that nothing needs any more is gone within four of them.
//!
//! Pure: time is an argument, in microseconds.

use std::time::Duration;

/// How often the log may sync.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogPace {
    /// As often as the disk answers.
    Off,
    /// At most so many times a second. For a volume whose limit is known.
    Fixed(u32),
    /// As often as the disk answers, until it stalls; then just below that. The default: measured
    /// with three nodes on a volume of 6,000 operations a second, 64 clients write 50 k/s at a p99
    /// of 1.6 ms instead of 30 k/s at 72; where nothing stalls it changes nothing.
    #[default]
    Learned,
}

impl LogPace {
    /// The slowest pace that can be asked for, per second, and the fastest.
    pub const FIXED: std::ops::RangeInclusive<u32> = 10..=1_000_000;

    /// Whether the pace can be kept.
    pub fn is_valid(self) -> bool {
        match self {
            Self::Off | Self::Learned => true,
            Self::Fixed(per_second) => Self::FIXED.contains(&per_second),
        }
    }
}

/// Keeps the pace of one log.
#[derive(Debug)]
pub(crate) struct Pacer {
    pace: LogPace,
    /// From the beginning of one sync to that of the next, at least, in microseconds.
    gap: u64,
    /// When the last sync began; `None` before the first.
    began: Option<u64>,
    /// Entries of a sync, in 256ths, on average over about eight.
    crowd: u64,
    learned: Learned,
}

/// What a sync made durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carried {
    /// Whole entries; pieces of a large one are none.
    pub(crate) entries: u64,
    /// Of the log, with the pieces that were only written before.
    pub(crate) bytes: u64,
}

/// What is known of the disk.
#[derive(Debug, Default)]
struct Learned {
    /// What a sync takes, in 256ths of a microsecond: the median, or near it.
    typical: u64,
    /// Syncs since the disk stalled last.
    syncs: u64,
    /// Recent syncs, and the time they took with what lay between them; a pause in which nothing
    /// was asked for is not counted. Halved when they are many and at each stall, so that a stall
    /// that follows hard on another says little by itself.
    recent: u64,
    busy: u64,
    /// When the last one ended.
    ended: u64,
    /// When the gap may be made smaller.
    try_at: u64,
    /// How long to stay without stalls before that.
    hold: u64,
    /// How often in a row it was, without a stall.
    lowered: u32,
    /// When the disk stalled last, and how long it had not before.
    stalled: Option<u64>,
    /// Syncs from one stall to the next when the gap was first kept.
    syncs_before: u64,
    /// Stalls and syncs since.
    stalls_since: u64,
    syncs_since: u64,
    /// Until then stalls are not believed to be ours.
    deaf_until: u64,
    deaf_for: u64,
    /// Until then the disk is busy with large entries.
    large_until: u64,
}

impl Learned {
    fn wrote_large(&mut self, now: u64) {
        self.ended = now;
        self.large_until = now + LARGE_FOR;
    }
}

impl Pacer {
    pub(crate) fn new(pace: LogPace) -> Self {
        let gap = match pace {
            LogPace::Off | LogPace::Learned => 0,
            LogPace::Fixed(per_second) => 1_000_000 / u64::from(per_second.max(1)),
        };
        Self { pace, gap, began: None, crowd: 0, learned: Learned::default() }
    }

    /// How long the next sync has to wait, at `now`.
    pub(crate) fn wait(&self, now: u64) -> Duration {
        let alone = self.pace == LogPace::Learned && self.crowd < CROWD_MIN << 8;
        let Some(began) = self.began.filter(|_| self.gap > 0 && !alone) else {
            return Duration::ZERO;
        };
        Duration::from_micros((began + self.gap).saturating_sub(now))
    }

    /// A sync ran from `began` to `ended`.
    pub(crate) fn synced(&mut self, began: u64, ended: u64, carried: Carried) {
        self.began = Some(began);
        let Carried { entries, bytes } = carried;
        if entries == 0 {
            // Votes: no measure of a crowd, nor of a stall.
            return;
        }
        self.crowd = self.crowd - self.crowd / 8 + (entries << 8) / 8;
        if self.pace != LogPace::Learned {
            return;
        }
        if bytes >= LARGE_MIN {
            self.learned.wrote_large(ended);
        }
        if ended < self.learned.large_until {
            return;
        }
        let took = ended.saturating_sub(began);
        let took = took.saturating_sub(bytes.saturating_sub(BYTES_MIN) / BYTES_PER_US);
        let learned = &mut self.learned;
        learned.syncs += 1;
        if learned.recent == RECENT_MAX {
            (learned.busy, learned.recent) = (learned.busy / 2, learned.recent / 2);
        }
        learned.recent += 1;
        learned.busy += began.saturating_sub(learned.ended).min(PAUSE_MIN) + took;
        learned.ended = ended;
        let typical = &mut learned.typical;
        if *typical == 0 {
            *typical = (took << 8).max(1);
        }
        if took < STALL_MIN.max((*typical >> 8) * STALL_FACTOR) {
            // A step towards it: where as many take longer as take less, it stands still.
            let step = (*typical / 32).max(1);
            *typical = if took << 8 > *typical { *typical + step } else { *typical - step };
            self.calm(ended);
        } else {
            self.stall(ended, took);
        }
    }

    /// Pieces of a large entry were written, and are not durable yet.
    pub(crate) fn wrote_piece(&mut self, ended: u64) {
        self.learned.wrote_large(ended);
    }

    fn stall(&mut self, now: u64, took: u64) {
        let learned = &mut self.learned;
        learned.lowered = 0;
        let calm = learned.stalled.replace(now).map(|stalled| now.saturating_sub(stalled));
        let syncs = std::mem::take(&mut learned.syncs).max(1);
        let kept_up = learned.busy / learned.recent.max(1);
        (learned.busy, learned.recent) = (learned.busy / 2, learned.recent / 2);
        if now < learned.deaf_until {
            return;
        }
        if self.gap == 0 {
            // A hiccup now and then costs less than waiting does. A disk over its limit stalls again
            // and again, for a good part of the time.
            if calm.is_none_or(|calm| calm >= took.saturating_mul(SHARE)) {
                return;
            }
            learned.syncs_before = syncs;
            (learned.stalls_since, learned.syncs_since) = (0, 0);
        } else {
            learned.stalls_since += 1;
            learned.syncs_since += syncs;
            if learned.stalls_since == STALLS_TO_JUDGE {
                let between = learned.syncs_since / STALLS_TO_JUDGE;
                if between < 2 * learned.syncs_before {
                    self.gap = 0;
                    learned.deaf_for = (learned.deaf_for * 2).clamp(DEAF_MIN, DEAF_MAX);
                    learned.deaf_until = now + learned.deaf_for;
                    return;
                }
                (learned.stalls_since, learned.syncs_since) = (0, 0);
                learned.deaf_for = 0;
            }
            // It was tried too early.
            let soon = calm.is_some_and(|calm| calm < learned.hold + HOLD_MIN);
            learned.hold = if soon { learned.hold * 2 } else { HOLD_MIN };
        }
        learned.hold = learned.hold.clamp(HOLD_MIN, HOLD_MAX);
        learned.try_at = now + learned.hold;
        // What the disk could keep up, the stall itself in it, and a little less.
        let most = if self.gap == 0 { GAP_MAX } else { self.gap * 5 / 4 + 1 };
        self.gap = (kept_up.max(self.gap) * 17 / 16 + 1).min(most).min(GAP_MAX);
    }

    fn calm(&mut self, now: u64) {
        let learned = &mut self.learned;
        if self.gap > 0 && now >= learned.try_at {
            self.gap -= self.gap >> 4_u32.saturating_sub(learned.lowered).max(1);
            learned.lowered += 1;
            learned.try_at = now + learned.hold / 8;
            if self.gap <= learned.typical >> 8 {
                // It takes as long by itself.
                self.gap = 0;
                learned.hold = HOLD_MIN;
                learned.lowered = 0;
            }
        }
    }
}

/// A sync of fewer entries waits for nothing: it is that of a few writers who ask in turn.
const CROWD_MIN: u64 = 4;
/// A sync that takes this long, and so many times what it usually takes, is a stall.
const STALL_MIN: u64 = 4_000;
const STALL_FACTOR: u64 = 8;
/// A sync that carries so much is one of large entries, and so are those of the next tenth of a second.
const LARGE_MIN: u64 = 1 << 20;
const LARGE_FOR: u64 = 100_000;
/// Bytes that the slowest disk one would put a log on takes in a microsecond, beyond those that cost
/// nothing to speak of: what a sync takes longer than that is its own.
const BYTES_PER_US: u64 = 100;
const BYTES_MIN: u64 = 256 << 10;
/// From one stall to the next: a stall that takes less than one part in so many is borne.
const SHARE: u64 = 16;
/// Syncs that the measure of what the disk keeps up goes back.
const RECENT_MAX: u64 = 256;
/// So long without a sync is a pause, and no pace.
const PAUSE_MIN: u64 = 10_000;
/// No more than this is waited for one sync.
const GAP_MAX: u64 = 2_000;
/// How long without a stall before a smaller gap is tried.
const HOLD_MIN: u64 = 2_000_000;
const HOLD_MAX: u64 = 16_000_000;
/// After so many stalls it is judged whether they have become rarer.
const STALLS_TO_JUDGE: u64 = 6;
/// For how long stalls are left alone that waiting did not help against.
const DEAF_MIN: u64 = 10_000_000;
const DEAF_MAX: u64 = 160_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that takes so long for a sync, and so many of them in each tenth of a second: the
    /// next one then waits for the next tenth.
    struct Disk {
        sync_us: u64,
        per_tenth: u64,
        tenth: u64,
        used: u64,
    }

    impl Disk {
        fn sync(&mut self, mut now: u64) -> u64 {
            if now / 100_000 > self.tenth {
                (self.tenth, self.used) = (now / 100_000, 0);
            }
            if self.used >= self.per_tenth {
                now = (self.tenth + 1) * 100_000;
                (self.tenth, self.used) = (now / 100_000, 0);
            }
            self.used += 1;
            now + self.sync_us
        }
    }

    /// What became of some seconds.
    #[derive(Debug)]
    struct Course {
        syncs: u64,
        stalls: u64,
        waited: u64,
    }

    fn small(entries: u64) -> Carried {
        Carried { entries, bytes: entries * 300 }
    }

    /// Lets a log with so many entries in each sync go on for so long.
    fn run(
        pacer: &mut Pacer,
        entries: u64,
        from: u64,
        seconds: u64,
        mut disk: impl FnMut(u64) -> u64,
    ) -> Course {
        let mut course = Course { syncs: 0, stalls: 0, waited: 0 };
        let mut now = from;
        while now < from + seconds * 1_000_000 {
            let wait = pacer.wait(now).as_micros() as u64;
            course.waited += wait;
            now += wait;
            let ended = disk(now);
            course.syncs += 1;
            course.stalls += u64::from(ended - now > STALL_MIN);
            pacer.synced(now, ended, small(entries));
            // What comes in between.
            now = ended + 20;
        }
        course
    }

    fn limited(per_tenth: u64) -> impl FnMut(u64) -> u64 {
        let mut disk = Disk { sync_us: 150, per_tenth, tenth: 0, used: 0 };
        move |now| disk.sync(now)
    }

    #[test]
    fn a_disk_that_stalls_beyond_a_rate_is_kept_just_below_it() {
        for per_tenth in [100, 200, 400] {
            let mut unpaced = Pacer::new(LogPace::Off);
            let off = run(&mut unpaced, 64, 0, 20, limited(per_tenth));
            assert!(off.stalls > 150, "{off:?}");
            let mut pacer = Pacer::new(LogPace::Learned);
            let mut disk = limited(per_tenth);
            let first = run(&mut pacer, 64, 0, 10, &mut disk);
            let then = run(&mut pacer, 64, 10_000_000, 60, &mut disk);
            assert!(first.stalls < 40, "learned slowly: {first:?} {pacer:?}");
            assert!(then.stalls <= 12, "{per_tenth}: {then:?} {pacer:?}");
            let rate = then.syncs / 60;
            assert!(rate > per_tenth * 7, "{per_tenth}: {rate} a second {pacer:?}");
        }
    }

    #[test]
    fn a_disk_that_was_good_for_long_is_found_out_as_soon_and_a_double_stall_stops_nobody() {
        let mut pacer = Pacer::new(LogPace::Learned);
        run(&mut pacer, 64, 0, 100, |now| now + 150);
        let mut disk = limited(100);
        run(&mut pacer, 64, 100_000_000, 3, &mut disk);
        let then = run(&mut pacer, 64, 103_000_000, 20, &mut disk);
        assert!(then.stalls <= 6, "{then:?} {pacer:?}");
        let gap = pacer.gap;
        // Twice in a row, out of the blue.
        pacer.synced(123_100_000, 123_150_000, small(64));
        pacer.synced(123_150_020, 123_200_000, small(64));
        assert!(pacer.gap < gap * 8 / 5, "{gap} {pacer:?}");
    }

    #[test]
    fn a_disk_that_does_not_stall_is_never_waited_for() {
        let mut pacer = Pacer::new(LogPace::Learned);
        let mut at = 0_u64;
        let course = run(&mut pacer, 64, 0, 30, |now| {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Slow at times, and no more.
            now + 100 + (at >> 33) % 900
        });
        assert_eq!((course.waited, course.stalls), (0, 0));
    }

    #[test]
    fn hiccups_are_borne() {
        let mut pacer = Pacer::new(LogPace::Learned);
        let mut syncs = 0;
        let course = run(&mut pacer, 64, 0, 30, |now| {
            syncs += 1;
            now + if syncs % 1_000 == 0 { 8_000 } else { 150 }
        });
        assert!(course.stalls > 100 && course.waited == 0, "{course:?}");
    }

    #[test]
    fn who_writes_alone_does_not_wait_whatever_was_learned() {
        let mut pacer = Pacer::new(LogPace::Learned);
        let mut disk = limited(100);
        run(&mut pacer, 64, 0, 20, &mut disk);
        assert!(pacer.gap > 0, "{pacer:?}");
        let mut now = 21_000_000;
        for round in 0..1_000 {
            // As soon as it is not the crowd of before.
            assert!(round < 50 || pacer.wait(now).is_zero(), "{round} {pacer:?}");
            pacer.synced(now, now + 150, small(1));
            now += 300;
        }
    }

    #[test]
    fn stalls_that_waiting_does_not_help_against_are_borne() {
        let mut pacer = Pacer::new(LogPace::Learned);
        // Every 30 ms, whatever the log does.
        let disk = |now: u64| {
            let next = (now / 30_000 + 1) * 30_000;
            if next - now < 400 { next + 8_000 } else { now + 150 }
        };
        let course = run(&mut pacer, 64, 0, 100, disk);
        let share = course.waited as f64 / 100e6;
        assert!(share < 0.05, "waited {share} of the time, {course:?} {pacer:?}");
    }

    #[test]
    fn the_limit_of_a_disk_that_got_better_is_forgotten() {
        let mut pacer = Pacer::new(LogPace::Learned);
        run(&mut pacer, 64, 0, 20, limited(100));
        assert!(pacer.gap > 500, "{pacer:?}");
        // One longest hold, and half of it for the steps.
        run(&mut pacer, 64, 20_000_000, 24, |now| now + 150);
        assert_eq!(pacer.gap, 0, "{pacer:?}");
    }

    /// Found by a bench: after a minute of 8 MiB entries the small writes of 100 groups waited 3.7 ms each.
    #[test]
    fn what_bytes_take_is_no_stall() {
        for rate in [110, 400] {
            let mut pacer = Pacer::new(LogPace::Learned);
            let mut now = 0;
            for round in 0..10_000_u64 {
                assert!(pacer.wait(now).is_zero(), "{rate}: {round} {pacer:?}");
                // Pieces of a large entry, now and then carried along by what comes behind them; and a
                // neighbour on the same disk writes them at other moments.
                let bytes = if round % 5 == 0 { 4 << 20 } else { 10_000 };
                let waits = if round % 3 == 0 { 6_000 } else { 0 };
                let ended = now + 150 + waits + bytes / rate;
                pacer.synced(now, ended, Carried { entries: 30, bytes });
                now = ended + 20;
                if round % 2 == 0 {
                    now += (128 << 10) / rate;
                    pacer.wrote_piece(now);
                }
            }
        }
    }

    #[test]
    fn a_fixed_pace_is_kept_and_nothing_else_is_learned() {
        let mut pacer = Pacer::new(LogPace::Fixed(1_000));
        let course = run(&mut pacer, 1, 0, 10, limited(50));
        assert!(course.stalls > 0 && pacer.gap == 1_000);
        let mut pacer = Pacer::new(LogPace::Fixed(1_000));
        let course = run(&mut pacer, 1, 0, 10, |now| now + 150);
        assert!((9_990..=10_001).contains(&course.syncs), "{course:?}");
        // After a pause the next one does not wait.
        assert!(pacer.wait(20_000_000).is_zero());
        assert!(!LogPace::Fixed(0).is_valid() && LogPace::Fixed(10).is_valid());
    }
}
