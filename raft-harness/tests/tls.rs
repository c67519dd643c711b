//! Whole nodes that know each other by certificates.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::{Entry, GroupId, NodeId};
use raft_harness::{
    GroupSpec, LogKind, NodeHost, NodeOptions, PeerOptions, StartError, StateMachine, TlsOptions,
    TlsProblem,
};
use raft_storage::LogOptions;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};

const CLUSTER: &str = "certified";
const GROUP: GroupId = GroupId::new(1);
const PATIENCE: Duration = Duration::from_secs(60);

struct Count(u64);

impl StateMachine for Count {
    fn apply(&mut self, entries: &[Entry], outputs: &mut Vec<Bytes>) {
        for _ in entries {
            self.0 += 1;
            outputs.push(Bytes::copy_from_slice(&self.0.to_le_bytes()));
        }
    }
    fn read(&self, _query: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }
    fn digest(&self) -> u64 {
        self.0
    }
}

struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Puts files in place by which somebody is node `certified` of `cluster`.
    fn issue(&self, files: &TlsOptions, cluster: &str, certified: u64) {
        let mut params = CertificateParams::default();
        params.not_after = date_time_ymd(2200, 1, 1);
        let name = format!("raft://{cluster}/{certified}");
        params.subject_alt_names = vec![SanType::URI(name.try_into().unwrap())];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        fs::write(&files.certificate, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        fs::write(&files.ca, &self.pem).unwrap();
    }
}

fn files(directory: &Path, node: u64) -> TlsOptions {
    let file = |kind: &str| directory.join(format!("{node}.{kind}"));
    TlsOptions {
        certificate: file("pem"),
        key: file("key"),
        ca: file("ca"),
        handshake_timeout: PATIENCE,
    }
}

fn start(node: u64, cluster: &str, tls: Option<TlsOptions>) -> Result<NodeHost, StartError> {
    start_on(LogKind::Memory { keep_bytes: None }, node, cluster, tls)
}

fn start_on(
    log: LogKind,
    node: u64,
    cluster: &str,
    tls: Option<TlsOptions>,
) -> Result<NodeHost, StartError> {
    let peers = (1..=3).filter(|peer| *peer != node);
    let options = NodeOptions {
        node: NodeId::new(node),
        cluster: cluster.to_owned(),
        tls,
        peers: peers
            .map(|peer| PeerOptions { node: NodeId::new(peer), address: String::new() })
            .collect(),
        log,
        shards: 1,
        ..NodeOptions::default()
    };
    let machine = |_: GroupId, _: &GroupSpec| -> Box<dyn StateMachine> { Box::new(Count(0)) };
    NodeHost::start(options, Arc::new(machine))
}

/// Tells all where all are.
fn introduce(hosts: &[NodeHost]) {
    for host in hosts {
        for other in hosts.iter().filter(|other| other.node() != host.node()) {
            let addr = other.listen_addr().expect("it has a port").to_string();
            host.set_peer_address(other.node(), &addr);
        }
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn propose(hosts: &[NodeHost]) {
    until("somebody takes a command", || {
        hosts.iter().any(|host| host.propose(GROUP, Bytes::from_static(b"x")).wait().is_ok())
    });
}

fn create(hosts: &[NodeHost]) {
    for host in hosts {
        host.create_group(GroupSpec::on_nodes(GROUP, [1, 2, 3].map(NodeId::new))).expect("created");
    }
}

/// Why a node does not reach another, as its status has it.
fn refusal(host: &NodeHost, peer: u64) -> Option<String> {
    let status = host.status();
    status.peers.into_iter().find(|of| of.node.get() == peer)?.refusal
}

fn counted(host: &NodeHost, name: &str) -> u64 {
    host.status().tls.map_or(0, |tls| tls.counters[name])
}

#[test]
fn certified_nodes_serve_and_the_others_are_told_apart_at_both_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (ca, foreign) = (Ca::new(), Ca::new());
    let mut hosts = Vec::new();
    for node in [1, 2] {
        let files = files(directory.path(), node);
        ca.issue(&files, CLUSTER, node);
        hosts.push(start(node, CLUSTER, Some(files)).unwrap());
    }
    introduce(&hosts);
    create(&hosts);
    propose(&hosts);
    assert!(hosts.iter().all(|host| counted(host, "tls_handshakes") >= 3));
    assert!(hosts[0].status().tls.unwrap().expires_seconds > 365 * 24 * 60 * 60);

    // Each stands where node 3 should, and dials as node 3.
    let third = files(directory.path(), 3);
    let stand_in = |cluster: &str, tls: Option<TlsOptions>, here: &str, there: &str| {
        let host = start(3, cluster, tls).unwrap();
        let all = [hosts[0].clone(), hosts[1].clone(), host.clone()];
        introduce(&all);
        let (mut at_host, mut at_stranger) = (false, false);
        // Each is told for as long as it is the last thing that happened.
        until(&format!("`{here}` and `{there}`"), || {
            at_host |= refusal(&hosts[0], 3).is_some_and(|told| told.contains(here));
            at_stranger |= refusal(&host, 1).is_some_and(|told| told.contains(there));
            at_host && at_stranger
        });
        assert!(!host.is_connected(NodeId::new(1)) && !hosts[0].is_connected(NodeId::new(3)));
        host.stop();
    };
    // No TLS at all: our first words are no lane it knows, and its are no TLS.
    let plain = start(3, CLUSTER, None).unwrap();
    introduce(&[hosts[0].clone(), hosts[1].clone(), plain.clone()]);
    until("its words are taken for no TLS", || counted(&hosts[0], "tls_refused_no_tls") > 0);
    until("it breaks off", || {
        refusal(&hosts[0], 3).is_some_and(|told| told.contains("broke off in the TLS handshake"))
    });
    plain.stop();

    foreign.issue(&third, CLUSTER, 3);
    let ca_here = "signed by no CA that is trusted here";
    stand_in(CLUSTER, Some(third.clone()), ca_here, ca_here);

    ca.issue(&third, "elsewhere", 3);
    stand_in(
        "elsewhere",
        Some(third.clone()),
        "its certificate is of cluster \"elsewhere\", and this is \"certified\"",
        "its certificate is of cluster \"certified\", and this is \"elsewhere\"",
    );

    ca.issue(&third, CLUSTER, 2);
    let refused = start(3, CLUSTER, Some(third.clone())).map(|_| ()).unwrap_err();
    assert!(matches!(refused, StartError::Tls(TlsProblem::Unusable { .. })), "{refused}");

    // Through all of that, and after it, a good one is served.
    ca.issue(&third, CLUSTER, 3);
    hosts.push(start(3, CLUSTER, Some(third)).unwrap());
    introduce(&hosts);
    create(&hosts[2..]);
    propose(&hosts);
    until("node 3 is reached", || hosts[0].is_connected(NodeId::new(3)));
    assert_eq!(refusal(&hosts[0], 3), None);
    for host in &hosts {
        host.stop();
    }
}

/// New files under load, on all nodes: no lane is lost, and a node that comes back uses them.
#[test]
fn certificates_change_while_commands_flow() {
    let directory = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    // Without a memory of its own none may come back under its name.
    let begin = |node| {
        let path = directory.path().join(format!("{node}.data"));
        if !path.exists() {
            let fresh = raft_storage::InitOptions::default();
            raft_storage::init(&path, CLUSTER, NodeId::new(node), &fresh).unwrap();
        }
        let log = LogKind::Directory { path, options: LogOptions::default() };
        start_on(log, node, CLUSTER, Some(files(directory.path(), node))).unwrap()
    };
    let mut hosts = Vec::new();
    for node in 1..=3 {
        ca.issue(&files(directory.path(), node), CLUSTER, node);
        hosts.push(begin(node));
    }
    introduce(&hosts);
    create(&hosts);
    propose(&hosts);
    let ups = |hosts: &[NodeHost]| -> u64 {
        hosts.iter().map(|host| host.status().lane_total("reconnects")).sum()
    };
    until("all reach all", || {
        hosts.iter().all(|host| (1..=3).all(|peer| host.is_connected(NodeId::new(peer))))
    });
    let before = ups(&hosts);
    for node in 1..=3 {
        ca.issue(&files(directory.path(), node), CLUSTER, node);
    }
    until("all have taken the new ones", || {
        propose(&hosts);
        hosts.iter().all(|host| counted(host, "tls_reloads") == 1)
    });
    assert_eq!(ups(&hosts), before, "no lane was lost");
    let handshakes = counted(&hosts[0], "tls_handshakes");
    hosts.pop().expect("node 3").stop();
    until("it is missed", || !hosts[0].is_connected(NodeId::new(3)));
    hosts.push(begin(3));
    introduce(&hosts);
    until("it is back", || hosts[0].is_connected(NodeId::new(3)));
    propose(&hosts);
    assert!(counted(&hosts[0], "tls_handshakes") > handshakes);
    for host in &hosts {
        host.stop();
    }
}
