//! TLS between nodes: who may speak is who has a certificate, at both ends.
//!
//! It stands between a TCP connection and the mux's prefix
//! ([`MuxAcceptor::bind_with`](raft_mux::MuxAcceptor::bind_with), [`dial_with`](raft_mux::dial_with)), so what
//! travels over it knows nothing of it. TLS 1.3 only, no early data, sessions are gone on from.
//!
//! A certificate names one node of one cluster ([`CertifiedName`]). A dialer checks that against whom it
//! means, an acceptor against its cluster; who greets as another node than its certificate says is
//! refused by the lanes, which hear the greeting. Whoever uses the mux without lanes has the cluster
//! checked, and finds the node in [`TlsStream::peer`].
//!
//! Invariants:
//! - [`connect`](Tls::connect) is done when the acceptor has taken our certificate, not before: an acceptor of TLS 1.3 says so
//!   only after the dialer's last word, by the ticket of a session. So both ends know the reason of a
//!   refusal, as far as TLS can tell it.
//! - A session that is gone on from asks for no certificate again. Sessions are forgotten with every
//!   change of certificates, and every [`SESSIONS_AGE_MAX`]: that much longer than its certificate a
//!   peer may come back.

mod counters;
mod name;
mod stream;
mod told;
mod verify;

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use raft_core::{Micros, NodeId};
use raft_mux::MuxError;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, UnixTime};
use rustls::server::ServerSessionMemoryCache;
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::AsyncBufRead as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tracing::warn;

use self::counters::Counters;
pub use self::counters::TlsSnapshot;
pub use self::name::CertifiedName;
use self::stream::Socket;
pub use self::stream::TlsStream;
pub use self::verify::TlsPeer;
use self::verify::{AcceptorVerifier, DialerVerifier, Role, Trust};
use crate::lanes::log_limit::LogLimit;
use crate::network::NetworkError;
use crate::network::refusal::TlsRefusal;
use crate::network::tcp::Cover;

/// Sessions are kept for no longer.
const SESSIONS_AGE_MAX: Duration = Duration::from_secs(60 * 60);
/// Sessions that an acceptor keeps. A dialer uses one up and gets two. About a kilobyte each.
const SESSIONS_MAX: usize = 1024;
/// Bytes that are encrypted ahead of what the socket takes: nothing can overtake them.
const ENCRYPTED_MAX: usize = 64 << 10;

/// What is waited for beyond the handshake's own time by whoever times it from outside.
const GRACE: Duration = Duration::from_secs(1);

/// Certificates and key of a node, in PEM.
#[derive(Clone, Eq, PartialEq)]
pub struct TlsMaterial {
    /// The node's certificate, and those between it and its CA, if there are any.
    pub certificate: Vec<u8>,
    /// The key of the first.
    pub key: Vec<u8>,
    /// The CAs whose nodes are let in. Several while one takes the place of another.
    pub ca: Vec<u8>,
}

/// Certificates that cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// There is none.
    #[error("no certificate in it")]
    NoCertificate,
    /// There is no CA.
    #[error("no certificate of a CA in it")]
    NoCa,
    /// There is no key.
    #[error("no private key in it")]
    NoKey,
    /// It is no PEM.
    #[error("the {what} cannot be read: {why}")]
    Unreadable {
        /// Which.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// Certificate and key are not of one another.
    #[error("the key is not that of the certificate")]
    KeyMismatch,
    /// The certificate is another node's.
    #[error("the certificate is of node {theirs}, and this is node {ours}")]
    OtherNode {
        /// This node.
        ours: NodeId,
        /// What the certificate says.
        theirs: NodeId,
    },
    /// Every peer with these CAs would refuse the certificate.
    #[error("every peer would refuse this node: {0}")]
    Refused(TlsRefusal),
}

/// TLS for one node. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
}

struct Shared {
    cluster: String,
    node: NodeId,
    handshake_timeout: Duration,
    provider: Arc<CryptoProvider>,
    inner: Mutex<Inner>,
    counters: Counters,
    started: Instant,
    /// One per reason, so that a flood of one hides no other.
    limits: Mutex<BTreeMap<&'static str, LogLimit>>,
}

struct Inner {
    in_use: Arc<InUse>,
    sessions: Arc<Sessions>,
}

/// Certificates that were found good.
struct InUse {
    material: TlsMaterial,
    key: Arc<CertifiedKey>,
    trust: Arc<Trust>,
    expires: SystemTime,
}

/// Both ends' configurations; what is gone on from is in them.
struct Sessions {
    since: Instant,
    accepting: Arc<ServerConfig>,
    dialing: Arc<ClientConfig>,
}

impl Tls {
    /// TLS for node `node` of `cluster`. `handshake_timeout` is how long a handshake may take at either
    /// end; it should be the same at both, as whoever gives up first wastes what the other does.
    ///
    /// # Errors
    /// [`TlsError`]: peers with the same CAs would not take the certificate.
    pub fn new(
        cluster: &str,
        node: NodeId,
        material: TlsMaterial,
        handshake_timeout: Duration,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let in_use = Arc::new(InUse::new(cluster, node, material, &provider)?);
        let sessions = Arc::new(Sessions::new(&in_use, &provider)?);
        let shared = Shared {
            cluster: cluster.to_owned(),
            node,
            handshake_timeout,
            provider,
            inner: Mutex::new(Inner { in_use, sessions }),
            counters: Counters::default(),
            started: Instant::now(),
            limits: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Takes other certificates into use: for handshakes from now on. Connections that are open go
    /// on; nobody goes on from an earlier session. No effect if they are those in use. Returns whether
    /// they are others.
    ///
    /// # Errors
    /// As for [`new`](Self::new); those in use stay. Counted.
    pub fn replace(&self, material: TlsMaterial) -> Result<bool, TlsError> {
        let Shared { cluster, node, provider, counters, .. } = &*self.shared;
        if self.shared.inner.lock().in_use.material == material {
            return Ok(false);
        }
        let made = InUse::new(cluster, *node, material, provider)
            .and_then(|in_use| Ok((Sessions::new(&in_use, provider)?, in_use)));
        let (sessions, in_use) = made.inspect_err(|_| Counters::bump(&counters.reloads_failed))?;
        *self.shared.inner.lock() =
            Inner { in_use: Arc::new(in_use), sessions: Arc::new(sessions) };
        Counters::bump(&counters.reloads);
        Ok(true)
    }

    /// When the certificate in use expires, or one between it and its CA. The CA's own dates are of no
    /// account: it is trusted because it was named.
    pub fn expires(&self) -> SystemTime {
        self.shared.inner.lock().in_use.expires
    }

    /// How long a handshake may take, at either end.
    pub fn handshake_timeout(&self) -> Duration {
        self.shared.handshake_timeout
    }

    /// What became of the handshakes so far.
    pub fn snapshot(&self) -> TlsSnapshot {
        self.shared.counters.snapshot()
    }

    /// The acceptor's handshake, for [`bind_with`](raft_mux::MuxAcceptor::bind_with). A refusal is counted, and
    /// told to the log at a rate that strangers cannot choose.
    ///
    /// # Errors
    /// An error that has a [`TlsRefusal`] in it.
    pub async fn accept(&self, tcp: TcpStream, from: SocketAddr) -> io::Result<TlsStream> {
        let accepted = self.in_time(self.try_accept(tcp)).await;
        accepted.map_err(|refusal| {
            self.tell(&refusal, from);
            io::Error::new(io::ErrorKind::InvalidData, refusal)
        })
    }

    /// The dialer's handshake, for [`dial_with`](raft_mux::dial_with): done when the acceptor has taken our
    /// certificate. A refusal is counted; telling it is the caller's, who knows whom it dialed.
    ///
    /// # Errors
    /// An error that has a [`TlsRefusal`] in it.
    pub async fn connect(&self, tcp: TcpStream, peer: TlsPeer) -> io::Result<TlsStream> {
        let connected = self.in_time(self.try_connect(tcp, peer)).await;
        connected.map_err(|refusal| io::Error::new(io::ErrorKind::InvalidData, refusal))
    }

    /// The reason in an error of [`accept`](Self::accept) or [`connect`](Self::connect).
    pub fn refusal(error: &io::Error) -> Option<&TlsRefusal> {
        error.get_ref()?.downcast_ref()
    }

    async fn in_time(
        &self,
        handshake: impl Future<Output = Result<TlsStream, TlsRefusal>>,
    ) -> Result<TlsStream, TlsRefusal> {
        let within = self.shared.handshake_timeout;
        let done = timeout(within, handshake).await;
        let done = done.unwrap_or(Err(TlsRefusal::Timeout { timeout: within }));
        done.inspect_err(|refusal| self.shared.counters.refused(refusal))
    }

    async fn try_accept(&self, tcp: TcpStream) -> Result<TlsStream, TlsRefusal> {
        let (trust, sessions) = self.current()?;
        let acceptor = TlsAcceptor::from(sessions.accepting.clone());
        let limited = |session: &mut rustls::ServerConnection| {
            session.set_buffer_limit(Some(ENCRYPTED_MAX));
        };
        let stream = acceptor.accept_with(Socket::new(tcp), limited).await;
        let stream = stream.map_err(|error| told::reason(&error))?;
        self.finish(stream.into(), &trust, TlsPeer::AnyNode)
    }

    async fn try_connect(&self, tcp: TcpStream, peer: TlsPeer) -> Result<TlsStream, TlsRefusal> {
        let (trust, sessions) = self.current()?;
        let connector = TlsConnector::from(sessions.dialing.clone());
        let limited = |session: &mut rustls::ClientConnection| {
            session.set_buffer_limit(Some(ENCRYPTED_MAX));
        };
        let stream = connector.connect_with(peer.server_name(), Socket::new(tcp), limited).await;
        let mut stream = stream.map_err(|error| told::reason(&error))?;
        poll_fn(|cx| {
            // Most speak first where they dialed; what an acceptor that does not may have said stays
            // where it is.
            let polled = Pin::new(&mut stream).poll_fill_buf(cx).map_ok(<[u8]>::is_empty);
            if stream.get_ref().1.tls13_tickets_received() > 0 {
                return Poll::Ready(Ok(()));
            }
            match polled {
                Poll::Ready(Ok(_)) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
        .map_err(|error| told::reason(&error))?;
        self.finish(stream.into(), &trust, peer)
    }

    /// Who is at the other end, also where an earlier session was gone on from.
    fn finish(
        &self,
        stream: tokio_rustls::TlsStream<Socket>,
        trust: &Trust,
        meant: TlsPeer,
    ) -> Result<TlsStream, TlsRefusal> {
        let session = stream.get_ref().1;
        let shown = session.peer_certificates().and_then(|chain| chain.first());
        let name = trust.name(shown.ok_or(TlsRefusal::NoCertificate)?)?;
        meant.check(&name)?;
        let counters = &self.shared.counters;
        Counters::bump(&counters.handshakes);
        if session.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
            Counters::bump(&counters.resumed);
        }
        Ok(TlsStream::new(stream, name))
    }

    /// What is in use now; sessions of it that are too old are forgotten.
    fn current(&self) -> Result<(Arc<Trust>, Arc<Sessions>), TlsRefusal> {
        let mut inner = self.shared.inner.lock();
        if inner.sessions.since.elapsed() >= SESSIONS_AGE_MAX {
            let made = Sessions::new(&inner.in_use, &self.shared.provider);
            // They were made of the same before.
            inner.sessions =
                Arc::new(made.map_err(|error| TlsRefusal::Failed { why: error.to_string() })?);
        }
        Ok((inner.in_use.trust.clone(), inner.sessions.clone()))
    }

    fn tell(&self, refusal: &TlsRefusal, from: SocketAddr) {
        let (kind, _) = self.shared.counters.of(refusal);
        let micros = self.shared.started.elapsed().as_micros();
        let now = Micros::new(u64::try_from(micros).unwrap_or(u64::MAX));
        let permit = self.shared.limits.lock().entry(kind).or_default().permit(now);
        if let Some(suppressed) = permit {
            warn!(%from, why = %refusal, suppressed, "no connection with whoever dialed this node");
        }
    }
}

impl Cover for Tls {
    type Stream = TlsStream;

    async fn connect(&self, tcp: TcpStream, peer: NodeId) -> io::Result<TlsStream> {
        Self::connect(self, tcp, TlsPeer::Node(peer)).await
    }

    /// What times itself is given a little longer from outside, so that it is the one that tells.
    fn connect_timeout(&self) -> Duration {
        self.shared.handshake_timeout + GRACE
    }

    fn explain(peer: NodeId, error: MuxError) -> NetworkError {
        match &error {
            MuxError::Dial { source, .. } => match Self::refusal(source) {
                Some(refusal) => NetworkError::Tls { peer, refusal: refusal.clone() },
                None => error.into(),
            },
            _ => error.into(),
        }
    }

    fn socket(stream: &TlsStream) -> io::Result<&TcpStream> {
        stream.socket()
    }

    fn rehome(stream: TlsStream) -> io::Result<TlsStream> {
        stream.rehome()
    }

    fn certified(stream: &TlsStream) -> Option<NodeId> {
        Some(stream.peer().node)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("cluster", &self.shared.cluster)
            .field("node", &self.shared.node)
            .finish_non_exhaustive()
    }
}

/// The key is not shown.
impl fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsMaterial").finish_non_exhaustive()
    }
}

impl InUse {
    /// Looks at the certificates as a peer with the same CAs would.
    fn new(
        cluster: &str,
        node: NodeId,
        material: TlsMaterial,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let chain = certificates("certificate", &material.certificate)?;
        let cas = certificates("CA", &material.ca)?;
        let [first, between @ ..] = &chain[..] else {
            return Err(TlsError::NoCertificate);
        };
        if cas.is_empty() {
            return Err(TlsError::NoCa);
        }
        let anchor = |ca: &CertificateDer<'_>| -> Result<TrustAnchor<'static>, TlsError> {
            let anchor = webpki::anchor_from_trusted_cert(ca)
                .map_err(|error| TlsError::Unreadable { what: "CA", why: error.to_string() })?;
            Ok(anchor.to_owned())
        };
        let anchors = cas.iter().map(anchor).collect::<Result<_, _>>()?;
        let trust = Trust {
            cluster: cluster.to_owned(),
            anchors,
            algorithms: provider.signature_verification_algorithms,
        };
        let now = UnixTime::now();
        for role in [Role::Dials, Role::Accepts] {
            let name = trust.check((first, between), role, now).map_err(TlsError::Refused)?;
            if name.node != node {
                return Err(TlsError::OtherNode { ours: node, theirs: name.node });
            }
        }
        let key = PrivateKeyDer::from_pem_slice(&material.key).map_err(|error| match error {
            rustls::pki_types::pem::Error::NoItemsFound => TlsError::NoKey,
            // What is in it is a secret, whatever is wrong with it.
            _ => TlsError::Unreadable { what: "key", why: "it is no PEM".to_owned() },
        })?;
        let expires = expires(&trust, (first, between), now);
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::KeyMismatch,
            other => TlsError::Unreadable { what: "key", why: other.to_string() },
        })?;
        Ok(Self { material, key: Arc::new(key), trust: Arc::new(trust), expires })
    }
}

/// The last moment at which a peer would take a chain that it takes now, to the second.
fn expires(
    trust: &Trust,
    chain: (&CertificateDer<'_>, &[CertificateDer<'_>]),
    now: UnixTime,
) -> SystemTime {
    // Nothing else that is looked at changes with the time. Some thousand years from now on.
    let (mut taken, mut refused) = (now.as_secs(), now.as_secs() + (1 << 36));
    while taken + 1 < refused {
        let middle = taken + (refused - taken) / 2;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(middle));
        match trust.check(chain, Role::Dials, at) {
            Ok(_) => taken = middle,
            Err(_) => refused = middle,
        }
    }
    UNIX_EPOCH + Duration::from_secs(taken)
}

impl Sessions {
    fn new(in_use: &InUse, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let unusable =
            |error: rustls::Error| TlsError::Unreadable { what: "key", why: error.to_string() };
        let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(in_use.key.clone()));
        let mut accepting = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(Arc::new(DialerVerifier(in_use.trust.clone())))
            .with_cert_resolver(resolver.clone());
        accepting.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
        accepting.max_early_data_size = 0;
        let mut dialing = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptorVerifier(in_use.trust.clone())))
            .with_client_cert_resolver(resolver);
        dialing.enable_early_data = false;
        dialing.enable_sni = false;
        Ok(Self {
            since: Instant::now(),
            accepting: Arc::new(accepting),
            dialing: Arc::new(dialing),
        })
    }
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    read.map_err(|error| TlsError::Unreadable { what, why: error.to_string() })
}
