//! The handshake: who dials says Hello, and is welcome or told why not.

use std::collections::VecDeque;

use raft_core::NodeId;

use super::credit::{Granted, Granting, reserved_of};
use super::event::{LaneError, LaneEvent};
use super::watch::ConnectionKey;
use super::{Connection, Open, Phase};
use crate::lane::Lane;
use crate::wire::frame::Ends;
use crate::wire::hello::{
    HANDSHAKE_VERSION, Handshake, HandshakeError, Hello, HelloRefusal, Welcome, decode_handshake,
    encode_handshake,
};

impl Connection {
    /// Returns whether the handshake is done.
    pub(super) fn hear_handshake(
        &mut self,
        events: &mut VecDeque<LaneEvent>,
    ) -> Result<bool, LaneError> {
        let decoded = match decode_handshake(self.decoder.buffered()) {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(false),
            Err(HandshakeError::Version { theirs }) => {
                let refusal = HelloRefusal::WrongVersion { ours: HANDSHAKE_VERSION, theirs };
                return Err(self.refuse(refusal));
            }
            Err(error) => return Err(error.into()),
        };
        let open = match (&self.phase, decoded) {
            (Phase::Awaiting { .. }, Handshake::Hello(hello)) => self.hear_hello(hello)?,
            (Phase::Greeting { peer, .. }, Handshake::Welcome(welcome)) => {
                let peer = *peer;
                self.hear_welcome(peer, &welcome)?
            }
            (Phase::Greeting { .. }, Handshake::Refusal(refusal)) => {
                return Err(LaneError::RefusedByPeer(refusal));
            }
            (_, Handshake::Hello(_) | Handshake::Welcome(_) | Handshake::Refusal(_)) => {
                return Err(HandshakeError::OutOfTurn.into());
            }
        };
        events.push_back(LaneEvent::Up {
            peer: open.peer,
            incarnation: open.incarnation,
            connection: self.setup.id,
        });
        self.met = Some((open.peer, open.incarnation));
        self.phase = Phase::Open(open);
        Ok(true)
    }

    fn hear_hello(&mut self, hello: Hello) -> Result<Open, LaneError> {
        let identity = self.setup.registry.identity();
        let (local, shards) = (identity.node, identity.shards);
        // First: whoever is not who it says is told nothing else, and remembered for nothing.
        if let Some(certified) = self.setup.certified.filter(|certified| *certified != hello.node) {
            let refusal = HelloRefusal::OtherCertificate { certified, theirs: hello.node };
            return Err(self.refuse(refusal));
        }
        if hello.lane.at_receiver(shards) != self.setup.lane {
            let (ours, theirs) = (self.setup.lane, hello.lane);
            return Err(self.refuse(HelloRefusal::WrongLane { ours, theirs }));
        }
        let mut welcome = match self.setup.registry.check(&hello) {
            Ok(welcome) => welcome,
            Err(refusal) => return Err(self.refuse(refusal)),
        };
        welcome.window_bytes = self.setup.config.window_bytes;
        welcome.frame_bytes_max = self.setup.config.frame_bytes_max;
        self.queue_handshake(&Handshake::Welcome(welcome));
        self.key = Some(ConnectionKey::from(&hello));
        let is_proven = self.setup.registry.has_answered(&hello);
        Ok(Open {
            peer: hello.node,
            incarnation: hello.incarnation,
            ends: Ends { local, remote: hello.node },
            frame_bytes_max: hello.frame_bytes_max,
            granted: Granted::Unlimited,
            granting: Some(Box::new(Granting::new(hello, is_proven))),
        })
    }

    fn hear_welcome(&self, peer: NodeId, welcome: &Welcome) -> Result<Open, LaneError> {
        self.setup.registry.check_welcome(peer, welcome).map_err(LaneError::Refused)?;
        let window = welcome.window_bytes;
        let reserved = if self.setup.lane == Lane::Control { reserved_of(window) } else { 0 };
        Ok(Open {
            peer,
            incarnation: welcome.incarnation,
            ends: Ends { local: self.setup.registry.identity().node, remote: peer },
            frame_bytes_max: welcome.frame_bytes_max,
            granted: Granted::Window { window, used: 0, extra: 0, reserved },
            granting: None,
        })
    }

    /// Hears what came with the Hello, if the life that said it has answered a dial of ours since.
    ///
    /// # Errors
    /// As for [`on_bytes`](Self::on_bytes).
    pub fn look_for_proof(&mut self, events: &mut VecDeque<LaneEvent>) -> Result<(), LaneError> {
        let registry = &self.setup.registry;
        let Phase::Open(Open { granting: Some(granting), .. }) = &mut self.phase else {
            return Ok(());
        };
        if granting.is_proven || !registry.has_answered(&granting.hello) {
            return Ok(());
        }
        granting.is_proven = true;
        let heard = self.hear_frames(events);
        heard.map(|_| ()).map_err(|error| self.end(error))
    }

    pub(super) fn queue_handshake(&mut self, message: &Handshake) {
        let bytes = encode_handshake(message);
        self.outbox.transmit.put_slice(&bytes);
        self.outbox.went(bytes.len() as u64);
    }

    /// Tells a dialer why it is not taken.
    fn refuse(&mut self, refusal: HelloRefusal) -> LaneError {
        if matches!(self.phase, Phase::Awaiting { .. }) {
            self.queue_handshake(&Handshake::Refusal(refusal.clone()));
        }
        LaneError::Refused(refusal)
    }
}
