//! Streams keep what TCP promises, whatever is done to them.

use std::io::IoSlice;

use super::*;
use crate::sim::bytes::tasks::NodeTask;

const PIPE: PipeId = 0;

/// Two nodes and one connection from the first to the second, past its prefix.
struct Two(NetState);

impl Two {
    fn connected() -> Self {
        let host = |id| Host {
            id: NodeId::new(id),
            fuse: Arc::default(),
            machine: Machine::Runs,
            is_stranger: false,
            lanes: BTreeMap::new(),
            refuses: false,
            slow_us: 0,
            window: 1 << 16,
        };
        let link = Link {
            cuts: 0,
            cut_since: 0,
            latency_us: 100,
            jitter_us: 0,
            rate: 1_000_000,
            busy_until: 0,
            loss_permille: 0,
        };
        let (hosts, links) = (vec![host(1), host(2)], vec![link; 4]);
        let (rng, sightings) = (Rng::new(1), Sightings::default());
        let net = Net::new(hosts, links, rng, Chop::Whole, sightings);
        let Ok(state) = Arc::try_unwrap(net.state).map(Mutex::into_inner) else {
            panic!("nobody else has it");
        };
        let mut two = Self(state);
        let task = TaskId::of(0, NodeTask::Control);
        assert_eq!(two.0.dial(0, task, 1, Lane::Control, 1_000_000), PIPE);
        two.pass(1_000);
        let pipe = two.0.pipe(PIPE).expect("it is there");
        assert_eq!(pipe.dial, Dial::Connected);
        pipe.prefix = None;
        two
    }

    /// Lets so much time pass, and all happen that is due.
    fn pass(&mut self, micros: u64) {
        let end = self.0.now + micros;
        loop {
            let timers = &mut self.0.timers;
            timers.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
            let Some((at, event)) = timers.pop_if(|(at, _)| *at <= end) else { break };
            self.0.now = self.0.now.max(at);
            self.0.happen(event);
        }
        self.0.now = end;
    }

    fn write(&mut self, bytes: &[u8]) {
        let moved = self.0.write(PIPE, DIALER, &[IoSlice::new(bytes)]);
        assert_eq!(moved, Moved::Bytes(bytes.len()));
    }

    /// What the second node reads: bytes, or the end of it.
    fn read(&mut self) -> Result<Vec<u8>, io::ErrorKind> {
        let mut buffer = [0; 64];
        match self.0.read(PIPE, ACCEPTOR, &mut buffer) {
            Moved::Bytes(count) => Ok(buffer[..count].to_vec()),
            Moved::Blocked => Ok(Vec::new()),
            Moved::Failed(kind) => Err(kind),
        }
    }
}

#[test]
fn nothing_arrives_behind_what_a_reset_lost() {
    // Its ends hear of a reset within two milliseconds; the sender writes until it does.
    let mut two = Two::connected();
    two.write(b"first");
    two.write(b"second");
    two.0.reset(PIPE, [5, 0]);
    two.write(b"third");
    let mut heard = Vec::new();
    let ended = loop {
        match two.read() {
            Ok(bytes) => heard.extend(bytes),
            Err(kind) => break kind,
        }
        two.pass(10);
    };
    assert_eq!((heard.as_slice(), ended), (&b"first"[..], io::ErrorKind::ConnectionReset));
}

#[test]
fn what_a_thread_that_stands_still_sends_later_is_nowhere_before() {
    let mut two = Two::connected();
    two.write(b"before");
    let now = two.0.now;
    two.0.now = now + 1_000_000;
    two.write(b"after");
    two.0.now = now;
    two.0.reset(PIPE, [64, 0]);
    assert_eq!(two.read(), Ok(b"before".to_vec()));

    let mut two = Two::connected();
    let now = two.0.now;
    two.0.cut(0, 1);
    two.0.now = now + 1_000_000;
    two.write(b"after");
    two.0.now = now;
    two.0.mend(0, 1);
    two.0.full_pace();
    two.pass(900_000);
    assert_eq!(two.read(), Ok(Vec::new()));
    two.pass(10_000_000);
    assert_eq!(two.read(), Ok(b"after".to_vec()));
}

#[test]
fn what_is_stuck_behind_a_cut_arrives_after_it_even_behind_what_left_before() {
    let mut two = Two::connected();
    two.write(b"before");
    two.0.cut(0, 1);
    two.write(b" within");
    // Nothing came to be stopped while the link was cut.
    two.0.mend(0, 1);
    two.write(b" after");
    two.pass(10_000_000);
    assert_eq!(two.read(), Ok(b"before within after".to_vec()));
}
