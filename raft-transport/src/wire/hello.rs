//! Who is there: the first words on every connection, before any frame.
//!
//! The dialer says Hello, the acceptor answers Welcome or a refusal with its reason. Without it a
//! node wiped and started again under its old name, a process of a former life, or a stranger's
//! cluster would be heard as a peer.
//!
//! ```text
//!   0       4         6      7      8          12       16
//!   +-------+---------+------+------+----------+--------+------+
//!   | magic | version | kind | zero | body_len | crc32c | body |
//!   +-------+---------+------+------+----------+--------+------+
//! ```
//!
//! Invariant: this container and the refusals in it stay as they are in every version, so that
//! nodes of different versions can tell each other so.

use bytes::BytesMut;
use raft_core::{Incarnation, NodeId};
use serde::{Deserialize, Serialize};

use crate::lane::Lane;

/// The version of the handshake and of everything after it.
pub const HANDSHAKE_VERSION: u16 = 1;

/// Largest body of a handshake message, in bytes.
pub const HANDSHAKE_BODY_MAX: u32 = 1024;

/// Most earlier lives told in a handshake: whoever met one of them can tell a directory that went on
/// from one that was rolled back or copied, however often that one was started since.
pub const PAST_LIVES_MAX: usize = 32;

/// Longest name of a cluster, in bytes: two of them fit into a refusal.
const CLUSTER_LEN_MAX: usize = 255;

const MAGIC: [u8; 4] = *b"RLAN";
const HEAD_LEN: usize = 16;

/// Longest name of a protocol, in bytes.
pub const PROTOCOL_LEN_MAX: usize = 32;

/// What the frames between two nodes mean. The lanes carry any; nodes of different ones, or of
/// different versions of one, refuse each other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Protocol {
    /// Its name, at most [`PROTOCOL_LEN_MAX`] bytes.
    pub name: String,
    /// Its version.
    pub version: u32,
}

impl Protocol {
    /// That of `raft-core`'s messages.
    pub fn raft() -> Self {
        Self { name: "raft".to_owned(), version: 1 }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// What the dialer says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hello {
    /// The cluster it belongs to, at most 255 bytes.
    pub cluster: String,
    /// Who it is.
    pub node: NodeId,
    /// Whom it means to reach.
    pub to: NodeId,
    /// The id of its data directory.
    pub store: u128,
    /// Its life.
    pub incarnation: Incarnation,
    /// Bits drawn when that life began, by which it is told from another with the same number.
    pub life: u128,
    /// The first bits of its earlier lives, the newest first, at most [`PAST_LIVES_MAX`].
    pub past: Vec<u32>,
    /// Which of its lanes this is.
    pub lane: Lane,
    /// Grows with each dial of this lane within an incarnation; the newest connection counts.
    pub generation: u64,
    /// How many shards it has.
    pub shards: u8,
    /// A bit per optional ability; both ends use what both have.
    pub features: u64,
    /// Largest frame it accepts, in bytes.
    pub frame_bytes_max: u64,
    /// What its frames mean.
    pub protocol: Protocol,
}

/// What the acceptor answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Welcome {
    /// Who it is.
    pub node: NodeId,
    /// The id of its data directory.
    pub store: u128,
    /// Its life.
    pub incarnation: Incarnation,
    /// As in a Hello.
    pub life: u128,
    /// As in a Hello.
    pub past: Vec<u32>,
    /// How many shards it has.
    pub shards: u8,
    /// A bit per optional ability.
    pub features: u64,
    /// How many bytes the dialer may send before it is given more credit.
    pub window_bytes: u64,
    /// Largest frame it accepts, in bytes.
    pub frame_bytes_max: u64,
}

/// Why a node does not talk to another. `ours` is the refuser's.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloRefusal {
    /// Two clusters know each other's addresses.
    #[error("this is cluster {ours:?}, not {theirs:?}")]
    WrongCluster {
        /// The refuser's cluster.
        ours: String,
        /// The other one's.
        theirs: String,
    },
    /// The address leads to another node than the one meant.
    #[error("this is node {ours}, not {theirs}")]
    WrongNode {
        /// Who is there.
        ours: NodeId,
        /// Who was meant.
        theirs: NodeId,
    },
    /// The refuser has not been told of this node.
    #[error("node {node} is not known here")]
    UnknownNode {
        /// Who is not known.
        node: NodeId,
    },
    /// The other speaks another version.
    #[error("this is version {ours}, not {theirs}")]
    WrongVersion {
        /// The refuser's version.
        ours: u16,
        /// The other's.
        theirs: u16,
    },
    /// The other one's frames mean something else.
    #[error("this speaks {ours}, not {theirs}")]
    WrongProtocol {
        /// The refuser's protocol.
        ours: Protocol,
        /// The other's.
        theirs: Protocol,
    },
    /// The connection came in on another lane than it names: the lane layouts differ.
    #[error("lane {ours} does not serve {theirs}")]
    WrongLane {
        /// Where it came in.
        ours: Lane,
        /// What it named.
        theirs: Lane,
    },
    /// A connection at least as new was here before: a late or repeated dial.
    #[error("generation {theirs} is not newer than {newest}")]
    ReplayedGeneration {
        /// The newest seen.
        newest: u64,
        /// The one offered.
        theirs: u64,
    },
    /// The node comes with another data directory than before: it was wiped, and has forgotten
    /// its promises. It must be removed and come back under a new id. The directory remembered is
    /// not told: whoever knows it could pass for the node.
    #[error(
        "data directory {theirs:032x} is not the one this node had before: a wiped node cannot \
         come back under its old id"
    )]
    StoreChanged {
        /// The data directory offered.
        theirs: u128,
    },
    /// A process from before the node's last restart.
    #[error("incarnation {theirs} is older than {newest}")]
    OldIncarnation {
        /// The newest seen.
        newest: Incarnation,
        /// The one offered.
        theirs: Incarnation,
    },
    /// Another life of the same directory had this number, or the lives told are not those seen
    /// here: the directory was copied, or put back to an earlier state, and has forgotten what it
    /// promised since. It must be removed and come back empty, under a new id. Restarting it does
    /// not help.
    #[error(
        "another start of this data directory was incarnation {incarnation}: it was copied, or put \
         back to an earlier state, and cannot come back as it is: start it empty, under a new id; if \
         it is the original, stop the copy that answered at this node's address"
    )]
    SameLife {
        /// Where the lives part, as far as that is known.
        incarnation: Incarnation,
    },
    /// No directory is opened so often between two meetings.
    #[error("incarnation {theirs} is too far ahead of {newest}")]
    FarIncarnation {
        /// The newest seen.
        newest: Incarnation,
        /// The one offered.
        theirs: Incarnation,
    },
    /// Who greets is not who its certificate says it is.
    #[error("the certificate is of node {certified}, and the greeting of node {theirs}")]
    OtherCertificate {
        /// Of whom the certificate is.
        certified: NodeId,
        /// Who it says it is.
        theirs: NodeId,
    },
    /// The refuser is about to stop.
    #[error("shutting down")]
    ShuttingDown,
}

/// One message of the handshake.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Handshake {
    /// From the dialer.
    Hello(Hello),
    /// From the acceptor, who takes the dialer.
    Welcome(Welcome),
    /// From the acceptor, who does not, and then closes.
    Refusal(HelloRefusal),
}

/// Why handshake bytes could not be read; the connection is closed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Not our protocol at all.
    #[error("the peer does not speak this protocol")]
    Magic,
    /// Our protocol in another version. An acceptor tells the dialer so.
    #[error("handshake version {theirs} instead of {HANDSHAKE_VERSION}")]
    Version {
        /// The peer's version.
        theirs: u16,
    },
    /// Longer than [`HANDSHAKE_BODY_MAX`].
    #[error("handshake of {bytes} bytes")]
    TooLarge {
        /// The length claimed.
        bytes: u32,
    },
    /// Damaged on the way.
    #[error("the handshake fails its checksum")]
    Checksum,
    /// Not what it says it is.
    #[error("malformed handshake")]
    Malformed,
    /// A Welcome to an acceptor, or a Hello to a dialer.
    #[error("handshake out of turn")]
    OutOfTurn,
}

const KIND_HELLO: u8 = 1;
const KIND_WELCOME: u8 = 2;
const KIND_REFUSAL: u8 = 3;

/// The bytes of a handshake message. Names of clusters are cut at 255 bytes, which only ever
/// shortens a name in a refusal: an [`Identity`](crate::Identity) has none so long.
pub fn encode_handshake(message: &Handshake) -> Vec<u8> {
    let (kind, body) = match message {
        Handshake::Hello(hello) => {
            (KIND_HELLO, to_vec(&HelloWire::of(hello, &past_bytes(&hello.past))))
        }
        Handshake::Welcome(welcome) => {
            (KIND_WELCOME, to_vec(&WelcomeWire::of(welcome, &past_bytes(&welcome.past))))
        }
        Handshake::Refusal(refusal) => (KIND_REFUSAL, to_vec(&RefusalWire::from(refusal))),
    };
    let mut bytes = Vec::with_capacity(HEAD_LEN + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&HANDSHAKE_VERSION.to_le_bytes());
    bytes.extend_from_slice(&[kind, 0]);
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), &body);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// The handshake message at the front, which is then cut off; `None` until it is complete.
///
/// # Errors
/// Any [`HandshakeError`]. Bytes that are not ours are recognised as early as possible.
pub fn decode_handshake(buffer: &mut BytesMut) -> Result<Option<Handshake>, HandshakeError> {
    let seen = buffer.len().min(MAGIC.len());
    if buffer[..seen] != MAGIC[..seen] {
        return Err(HandshakeError::Magic);
    }
    let Some((head, rest)) = buffer.split_first_chunk::<HEAD_LEN>() else {
        return Ok(None);
    };
    let [_, _, _, _, v0, v1, kind, zero, b0, b1, b2, b3, c0, c1, c2, c3] = *head;
    let version = u16::from_le_bytes([v0, v1]);
    // A refusal is understood from any version: it may be about just that.
    if version != HANDSHAKE_VERSION && kind != KIND_REFUSAL {
        return Err(HandshakeError::Version { theirs: version });
    }
    let body_len = u32::from_le_bytes([b0, b1, b2, b3]);
    if body_len > HANDSHAKE_BODY_MAX {
        return Err(HandshakeError::TooLarge { bytes: body_len });
    }
    let Some(body) = rest.get(..body_len as usize) else {
        return Ok(None);
    };
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head[..12]), body);
    if crc != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(HandshakeError::Checksum);
    }
    if zero != 0 {
        return Err(HandshakeError::Malformed);
    }
    let message = match kind {
        KIND_HELLO => from_body::<HelloWire<'_>>(body)?.into_hello().map(Handshake::Hello),
        KIND_WELCOME => from_body::<WelcomeWire<'_>>(body)?.into_welcome().map(Handshake::Welcome),
        KIND_REFUSAL => from_body::<RefusalWire<'_>>(body)?.into_refusal().map(Handshake::Refusal),
        _ => None,
    };
    let message = message.ok_or(HandshakeError::Malformed)?;
    let _ = buffer.split_to(HEAD_LEN + body_len as usize);
    Ok(Some(message))
}

/// The cluster's name if it is short enough to be one.
pub(crate) fn cluster_name_fits(name: &str) -> bool {
    name.len() <= CLUSTER_LEN_MAX
}

fn to_vec<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("a struct of numbers and strings always serializes")
}

fn from_body<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, HandshakeError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, _)) | Err(_) => Err(HandshakeError::Malformed),
    }
}

fn cut(name: &str) -> &str {
    cut_at(name, CLUSTER_LEN_MAX)
}

fn cut_at(name: &str, max: usize) -> &str {
    let mut end = name.len().min(max);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

#[derive(Deserialize, Serialize)]
struct HelloWire<'a> {
    cluster: &'a str,
    node: u64,
    to: u64,
    store: [u8; 16],
    incarnation: u64,
    life: [u8; 16],
    past: &'a [u8],
    lane: u32,
    generation: u64,
    shards: u8,
    features: u64,
    frame_bytes_max: u64,
    #[serde(borrow)]
    protocol: ProtocolWire<'a>,
}

#[derive(Deserialize, Serialize)]
struct ProtocolWire<'a> {
    name: &'a str,
    version: u32,
}

impl<'a> From<&'a Protocol> for ProtocolWire<'a> {
    fn from(protocol: &'a Protocol) -> Self {
        Self { name: cut_at(&protocol.name, PROTOCOL_LEN_MAX), version: protocol.version }
    }
}

impl ProtocolWire<'_> {
    fn into_protocol(self) -> Option<Protocol> {
        let fits = self.name.len() <= PROTOCOL_LEN_MAX;
        fits.then(|| Protocol { name: self.name.to_owned(), version: self.version })
    }
}

/// The bits of earlier lives, four bytes each.
fn past_bytes(past: &[u32]) -> Vec<u8> {
    past.iter().take(PAST_LIVES_MAX).flat_map(|bits| bits.to_le_bytes()).collect()
}

fn past_of(bytes: &[u8]) -> Option<Vec<u32>> {
    let (lives, rest) = bytes.as_chunks::<4>();
    let fits = rest.is_empty() && lives.len() <= PAST_LIVES_MAX;
    fits.then(|| lives.iter().map(|bits| u32::from_le_bytes(*bits)).collect())
}

impl<'a> HelloWire<'a> {
    fn of(hello: &'a Hello, past: &'a [u8]) -> Self {
        Self {
            cluster: cut(&hello.cluster),
            life: hello.life.to_le_bytes(),
            past,
            node: hello.node.get(),
            to: hello.to.get(),
            store: hello.store.to_le_bytes(),
            incarnation: hello.incarnation.get(),
            lane: hello.lane.group_id().get(),
            generation: hello.generation,
            shards: hello.shards,
            features: hello.features,
            frame_bytes_max: hello.frame_bytes_max,
            protocol: ProtocolWire::from(&hello.protocol),
        }
    }
}

impl HelloWire<'_> {
    fn into_hello(self) -> Option<Hello> {
        if !cluster_name_fits(self.cluster) {
            return None;
        }
        Some(Hello {
            cluster: self.cluster.to_owned(),
            node: NodeId::new(self.node),
            to: NodeId::new(self.to),
            store: u128::from_le_bytes(self.store),
            incarnation: Incarnation::new(self.incarnation),
            life: u128::from_le_bytes(self.life),
            past: past_of(self.past)?,
            lane: lane(self.lane)?,
            generation: self.generation,
            shards: self.shards,
            features: self.features,
            frame_bytes_max: self.frame_bytes_max,
            protocol: self.protocol.into_protocol()?,
        })
    }
}

#[derive(Deserialize, Serialize)]
struct WelcomeWire<'a> {
    node: u64,
    store: [u8; 16],
    incarnation: u64,
    life: [u8; 16],
    past: &'a [u8],
    shards: u8,
    features: u64,
    window_bytes: u64,
    frame_bytes_max: u64,
}

impl<'a> WelcomeWire<'a> {
    fn of(welcome: &'a Welcome, past: &'a [u8]) -> Self {
        Self {
            life: welcome.life.to_le_bytes(),
            past,
            node: welcome.node.get(),
            store: welcome.store.to_le_bytes(),
            incarnation: welcome.incarnation.get(),
            shards: welcome.shards,
            features: welcome.features,
            window_bytes: welcome.window_bytes,
            frame_bytes_max: welcome.frame_bytes_max,
        }
    }

    fn into_welcome(self) -> Option<Welcome> {
        Some(Welcome {
            node: NodeId::new(self.node),
            store: u128::from_le_bytes(self.store),
            incarnation: Incarnation::new(self.incarnation),
            life: u128::from_le_bytes(self.life),
            past: past_of(self.past)?,
            shards: self.shards,
            features: self.features,
            window_bytes: self.window_bytes,
            frame_bytes_max: self.frame_bytes_max,
        })
    }
}

#[derive(Deserialize, Serialize)]
enum RefusalWire<'a> {
    WrongVersion {
        ours: u16,
        theirs: u16,
    },
    WrongCluster {
        ours: &'a str,
        theirs: &'a str,
    },
    WrongNode {
        ours: u64,
        theirs: u64,
    },
    UnknownNode {
        node: u64,
    },
    WrongLane {
        ours: u32,
        theirs: u32,
    },
    ReplayedGeneration {
        newest: u64,
        theirs: u64,
    },
    StoreChanged {
        theirs: [u8; 16],
    },
    OldIncarnation {
        newest: u64,
        theirs: u64,
    },
    ShuttingDown,
    SameLife {
        incarnation: u64,
    },
    FarIncarnation {
        newest: u64,
        theirs: u64,
    },
    WrongProtocol {
        #[serde(borrow)]
        ours: ProtocolWire<'a>,
        #[serde(borrow)]
        theirs: ProtocolWire<'a>,
    },
    OtherCertificate {
        certified: u64,
        theirs: u64,
    },
}

impl<'a> From<&'a HelloRefusal> for RefusalWire<'a> {
    fn from(refusal: &'a HelloRefusal) -> Self {
        match refusal {
            HelloRefusal::WrongVersion { ours, theirs } => {
                Self::WrongVersion { ours: *ours, theirs: *theirs }
            }
            HelloRefusal::WrongCluster { ours, theirs } => {
                Self::WrongCluster { ours: cut(ours), theirs: cut(theirs) }
            }
            HelloRefusal::WrongNode { ours, theirs } => {
                Self::WrongNode { ours: ours.get(), theirs: theirs.get() }
            }
            HelloRefusal::UnknownNode { node } => Self::UnknownNode { node: node.get() },
            HelloRefusal::WrongLane { ours, theirs } => {
                Self::WrongLane { ours: ours.group_id().get(), theirs: theirs.group_id().get() }
            }
            HelloRefusal::ReplayedGeneration { newest, theirs } => {
                Self::ReplayedGeneration { newest: *newest, theirs: *theirs }
            }
            HelloRefusal::StoreChanged { theirs } => {
                Self::StoreChanged { theirs: theirs.to_le_bytes() }
            }
            HelloRefusal::OldIncarnation { newest, theirs } => {
                Self::OldIncarnation { newest: newest.get(), theirs: theirs.get() }
            }
            HelloRefusal::ShuttingDown => Self::ShuttingDown,
            HelloRefusal::SameLife { incarnation } => {
                Self::SameLife { incarnation: incarnation.get() }
            }
            HelloRefusal::FarIncarnation { newest, theirs } => {
                Self::FarIncarnation { newest: newest.get(), theirs: theirs.get() }
            }
            HelloRefusal::WrongProtocol { ours, theirs } => {
                Self::WrongProtocol { ours: ours.into(), theirs: theirs.into() }
            }
            HelloRefusal::OtherCertificate { certified, theirs } => {
                Self::OtherCertificate { certified: certified.get(), theirs: theirs.get() }
            }
        }
    }
}

impl RefusalWire<'_> {
    fn into_refusal(self) -> Option<HelloRefusal> {
        Some(match self {
            Self::WrongVersion { ours, theirs } => HelloRefusal::WrongVersion { ours, theirs },
            Self::WrongCluster { ours, theirs } => {
                HelloRefusal::WrongCluster { ours: ours.to_owned(), theirs: theirs.to_owned() }
            }
            Self::WrongNode { ours, theirs } => {
                HelloRefusal::WrongNode { ours: NodeId::new(ours), theirs: NodeId::new(theirs) }
            }
            Self::UnknownNode { node } => HelloRefusal::UnknownNode { node: NodeId::new(node) },
            Self::WrongLane { ours, theirs } => {
                HelloRefusal::WrongLane { ours: lane(ours)?, theirs: lane(theirs)? }
            }
            Self::ReplayedGeneration { newest, theirs } => {
                HelloRefusal::ReplayedGeneration { newest, theirs }
            }
            Self::StoreChanged { theirs } => {
                HelloRefusal::StoreChanged { theirs: u128::from_le_bytes(theirs) }
            }
            Self::OldIncarnation { newest, theirs } => HelloRefusal::OldIncarnation {
                newest: Incarnation::new(newest),
                theirs: Incarnation::new(theirs),
            },
            Self::ShuttingDown => HelloRefusal::ShuttingDown,
            Self::SameLife { incarnation } => {
                HelloRefusal::SameLife { incarnation: Incarnation::new(incarnation) }
            }
            Self::FarIncarnation { newest, theirs } => HelloRefusal::FarIncarnation {
                newest: Incarnation::new(newest),
                theirs: Incarnation::new(theirs),
            },
            Self::WrongProtocol { ours, theirs } => HelloRefusal::WrongProtocol {
                ours: ours.into_protocol()?,
                theirs: theirs.into_protocol()?,
            },
            Self::OtherCertificate { certified, theirs } => HelloRefusal::OtherCertificate {
                certified: NodeId::new(certified),
                theirs: NodeId::new(theirs),
            },
        })
    }
}

fn lane(id: u32) -> Option<Lane> {
    Lane::from_group_id(raft_core::GroupId::new(id))
}

#[cfg(test)]
mod tests;
