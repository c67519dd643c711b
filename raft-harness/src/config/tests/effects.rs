//! From a line of the file to what the node is told: one row per key, and no key without one.

use std::collections::BTreeSet;

use raft_storage::LogOptions;

use super::super::explanation::described;
use super::*;
use crate::node::{LogKind, NetworkOptions, NodeOptions};

/// The example with one key changed, as a node is told it.
fn changed(key: &str, value: &str) -> (NodeConfig, NodeOptions) {
    let (section, name) = key.rsplit_once('.').expect("a key in a section");
    let mut at = String::new();
    let mut found = false;
    let text: String = EXAMPLE
        .lines()
        .map(|line| {
            if let Some(header) = line.split('#').next().filter(|line| line.starts_with('[')) {
                header.trim().trim_matches(['[', ']']).clone_into(&mut at);
            }
            let is_key = at == section && line.starts_with(&format!("{name} = "));
            // Of the peers, the first.
            if is_key && !found {
                found = true;
                format!("{name} = {value}\n")
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    assert!(found, "the example has no {key}");
    // What goes with it, or the change would contradict the rest.
    let text = match key {
        "node.id" => text.replacen("[[peers]]\nid = 1 ", "[[peers]]\nid = 9 ", 1),
        "peers.id" => text.replacen("[node]\nid = 1 ", "[node]\nid = 9 ", 1),
        "raft.persistence.strategy" | "raft.persistence.flush_policy" => flushed_text(&text, key),
        "log.syncs_per_second" => text.replace("pace = \"Learned\"", "pace = \"Fixed\""),
        "preset.deployment" => without_values(&text),
        "preset.network" => without_values(&text),
        key if key.starts_with("tls.") => certified(&text),
        _ => text,
    };
    let loaded = parse("node.toml", &text, &Environment::default());
    let config = loaded.unwrap_or_else(|problems| panic!("{key}: {problems}")).config;
    let options = config.node_options();
    options.validate().expect("a node starts with it");
    (config, options)
}

/// With all three files, or none would be looked at.
#[cfg(not(feature = "tls"))]
fn certified(_text: &str) -> String {
    unreachable!("a build without TLS has no rows for it")
}

/// With all three files, or none would be looked at.
#[cfg(feature = "tls")]
fn certified(text: &str) -> String {
    use std::sync::OnceLock;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
    use tempfile::TempDir;

    static FILES: OnceLock<TempDir> = OnceLock::new();
    let directory = FILES.get_or_init(|| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let ca = params.self_signed(&key).expect("signed").pem();
        let issuer = Issuer::new(params, key);
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            vec![SanType::URI("raft://example/1".try_into().expect("ASCII"))];
        let key = KeyPair::generate().expect("a key");
        let node = params.signed_by(&key, &issuer).expect("signed").pem();
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in [("ca.pem", ca), ("node.pem", node), ("node.key", key.serialize_pem())]
        {
            std::fs::write(directory.path().join(name), text).expect("written");
        }
        directory
    });
    let at = |name: &str| format!("{:?}", directory.path().join(name));
    let set = |text: String, key: &str, name: &str| {
        text.replace(&format!("{key} = \"\""), &format!("{key} = {}", at(name)))
            .replace(&format!("{key} = \"{name}\""), &format!("{key} = {}", at(name)))
    };
    let text = set(text.to_owned(), "certificate", "node.pem");
    set(set(text, "key", "node.key"), "ca", "ca.pem")
}

/// With the risk accepted, and for the policy the strategy under which it counts.
fn flushed_text(text: &str, key: &str) -> String {
    let knows = "power_loss_may_lose_acknowledged_writes = ";
    let text = text.replace(&format!("{knows}false"), &format!("{knows}true"));
    match key {
        "raft.persistence.strategy" => text,
        _ => text.replace("strategy = \"DiskFirst\"", "strategy = \"MemFirst\""),
    }
}

/// Only what has no default, and the presets.
fn without_values(text: &str) -> String {
    let (head, _) = text.split_once("[groups]").expect("groups follow the peers");
    head.to_owned()
}

type Effect = fn(&NodeConfig, &NodeOptions) -> bool;

fn log(options: &NodeOptions) -> LogOptions {
    let LogKind::Directory { options, .. } = &options.log else { panic!("a directory") };
    options.clone()
}

fn mux(options: &NodeOptions) -> &raft_mux::MuxConfig {
    let NetworkOptions::Tcp { mux, .. } = &options.network else { panic!("a port") };
    mux
}

/// Keys outside of the lanes, whose table is of its own: a value that is nobody's default, and
/// whether the node is told it.
const EFFECTS: &[(&str, &str, Effect)] = &[
    ("preset.deployment", "\"durable-5\"", |_, told| told.lanes.bulk.window_bytes == 64 << 20),
    ("preset.network", "\"wan-stable\"", |_, told| {
        told.settings.election_timeout_min == Duration::from_millis(1500)
    }),
    ("node.id", "9", |_, told| told.node.get() == 9 && told.peers.len() == 2),
    ("node.cluster", "\"other\"", |_, told| told.cluster == "other"),
    (
        "node.data_dir",
        "\"/elsewhere\"",
        |_, told| matches!(&told.log, LogKind::Directory { path, .. } if path == Path::new("/elsewhere")),
    ),
    ("node.shards", "3", |_, told| told.shards == 3),
    ("node.apply_workers", "5", |_, told| told.apply_workers == 5),
    (
        "listen.raft",
        "\"127.0.0.1:7009\"",
        |_, told| matches!(&told.network, NetworkOptions::Tcp { listen, .. } if listen.port() == 7009),
    ),
    ("listen.resp", "\"127.0.0.1:7009\"", |config, _| config.listen.resp.port() == 7009),
    ("listen.resp_proxy", "\"127.0.0.1:7009\"", |config, _| {
        config.listen.resp_proxy.port() == 7009
    }),
    ("listen.admin", "\"127.0.0.1:7009\"", |config, _| config.listen.admin.port() == 7009),
    ("peers.id", "9", |config, told| told.node.get() == 9 && config.peers[0].id == told.node),
    ("peers.raft", "\"127.0.0.1:7009\"", |_, told| {
        mux(told).advertise.is_some_and(|address| address.port() == 7009)
    }),
    ("peers.resp", "\"127.0.0.1:7009\"", |config, _| config.peers[0].resp.ends_with(":7009")),
    ("groups.count", "7", |config, _| config.groups == 7),
    ("raft.heartbeat_interval_ms", "99", |_, told| {
        told.settings.heartbeat_interval == Duration::from_millis(99)
    }),
    ("raft.election_timeout_min_ms", "501", |_, told| {
        told.settings.election_timeout_min == Duration::from_millis(501)
    }),
    ("raft.election_timeout_max_ms", "1001", |_, told| {
        told.settings.election_timeout_max == Duration::from_millis(1001)
    }),
    ("raft.append_bytes_max", "1001", |_, told| told.settings.append_bytes_max == 1001),
    ("raft.inflight_appends_max", "77", |_, told| told.settings.inflight_appends_max == 77),
    ("raft.inflight_bytes_max", "1001", |_, told| told.settings.inflight_bytes_max == 1001),
    ("raft.uncommitted_bytes_max", "1001", |_, told| told.settings.uncommitted_bytes_max == 1001),
    ("raft.reads_pending_max", "77", |_, told| told.settings.reads_pending_max == 77),
    ("raft.disk_stall_max_ms", "2001", |_, told| {
        told.settings.disk_stall_max == Duration::from_millis(2001)
    }),
    ("raft.persistence.strategy", "\"MemFirst\"", |_, told| {
        told.persistence.strategy == Strategy::MemFirst
    }),
    // It is not told but asked for: without it the next one is an error, with it a node starts.
    ("raft.persistence.power_loss_may_lose_acknowledged_writes", "true", |_, told| {
        told.persistence.strategy == Strategy::DiskFirst
    }),
    (
        "raft.persistence.flush_policy",
        "{ Batch = { threshold = 9, interval_ms = 8 } }",
        |_, told| {
            let interval = Duration::from_millis(8);
            told.persistence.flush == FlushPolicy::Batch { threshold: 9, interval }
        },
    ),
    ("raft.persistence.certificate_dir", "\"\"", |_, told| told.certificate_dir.is_none()),
    ("log.segment_bytes", "1048576", |_, told| log(told).segment_bytes == 1 << 20),
    ("log.checkpoint_bytes", "1001", |_, told| log(told).checkpoint_bytes == 1001),
    ("log.scrub_hours", "2", |_, told| told.log_scrub == Some(Duration::from_secs(7200))),
    ("log.pace", "\"Off\"", |_, told| told.log_pace == LogPace::Off),
    ("log.syncs_per_second", "77", |_, told| told.log_pace == LogPace::Fixed(77)),
    ("snapshots.every_entries", "77", |_, told| told.snapshot_every == Some(77)),
    ("snapshots.every_bytes", "1001", |_, told| told.snapshot_bytes == Some(1001)),
    ("snapshots.compression", "\"None\"", |_, told| told.snapshot_compression == Compression::None),
    ("mux.prefix_timeout_ms", "1001", |_, told| {
        mux(told).prefix_timeout == Duration::from_millis(1001)
    }),
    ("mux.half_open_max", "77", |_, told| mux(told).half_open_max == 77),
    #[cfg(feature = "tls")]
    ("tls.certificate", "\"node.pem\"", |_, told| {
        told.tls.as_ref().is_some_and(|tls| tls.certificate.ends_with("node.pem"))
    }),
    #[cfg(feature = "tls")]
    ("tls.key", "\"node.key\"", |_, told| {
        told.tls.as_ref().is_some_and(|tls| tls.key.ends_with("node.key"))
    }),
    #[cfg(feature = "tls")]
    ("tls.ca", "\"ca.pem\"", |_, told| {
        told.tls.as_ref().is_some_and(|tls| tls.ca.ends_with("ca.pem"))
    }),
    #[cfg(feature = "tls")]
    ("tls.handshake_timeout_ms", "3001", |_, told| {
        told.tls.as_ref().is_some_and(|tls| tls.handshake_timeout == Duration::from_millis(3001))
    }),
    ("network.layout", "\"control-bulk\"", |_, told| told.layout == LaneLayout::ControlBulk),
    ("network.heartbeats", "\"per-group\"", |_, told| told.heartbeats == Heartbeats::PerGroup),
    ("network.bulk_append_bytes", "1001", |_, told| told.lane_policy.bulk_append_min == Some(1001)),
    ("network.grant_bytes_max", "1000001", |_, told| told.grant_bytes_max == 1_000_001),
    ("shutdown.drain_ms", "77", |config, _| config.drain == Duration::from_millis(77)),
    ("trace.filter", "\"warn\"", |config, _| config.trace_filter == "warn"),
];

#[test]
fn each_key_has_an_effect_on_what_a_node_is_told() {
    let told = parse("node.toml", EXAMPLE, &Environment::default()).expect("valid").config;
    let options = told.node_options();
    for (key, value, effect) in EFFECTS {
        let has_said_it_before = *key == "raft.persistence.power_loss_may_lose_acknowledged_writes";
        assert!(has_said_it_before || !effect(&told, &options), "{key}: is the default");
        let (config, options) = changed(key, value);
        assert!(effect(&config, &options), "{key} = {value} has no effect");
    }
    let tested: BTreeSet<&str> = EFFECTS.iter().map(|(key, _, _)| *key).collect();
    // Keys with a test of their own.
    let lanes = ["network.control.", "network.data.", "network.bulk."];
    for described in described() {
        let is_of_lane = lanes.iter().any(|lane| described.key.starts_with(lane));
        // Without TLS they are refused.
        let is_refused = cfg!(not(feature = "tls")) && described.key.starts_with("tls.");
        let is_shown = is_of_lane || is_refused || tested.contains(described.key.as_str());
        assert!(is_shown, "{}", described.key);
    }
}

#[test]
fn each_key_of_a_lane_is_in_the_table_of_the_lanes() {
    for described in described() {
        let lane = |name| described.key.strip_prefix(name);
        let name =
            ["network.control.", "network.data.", "network.bulk."].into_iter().find_map(lane);
        let Some(name) = name else { continue };
        assert!(LANE_KEYS.contains(&format!("{name} = ")), "{name}");
    }
}
