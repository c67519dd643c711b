//! Certificates for tests, good ones and bad ones.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use raft_core::NodeId;
use raft_transport::{CertifiedName, TlsMaterial};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType, date_time_ymd,
};

pub(crate) const CLUSTER: &str = "of tests";
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A CA.
pub(crate) struct Ca {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// All of them have the same name: that alone makes none trusted.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "CA of tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// What node `node` of the cluster of tests needs.
    pub(crate) fn node(&self, node: u64) -> TlsMaterial {
        self.signed(&[&name(CLUSTER, node)], Duration::ZERO, YEAR)
    }

    /// A certificate with these URIs, valid from so long ago for so long.
    pub(crate) fn signed(&self, uris: &[&str], since: Duration, lasts: Duration) -> TlsMaterial {
        let uri = |uri: &&str| SanType::URI((*uri).try_into().unwrap());
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(uri).collect();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let begins = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - since;
        params.not_before = date_time_ymd(1970, 1, 1) + begins;
        params.not_after = date_time_ymd(1970, 1, 1) + begins + lasts;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        TlsMaterial {
            certificate: certificate.into(),
            key: key.serialize_pem().into(),
            ca: self.pem.clone().into(),
        }
    }
}

pub(crate) fn name(cluster: &str, node: u64) -> String {
    CertifiedName { cluster: cluster.to_owned(), node: NodeId::new(node) }.to_string()
}
