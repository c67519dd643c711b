//! A relay between a node and a peer's port: it passes everything on and reads along, so that a
//! test can count connections and frames where they really are, on the socket.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::BytesMut;
use raft_core::{GroupId, NodeId};
use raft_transport::{Decoder, Ends, Frame, Lane, decode_handshake};

/// What one node has sent to another.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Connections open now, by lane.
    pub open: BTreeMap<String, i64>,
    pub heartbeat_frames: u64,
    pub heartbeat_items: u64,
    pub heartbeat_bytes: u64,
}

#[derive(Clone)]
pub struct Relay {
    addr: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Relay {
    /// Listens for what `from` dials, and passes it on to `to` at `target`.
    pub fn start(from: NodeId, to: NodeId, target: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let relay = Self { addr: listener.local_addr()?, seen: Arc::default() };
        let ends = Ends { local: to, remote: from };
        let seen = Arc::clone(&relay.seen);
        thread::spawn(move || {
            for dialed in listener.incoming().map_while(Result::ok) {
                let Ok(onward) = TcpStream::connect(target) else { continue };
                let seen = Arc::clone(&seen);
                let back = (onward.try_clone(), dialed.try_clone());
                if let (Ok(source), Ok(sink)) = back {
                    thread::spawn(move || pump(source, sink, |_| {}));
                }
                thread::spawn(move || {
                    let mut reader = Reader::new(ends, Arc::clone(&seen));
                    pump(dialed, onward, |bytes| reader.read(bytes));
                    reader.closed();
                });
            }
        });
        Ok(relay)
    }

    pub fn addr(&self) -> String {
        self.addr.to_string()
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().expect("no thread panics while it holds this").clone()
    }
}

fn pump(mut source: TcpStream, mut sink: TcpStream, mut look: impl FnMut(&[u8])) {
    let _ = sink.set_nodelay(true);
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count) = source.read(&mut buffer)
        && count > 0
    {
        look(&buffer[..count]);
        if sink.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = sink.shutdown(Shutdown::Write);
    let _ = source.shutdown(Shutdown::Read);
}

/// Reads one connection along: prefix, Hello, frames.
struct Reader {
    ends: Ends,
    seen: Arc<Mutex<Seen>>,
    start: BytesMut,
    lane: Option<Lane>,
    greeted: bool,
    decoder: Decoder,
}

impl Reader {
    fn new(ends: Ends, seen: Arc<Mutex<Seen>>) -> Self {
        let decoder = Decoder::new(128 << 20);
        Self { ends, seen, start: BytesMut::new(), lane: None, greeted: false, decoder }
    }

    fn read(&mut self, mut bytes: &[u8]) {
        if !self.greeted {
            self.start.extend_from_slice(bytes);
            bytes = &[];
            if self.lane.is_none() && self.start.len() >= 4 {
                let prefix = self.start.split_to(4);
                let group = u32::from_be_bytes([prefix[0], prefix[1], prefix[2], prefix[3]]);
                self.lane = Lane::from_group_id(GroupId::new(group));
                let lane = self.lane.expect("nodes dial lanes only");
                self.count(|seen| *seen.open.entry(lane.to_string()).or_default() += 1);
            }
            if self.lane.is_some() && decode_handshake(&mut self.start).expect("a Hello").is_some()
            {
                self.greeted = true;
            }
        }
        if self.greeted && !self.start.is_empty() {
            let rest = self.start.split();
            self.push(&rest);
        }
        self.push(bytes);
    }

    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.decoder.push(&mut bytes);
            while let Some((frame, size)) = self.decoder.next_frame(self.ends).expect("a frame") {
                if let Frame::Heartbeats(items) = frame {
                    self.count(|seen| {
                        seen.heartbeat_frames += 1;
                        seen.heartbeat_items += items.len() as u64;
                        seen.heartbeat_bytes += size;
                    });
                }
            }
        }
    }

    fn closed(&self) {
        if let Some(lane) = self.lane {
            self.count(|seen| *seen.open.entry(lane.to_string()).or_default() -= 1);
        }
    }

    fn count(&self, count: impl FnOnce(&mut Seen)) {
        count(&mut self.seen.lock().expect("no thread panics while it holds this"));
    }
}
