//! Why two ends do not come to terms over TLS, told apart so that each can be acted on.
//!
//! Plain values, without TLS itself, so that lanes can tell them whatever they were built with.

use std::time::Duration;

use raft_core::NodeId;

/// Why there is no connection over TLS. "It" is the other end.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsRefusal {
    /// It has no certificate, or shows none.
    #[error("it shows no certificate")]
    NoCertificate,
    /// None of the CAs here has signed its certificate.
    #[error("its certificate is signed by no CA that is trusted here")]
    ForeignCa,
    /// Its certificate has expired, by the clock of this node.
    #[error("its certificate has expired, by the clock of this node")]
    Expired,
    /// Its certificate is not valid yet, by the clock of this node.
    #[error("its certificate is not valid yet, by the clock of this node")]
    NotYetValid,
    /// Its certificate is not that of a node: it has no name `raft://<cluster>/<node>`, or several.
    #[error("its certificate has not exactly one name raft://<cluster>/<node>")]
    NoName,
    /// A node of another cluster.
    #[error("its certificate is of cluster {theirs:?}, and this is {ours:?}")]
    WrongCluster {
        /// The cluster here.
        ours: String,
        /// What its certificate says.
        theirs: String,
    },
    /// Another node than was meant.
    #[error("its certificate is of node {theirs}, and node {wanted} was meant")]
    WrongNode {
        /// Who was meant.
        wanted: NodeId,
        /// What its certificate says.
        theirs: NodeId,
    },
    /// Its certificate may not be used by a node, which is client and server, or is none.
    #[error("its certificate cannot be used: {why}")]
    BadCertificate {
        /// What is wrong with it.
        why: String,
    },
    /// It does not take ours. All that TLS lets it say is a number.
    #[error("{says}")]
    ByPeer {
        /// What the number means.
        says: &'static str,
    },
    /// What it says is no TLS: it has none configured, or is no node.
    #[error("it does not speak TLS")]
    NoTls,
    /// It speaks another version, or cannot agree on how to encrypt.
    #[error("it speaks TLS that this node does not: {why}")]
    OtherTls {
        /// What they do not share.
        why: String,
    },
    /// It did not get done in time.
    #[error("the TLS handshake was not done within {timeout:?}")]
    Timeout {
        /// The time allowed.
        timeout: Duration,
    },
    /// It broke off in the middle: it went away, or knows nothing of TLS.
    #[error("it broke off in the TLS handshake")]
    BrokeOff,
    /// Something else that should not happen between two nodes.
    #[error("the TLS handshake failed: {why}")]
    Failed {
        /// What was said of it.
        why: String,
    },
}

impl TlsRefusal {
    /// Whether it was the other end that refused.
    pub const fn is_by_peer(&self) -> bool {
        matches!(self, Self::ByPeer { .. })
    }
}
