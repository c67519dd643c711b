//! From what the TLS library says to a reason that can be told.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use crate::network::refusal::TlsRefusal;

/// Why a handshake failed, as the error of its stream says.
pub(super) fn reason(error: &io::Error) -> TlsRefusal {
    let inner = error.get_ref();
    if let Some(refusal) = inner.and_then(|inner| inner.downcast_ref::<TlsRefusal>()) {
        return refusal.clone();
    }
    match inner.and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => of_tls(error),
        None => match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => TlsRefusal::BrokeOff,
            _ => TlsRefusal::Failed { why: error.to_string() },
        },
    }
}

fn of_tls(error: &Error) -> TlsRefusal {
    match error {
        Error::NoCertificatesPresented => TlsRefusal::NoCertificate,
        Error::InvalidCertificate(certificate) => of_certificate(certificate),
        Error::AlertReceived(alert) => TlsRefusal::ByPeer { says: of_alert(*alert) },
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => TlsRefusal::NoTls,
        Error::PeerIncompatible(why) => TlsRefusal::OtherTls { why: format!("{why:?}") },
        other => TlsRefusal::Failed { why: other.to_string() },
    }
}

fn of_certificate(error: &CertificateError) -> TlsRefusal {
    match error {
        CertificateError::UnknownIssuer => TlsRefusal::ForeignCa,
        CertificateError::Expired => TlsRefusal::Expired,
        CertificateError::NotValidYet => TlsRefusal::NotYetValid,
        CertificateError::Other(other) => match other.0.downcast_ref::<TlsRefusal>() {
            Some(refusal) => refusal.clone(),
            None => TlsRefusal::BadCertificate { why: error.to_string() },
        },
        other => TlsRefusal::BadCertificate { why: other.to_string() },
    }
}

const fn of_alert(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateRequired => "it asks for a certificate, and none was shown",
        AlertDescription::UnknownCA => {
            "it trusts no CA that has signed the certificate of this node"
        }
        AlertDescription::CertificateExpired => {
            "the certificate of this node has expired, or is not valid yet, by its clock"
        }
        AlertDescription::CertificateUnknown => {
            "the certificate of this node is not the one it expects here: of another node or \
             cluster, or of none; its own log says which"
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::DecryptError => "it cannot use the certificate of this node",
        AlertDescription::ProtocolVersion => "it does not speak TLS 1.3",
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
            "it shares no way to encrypt with this node"
        }
        _ => "it broke off the TLS handshake; its own log says why",
    }
}
