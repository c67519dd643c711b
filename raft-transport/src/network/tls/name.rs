//! Who a certificate is of: a URI among its subject alternative names.

use std::fmt;
use std::fmt::Write as _;

use raft_core::NodeId;

/// What the URIs of nodes begin with; others in a certificate are of no account.
const SCHEME: &str = "raft://";

/// A node by its cluster and its number, as certificates have it: `raft://<cluster>/<node>`.
///
/// There is one way to write each: of the cluster's bytes letters, digits and `-._~` stand for
/// themselves and every other is `%` and two upper-case hexadecimal digits (RFC 3986 2.1); the node is
/// decimal without leading zeros.
///
/// ```
/// use raft_core::NodeId;
/// use raft_transport::CertifiedName;
///
/// let name = CertifiedName { cluster: "my cluster".to_owned(), node: NodeId::new(7) };
/// assert_eq!(name.to_string(), "raft://my%20cluster/7");
/// assert_eq!(CertifiedName::parse("raft://my%20cluster/7"), Some(name));
/// assert_eq!(CertifiedName::parse("raft://my cluster/7"), None);
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertifiedName {
    /// The cluster.
    pub cluster: String,
    /// The node.
    pub node: NodeId,
}

impl CertifiedName {
    /// Reads a URI. `None` if it is another, or this one written in another way.
    pub fn parse(uri: &str) -> Option<Self> {
        let (cluster, node) = uri.strip_prefix(SCHEME)?.split_once('/')?;
        let node = NodeId::new(node.parse().ok()?);
        let mut bytes = Vec::with_capacity(cluster.len());
        let mut rest = cluster.as_bytes();
        while let [first, after @ ..] = rest {
            rest = after;
            if *first != b'%' {
                bytes.push(*first);
                continue;
            }
            let (digits, after) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        }
        let name = Self { cluster: String::from_utf8(bytes).ok()?, node };
        (!name.cluster.is_empty() && name.to_string() == uri).then_some(name)
    }

    /// The one name of this kind among the URIs of a certificate.
    pub(super) fn among<'a>(uris: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut ours = uris.filter(|uri| uri.starts_with(SCHEME));
        let first = Self::parse(ours.next()?)?;
        ours.next().is_none().then_some(first)
    }
}

impl fmt::Display for CertifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)?;
        for byte in self.cluster.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    f.write_char(char::from(byte))?;
                }
                other => write!(f, "%{other:02X}")?,
            }
        }
        write!(f, "/{}", self.node.get())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_name_is_read_back(cluster in "\\PC{1,80}", node: u64) {
            let name = CertifiedName { cluster, node: NodeId::new(node) };
            prop_assert_eq!(CertifiedName::parse(&name.to_string()), Some(name));
        }

        #[test]
        fn any_text_is_a_name_in_its_one_form_or_none(text in "raft://[%a-f0-9A-F/~ -]{0,12}") {
            if let Some(name) = CertifiedName::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }

    #[test]
    fn one_name_has_one_form() {
        for (uri, is_one) in [
            ("raft://example/1", true),
            ("raft://a.b_c~d-E%2F%C3%A9/18446744073709551615", true),
            ("raft://a%2f/1", false),
            ("raft://%61/1", false),
            ("raft://a/01", false),
            ("raft://a/+1", false),
            ("raft://a/18446744073709551616", false),
            ("raft://a/", false),
            ("raft:///1", false),
            ("raft://a/1/", false),
            ("raft://a%/1", false),
            ("raft://a%E9/1", false),
            ("RAFT://a/1", false),
            ("https://a/1", false),
        ] {
            assert_eq!(CertifiedName::parse(uri).is_some(), is_one, "{uri}");
        }
    }

    #[test]
    fn a_certificate_of_two_nodes_is_of_neither() {
        let of = |uris: &[&str]| CertifiedName::among(uris.iter().copied());
        assert!(of(&["spiffe://x/y", "raft://a/1"]).is_some());
        assert_eq!(of(&["raft://a/1", "raft://a/2"]), None);
        assert_eq!(of(&["raft://a/1", "raft://b"]), None);
        assert_eq!(of(&["spiffe://x/y"]), None);
    }
}
