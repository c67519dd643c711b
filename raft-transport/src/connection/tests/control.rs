//! The control lane of a node that has no other: appends share it with votes and heartbeats.

use super::*;

fn beat() -> Frame {
    Frame::Heartbeats(vec![heartbeat_item(1, 5, 9)])
}

/// Queues what is admitted.
fn say(connection: &mut Connection, mut frame: Frame) -> bool {
    connection.admits(&frame) && connection.queue(&mut frame).unwrap()
}

#[test]
fn appends_that_fill_the_window_leave_credit_to_heartbeats() {
    let config = LaneConfig { window_bytes: 64 << 10, ..LaneConfig::data() };
    let mut pair = Pair::open_control(&config);
    while say(&mut pair.a, data(1000)) {}
    assert_eq!(pair.a.room().bytes, 0, "for appends");
    pair.exchange_ok(at(1));
    assert_eq!(pair.a.room().bytes, 0, "nothing was consumed");
    let heard = frames_of(&mut pair.b_events).len();
    for _ in 0..50 {
        assert!(say(&mut pair.a, beat()));
    }
    pair.exchange_ok(at(1));
    let beats = frames_of(&mut pair.b_events);
    assert_eq!((beats.len(), heard > 50), (50, true));

    let mut data_lane = Pair::open(&config);
    while say(&mut data_lane.a, data(1000)) {}
    assert!(!say(&mut data_lane.a, beat()), "on other lanes nothing is urgent");
}

#[test]
fn chunks_leave_credit_to_heartbeats() {
    let config = LaneConfig { window_bytes: 64 << 10, chunk_bytes: 1024, ..LaneConfig::data() };
    let mut pair = Pair::open_control(&config);
    for _ in 0..8 {
        pair.a.queue(&mut data(15_000)).unwrap();
    }
    pair.exchange_ok(at(1));
    assert!(!pair.a.transmit().is_empty() || pair.a.room().bytes == 0);
    assert!(say(&mut pair.a, beat()));
    pair.exchange_ok(at(1));
    let heard = frames_of(&mut pair.b_events);
    assert!(heard.iter().any(|(frame, _)| matches!(frame, Frame::Heartbeats(_))));
}

/// Without chunks a vote waits behind what is long, but it is not lost, and does not grow with it.
#[test]
fn heartbeats_queue_behind_a_long_frame_up_to_a_write_buffer_of_their_own() {
    let config = LaneConfig {
        window_bytes: 256 << 20,
        write_buffer_max: 64 << 10,
        chunk_bytes: 0,
        ..LaneConfig::data()
    };
    let mut pair = Pair::open_control(&config);
    pair.a.queue(&mut data(8 << 20)).unwrap();
    assert_eq!(pair.a.room().bytes, 0);
    let mut beats = 0;
    while say(&mut pair.a, beat()) {
        beats += 1;
    }
    let queued = pair.a.transmit().len() - (8 << 20);
    assert!(beats > 100 && queued < (66 << 10), "{beats} beats in {queued} bytes");
    pair.exchange_ok(at(1));
    assert_eq!(frames_of(&mut pair.b_events).len(), beats + 1);
    assert!(say(&mut pair.a, beat()), "they have left");
}
