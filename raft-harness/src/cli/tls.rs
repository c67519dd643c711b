//! `raftd tls init`: a first set of certificates, so that nodes can prove who they are to one another.
//!
//! A CA for one cluster and a certificate per node, as files that `[tls]` can name. It is no more than
//! that: whoever has a CA of their own lets that sign, and needs nothing from here.
//!
//! Invariant: nothing is ever overwritten, and a key is never readable by others, not even for a
//! moment.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use raft_core::NodeId;
use raft_transport::{CertifiedName, Tls, TlsMaterial};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

use super::error::{CliError, Exit};
use crate::config::CLUSTER_BYTES_MAX;
use crate::output;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CA_DAYS: u32 = 3650;
/// Clocks of machines differ.
const BACKDATED: Duration = DAY;
/// X.520 allows no more in a name.
const NAME_CHARS_MAX: usize = 64;

#[derive(Debug, Subcommand)]
pub(super) enum TlsCommand {
    /// Make certificates by which nodes know each other.
    #[command(after_help = INIT_HELP)]
    Init(InitArguments),
}

const INIT_HELP: &str = "\
A cluster of three nodes from nothing:

  raftd tls init --name example --nodes 1,2,3 ./tls

makes in ./tls
  ca.pem                    whom all nodes trust; every node needs it
  ca.key                    who has it can let anybody in: keep it off the nodes
  node-1.pem, node-1.key    for node 1 only, and so on

Copy ca.pem, node-N.pem and node-N.key to node N, and name them in its configuration:

  [tls]
  certificate = \"/etc/raftd/node-1.pem\"
  key = \"/etc/raftd/node-1.key\"
  ca = \"/etc/raftd/ca.pem\"

`raftd config check` then says whether they fit. All nodes have TLS, or none: a node with it and
one without cannot talk, so switch a cluster while it is stopped.

Later, another node, or a new certificate for one whose old one expires, by the same CA:

  raftd tls init --name example --nodes 4 --ca ./tls ./tls-of-4

Nodes that run take up files that change within seconds. Nothing is ever overwritten.";

#[derive(Args, Debug)]
pub(super) struct InitArguments {
    /// The cluster's name, as in `node.cluster`.
    #[arg(long)]
    name: String,
    /// The numbers of the nodes, as in `node.id`: 1,2,3
    #[arg(long, required = true, value_delimiter = ',', value_name = "N,N,..",
          value_parser = clap::value_parser!(u64).range(1..))]
    nodes: Vec<u64>,
    /// Take the CA (ca.pem, ca.key) from here instead of making one.
    #[arg(long, value_name = "DIR")]
    ca: Option<PathBuf>,
    /// For how many days the nodes' certificates are valid.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Where the files go. Made if it is not there.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(super) fn run(command: &TlsCommand) -> Result<Exit, CliError> {
    match command {
        TlsCommand::Init(arguments) => init(arguments),
    }
}

/// A file that is to be made.
struct NewFile {
    path: PathBuf,
    text: String,
    /// Owner only.
    is_secret: bool,
}

fn init(arguments: &InitArguments) -> Result<Exit, CliError> {
    let InitArguments { name, nodes, ca, days, directory } = arguments;
    if !(1..=CLUSTER_BYTES_MAX).contains(&name.len()) {
        return Err(CliError::Usage("--name has 1 to 255 bytes"));
    }
    if nodes.iter().collect::<BTreeSet<_>>().len() != nodes.len() {
        return Err(CliError::Usage("--nodes has a number twice"));
    }
    let mut files = Vec::new();
    let mut add = |name: String, text: String, is_secret| {
        files.push(NewFile { path: directory.join(name), text, is_secret });
    };
    let (issuer, ca_pem) = match ca {
        Some(from) => {
            let (pem, key) = (from.join("ca.pem"), from.join("ca.key"));
            let key_pem = read(&key)?;
            let pair = KeyPair::from_pem(&key_pem).map_err(|error| made(&key, error))?;
            (Issuer::new(ca_params(name), pair), read(&pem)?)
        }
        None => {
            let (params, key) = (ca_params(name), KeyPair::generate().map_err(unmade)?);
            let pem = params.self_signed(&key).map_err(unmade)?.pem();
            add("ca.key".to_owned(), key.serialize_pem(), true);
            (Issuer::new(params, key), pem)
        }
    };
    add("ca.pem".to_owned(), ca_pem.clone(), false);
    for id in nodes {
        let node = NodeId::new(*id);
        let (params, key) = (node_params(name, node, *days)?, KeyPair::generate().map_err(unmade)?);
        let certificate = params.signed_by(&key, &issuer).map_err(unmade)?.pem();
        let key = key.serialize_pem();
        // As a peer would look at it: the key of the CA may be that of another, or of another cluster.
        let material = TlsMaterial {
            certificate: certificate.clone().into(),
            key: key.clone().into(),
            ca: ca_pem.clone().into(),
        };
        if Tls::new(name, node, material, Duration::from_secs(1)).is_err() {
            return Err(CliError::Usage(
                "ca.pem and ca.key in the directory of --ca are not those that `raftd tls init` made for \
                 a cluster of this --name",
            ));
        }
        add(format!("node-{id}.pem"), certificate, false);
        add(format!("node-{id}.key"), key, true);
    }
    for file in &files {
        let exists = file.path.try_exists().map_err(|source| at(&file.path, source))?;
        if exists {
            return Err(CliError::Exists { path: file.path.clone() });
        }
    }
    fs::create_dir_all(directory).map_err(|source| at(directory, source))?;
    for file in &files {
        write(file)?;
    }
    output::result(told(arguments)).map_err(CliError::Output)?;
    Ok(Exit::Ok)
}

/// The same for one name at all times: who signs is known by it and its key.
fn ca_params(cluster: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "raftd CA");
    let name: String = cluster.chars().take(NAME_CHARS_MAX).collect();
    params.distinguished_name.push(DnType::OrganizationName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, CA_DAYS);
    params
}

fn node_params(cluster: &str, node: NodeId, days: u32) -> Result<CertificateParams, CliError> {
    let name = CertifiedName { cluster: cluster.to_owned(), node }.to_string();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("raftd node {node}"));
    params.subject_alt_names =
        vec![SanType::URI(name.try_into().map_err(|error: rcgen::Error| unmade(error))?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, days);
    Ok(params)
}

/// From a little before now on.
fn set_validity(params: &mut CertificateParams, days: u32) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + DAY * days;
}

fn read(path: &Path) -> Result<String, CliError> {
    fs::read_to_string(path).map_err(|source| at(path, source))
}

fn write(file: &NewFile) -> Result<(), CliError> {
    let mode = if file.is_secret { 0o600 } else { 0o644 };
    let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(&file.path);
    let written = made.and_then(|mut made| {
        made.write_all(file.text.as_bytes())?;
        made.sync_all()
    });
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CliError::Exists { path: file.path.clone() },
        _ => at(&file.path, source),
    })
}

fn at(path: &Path, source: io::Error) -> CliError {
    CliError::File { path: path.to_owned(), source }
}

fn made(path: &Path, error: rcgen::Error) -> CliError {
    at(path, io::Error::new(io::ErrorKind::InvalidData, error))
}

fn unmade(error: rcgen::Error) -> CliError {
    CliError::System { what: "cannot make a certificate", source: io::Error::other(error) }
}

fn told(arguments: &InitArguments) -> String {
    let InitArguments { nodes, ca, days, directory, .. } = arguments;
    let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.clone());
    let directory = directory.display();
    let mut text = String::new();
    if ca.is_none() {
        text +=
            &format!("{directory}/ca.key lets anybody in who has it: keep it off the nodes.\n\n");
    }
    for node in nodes {
        text += &format!(
            "Node {node}, valid for {days} days; these files on it, and in its configuration:\n\n  \
             [tls]\n  \
             certificate = \"{directory}/node-{node}.pem\"\n  \
             key = \"{directory}/node-{node}.key\"\n  \
             ca = \"{directory}/ca.pem\"\n\n"
        );
    }
    text + "`raftd config check` says whether they fit. All nodes of a cluster have TLS, or none."
}
