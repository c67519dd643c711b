//! A connection between two ends in memory, on virtual time.

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::network::peer_registry::{Identity, PeerLife};
use crate::testing::{append, bytes_of, frames_of, heartbeat_item, identity, registry, setup};
use crate::wire::frame::Frame;
use crate::wire::hello::{HANDSHAKE_VERSION, HelloRefusal, Welcome};

mod chunks;
mod control;
mod user;

const PEER: NodeId = NodeId::new(2);

fn at(millis: u64) -> Micros {
    Micros::new(millis * 1000)
}

/// A dialer, an acceptor and the wire between them.
struct Pair {
    a: Connection,
    b: Connection,
    a_events: VecDeque<LaneEvent>,
    b_events: VecDeque<LaneEvent>,
}

impl Pair {
    /// The dialer has answered a dial of the acceptor's before.
    fn new(a: &Identity, b: &Identity, a_config: &LaneConfig, b_config: &LaneConfig) -> Self {
        let pair = Self::strangers(a, b, a_config, b_config);
        let _ = pair.b.setup.registry.check_welcome(a.node, &welcome_of(a));
        pair
    }

    fn strangers(a: &Identity, b: &Identity, a_config: &LaneConfig, b_config: &LaneConfig) -> Self {
        let a_setup = setup(&registry(a.clone()), a_config, Direction::Outgoing);
        let b_setup = setup(&registry(b.clone()), b_config, Direction::Incoming);
        Self {
            a: Connection::dial(a_setup, PEER, at(0)),
            b: Connection::accept(b_setup, at(0)),
            a_events: VecDeque::new(),
            b_events: VecDeque::new(),
        }
    }

    fn open(config: &LaneConfig) -> Self {
        Self::new(&identity(1), &identity(2), config, config).opened()
    }

    /// Both ends of the control lane.
    fn open_control(config: &LaneConfig) -> Self {
        let [a, b] = [1, 2].map(|node| registry(identity(node)));
        let _ = b.check_welcome(NodeId::new(1), &welcome_of(&identity(1)));
        let [a, b] = [(a, Direction::Outgoing), (b, Direction::Incoming)].map(|(registry, way)| {
            ConnectionSetup { lane: Lane::Control, ..setup(&registry, config, way) }
        });
        let pair = Self {
            a: Connection::dial(a, PEER, at(0)),
            b: Connection::accept(b, at(0)),
            a_events: VecDeque::new(),
            b_events: VecDeque::new(),
        };
        pair.opened()
    }

    fn opened(self) -> Self {
        let mut pair = self;
        pair.exchange_ok(at(0));
        assert!(pair.a.is_open() && pair.b.is_open());
        pair.a_events.clear();
        pair.b_events.clear();
        pair
    }

    /// Moves all bytes both ways until nothing moves; the first error of each end.
    fn exchange(&mut self, now: Micros) -> [Option<LaneError>; 2] {
        let mut errors = [None, None];
        while !self.a.transmit().is_empty() || !self.b.transmit().is_empty() {
            let bytes = take(&mut self.a, now);
            if let Err(error) = self.b.push_bytes(now, &bytes, &mut self.b_events) {
                errors[1].get_or_insert(error);
            }
            let bytes = take(&mut self.b, now);
            if let Err(error) = self.a.push_bytes(now, &bytes, &mut self.a_events) {
                errors[0].get_or_insert(error);
            }
        }
        errors
    }

    fn exchange_ok(&mut self, now: Micros) {
        assert_eq!(self.exchange(now), [None, None]);
    }
}

/// What a node answers whoever dials it.
fn welcome_of(node: &Identity) -> Welcome {
    Welcome {
        node: node.node,
        store: node.store,
        incarnation: node.incarnation,
        life: node.life,
        past: node.past.clone(),
        shards: node.shards,
        features: node.features,
        window_bytes: 1,
        frame_bytes_max: 1,
    }
}

fn take(connection: &mut Connection, now: Micros) -> Vec<u8> {
    let count = connection.outbox.transmit.len();
    let mut transmit = std::mem::take(&mut connection.outbox.transmit);
    let bytes = bytes_of(&mut transmit);
    connection.outbox.transmit = transmit;
    assert_eq!(count, bytes.len() as u64);
    if count > 0 {
        connection.last_spoke = now;
    }
    connection.transmitted(now, 0);
    bytes
}

fn data(size: usize) -> Frame {
    Frame::Message(append([Bytes::from(vec![9; size])]))
}

#[test]
fn handshake_brings_both_ends_up_with_each_others_names() {
    let config = LaneConfig::control();
    let mut pair = Pair::new(&identity(1), &identity(2), &config, &config);
    assert_eq!(pair.a.budget(), 0, "nothing may be sent before the welcome");
    pair.exchange_ok(at(0));
    for (events, expected) in [(&pair.a_events, 2), (&pair.b_events, 1)] {
        assert!(matches!(events[0], LaneEvent::Up { peer, .. } if peer == NodeId::new(expected)));
    }
    let Room { bytes, takes_long, .. } = pair.a.room();
    assert!(takes_long && (config.window_bytes / 8..config.window_bytes / 4).contains(&bytes));
}

#[test]
fn wrong_peers_are_refused_with_the_reason_on_both_sides() {
    let (ours, config) = (identity(2), LaneConfig::control());
    let other = |change: fn(&mut Identity)| {
        let mut identity = identity(1);
        change(&mut identity);
        identity
    };
    let (node, theirs) = (NodeId::new(9), NodeId::new(2));
    for (dialer, acceptor, refusal) in [
        (
            other(|id| id.cluster = "d".to_owned()),
            ours.clone(),
            HelloRefusal::WrongCluster { ours: "c".to_owned(), theirs: "d".to_owned() },
        ),
        (identity(1), identity(3), HelloRefusal::WrongNode { ours: NodeId::new(3), theirs }),
        (other(|id| id.node = NodeId::new(9)), ours.clone(), HelloRefusal::UnknownNode { node }),
    ] {
        let mut pair = Pair::new(&dialer, &acceptor, &config, &config);
        let errors = pair.exchange(at(0));
        let seen = LaneError::RefusedByPeer(refusal.clone());
        assert_eq!(errors, [Some(seen), Some(LaneError::Refused(refusal))]);
        assert!(pair.a_events.is_empty() && pair.b_events.is_empty());
    }
}

#[test]
fn dialer_of_another_version_is_told_ours() {
    let config = LaneConfig::control();
    let mut pair = Pair::new(&identity(1), &identity(2), &config, &config);
    let mut hello = take(&mut pair.a, at(0));
    hello[4] = 9;
    let refusal = HelloRefusal::WrongVersion { ours: HANDSHAKE_VERSION, theirs: 9 };
    let error = pair.b.push_bytes(at(0), &hello, &mut pair.b_events).unwrap_err();
    assert_eq!(error, LaneError::Refused(refusal.clone()));
    let answer = take(&mut pair.b, at(0));
    let error = pair.a.push_bytes(at(0), &answer, &mut pair.a_events).unwrap_err();
    assert_eq!(error, LaneError::RefusedByPeer(refusal));
}

#[test]
fn acceptor_with_a_changed_store_is_not_taken() {
    let config = LaneConfig::control();
    let mut pair = Pair::new(&identity(1), &identity(2), &config, &config);
    let (incarnation, life) = (Incarnation::new(1), 1);
    let known = PeerLife { store: 0xBAD, incarnation, life };
    pair.a.setup.registry.set_known_life(PEER, known);
    let errors = pair.exchange(at(0));
    let refusal = HelloRefusal::StoreChanged { theirs: 0xA2 };
    assert_eq!(errors[0], Some(LaneError::Refused(refusal)));
}

#[test]
fn hello_on_another_lane_than_it_names_is_refused() {
    let config = LaneConfig::control();
    let mut pair = Pair::new(&identity(1), &identity(2), &config, &config);
    pair.b.setup.lane = Lane::Bulk;
    let errors = pair.exchange(at(0));
    let theirs = Lane::Data { shard: 0 };
    let refusal = HelloRefusal::WrongLane { ours: Lane::Bulk, theirs };
    assert_eq!(errors[0], Some(LaneError::RefusedByPeer(refusal)));
}

#[test]
fn silence_ends_the_handshake_on_both_sides() {
    let config = LaneConfig::control();
    let mut pair = Pair::new(&identity(1), &identity(2), &config, &config);
    for end in [&mut pair.a, &mut pair.b] {
        assert_eq!(end.deadline(), Some(at(1000)));
        end.on_deadline(at(999)).unwrap();
        assert_eq!(end.on_deadline(at(1000)), Err(LaneError::HandshakeTimeout));
    }
}

#[test]
fn sender_stops_at_the_window_and_goes_on_when_bytes_are_consumed() {
    let config = LaneConfig { window_bytes: 10_000, ..LaneConfig::data() };
    let mut pair = Pair::open(&config);
    let mut sent = 0;
    while pair.a.budget() > 0 {
        pair.a.queue(&mut data(1000)).unwrap();
        sent += 1;
        pair.exchange_ok(at(1));
    }
    let frames = frames_of(&mut pair.b_events);
    assert_eq!((sent, frames.len()), (10, 10), "1000 bytes and a header each, the last over it");
    pair.exchange_ok(at(2));
    assert_eq!(pair.a.budget(), 0, "credit comes by consuming, not by receiving");

    let mut consumed = 0;
    for (_, bytes) in &frames {
        pair.b.consumed(*bytes);
        consumed += bytes;
        pair.exchange_ok(at(3));
        let used: u64 = frames.iter().map(|(_, bytes)| bytes).sum();
        // A quarter of the window may be held back.
        let (least, most) = (consumed.saturating_sub(2500 + used - 10_000), consumed);
        assert!((least..=most).contains(&pair.a.budget()), "{}", pair.a.budget());
    }
    assert!(pair.a.budget() >= 7500);
}

#[test]
fn one_frame_larger_than_the_window_passes_alone() {
    let config = LaneConfig { window_bytes: 1000, ..LaneConfig::data() };
    let mut pair = Pair::open(&config);
    let mut large = data(5 << 20);
    pair.a.queue(&mut large).unwrap();
    assert!(pair.a.room().takes_long, "it has a grant of its own to wait for");
    pair.exchange_ok(at(1));
    let frames = frames_of(&mut pair.b_events);
    assert_eq!(frames.iter().map(|(frame, _)| frame).collect::<Vec<_>>(), [&large]);
    assert_eq!(pair.a.budget(), 0);
    pair.b.consumed(frames[0].1);
    pair.exchange_ok(at(1));
    assert_eq!(pair.a.budget(), 1000);
}

/// Each frame of a batch is one to the receiver, who ends what is begun without credit.
#[test]
fn a_batch_of_several_frames_stops_at_the_window_and_goes_on_behind_it() {
    let config = LaneConfig { window_bytes: 1000, frame_bytes_max: 400, ..LaneConfig::control() };
    let mut pair = Pair::open(&config);
    let items: Vec<_> = (1..=500_u32).map(|group| heartbeat_item(group * 3, 7, 1 << 27)).collect();
    let mut rest = Frame::Heartbeats(items.clone());
    let (mut heard, mut rounds) = (Vec::new(), 0);
    loop {
        let is_whole = pair.a.queue(&mut rest).unwrap();
        pair.exchange_ok(at(rounds));
        for (frame, bytes) in frames_of(&mut pair.b_events) {
            pair.b.consumed(bytes);
            let Frame::Heartbeats(items) = frame else { panic!("{frame:?}") };
            heard.extend(items);
        }
        pair.exchange_ok(at(rounds));
        if is_whole {
            break;
        }
        rounds += 1;
    }
    assert!(rounds > 0, "{rounds}");
    assert_eq!(heard, items);
}

#[test]
fn peer_that_ignores_its_window_is_closed() {
    let config = LaneConfig { window_bytes: 1000, ..LaneConfig::data() };
    let mut pair = Pair::open(&config);
    pair.a.queue(&mut data(1000)).unwrap();
    pair.a.queue(&mut data(1)).unwrap();
    let errors = pair.exchange(at(1));
    assert_eq!(errors[1], Some(LaneError::WindowExceeded { window: 1000 }));
}

#[test]
fn peer_that_returns_credit_never_used_is_closed() {
    let mut pair = Pair::open(&LaneConfig::data());
    pair.b.queue_own(Frame::Credit { bytes: 1 });
    let errors = pair.exchange(at(1));
    assert_eq!(errors[0], Some(LaneError::ExcessCredit { bytes: 1, used: 0 }));
    let mut pair = Pair::open(&LaneConfig::data());
    pair.a.queue_own(Frame::Credit { bytes: 1 });
    let errors = pair.exchange(at(1));
    assert_eq!(errors[1], Some(LaneError::ExcessCredit { bytes: 1, used: 0 }));
}

#[test]
fn budget_ends_where_the_write_buffer_is_full() {
    let config = LaneConfig { write_buffer_max: 2000, ..LaneConfig::data() };
    let mut pair = Pair::open(&config);
    assert_eq!(pair.a.budget(), 2000);
    pair.a.queue(&mut data(3000)).unwrap();
    assert_eq!(pair.a.budget(), 0);
    pair.exchange_ok(at(1));
    assert_eq!(pair.a.budget(), 2000);
}

#[test]
fn acceptor_whose_answers_are_not_taken_stops_reading_and_the_dialer_never_does() {
    let config = LaneConfig { write_buffer_max: 1000, ..LaneConfig::data() };
    let mut pair = Pair::open(&config);
    for end in [&mut pair.a, &mut pair.b] {
        assert!(end.wants_read());
        end.queue(&mut data(1000)).unwrap();
    }
    assert!(pair.a.wants_read() && !pair.b.wants_read());
    let _ = take(&mut pair.b, at(1));
    assert!(pair.b.wants_read());
}

#[test]
fn frames_beyond_the_peers_limit_are_refused_here_and_closed_there() {
    let small = LaneConfig { frame_bytes_max: 5000, ..LaneConfig::data() };
    let config = LaneConfig::data();
    let mut pair = Pair::new(&identity(1), &identity(2), &config, &small);
    pair.exchange_ok(at(0));
    let error = pair.a.queue(&mut data(5000)).unwrap_err();
    assert!(matches!(error, FrameError::TooLarge { max: 5000, .. }), "{error:?}");
    assert!(pair.a.transmit().is_empty());

    let bytes = crate::testing::encoded(&data(5000));
    let error = pair.b.push_bytes(at(0), &bytes, &mut pair.b_events).unwrap_err();
    assert!(matches!(error, LaneError::Frame(FrameError::TooLarge { max: 5000, .. })), "{error:?}");
}

#[test]
fn quiet_peer_is_pinged_and_its_pong_keeps_the_connection() {
    let mut pair = Pair::open(&LaneConfig::control());
    for second in 1..100 {
        let now = at(second * 1000);
        assert_eq!(pair.a.deadline(), Some(now));
        pair.a.on_deadline(now).unwrap();
        assert_eq!(pair.a.deadline(), None, "an unwritten ping has no deadline");
        pair.exchange_ok(now);
    }
    let counted = pair.a.setup.counters.snapshot();
    assert_eq!((counted.pings_out, counted.round_trip_us), (99, 0));
    assert!(pair.a_events.is_empty() && pair.b_events.is_empty(), "pings are not delivered");
}

#[test]
fn silent_peer_is_closed_after_the_keepalive_timeout() {
    let mut pair = Pair::open(&LaneConfig::control());
    pair.a.on_deadline(at(1000)).unwrap();
    let _lost = take(&mut pair.a, at(1200));
    assert_eq!(pair.a.deadline(), Some(at(4200)));
    pair.a.on_deadline(at(4199)).unwrap();
    assert_eq!(pair.a.on_deadline(at(4200)), Err(LaneError::KeepaliveTimeout));
}

#[test]
fn any_byte_counts_as_a_sign_of_life() {
    let mut pair = Pair::open(&LaneConfig::control());
    pair.b.queue(&mut data(2_000_000)).unwrap();
    let bytes = take(&mut pair.b, at(0));
    for (second, piece) in (1..).zip(bytes.chunks(200_000)) {
        pair.a.on_deadline(at(second * 3900)).unwrap();
        let _lost = take(&mut pair.a, at(second * 3900));
        pair.a.push_bytes(at(second * 3900 + 10), piece, &mut pair.a_events).unwrap();
    }
}

#[test]
fn bytes_that_cannot_be_written_stall_the_connection_and_progress_does_not() {
    let mut pair = Pair::open(&LaneConfig::data());
    pair.a.queue(&mut data(100_000)).unwrap();
    for second in 0..20 {
        pair.a.transmitted(at(second * 4000), 1000);
        pair.a.on_deadline(at(second * 4000)).unwrap();
    }
    pair.a.transmitted(at(80_000), 0);
    pair.a.on_deadline(at(80_999)).unwrap();
    let error = pair.a.on_deadline(at(81_000)).unwrap_err();
    let LaneError::Stalled { queued } = error else { panic!("{error:?}") };
    assert!((80_000..81_000).contains(&queued), "all that the stream has not taken: {queued}");
}

#[test]
fn ping_behind_a_large_frame_gets_its_full_time() {
    let config = LaneConfig { chunk_bytes: 0, ..LaneConfig::bulk() };
    let mut pair = Pair::open(&config);
    pair.a.queue(&mut data(1_000_000)).unwrap();
    pair.a.transmitted(at(900), 1);
    pair.a.on_deadline(at(1000)).unwrap();
    let mut now = 1000;
    while !pair.a.transmit().is_empty() {
        now += 4000;
        let count = pair.a.transmit().len().min(200_000) as usize;
        pair.a.transmitted(at(now), count);
        pair.a.on_deadline(at(now)).unwrap();
    }
    assert_eq!(pair.a.deadline(), Some(at(now + 3000)));
}

/// It would swallow what follows, and pings with it, until as many bytes have come.
#[test]
fn a_length_that_was_damaged_ends_the_connection_at_once() {
    let mut pair = Pair::open(&LaneConfig::control());
    pair.a.queue(&mut Frame::Heartbeats(vec![heartbeat_item(1, 3, 1 << 27)])).unwrap();
    let mut bytes = take(&mut pair.a, at(0));
    // The third byte of the body's length: 128 KiB more than there are.
    bytes[10] ^= 2;
    let error = pair.b.push_bytes(at(0), &bytes, &mut pair.b_events).unwrap_err();
    assert_eq!(error, LaneError::Frame(FrameError::HeaderChecksum));
}

/// Two kernels with so much room for bytes, and between them a link of so many bytes per
/// millisecond each way: what leaves a connection arrives when the link has carried all before it.
struct SlowLink {
    rate: usize,
    kernel: usize,
    under_way: [VecDeque<u8>; 2],
}

impl SlowLink {
    fn new(rate: usize, kernel: usize) -> Self {
        Self { rate, kernel, under_way: Default::default() }
    }

    /// One millisecond: writes, the link's share of bytes, reads, deadlines.
    fn tick(&mut self, pair: &mut Pair, now: Micros) {
        for side in 0..2 {
            let (from, to, events) = match side {
                0 => (&mut pair.a, &mut pair.b, &mut pair.b_events),
                _ => (&mut pair.b, &mut pair.a, &mut pair.a_events),
            };
            let way = &mut self.under_way[side];
            while !from.transmit().is_empty() {
                let mut slices = [std::io::IoSlice::new(&[]); 8];
                let filled = from.transmit().io_slices(&mut slices);
                let before = way.len();
                for slice in &slices[..filled] {
                    let room = self.kernel - way.len();
                    way.extend(&slice[..slice.len().min(room)]);
                }
                let taken = way.len() - before;
                from.transmitted(now, taken);
                if taken == 0 {
                    break;
                }
            }
            if !way.is_empty() && to.wants_read() {
                let arrived: Vec<u8> = way.drain(..self.rate.min(way.len())).collect();
                to.push_bytes(now, &arrived, events).unwrap();
            }
        }
        for end in [&mut pair.a, &mut pair.b] {
            if end.deadline().is_some_and(|deadline| deadline <= now) {
                end.on_deadline(now).unwrap();
            }
        }
    }
}

/// However slow a link is, bytes that move are life: 1 MiB at 256 KiB/s, 8 MiB at 2 Mbit/s, and
/// a link that needs a minute for a frame, with kernels that take everything or very little.
#[test]
fn a_frame_that_takes_long_on_a_slow_link_ends_nothing() {
    for (bytes, rate) in [(1 << 20, 256), (8 << 20, 250), (1 << 20, 16)] {
        for kernel in [4 << 10, 64 << 10, 16 << 20] {
            for both_ways in [false, true] {
                let mut pair = Pair::open(&LaneConfig::bulk());
                let mut link = SlowLink::new(rate, kernel);
                pair.a.queue(&mut data(bytes)).unwrap();
                if both_ways {
                    pair.b.queue(&mut data(bytes)).unwrap();
                }
                let frames = usize::from(both_ways) + 1;
                let mut now = 0;
                while pair.a_events.len() + pair.b_events.len() < frames {
                    now += 1;
                    link.tick(&mut pair, at(now));
                    // A grant may have to come behind all that goes the other way.
                    assert!(now < 240_000, "{bytes} at {rate} through {kernel}");
                }
            }
        }
    }
}

/// Heartbeats and snapshot chunks are bodies, which used to have a deadline of their own.
#[test]
fn a_body_that_comes_slowly_is_waited_for() {
    let mut pair = Pair::open(&LaneConfig::control());
    let mut link = SlowLink::new(10, 1 << 20);
    let items = (0..20_000).map(|group| heartbeat_item(group * 9, 3, 1 << 27)).collect();
    pair.a.queue(&mut Frame::Heartbeats(items)).unwrap();
    for now in 0..30_000 {
        link.tick(&mut pair, at(now));
    }
    assert_eq!(pair.b_events.len(), 1);
}

/// Neither end reads: what a slow link excuses, a dead peer does not.
#[test]
fn a_peer_that_hears_no_more_is_found_behind_any_kernel() {
    for kernel in [4 << 10, 16 << 20] {
        let mut pair = Pair::open(&LaneConfig::bulk());
        pair.a.queue(&mut data(1 << 20)).unwrap();
        let mut room = kernel;
        let mut now = 0;
        let ended = loop {
            now += 1;
            let taken = (pair.a.transmit().len() as usize).min(room);
            pair.a.transmitted(at(now), taken);
            room -= taken;
            if pair.a.deadline().is_some_and(|deadline| deadline <= at(now))
                && let Err(error) = pair.a.on_deadline(at(now))
            {
                break error;
            }
        };
        assert!(now <= 5_002, "{ended} after {now} ms");
    }
}

#[test]
fn ended_connection_keeps_its_error_and_delivers_nothing() {
    let mut pair = Pair::open(&LaneConfig::data());
    pair.a.queue(&mut data(10)).unwrap();
    let bytes = take(&mut pair.a, at(0));
    let error = pair.b.push_bytes(at(0), &[0; 24], &mut pair.b_events).unwrap_err();
    assert_eq!(error, LaneError::Frame(FrameError::UnknownVersion { found: 0 }));
    assert_eq!(pair.b.push_bytes(at(0), &bytes, &mut pair.b_events), Err(error.clone()));
    assert_eq!(pair.b.on_deadline(at(0)), Err(error));
    assert!(pair.b_events.is_empty());
    assert_eq!((pair.b.budget(), pair.b.deadline()), (0, None));
}

#[test]
fn split_batches_are_counted_as_the_frames_they_are() {
    let mut pair = Pair::open(&LaneConfig::control());
    let items = (0..100_000).map(|group| heartbeat_item(group * 9, 3, 1 << 27)).collect();
    pair.a.queue(&mut Frame::Heartbeats(items)).unwrap();
    pair.exchange_ok(at(0));
    let (out, back) = (pair.a.setup.counters.snapshot(), pair.b.setup.counters.snapshot());
    assert!(out.heartbeat_frames_out > 1);
    assert_eq!(out.heartbeat_frames_out, back.heartbeat_frames_in);
    assert_eq!(frames_of(&mut pair.b_events).len() as u64, out.frames_out);
}

#[test]
fn arbitrary_bytes_never_panic_in_any_phase() {
    let mut seed = 7_u64;
    for case in 0..2000 {
        let bytes: Vec<u8> = (0..50)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 56) as u8
            })
            .collect();
        let config = LaneConfig::control();
        let mut pair = Pair::new(&identity(1), &identity(2), &config, &config);
        if case % 2 == 0 {
            pair.exchange_ok(at(0));
        }
        let _ = pair.a.push_bytes(at(0), &bytes, &mut pair.a_events);
        let _ = pair.b.push_bytes(at(0), &bytes, &mut pair.b_events);
    }
}

#[test]
fn timeouts_come_from_the_configuration() {
    let config = LaneConfig {
        keepalive_interval: Duration::from_millis(7),
        keepalive_timeout: Duration::from_millis(11),
        stall_timeout: Duration::from_millis(5),
        ..LaneConfig::control()
    };
    let mut pair = Pair::open(&config);
    assert_eq!(pair.a.deadline(), Some(at(7)));
    pair.a.on_deadline(at(7)).unwrap();
    let _ = take(&mut pair.a, at(8));
    assert_eq!(pair.a.deadline(), Some(at(19)));
    pair.b.queue(&mut data(10)).unwrap();
    pair.b.transmitted(at(1), 0);
    assert_eq!(pair.b.deadline(), Some(at(6)));
}

/// Anybody can say Hello. What else they say is heard once they have been found where the peer is.
#[test]
fn frames_of_a_life_that_has_not_answered_wait_until_it_does_and_then_come_in_order() {
    let config = LaneConfig::control();
    let (a, b) = (identity(1), identity(2));
    let mut pair = Pair::strangers(&a, &b, &config, &config);
    pair.exchange_ok(at(0));
    pair.b_events.clear();
    for size in [10, 20] {
        pair.a.queue(&mut data(size)).unwrap();
    }
    pair.exchange_ok(at(1));
    assert!(frames_of(&mut pair.b_events).is_empty() && !pair.b.wants_read());
    pair.b.look_for_proof(&mut pair.b_events).unwrap();
    assert!(pair.b_events.is_empty() && !pair.b.wants_read(), "nobody has answered yet");

    // Another life answers at its address: this one is heard by nobody.
    let registry = pair.b.setup.registry.clone();
    let other = Welcome { life: a.life ^ 1, ..welcome_of(&a) };
    registry.check_welcome(a.node, &other).unwrap();
    pair.b.look_for_proof(&mut pair.b_events).unwrap();
    assert!(pair.b_events.is_empty() && !pair.b.wants_read());

    let mut pair = Pair::strangers(&a, &b, &config, &config);
    for size in [10, 20] {
        pair.exchange_ok(at(0));
        pair.a.queue(&mut data(size)).unwrap();
    }
    pair.exchange_ok(at(1));
    pair.b_events.clear();
    let registry = pair.b.setup.registry.clone();
    registry.check_welcome(a.node, &welcome_of(&a)).unwrap();
    pair.b.look_for_proof(&mut pair.b_events).unwrap();
    assert_eq!(frames_of(&mut pair.b_events).len(), 2);
    assert!(pair.b.wants_read());
}

/// It costs a place among the connections for no longer than a silent peer would.
#[test]
fn a_claim_that_is_never_proven_ends_as_silence() {
    let config = LaneConfig::control();
    let mut pair = Pair::strangers(&identity(1), &identity(2), &config, &config);
    pair.exchange_ok(at(0));
    let mut ended = None;
    while ended.is_none() {
        let due = pair.b.deadline().expect("it waits for something");
        ended = pair.b.on_deadline(due).err();
        let bytes = pair.b.transmit().len();
        take(&mut pair.b, due);
        assert!(bytes > 0 || ended.is_some(), "a deadline without an effect");
        if ended.is_none() {
            pair.b.transmitted(due, 0);
        }
    }
    assert_eq!(ended, Some(LaneError::KeepaliveTimeout));
}

#[test]
fn pings_of_a_peer_that_reads_nothing_take_no_memory() {
    let config = LaneConfig { write_buffer_max: 1000, ..LaneConfig::data() };
    let mut pair = Pair::open(&config);
    for nonce in 0..1000 {
        pair.b.queue_own(Frame::Ping { nonce });
    }
    let pings = take(&mut pair.b, at(1));
    pair.a.push_bytes(at(1), &pings, &mut pair.a_events).unwrap();
    assert!((1000..1100).contains(&pair.a.queued()), "{}", pair.a.queued());
}
