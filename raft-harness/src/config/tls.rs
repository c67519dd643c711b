//! The `[tls]` section: what a start would make of the files, found before it.

use std::net::SocketAddr;
use std::path::Path;

use raft_core::NodeId;

use super::check::Check;
use super::file::TlsSection;
use super::problem::Rule;
use crate::node::TlsOptions;

impl Check<'_> {
    /// The certificates, if there are any, as every peer would look at them.
    pub(super) fn tls(
        &mut self,
        section: &TlsSection,
        cluster: Option<&str>,
        node: Option<NodeId>,
    ) -> Option<TlsOptions> {
        let timeout = self.time("tls.handshake_timeout_ms", section.handshake_timeout_ms);
        if section.is_empty() {
            return None;
        }
        let files = [
            ("tls.certificate", &section.certificate),
            ("tls.key", &section.key),
            ("tls.ca", &section.ca),
        ];
        let is_missing = |path: &Path| path.as_os_str().is_empty();
        let missing: Vec<&str> =
            files.iter().filter(|(_, path)| is_missing(path)).map(|(key, _)| *key).collect();
        for key in &missing {
            let help = "name all three files, or none".to_owned();
            self.report(Rule::Tls, key, format!("`{key}` is missing"), help);
        }
        if !missing.is_empty() {
            return None;
        }
        let options = TlsOptions {
            certificate: section.certificate.clone(),
            key: section.key.clone(),
            ca: section.ca.clone(),
            handshake_timeout: timeout,
        };
        if let (Some(cluster), Some(node)) = (cluster, node) {
            self.certificates(cluster, node, &options);
        }
        Some(options)
    }

    #[cfg(feature = "tls")]
    fn certificates(&mut self, cluster: &str, node: NodeId, options: &TlsOptions) {
        use crate::node::tls_files::{days_if_few, load};
        use crate::node::{TlsProblem, chain};

        match load(cluster, node, options) {
            Ok(tls) => {
                if let Some(days) = days_if_few(&tls) {
                    let message = format!("the certificate expires in {days} days");
                    let help = "put another in its place; a node that runs takes it up".to_owned();
                    self.report(Rule::Expires, "tls.certificate", message, help);
                }
            }
            Err(problem) => {
                let key = match &problem {
                    TlsProblem::File { path, .. } | TlsProblem::Unusable { path, .. } => {
                        if *path == options.key {
                            "tls.key"
                        } else if *path == options.ca {
                            "tls.ca"
                        } else {
                            "tls.certificate"
                        }
                    }
                    TlsProblem::NotBuilt => "tls",
                };
                let help = "`raftd tls init` makes certificates that fit together".to_owned();
                self.report(Rule::Tls, key, chain(&problem), help);
            }
        }
    }

    #[cfg(not(feature = "tls"))]
    fn certificates(&mut self, _cluster: &str, _node: NodeId, _options: &TlsOptions) {
        let help = "build with the feature `tls`, or leave the section out".to_owned();
        self.report(Rule::Tls, "tls", "this build has no TLS", help);
    }

    /// Whoever reaches a port without TLS can pretend to be a node.
    pub(super) fn exposure(&mut self, section: &TlsSection, raft: Option<SocketAddr>) {
        if let Some(address) = raft
            && section.is_empty()
            && !address.ip().to_canonical().is_loopback()
        {
            let message = format!("whoever reaches {address} can pretend to be a node");
            let help =
                "set [tls] (`raftd tls init` makes certificates), or keep strangers off that \
                        network"
                    .to_owned();
            self.report(Rule::Open, "listen.raft", message, help);
        }
    }
}
