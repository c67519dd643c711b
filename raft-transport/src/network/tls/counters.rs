//! What became of handshakes, in numbers, each reason by its own.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::network::refusal::TlsRefusal;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: AtomicU64,)*
        }

        /// What became of the TLS handshakes of a node, at both ends, since its start. They only grow.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
        #[non_exhaustive]
        pub struct TlsSnapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            pub(super) fn snapshot(&self) -> TlsSnapshot {
                TlsSnapshot { $($name: self.$name.load(Relaxed),)* }
            }
        }

        impl TlsSnapshot {
            /// Every counter with its name, for exporters.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((concat!("tls_", stringify!($name)), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Handshakes that were done.
    handshakes,
    /// Of them, those that went on from an earlier one, without certificates.
    resumed,
    /// Refused here: it showed no certificate.
    refused_no_certificate,
    /// Refused here: signed by no CA that is trusted here.
    refused_foreign_ca,
    /// Refused here: expired, or not valid yet.
    refused_not_valid_now,
    /// Refused here: a node of another cluster.
    refused_wrong_cluster,
    /// Refused here: another node than the one that was dialed. Who greets as another node than its certificate
    /// says is counted by the lanes.
    refused_wrong_node,
    /// Refused here: no certificate of a node, or none that can be used.
    refused_bad_certificate,
    /// Refused here: no TLS, or another one.
    refused_no_tls,
    /// Refused by the other end.
    refused_by_peer,
    /// Not done in time.
    timeouts,
    /// Broken off by the other end, without a word.
    broke_off,
    /// Failed in another way.
    failures,
    /// Times other certificates were taken into use.
    reloads,
    /// Times certificates were tried that cannot be used; those before go on. Those that are not
    /// valid yet are tried every few seconds.
    reloads_failed,
}

impl Counters {
    pub(super) fn bump(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    pub(super) fn refused(&self, refusal: &TlsRefusal) {
        Self::bump(self.of(refusal).1);
    }

    /// What a refusal is counted by, and the name of all that are counted by the same.
    pub(super) fn of(&self, refusal: &TlsRefusal) -> (&'static str, &AtomicU64) {
        match refusal {
            TlsRefusal::NoCertificate => ("no certificate", &self.refused_no_certificate),
            TlsRefusal::ForeignCa => ("foreign CA", &self.refused_foreign_ca),
            TlsRefusal::Expired | TlsRefusal::NotYetValid => {
                ("not valid now", &self.refused_not_valid_now)
            }
            TlsRefusal::WrongCluster { .. } => ("wrong cluster", &self.refused_wrong_cluster),
            TlsRefusal::WrongNode { .. } => ("wrong node", &self.refused_wrong_node),
            TlsRefusal::NoName | TlsRefusal::BadCertificate { .. } => {
                ("bad certificate", &self.refused_bad_certificate)
            }
            TlsRefusal::NoTls | TlsRefusal::OtherTls { .. } => ("no TLS", &self.refused_no_tls),
            TlsRefusal::ByPeer { .. } => ("by peer", &self.refused_by_peer),
            TlsRefusal::Timeout { .. } => ("timeout", &self.timeouts),
            TlsRefusal::BrokeOff => ("broke off", &self.broke_off),
            TlsRefusal::Failed { .. } => ("failed", &self.failures),
        }
    }
}
