//! TLS between nodes: who is served, who is refused and how both ends hear of it, what a change of
//! certificates does.

mod certificates;
mod hostile;
mod lanes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use certificates::{CLUSTER, Ca, name};
use raft_core::{GroupId, NodeId};
use raft_mux::{DialTimeouts, GroupListener, MuxAcceptor, MuxConfig, MuxError, dial_with};
use raft_transport::{
    CertifiedName, Network, TcpNetwork, Tls, TlsError, TlsMaterial, TlsPeer, TlsRefusal, TlsStream,
    conformance,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{AlertDescription, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const GROUP: GroupId = GroupId::new(7);
const PATIENCE: Duration = Duration::from_secs(20);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn tls(node: u64, material: TlsMaterial) -> Tls {
    Tls::new(CLUSTER, NodeId::new(node), material, PATIENCE).unwrap()
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn bind(tls: &Tls) -> MuxAcceptor<TlsStream> {
    let tls = tls.clone();
    let config = MuxConfig { handshake_timeout: PATIENCE, ..MuxConfig::default() };
    let handshake = move |tcp, from| {
        let tls = tls.clone();
        async move { tls.accept(tcp, from).await }
    };
    MuxAcceptor::bind_with(any_port(), config, handshake).await.unwrap()
}

async fn dial(tls: &Tls, addr: SocketAddr, peer: TlsPeer) -> Result<TlsStream, MuxError> {
    let timeouts = DialTimeouts { connect: PATIENCE, handshake: PATIENCE };
    dial_with(addr, GROUP, timeouts, |tcp| tls.connect(tcp, peer)).await
}

fn refusal(error: &MuxError) -> TlsRefusal {
    let MuxError::Dial { source, .. } = error else { panic!("{error}") };
    Tls::refusal(source).unwrap_or_else(|| panic!("{source}")).clone()
}

async fn echo_once(listener: &GroupListener<TlsStream>) -> TlsStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).await.unwrap();
    stream.write_all(&byte).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

async fn ask(stream: &mut TlsStream) {
    stream.write_all(b"?").await.unwrap();
    stream.flush().await.unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"?");
}

#[tokio::test]
async fn a_raw_group_of_the_mux_is_served_and_both_ends_know_the_other() {
    let ca = Ca::new();
    let (one, two) = (tls(1, ca.node(1)), tls(2, ca.node(2)));
    let acceptor = bind(&two).await;
    let listener = acceptor.register(GROUP).unwrap();
    // Twice, for the second goes on from the session of the first.
    for turn in 1..=2 {
        let served = async {
            let mut stream = dial(&one, acceptor.local_addr(), TlsPeer::AnyNode).await.unwrap();
            ask(&mut stream).await;
            stream
        };
        let (dialed, accepted) = tokio::join!(served, echo_once(&listener));
        assert_eq!(dialed.peer().to_string(), "raft://of%20tests/2");
        assert_eq!(accepted.peer().to_string(), "raft://of%20tests/1");
        for side in [&one, &two] {
            let counted = side.snapshot();
            assert_eq!((counted.handshakes, counted.resumed), (turn, turn - 1));
        }
    }
}

/// Each kind of stranger: what it hears, and what is counted here.
#[tokio::test]
async fn strangers_are_told_apart_at_both_ends() {
    let (ca, foreign) = (Ca::new(), Ca::new());
    let host = tls(2, ca.node(2));
    let acceptor = bind(&host).await;
    let addr = acceptor.local_addr();
    let _listener = acceptor.register(GROUP).unwrap();
    let good = ca.node(1);

    let heard = knock(addr, Some(&foreign.node(1))).await;
    assert_eq!(heard, AlertDescription::UnknownCA);
    assert_eq!(host.snapshot().refused_foreign_ca, 1);

    assert_eq!(knock(addr, None).await, AlertDescription::CertificateRequired);
    assert_eq!(host.snapshot().refused_no_certificate, 1);

    let expired = ca.signed(&[&name(CLUSTER, 1)], 2 * DAY, DAY);
    assert_eq!(knock(addr, Some(&expired)).await, AlertDescription::CertificateExpired);
    assert_eq!(host.snapshot().refused_not_valid_now, 1);

    let elsewhere = ca.signed(&[&name("of others", 1)], Duration::ZERO, DAY);
    assert_eq!(knock(addr, Some(&elsewhere)).await, AlertDescription::CertificateUnknown);
    assert_eq!(host.snapshot().refused_wrong_cluster, 1);

    for uris in [&["https://example"][..], &[&name(CLUSTER, 1), &name(CLUSTER, 3)]] {
        let of_none = ca.signed(uris, Duration::ZERO, DAY);
        assert_eq!(knock(addr, Some(&of_none)).await, AlertDescription::CertificateUnknown);
    }
    assert_eq!(host.snapshot().refused_bad_certificate, 2);

    // One that has never heard of TLS says what a lane begins with.
    let mut plain = TcpStream::connect(addr).await.unwrap();
    plain.write_all(&[0xFF, 0xFF, 0xFF, 0x00, 1, 2, 3, 4]).await.unwrap();
    let _ = plain.read_to_end(&mut Vec::new()).await;
    assert_eq!(host.snapshot().refused_no_tls, 1);

    // Whoever is dialed as another node than its certificate says hears that it was refused, too.
    let dialer = tls(1, good);
    let error = dial(&dialer, addr, TlsPeer::Node(NodeId::new(3))).await.unwrap_err();
    let (wanted, theirs) = (NodeId::new(3), NodeId::new(2));
    assert_eq!(refusal(&error), TlsRefusal::WrongNode { wanted, theirs });
    assert_eq!(dialer.snapshot().refused_wrong_node, 1);
    counted(|| host.snapshot().refused_by_peer == 1).await;
    assert_eq!(acceptor.stats().handed_off, 0);
}

/// A refusal is told by whoever dialed, with the words of the alert that came.
#[tokio::test]
async fn a_dialer_is_told_that_it_was_refused_before_it_has_said_anything() {
    let (ca, foreign) = (Ca::new(), Ca::new());
    let host = tls(2, ca.node(2));
    let acceptor = bind(&host).await;
    let _listener = acceptor.register(GROUP).unwrap();
    // It trusts both, so it takes the host.
    let mut material = foreign.node(1);
    material.ca.extend_from_slice(ca.pem.as_bytes());
    let dialer = tls(1, material);
    let error = dial(&dialer, acceptor.local_addr(), TlsPeer::AnyNode).await.unwrap_err();
    let says = "it trusts no CA that has signed the certificate of this node";
    assert_eq!(refusal(&error), TlsRefusal::ByPeer { says });
    assert_eq!((dialer.snapshot().refused_by_peer, dialer.snapshot().handshakes), (1, 0));
    assert_eq!(host.snapshot().refused_foreign_ca, 1);
    // A cluster of its own, with the same CA: each refuses the other by name.
    let other = ca.signed(&[&name("of others", 1)], Duration::ZERO, DAY);
    let other = Tls::new("of others", NodeId::new(1), other, PATIENCE).unwrap();
    let error = dial(&other, acceptor.local_addr(), TlsPeer::AnyNode).await.unwrap_err();
    let (ours, theirs) = ("of others".to_owned(), CLUSTER.to_owned());
    assert_eq!(refusal(&error), TlsRefusal::WrongCluster { ours, theirs });
    counted(|| host.snapshot().refused_by_peer == 1).await;
}

/// Both ends give up by one key, and a port without TLS is told from one that is silent.
#[tokio::test]
async fn silence_and_broken_off_handshakes_end_at_both_ends() {
    let ca = Ca::new();
    let short = Duration::from_millis(50);
    let make = |node| Tls::new(CLUSTER, NodeId::new(node), ca.node(node), short).unwrap();
    let (dialer, host) = (make(1), make(2));
    let acceptor = bind(&host).await;
    let mut silent = TcpStream::connect(acceptor.local_addr()).await.unwrap();
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0, "it is closed without a word");
    assert_eq!(host.snapshot().timeouts, 1);

    let mute = tokio::net::TcpListener::bind(any_port()).await.unwrap();
    let error = dial(&dialer, mute.local_addr().unwrap(), TlsPeer::AnyNode).await.unwrap_err();
    assert_eq!(refusal(&error), TlsRefusal::Timeout { timeout: short });
    assert_eq!(dialer.snapshot().timeouts, 1);

    // The first bytes of a handshake are no group that a mux without TLS knows.
    let plain = MuxAcceptor::bind(any_port(), MuxConfig::default()).await.unwrap();
    let error = dial(&dialer, plain.local_addr(), TlsPeer::AnyNode).await.unwrap_err();
    assert_eq!(refusal(&error), TlsRefusal::BrokeOff);
    assert_eq!((dialer.snapshot().broke_off, plain.stats().unknown_group), (1, 1));
}

#[test]
fn what_no_peer_would_take_is_not_taken_into_use() {
    let (ca, foreign) = (Ca::new(), Ca::new());
    let good = ca.node(1);
    let of = |material| Tls::new(CLUSTER, NodeId::new(1), material, PATIENCE).map(drop);
    assert_eq!(of(good.clone()), Ok(()));
    let with = |change: &dyn Fn(&mut TlsMaterial)| {
        let mut material = good.clone();
        change(&mut material);
        of(material).unwrap_err()
    };
    assert_eq!(with(&|material| material.certificate.clear()), TlsError::NoCertificate);
    assert_eq!(with(&|material| material.ca.clear()), TlsError::NoCa);
    assert_eq!(with(&|material| material.key.clear()), TlsError::NoKey);
    assert_eq!(with(&|material| material.key = ca.node(1).key), TlsError::KeyMismatch);
    let refused = TlsError::Refused(TlsRefusal::ForeignCa);
    assert_eq!(with(&|material| material.ca = foreign.pem.clone().into()), refused);
    let (ours, theirs) = (NodeId::new(1), NodeId::new(2));
    assert_eq!(of(ca.node(2)).unwrap_err(), TlsError::OtherNode { ours, theirs });
    let expired = ca.signed(&[&name(CLUSTER, 1)], 2 * DAY, DAY);
    assert_eq!(of(expired).unwrap_err(), TlsError::Refused(TlsRefusal::Expired));
    let early = with(&|material| material.key = b"-----BEGIN PRIVATE KEY-----\nx".to_vec());
    assert!(matches!(early, TlsError::Unreadable { what: "key", .. } | TlsError::NoKey), "{early}");
}

#[tokio::test]
async fn other_certificates_are_taken_for_new_handshakes_and_broken_ones_are_not() {
    let (old, new) = (Ca::new(), Ca::new());
    let both = |ca: &Ca, node| {
        let mut material = ca.node(node);
        material.ca = [old.pem.as_bytes(), new.pem.as_bytes()].concat();
        material
    };
    let (one, two) = (tls(1, old.node(1)), tls(2, old.node(2)));
    let acceptor = bind(&two).await;
    let listener = acceptor.register(GROUP).unwrap();
    let meet = async || {
        let dialed = async {
            let mut stream = dial(&one, acceptor.local_addr(), TlsPeer::AnyNode).await?;
            ask(&mut stream).await;
            Ok::<_, MuxError>(stream)
        };
        tokio::select! {
            dialed = dialed => dialed,
            _ = async { loop { echo_once(&listener).await; } } => unreachable!(),
        }
    };
    meet().await.unwrap();

    // A file that is half there changes nothing, and is counted.
    let mut broken = new.node(2);
    broken.certificate.truncate(100);
    assert!(two.replace(broken).is_err());
    assert_eq!((two.snapshot().reloads, two.snapshot().reloads_failed), (0, 1));
    meet().await.unwrap();

    // From one CA to another: first all trust both, then they change, then they forget the old.
    for material in [both(&old, 2), both(&new, 2)] {
        assert!(two.replace(material.clone()).unwrap());
        assert!(!two.replace(material).unwrap(), "the same again is no change");
        if let Err(error) = meet().await {
            // One trusts the old one only, so far.
            assert_eq!(refusal(&error), TlsRefusal::ForeignCa);
        }
        one.replace(both(&old, 1)).unwrap();
        meet().await.unwrap();
    }
    one.replace(both(&new, 1)).unwrap();
    two.replace(new.node(2)).unwrap();
    meet().await.unwrap();
    // Whoever is left with the old one has no session to slip in by.
    one.replace(both(&old, 1)).unwrap();
    let error = meet().await.unwrap_err();
    assert!(matches!(refusal(&error), TlsRefusal::ByPeer { .. }), "{error:?}");
}

#[test]
fn the_end_of_a_certificate_is_known_to_the_second() {
    let lasts = Duration::from_secs(1_000_000);
    let material = Ca::new().signed(&[&name(CLUSTER, 1)], Duration::ZERO, lasts);
    let left = tls(1, material).expires().duration_since(SystemTime::now()).unwrap();
    assert!(lasts.abs_diff(left) < Duration::from_secs(60), "{left:?}");
}

#[tokio::test]
async fn network_over_tls_conforms() {
    let ca = Ca::new();
    conformance::run(async |[a, b]| {
        let make = |node| {
            let name = CertifiedName { cluster: "conformance".to_owned(), node };
            let material = ca.signed(&[&name.to_string()], Duration::ZERO, DAY);
            Tls::new("conformance", node, material, PATIENCE).unwrap()
        };
        let tls = [&a, &b].map(|registry| make(registry.identity().node));
        let (at_a, at_b) = (bind(&tls[0]).await, bind(&tls[1]).await);
        a.set_peer(b.identity().node, at_b.local_addr().to_string());
        b.set_peer(a.identity().node, at_a.local_addr().to_string());
        let [tls_a, tls_b] = tls;
        [(at_a, tls_a, a), (at_b, tls_b, b)].map(|(acceptor, tls, registry)| {
            let network = TcpNetwork::covered(acceptor, tls, &conformance::LANES, registry);
            Arc::new(network.unwrap()) as Arc<dyn Network>
        })
    })
    .await;
}

/// Waits for what another task counts.
async fn counted(mut done: impl FnMut() -> bool) {
    let work = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, work).await.expect("it is counted");
}

/// Dials with a certificate that [`Tls`] would not take into use, and gives back what it hears.
async fn knock(addr: SocketAddr, material: Option<&TlsMaterial>) -> AlertDescription {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TakesAnybody(provider)));
    let config = match material {
        Some(TlsMaterial { certificate, key, .. }) => {
            let chain: Result<_, _> = CertificateDer::pem_slice_iter(certificate).collect();
            let key = PrivateKeyDer::from_pem_slice(key).unwrap();
            config.with_client_auth_cert(chain.unwrap(), key).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    let tcp = TcpStream::connect(addr).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect("any".try_into().unwrap(), tcp).await.unwrap();
    let error = stream.read_exact(&mut [0]).await.unwrap_err();
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        other => panic!("{other:?}"),
    }
}

/// It is the acceptor's part that is asked about.
#[derive(Debug)]
struct TakesAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TakesAnybody {
    fn verify_server_cert(
        &self,
        _first: &CertificateDer<'_>,
        _between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
