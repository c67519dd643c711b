//! Long frames in chunks: they share a lane, always end, and hold up nobody.

use proptest::collection::vec;
use proptest::prelude::*;
use raft_core::GroupId;

use super::*;
use crate::connection::credit::extra_of;
use crate::connection::grants::GrantPool;
use crate::connection::watch::LaneWatch;
use crate::wire::chunk::{CHUNK_DATA_MAX, ChunkEnd};

const CHUNK: usize = CHUNK_DATA_MAX;

fn append_of(group: u32, size: usize, mark: u8) -> Frame {
    let mut envelope = append([Bytes::from(vec![mark; size])]);
    envelope.group = GroupId::new(group);
    Frame::Message(envelope)
}

/// Group and mark of an append.
fn name(frame: &Frame) -> (u32, u8) {
    let Frame::Message(envelope) = frame else { panic!("{frame:?}") };
    (envelope.group.get(), envelope.entries[0].payload[0])
}

/// Moves one chunk's worth of bytes at a time from the dialer, so that order shows.
fn names_heard(pair: &mut Pair) -> Vec<(u32, u8)> {
    pair.exchange_ok(at(1));
    frames_of(&mut pair.b_events).iter().map(|(frame, _)| name(frame)).collect()
}

#[test]
fn a_short_frame_passes_between_the_chunks_of_a_long_one() {
    for config in [LaneConfig::data(), LaneConfig { chunk_bytes: 4096, ..LaneConfig::data() }] {
        let mut pair = Pair::open(&config);
        pair.a.queue(&mut append_of(1, 900_000, 1)).unwrap();
        let before = pair.a.transmit().len();
        assert!(before <= 3 * config.chunk_bytes, "{before} bytes are ahead of whatever comes");
        pair.a.queue(&mut append_of(2, 100, 2)).unwrap();
        assert_eq!(names_heard(&mut pair), [(2, 2), (1, 1)]);
    }
    let mut pair = Pair::open(&LaneConfig { chunk_bytes: 0, ..LaneConfig::data() });
    pair.a.queue(&mut append_of(1, 900_000, 1)).unwrap();
    pair.a.queue(&mut append_of(2, 100, 2)).unwrap();
    assert_eq!(names_heard(&mut pair), [(1, 1), (2, 2)], "without chunks nothing passes");
}

#[test]
fn appends_of_one_group_never_pass_each_other() {
    let mut pair = Pair::open(&LaneConfig::data());
    for (size, mark) in [(500_000, 1), (10, 2), (3_000_000, 3), (10, 4), (40_000, 5)] {
        pair.a.queue(&mut append_of(1, size, mark)).unwrap();
    }
    pair.a.queue(&mut append_of(2, 10, 9)).unwrap();
    let heard = names_heard(&mut pair);
    assert_eq!(heard[0], (2, 9));
    let of_first: Vec<u8> = heard.iter().filter(|name| name.0 == 1).map(|name| name.1).collect();
    assert_eq!(of_first, [1, 2, 3, 4, 5]);
}

#[test]
fn long_frames_take_turns() {
    let mut pair = Pair::open(&LaneConfig::data());
    for group in 1..=2 {
        pair.a.queue(&mut append_of(group, 900_000, group as u8)).unwrap();
    }
    pair.a.queue(&mut append_of(3, 40_000, 3)).unwrap();
    assert_eq!(names_heard(&mut pair), [(3, 3), (1, 1), (2, 2)], "two chunks go before eighty");
}

#[test]
fn no_more_long_frames_take_turns_than_the_configuration_says() {
    let mut pair = Pair::open(&LaneConfig { long_messages_max: 1, ..LaneConfig::data() });
    for group in 1..=2 {
        pair.a.queue(&mut append_of(group, 900_000, group as u8)).unwrap();
    }
    pair.a.queue(&mut append_of(3, 40_000, 3)).unwrap();
    pair.a.queue(&mut append_of(4, 100, 4)).unwrap();
    assert_eq!(names_heard(&mut pair), [(4, 4), (1, 1), (2, 2), (3, 3)]);
}

#[test]
fn a_message_with_a_grant_of_its_own_is_not_among_those_that_take_turns() {
    let mut pair = Pair::open(&LaneConfig { long_messages_max: 1, ..LaneConfig::data() });
    pair.a.queue(&mut append_of(1, 3_000_000, 1)).unwrap();
    pair.a.queue(&mut append_of(2, 40_000, 2)).unwrap();
    assert_eq!(names_heard(&mut pair), [(2, 2), (1, 1)]);
}

/// Bytes of a stream that takes what it is given, in order, up to `limit`.
fn write(connection: &mut Connection, limit: usize) -> Vec<u8> {
    let mut slices = [std::io::IoSlice::new(&[]); 64];
    let filled = connection.transmit().io_slices(&mut slices);
    let mut bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
    bytes.truncate(limit);
    connection.transmitted(at(1), bytes.len());
    bytes
}

#[test]
fn short_frames_take_at_most_half_of_the_bytes_while_long_ones_wait() {
    let mut pair = Pair::open(&LaneConfig::data());
    pair.a.queue(&mut append_of(1, 900_000, 1)).unwrap();
    let (mut short, mut rounds) = (0, 0);
    while pair.b_events.is_empty() || !heard_long(&pair.b_events) {
        // There is always more to say than the stream takes.
        while pair.a.transmit().len() < 200_000 && pair.a.budget() > 0 {
            pair.a.queue(&mut append_of(2, 1000, 2)).unwrap();
        }
        let bytes = write(&mut pair.a, 10_000);
        pair.b.push_bytes(at(1), &bytes, &mut pair.b_events).unwrap();
        short += consume_short(&mut pair);
        let back = take(&mut pair.b, at(1));
        pair.a.push_bytes(at(1), &back, &mut pair.a_events).unwrap();
        rounds += 1;
        assert!(rounds < 1000, "the long one starves");
    }
    assert!((700_000..1_400_000).contains(&short), "{short} bytes beside 900,000");
}

fn heard_long(events: &VecDeque<LaneEvent>) -> bool {
    events.iter().any(|event| matches!(event, LaneEvent::Frame { bytes, .. } if *bytes > 100_000))
}

fn consume_short(pair: &mut Pair) -> u64 {
    let mut consumed = 0;
    pair.b_events.retain(|event| match event {
        LaneEvent::Frame { bytes, .. } if *bytes < 100_000 => {
            consumed += bytes;
            false
        }
        _ => true,
    });
    pair.b.consumed(consumed);
    consumed
}

#[test]
fn answers_go_in_chunks_too_one_after_the_other_and_need_no_credit() {
    let mut pair = Pair::open(&LaneConfig { window_bytes: 1000, ..LaneConfig::data() });
    for group in 1..=2 {
        pair.b.queue(&mut append_of(group, 5_000_000, group as u8)).unwrap();
    }
    pair.b.queue(&mut append_of(3, 10, 3)).unwrap();
    pair.exchange_ok(at(1));
    let heard = frames_of(&mut pair.a_events);
    let names: Vec<_> = heard.iter().map(|(frame, _)| name(frame)).collect();
    assert_eq!(names, [(3, 3), (1, 1), (2, 2)]);
}

#[test]
fn what_is_abandoned_is_forgotten_and_its_credit_comes_back() {
    for size in [900_000, 3_000_000] {
        let mut pair = Pair::open(&LaneConfig::data());
        pair.a.queue(&mut append_of(1, size, 1)).unwrap();
        pair.a.queue(&mut append_of(1, 10, 2)).unwrap();
        pair.a.queue(&mut append_of(2, 50_000, 3)).unwrap();
        for _ in 0..5 {
            let bytes = write(&mut pair.a, 70_000);
            pair.b.push_bytes(at(1), &bytes, &mut pair.b_events).unwrap();
            let back = take(&mut pair.b, at(1));
            pair.a.push_bytes(at(1), &back, &mut pair.a_events).unwrap();
        }
        assert!(pair.b.half_received() > 100_000);
        pair.a.abandon(GroupId::new(1));
        pair.exchange_ok(at(1));
        let [(frame, bytes)] = &frames_of(&mut pair.b_events)[..] else { panic!("one frame") };
        assert_eq!(name(frame), (2, 3), "{size}");
        pair.b.consumed(*bytes);
        pair.exchange_ok(at(1));
        assert_eq!(pair.b.half_received(), 0);
        assert_eq!(pair.b.setup.grants.used(), 0);
        let counted = pair.a.setup.counters.snapshot();
        assert_eq!(counted.frames_abandoned, 2);
        let (a, b) = (pair.a.credit().unwrap(), pair.b.credit().unwrap());
        assert_eq!(a.used, b.used);
        assert_eq!(b.used - b.consumed, 0, "all but what is held back until it is a quarter");
        pair.a.queue(&mut append_of(1, size, 4)).unwrap();
        assert_eq!(names_heard(&mut pair), [(1, 4)]);
    }
}

/// The grant may be on its way when the message is given up.
#[test]
fn a_long_message_that_is_abandoned_before_its_grant_comes_takes_no_other_grant() {
    let mut pair = Pair::open(&LaneConfig::data());
    pair.a.queue(&mut append_of(1, 3_000_000, 1)).unwrap();
    let announced = take(&mut pair.a, at(1));
    pair.a.abandon(GroupId::new(1));
    pair.a.queue(&mut append_of(1, 3_000_000, 2)).unwrap();
    assert!(pair.a.transmit().is_empty(), "one at a time");
    pair.b.push_bytes(at(1), &announced, &mut pair.b_events).unwrap();
    assert_eq!(names_heard(&mut pair), [(1, 2)]);
    assert_eq!(pair.b.setup.grants.used(), 0);
}

#[test]
fn a_lane_that_is_lost_takes_its_halves_along() {
    let pool = GrantPool::new(4 << 20);
    let mut pair = Pair::open(&LaneConfig::data());
    pair.b.setup.grants = pool.clone();
    pair.a.queue(&mut append_of(1, 3_000_000, 1)).unwrap();
    let announced = take(&mut pair.a, at(1));
    pair.b.push_bytes(at(1), &announced, &mut pair.b_events).unwrap();
    assert_eq!(pool.used(), pool.used().max(3_000_000));
    drop(pair);
    assert_eq!((pool.used(), pool.asked()), (0, 0));
}

/// The pool is the node's: what one lane holds of it another waits for.
#[test]
fn a_long_message_waits_for_room_in_the_pool_and_short_ones_do_not() {
    let pool = GrantPool::new(4 << 20);
    let mut held = pool.ask(NodeId::new(9), 3 << 20);
    assert!(held.is_due());
    let mut pair = Pair::open(&LaneConfig::data());
    pair.b.setup.grants = pool.clone();
    pair.a.queue(&mut append_of(1, 2_000_000, 1)).unwrap();
    pair.a.queue(&mut append_of(2, 900_000, 2)).unwrap();
    pair.a.queue(&mut append_of(3, 10, 3)).unwrap();
    assert_eq!(names_heard(&mut pair), [(3, 3), (2, 2)]);
    assert!(pool.asked() > 2_000_000);
    drop(held);
    pair.b.look_for_grant();
    assert_eq!(names_heard(&mut pair), [(1, 1)]);
}

/// What is delivered holds its room until it is consumed.
#[test]
fn the_pool_gets_its_room_back_when_the_message_is_consumed() {
    let mut pair = Pair::open(&LaneConfig { window_bytes: 1 << 20, ..LaneConfig::data() });
    pair.a.queue(&mut append_of(1, 3_000_000, 1)).unwrap();
    pair.exchange_ok(at(1));
    let [(_, bytes)] = frames_of(&mut pair.b_events)[..] else { panic!("one message") };
    assert!(pair.b.setup.grants.used() > 3_000_000);
    pair.b.consumed(bytes);
    assert_eq!(pair.b.setup.grants.used(), 0);
    pair.exchange_ok(at(1));
    assert_eq!(pair.a.credit().unwrap().used, 0);
}

#[test]
fn a_peer_that_begins_too_much_is_closed() {
    let window = 1 << 20;
    let config = LaneConfig { window_bytes: window, ..LaneConfig::data() };
    let first = |stream, total| {
        let data = Bytes::from_static(b"x");
        Frame::Chunk(Chunk { stream, offset: 0, total: Some(total), end: ChunkEnd::More, data })
    };
    let too_much = Some(LaneError::TooMuchBegun { window });
    for (totals, expected) in [
        (vec![window / 4, window / 4], None),
        (vec![window / 4, window / 4, 1], too_much.clone()),
        (vec![window / 4 + 1], None),
        (vec![window / 4 + 1, window / 4 + 1], too_much.clone()),
        (
            vec![u64::MAX],
            Some(LaneError::Frame(FrameError::TooLarge {
                kind: crate::FrameKind::Chunk,
                bytes: u64::MAX,
                max: config.frame_bytes_max,
            })),
        ),
    ] {
        let mut pair = Pair::open(&config);
        for (stream, total) in (0..).zip(&totals) {
            pair.a.queue_own(first(stream, *total));
        }
        let bytes = take(&mut pair.a, at(1));
        let result = pair.b.push_bytes(at(1), &bytes, &mut pair.b_events);
        assert_eq!(result.err(), expected, "{totals:?}");
        assert_eq!(pair.b.setup.grants.asked(), 0, "what is asked is granted or dropped");
    }
    // Answers come one after the other.
    let mut pair = Pair::open(&config);
    pair.b.queue_own(first(0, 10));
    pair.b.queue_own(first(1, 10));
    let bytes = take(&mut pair.b, at(1));
    let result = pair.a.push_bytes(at(1), &bytes, &mut pair.a_events);
    assert_eq!(result.err(), too_much);
}

#[test]
fn a_grant_that_nobody_asked_for_ends_the_connection() {
    let mut pair = Pair::open(&LaneConfig::data());
    pair.b.queue_own(Frame::Grant { bytes: 5 });
    let errors = pair.exchange(at(1));
    assert_eq!(errors[0], Some(LaneError::ExcessGrant { bytes: 5 }));
}

/// The sizes of one schedule: each message's, and whether it is of a group of its own.
fn sizes(window: usize) -> impl Strategy<Value = Vec<(u32, usize)>> {
    let size = prop_oneof![
        4 => 1..2000_usize,
        3 => CHUNK / 2..CHUNK * 2,
        3 => 1..window / 2 + 2,
        1 => window / 4 - 300..window / 4 + 300,
        1 => window..window * 16,
    ];
    vec((0..4_u32, size), 1..24)
}

/// What happens next: bytes move one way or the other, or something is consumed.
#[derive(Clone, Copy, Debug)]
enum Step {
    Queue,
    Forth(usize),
    Back(usize),
    /// The user is done with the oldest, or the newest.
    Consume(bool),
    /// Others take room of the pool, or give it back.
    Pool,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Queue),
        4 => (1..200_000_usize).prop_map(Step::Forth),
        4 => (1..500_usize).prop_map(Step::Back),
        2 => any::<bool>().prop_map(Step::Consume),
        1 => Just(Step::Pool),
    ]
}

struct Schedule {
    pair: Pair,
    pool: GrantPool,
    /// Held by other lanes.
    others: Option<crate::connection::grants::Claim>,
    to_send: VecDeque<(u32, usize)>,
    sent: Vec<(u32, u8, usize)>,
    forth: VecDeque<u8>,
    back: VecDeque<u8>,
    delivered: VecDeque<u64>,
    heard: Vec<(u32, u8, usize)>,
    window: u64,
}

impl Schedule {
    fn run(&mut self, step: Step) {
        match step {
            Step::Queue => {
                if self.pair.a.budget() > 0
                    && let Some((group, size)) = self.to_send.pop_front()
                {
                    let mark = self.sent.len() as u8;
                    self.sent.push((group, mark, size));
                    self.pair.a.queue(&mut append_of(group, size, mark)).unwrap();
                }
            }
            Step::Forth(count) => {
                self.forth.extend(write(&mut self.pair.a, count));
                let count = count.min(self.forth.len());
                let bytes: Vec<u8> = self.forth.drain(..count).collect();
                self.pair.b.push_bytes(at(1), &bytes, &mut self.pair.b_events).unwrap();
                for (frame, bytes) in frames_of(&mut self.pair.b_events) {
                    let Frame::Message(envelope) = &frame else { panic!("{frame:?}") };
                    let (group, mark) = name(&frame);
                    self.heard.push((group, mark, envelope.entries[0].payload.len()));
                    self.delivered.push_back(bytes);
                }
            }
            Step::Back(count) => {
                self.back.extend(write(&mut self.pair.b, count));
                let count = count.min(self.back.len());
                let bytes: Vec<u8> = self.back.drain(..count).collect();
                self.pair.a.push_bytes(at(1), &bytes, &mut self.pair.a_events).unwrap();
            }
            Step::Consume(oldest) => {
                let bytes =
                    if oldest { self.delivered.pop_front() } else { self.delivered.pop_back() };
                self.pair.b.consumed(bytes.unwrap_or(0));
            }
            Step::Pool => match self.others.take() {
                Some(_) => self.pair.b.look_for_grant(),
                None => {
                    let mut claim = self.pool.ask(NodeId::new(9), self.window);
                    self.others = claim.is_due().then_some(claim);
                    self.pair.b.look_for_grant();
                }
            },
        }
        let half = self.pair.b.half_received();
        assert!(half <= self.window / 2 + self.pool.used(), "{half} bytes are held in halves");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Sizes from a byte to sixteen windows, in any order of writes, reads, credits and grants.
    /// With windows of the real size that is 64 MiB and takes as many bytes; the bounds are
    /// those of the window, so a smaller one shows the same.
    #[test]
    fn whatever_is_begun_ends_under_any_order_of_grants(
        window in prop_oneof![Just(1_usize << 14), Just(1 << 16), Just(1 << 18)],
        chunk_bytes in prop_oneof![Just(0_u64), 512..2048_u64, Just(CHUNK as u64)],
        (messages, steps) in (sizes(1 << 16), vec(step(), 0..400)),
    ) {
        let config = LaneConfig {
            window_bytes: window as u64,
            chunk_bytes,
            write_buffer_max: 1 << 16,
            ..LaneConfig::data()
        };
        let mut pair = Pair::open(&config);
        let pool = GrantPool::new(1 << 20);
        pair.b.setup.grants = pool.clone();
        let mut schedule = Schedule {
            pair,
            pool,
            others: None,
            to_send: messages.iter().copied().collect(),
            sent: Vec::new(),
            forth: VecDeque::new(),
            back: VecDeque::new(),
            delivered: VecDeque::new(),
            heard: Vec::new(),
            window: window as u64,
        };
        for step in steps {
            schedule.run(step);
        }
        // From now on everybody does what is to be done.
        schedule.others = None;
        schedule.pair.b.look_for_grant();
        let mut rounds = 0;
        while schedule.heard.len() < messages.len() {
            for step in [
                Step::Queue,
                Step::Forth(usize::MAX),
                Step::Consume(true),
                Step::Back(usize::MAX),
            ] {
                schedule.run(step);
            }
            rounds += 1;
            prop_assert!(rounds < 20_000, "stuck: {:?}", schedule.pair.a.credit());
        }
        let (mut sent, mut heard) = (schedule.sent.clone(), schedule.heard.clone());
        for group in 0..4 {
            let of_group = |all: &[(u32, u8, usize)]| -> Vec<_> {
                all.iter().copied().filter(|name| name.0 == group).collect()
            };
            prop_assert_eq!(of_group(&sent), of_group(&heard), "the order of group {}", group);
        }
        sent.sort_unstable();
        heard.sort_unstable();
        prop_assert_eq!(sent, heard);
        while !schedule.delivered.is_empty() {
            schedule.run(Step::Consume(true));
        }
        prop_assert_eq!((schedule.pool.used(), schedule.pool.asked()), (0, 0));
        prop_assert!(schedule.pair.b.assemblies.is_empty());
    }
}

/// A grant adds an eighth to its message for the headers of its chunks.
#[test]
fn a_grant_is_enough_for_its_message_however_small_the_chunks() {
    let range = LaneConfig::CHUNK_BYTES;
    for chunk_bytes in [1, *range.start(), 1_000, *range.end(), u64::MAX] {
        for size in [20_000, 300_000, 8 << 20] {
            let config = LaneConfig { window_bytes: 64 << 10, chunk_bytes, ..LaneConfig::data() };
            let mut pair = Pair::open(&config);
            let (bytes, chunks) = (pair.a.outbox.queued_total, pair.a.outbox.chunks);
            pair.a.queue(&mut data(size)).unwrap();
            pair.exchange_ok(at(1));
            assert_eq!(frames_of(&mut pair.b_events).len(), 1, "{size} in {chunk_bytes}");
            let bytes = pair.a.outbox.queued_total - bytes;
            assert!(bytes <= extra_of(size as u64), "{bytes} for {size} in {chunk_bytes}");
            // They are as small as they were asked to be.
            let chunks = pair.a.outbox.chunks - chunks;
            let each = chunk_bytes.clamp(*range.start(), *range.end());
            assert!(chunks == 0 || chunks > size as u64 / each, "{chunks} of {chunk_bytes}");
        }
    }
}

/// The real size: 64 MiB beside small ones, through the default window.
#[test]
fn sixty_four_mebibytes_end_beside_short_frames_and_others_of_a_mebibyte() {
    let mut pair = Pair::open(&LaneConfig::data());
    pair.a.queue(&mut append_of(1, 64 << 20, 1)).unwrap();
    pair.a.queue(&mut append_of(2, 900_000, 2)).unwrap();
    pair.a.queue(&mut append_of(3, 20 << 20, 3)).unwrap();
    pair.a.queue(&mut append_of(4, 1, 4)).unwrap();
    let mut names = Vec::new();
    while names.len() < 4 {
        let bytes = write(&mut pair.a, usize::MAX);
        pair.b.push_bytes(at(1), &bytes, &mut pair.b_events).unwrap();
        for (frame, bytes) in frames_of(&mut pair.b_events) {
            names.push(name(&frame));
            pair.b.consumed(bytes);
        }
        let back = take(&mut pair.b, at(1));
        pair.a.push_bytes(at(1), &back, &mut pair.a_events).unwrap();
    }
    assert_eq!(names, [(4, 4), (2, 2), (1, 1), (3, 3)]);
}

/// What is said is told when it can no longer be overtaken: in the order in which it is heard.
#[test]
fn who_looks_on_is_told_in_the_order_in_which_frames_are_heard() {
    #[derive(Default)]
    struct Order(parking_lot::Mutex<[Vec<(u32, u8)>; 2]>);
    impl LaneWatch for Order {
        fn said(&self, _: &ConnectionKey, _: Direction, frame: &Frame) {
            self.0.lock()[0].push(name(frame));
        }
        fn heard(&self, _: &ConnectionKey, _: Direction, frame: &Frame) {
            self.0.lock()[1].push(name(frame));
        }
        fn ends(&self, _: &LaneError) {}
    }
    let order = Arc::new(Order::default());
    let mut pair = Pair::open(&LaneConfig::data());
    for end in [&mut pair.a, &mut pair.b] {
        end.setup.watch = Watched(Some(order.clone()));
    }
    for (group, size) in [(1, 900_000), (2, 10), (3, 50_000), (1, 10), (4, 2_000_000), (5, 10)] {
        pair.a.queue(&mut append_of(group, size, group as u8)).unwrap();
    }
    pair.exchange_ok(at(1));
    let [said, heard] = &*order.0.lock();
    assert_eq!(said.len(), 6);
    assert_eq!(said, heard);
}

#[test]
fn what_waits_for_a_long_frame_is_bounded_and_leaves_in_order() {
    let config = LaneConfig { write_buffer_max: 100_000, ..LaneConfig::data() };
    let mut pair = Pair::open(&config);
    pair.a.queue(&mut data(200_000)).unwrap();
    assert_eq!(pair.a.budget(), 0, "a second long one would only take memory");
    assert!(!pair.a.admits(&data(200_000)) && pair.a.admits(&data(1000)));
    // Of the same group, so they go after it.
    let mut waiting = 0;
    while pair.a.admits(&data(waiting)) {
        pair.a.queue(&mut data(waiting)).unwrap();
        waiting += 1;
    }
    let queued = pair.a.queued();
    assert!((900_000..1_100_000).contains(&queued), "{waiting} frames, {queued} bytes");
    pair.exchange_ok(at(1));
    let sizes = frames_of(&mut pair.b_events).into_iter().map(|(frame, _)| match frame {
        Frame::Message(envelope) => envelope.entries[0].payload.len(),
        other => panic!("{other:?}"),
    });
    assert_eq!(sizes.collect::<Vec<_>>(), Vec::from_iter([200_000].into_iter().chain(0..waiting)));
    assert!(pair.a.budget() > 0);
}

/// A long message that waits for its grant, on a lane with a small window.
fn asked() -> Pair {
    let config = LaneConfig { window_bytes: 1 << 20, ..LaneConfig::data() };
    let mut pair = Pair::open(&config);
    pair.a.queue(&mut data(8 << 20)).unwrap();
    // The peer hears that it is to come, and its grant is on its way.
    let announced = take(&mut pair.a, at(1));
    pair.b.push_bytes(at(1), &announced, &mut pair.b_events).unwrap();
    pair
}

#[test]
fn what_went_while_a_long_message_waited_for_its_grant_is_not_made_up_for() {
    let mut pair = asked();
    let (mut events, chunk) = (VecDeque::new(), CHUNK as u64);
    for _ in 0..40 {
        pair.a.queue(&mut append_of(2, 10_000, 2)).unwrap();
        let _gone = take(&mut pair.a, at(2));
    }
    let grant = take(&mut pair.b, at(3));
    pair.a.push_bytes(at(3), &grant, &mut events).unwrap();
    assert!(pair.a.transmit().len() <= 3 * chunk, "{}", pair.a.transmit().len());
}

#[test]
fn a_message_with_a_grant_of_its_own_closes_the_lane_to_no_other() {
    let mut pair = asked();
    assert!(pair.a.room().takes_long);
    pair.a.queue(&mut append_of(2, 100_000, 2)).unwrap();
    pair.exchange_ok(at(2));
    let sizes = frames_of(&mut pair.b_events).into_iter().map(|(_, bytes)| bytes);
    let sizes = sizes.collect::<Vec<_>>();
    assert!(sizes.len() == 2 && sizes[0] < sizes[1], "{sizes:?}");
}

#[test]
fn one_that_is_given_up_before_its_grant_holds_up_nobody() {
    let mut pair = asked();
    pair.a.abandon(GroupId::new(7));
    assert_eq!(pair.a.queued(), 0);
    pair.a.queue(&mut data(1000)).unwrap();
    assert!(pair.a.queued() > 1000, "an append of the same group leaves at once");
    assert_eq!(pair.a.transmit().len(), pair.a.queued());
    pair.exchange_ok(at(2));
    assert_eq!(frames_of(&mut pair.b_events).len(), 1);
    assert_eq!((pair.b.half_received(), pair.b.setup.grants.used()), (0, 0));
    pair.a.queue(&mut data(8 << 20)).unwrap();
    pair.exchange_ok(at(3));
    assert_eq!(frames_of(&mut pair.b_events).len(), 1);
}
