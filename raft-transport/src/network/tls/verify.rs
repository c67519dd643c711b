//! What a certificate must be: signed by our CA, valid now, of a node, of our cluster, of the node
//! that was meant.
//!
//! Invariant: a chain is looked at by one function, whoever shows it: a dialer, an acceptor, or this
//! node to itself before it uses a certificate of its own.

use std::sync::Arc;

use raft_core::NodeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage};

use super::name::CertifiedName;
use crate::network::refusal::TlsRefusal;

/// The CAs of this cluster, and how they may sign.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) cluster: String,
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// What a node does with a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    Dials,
    Accepts,
}

/// Whom a dialer means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TlsPeer {
    /// This node.
    Node(NodeId),
    /// Any node of the cluster.
    AnyNode,
}

impl TlsPeer {
    /// What sessions to go on from are kept under; it is not told.
    pub(super) fn server_name(self) -> ServerName<'static> {
        let name = match self {
            Self::Node(node) => format!("node-{}", node.get()),
            Self::AnyNode => "any".to_owned(),
        };
        ServerName::try_from(name).expect("letters, digits and a hyphen are a name")
    }

    fn of_server_name(name: &ServerName<'_>) -> Option<Self> {
        let ServerName::DnsName(name) = name else { return None };
        match name.as_ref() {
            "any" => Some(Self::AnyNode),
            other => Some(Self::Node(NodeId::new(other.strip_prefix("node-")?.parse().ok()?))),
        }
    }

    /// Whether a node of our cluster is the one that is meant.
    pub(super) fn check(self, name: &CertifiedName) -> Result<(), TlsRefusal> {
        match self {
            Self::Node(wanted) if wanted != name.node => {
                Err(TlsRefusal::WrongNode { wanted, theirs: name.node })
            }
            Self::Node(_) | Self::AnyNode => Ok(()),
        }
    }
}

impl Trust {
    /// Looks at a chain, and tells whose it is.
    pub(super) fn check(
        &self,
        chain: (&CertificateDer<'_>, &[CertificateDer<'_>]),
        role: Role,
        now: UnixTime,
    ) -> Result<CertifiedName, TlsRefusal> {
        let (first, between) = chain;
        let certificate = EndEntityCert::try_from(first).map_err(of_webpki)?;
        let usage = match role {
            Role::Dials => KeyUsage::client_auth(),
            Role::Accepts => KeyUsage::server_auth(),
        };
        let checked = certificate.verify_for_usage(
            self.algorithms.all,
            &self.anchors,
            between,
            now,
            usage,
            None,
            None,
        );
        checked.map_err(of_webpki)?;
        self.name(first)
    }

    /// Whose a certificate is that was looked at before. Of another cluster it is none of ours.
    pub(super) fn name(
        &self,
        certificate: &CertificateDer<'_>,
    ) -> Result<CertifiedName, TlsRefusal> {
        let certificate = EndEntityCert::try_from(certificate).map_err(of_webpki)?;
        let name = CertifiedName::among(certificate.valid_uri_names()).ok_or(TlsRefusal::NoName)?;
        if name.cluster != self.cluster {
            let (ours, theirs) = (self.cluster.clone(), name.cluster);
            return Err(TlsRefusal::WrongCluster { ours, theirs });
        }
        Ok(name)
    }
}

fn of_webpki(error: webpki::Error) -> TlsRefusal {
    match error {
        // A CA of the same name with another key shows by its signature only.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            TlsRefusal::ForeignCa
        }
        webpki::Error::CertExpired { .. } => TlsRefusal::Expired,
        webpki::Error::CertNotValidYet { .. } => TlsRefusal::NotYetValid,
        other => TlsRefusal::BadCertificate { why: other.to_string() },
    }
}

/// As an alert tells it to the other end, which hears no more than that; our own end has the reason.
fn alerting(refusal: TlsRefusal) -> Error {
    let alert = match refusal {
        TlsRefusal::ForeignCa => CertificateError::UnknownIssuer,
        TlsRefusal::Expired => CertificateError::Expired,
        TlsRefusal::NotYetValid => CertificateError::NotValidYet,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    Error::InvalidCertificate(alert)
}

/// Looks at dialers.
#[derive(Debug)]
pub(super) struct DialerVerifier(pub(super) Arc<Trust>);

impl ClientCertVerifier for DialerVerifier {
    /// Dialers have one certificate, so there is nothing to choose by.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        first: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let checked = self.0.check((first, between), Role::Dials, now);
        checked.map(|_| ClientCertVerified::assertion()).map_err(alerting)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.algorithms.supported_schemes()
    }
}

/// Looks at whom was dialed.
#[derive(Debug)]
pub(super) struct AcceptorVerifier(pub(super) Arc<Trust>);

impl ServerCertVerifier for AcceptorVerifier {
    fn verify_server_cert(
        &self,
        first: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        meant: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let name = self.0.check((first, between), Role::Accepts, now).map_err(alerting)?;
        let meant = TlsPeer::of_server_name(meant).ok_or_else(|| alerting(TlsRefusal::NoName))?;
        meant.check(&name).map_err(alerting)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.algorithms.supported_schemes()
    }
}
