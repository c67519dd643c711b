//! All of the log is read once in a while, so that damage is found while others still have what it took.
//!
//! An open reads what follows the newest checkpoint, and an entry is read when somebody needs it. What
//! lies between, and what snapshots leave in the log from before its beginning, may rot for years, on one replica after the other. So the thread that reads the log for
//! peers reads on through all of it when nobody asks it for anything, a quarter of a MiB at a time, so
//! slowly that it is through once in the time it was given.
//!
//! What the disk refuses to read is asked for again half a minute later, as whoever else reads the log
//! asks again for so long, and is damage if it is refused then as well. But where nothing at all was
//! read since, the disk is away and not a sector lost: that is no word about any group, and waits on.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use raft_core::{GroupId, LogIndex};
use raft_storage::{LogReader, ReadError, Scrub};

use super::log_reader::REFUSES_MAX;

/// Read at once. A disk does that in a millisecond, so whoever waits for it waits no longer.
pub(super) const PIECE_BYTES: u64 = 256 << 10;
/// Between two pieces at least, however much there is to be read.
const PAUSE_MIN: Duration = Duration::from_millis(10);
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Of so many groups a place is remembered that was refused, of each the first; others are found again by
/// the next walk.
const REFUSED_MAX: usize = 64;

/// A walk through the log that begins again when it is through.
pub(crate) struct LogScrub {
    /// `None`: it stands still.
    period: Option<Duration>,
    at: Scrub,
    /// How much the last walk read, and this one so far.
    before: u64,
    bytes: u64,
    next: Instant,
    /// What the disk refused to read, what is to be asked for next in front.
    refused: VecDeque<Refused>,
    /// When something was read last.
    read: Option<Instant>,
}

/// A place that the disk refused to read.
#[derive(Clone, Copy, Debug)]
struct Refused {
    group: GroupId,
    index: LogIndex,
    since: Instant,
    next: Instant,
}

/// What came of a step.
#[derive(Default)]
pub(crate) struct Step {
    pub(crate) bytes: u64,
    pub(crate) is_through: bool,
    /// An entry that is lost.
    pub(crate) damage: Option<(GroupId, LogIndex, ReadError)>,
    /// What the disk said that refused to read one, for the first time in its group.
    pub(crate) refused: Option<ReadError>,
}

impl LogScrub {
    pub(crate) fn new(period: Option<Duration>, now: Instant) -> Self {
        let next = now + PAUSE_MAX.min(period.unwrap_or(PAUSE_MAX));
        let (at, refused) = (Scrub::default(), VecDeque::new());
        Self { period, at, before: 0, bytes: 0, next, refused, read: None }
    }

    /// When the next step is due; `None`: never.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.period.map(|_| self.next)
    }

    pub(crate) fn step(&mut self, reader: &LogReader, now: Instant) -> Step {
        if let Some(refused) = self.refused.pop_front_if(|refused| refused.next <= now) {
            self.next = now + self.pause();
            return self.ask_again(refused, reader, now);
        }
        let scrubbed = reader.scrub(self.at, PIECE_BYTES);
        self.bytes += scrubbed.bytes;
        let is_through = scrubbed.next.is_none();
        self.at = scrubbed.next.unwrap_or_default();
        if is_through {
            self.before = std::mem::take(&mut self.bytes);
        }
        self.next = now + self.pause();
        let mut step = Step { bytes: scrubbed.bytes, is_through, ..Step::default() };
        match scrubbed.damage {
            Some(ReadError::Corrupt { group, index, segment, offset }) => {
                let damage = ReadError::Corrupt { group, index, segment, offset };
                step.damage = Some((group, index, damage));
            }
            Some(ReadError::Io { group, index, source }) => {
                let is_known = self.refused.iter().any(|refused| refused.group == group);
                if !is_known && self.refused.len() < REFUSED_MAX {
                    let next = now + REFUSES_MAX;
                    self.refused.push_back(Refused { group, index, since: now, next });
                    step.refused = Some(ReadError::Io { group, index, source });
                }
            }
            // A step has no word of these.
            Some(_) => {}
            None if scrubbed.bytes > 0 => self.read = Some(now),
            None => {}
        }
        step
    }

    fn ask_again(&mut self, refused: Refused, reader: &LogReader, now: Instant) -> Step {
        let Refused { group, index, since, .. } = refused;
        let mut step = Step::default();
        // It may be kept from before the log's beginning.
        let Some(term) = reader.held_term(group, index) else { return step };
        match reader.entry(group, index, term) {
            Ok(_) => self.read = Some(now),
            Err(refusal) if refusal.is_refusal() && self.read.is_some_and(|read| read > since) => {
                step.damage = Some((group, index, refusal));
            }
            Err(refusal) if refusal.is_refusal() => {
                self.refused.push_back(Refused { next: now + REFUSES_MAX, ..refused });
            }
            // It is not there any more, or descriptors ran out: the next walk comes by.
            Err(_) => {}
        }
        step
    }

    fn pause(&self) -> Duration {
        pause(self.period, self.before.max(self.bytes))
    }
}

/// So long between two pieces that all of so many bytes take the whole period.
pub(super) fn pause(period: Option<Duration>, bytes: u64) -> Duration {
    let pieces = bytes.div_ceil(PIECE_BYTES).max(1);
    let pause = period.unwrap_or(PAUSE_MAX) / u32::try_from(pieces).unwrap_or(u32::MAX);
    pause.clamp(PAUSE_MIN, PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use raft_core::{Entry, EntryKind, GroupIncarnation, LogTime, NodeId, Term};
    use raft_storage::{
        Expected, GroupCreate, GroupWrite, InitOptions, Log, LogOptions, MemDisk, Opened,
        Preparation, init_on,
    };

    use super::*;

    const SEGMENT: &str = "log-00000000.seg";

    /// A log of two groups, each of three entries that take a frame of two blocks of their own.
    fn log(disk: &MemDisk) -> Opened<MemDisk> {
        init_on(disk, "test", NodeId::new(1), &InitOptions::default()).expect("an empty disk");
        let preparation = Preparation::OnDemand;
        let options = LogOptions { preparation, segment_bytes: 1 << 20, ..LogOptions::default() };
        let mut opened =
            Log::open_on(disk.clone(), &Expected::default(), &options).expect("a new log");
        for id in 1..=2 {
            let mut write = GroupWrite::new(GroupId::new(id));
            let (incarnation, spec) = (GroupIncarnation::new(1), bytes::Bytes::new());
            write.create = Some(GroupCreate { incarnation, spec });
            opened.writer.commit(&[write]).expect("a write");
            for index in 1..=3 {
                let mut write = GroupWrite::new(GroupId::new(id));
                write.entries.push(Entry {
                    index: LogIndex::new(index),
                    term: Term::new(1),
                    kind: EntryKind::Command,
                    time: LogTime::new(index),
                    payload: vec![7; 6_000].into(),
                });
                opened.writer.commit(&[write]).expect("a write");
            }
        }
        opened
    }

    /// Walks once, a step a second; what is damaged, and when that was told.
    fn walk(
        scrub: &mut LogScrub,
        reader: &LogReader,
        now: &mut Instant,
        steps: u64,
    ) -> Vec<(u32, u64)> {
        let mut told = Vec::new();
        for _ in 0..steps {
            *now += Duration::from_secs(1);
            let step = scrub.step(reader, *now);
            told.extend(step.damage.map(|(group, index, _)| (group.get(), index.get())));
        }
        told
    }

    #[test]
    fn what_is_refused_for_half_a_minute_is_damage_and_the_rest_is_read() {
        let disk = MemDisk::new();
        let opened = log(&disk);
        let mut now = Instant::now();
        let mut scrub = LogScrub::new(Some(Duration::from_secs(60)), now);
        // Behind the header of the segment and the frame of the group: the second entry of the first.
        disk.lose_block(SEGMENT, 4096 * (1 + 1 + 2 + 1));
        assert_eq!(walk(&mut scrub, &opened.reader, &mut now, 29), []);
        assert_eq!(walk(&mut scrub, &opened.reader, &mut now, 20), [(1, 2)]);
        // One that passes is none.
        let bytes = disk.read(SEGMENT).expect("a segment");
        disk.overwrite(SEGMENT, &bytes);
        walk(&mut scrub, &opened.reader, &mut now, 90);
        disk.lose_block(SEGMENT, 4096 * (1 + 1 + 2 + 1));
        walk(&mut scrub, &opened.reader, &mut now, 10);
        disk.overwrite(SEGMENT, &bytes);
        assert_eq!(walk(&mut scrub, &opened.reader, &mut now, 200), []);
    }

    #[test]
    fn a_refusal_is_one_whatever_the_disk_calls_it() {
        let (group, index, term) = (GroupId::new(1), LogIndex::new(7), Term::new(1));
        let io = |number| {
            let source = std::io::Error::from_raw_os_error(number);
            ReadError::Io { group, index, source }
        };
        let (input_output, no_data, timed_out, no_descriptors) = (5, 61, 110, 24);
        let refused = [input_output, no_data, timed_out, no_descriptors];
        assert_eq!(refused.map(|number| io(number).is_refusal()), [true, true, true, false]);
        assert!(ReadError::Corrupt { group, index, segment: 1, offset: 4096 }.is_refusal());
        assert!(!ReadError::NotHeld { group, index, term }.is_refusal());
    }

    #[test]
    fn a_disk_that_is_away_is_no_word_about_any_group() {
        let disk = MemDisk::new();
        let opened = log(&disk);
        let mut now = Instant::now();
        let mut scrub = LogScrub::new(Some(Duration::from_secs(60)), now);
        walk(&mut scrub, &opened.reader, &mut now, 10);
        disk.fail_reads(true);
        assert_eq!(walk(&mut scrub, &opened.reader, &mut now, 200), []);
        disk.fail_reads(false);
        assert_eq!(walk(&mut scrub, &opened.reader, &mut now, 200), []);
    }

    #[test]
    fn a_walk_takes_its_time_and_no_step_is_rushed() {
        let now = Instant::now();
        let day = Duration::from_secs(86_400);
        let mut scrub = LogScrub::new(Some(day), now);
        assert_eq!(scrub.pause(), PAUSE_MAX);
        // 27 GiB a day: a piece each 0.8 s.
        scrub.before = 27 << 30;
        assert_eq!(scrub.pause().as_millis(), 781);
        scrub.before = 1 << 60;
        assert_eq!(scrub.pause(), PAUSE_MIN);
        assert_eq!(LogScrub::new(None, now).due(), None);
    }
}
