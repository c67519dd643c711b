//! Presets: what they set, what they leave alone, and that a node starts with each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use toml::de::DeValue;

use super::super::presets::presets;
use super::*;
use crate::NodeOptions;
use crate::kv::KvFactory;
use crate::node::{Deployment, LogKind, NetworkProfile, NodeHost};

/// A node of a cluster of so many, with only what has no default.
fn minimal(nodes: u16, rest: &str) -> String {
    let mut text = String::from(
        "[node]\nid = 1\ncluster = \"c\"\ndata_dir = \"d\"\n[listen]\nraft = \"127.0.0.1:7001\"\n\
         resp = \"127.0.0.1:6371\"\nresp_proxy = \"127.0.0.1:6471\"\nadmin = \"127.0.0.1:9071\"\n",
    );
    for id in 1..=nodes {
        let _ = write!(
            text,
            "[[peers]]\nid = {id}\nraft = \"127.0.0.1:{}\"\nresp = \"127.0.0.1:{}\"\n",
            7000 + id,
            6370 + id
        );
    }
    text + rest
}

fn preset(deployment: &str, network: &str) -> String {
    format!("[preset]\ndeployment = \"{deployment}\"\nnetwork = \"{network}\"\n")
}

fn valid(text: &str) -> Loaded {
    parse("node.toml", text, &Environment::default()).unwrap_or_else(|why| panic!("{why}\n{text}"))
}

#[test]
fn a_file_with_presets_says_what_the_presets_in_code_say() {
    for deployment in Deployment::ALL {
        for network in NetworkProfile::ALL {
            let nodes = u16::try_from(deployment.voters()).expect("few");
            let named = preset(&deployment.to_string(), &network.to_string());
            let loaded = valid(&minimal(nodes, &named));
            assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
            let found = loaded.config.node_options();
            let mut expected = valid(&minimal(nodes, "")).config.node_options();
            deployment.apply(&mut expected);
            network.apply(&mut expected);
            let told = |options: &NodeOptions| {
                let NodeOptions { settings, lanes, persistence, command_bytes_max, .. } = options;
                let strategy = persistence.strategy;
                let flush = (strategy == Strategy::MemFirst).then_some(persistence.flush);
                format!("{settings:?} {lanes:?} {strategy:?} {flush:?} {command_bytes_max}")
            };
            assert_eq!(told(&found), told(&expected), "{deployment} over {network}");
        }
    }
}

#[test]
fn a_preset_sets_only_what_neither_file_nor_environment_sets() {
    let rest = "[network.control]\nwindow_bytes = 1000000\n";
    let text = minimal(3, &format!("{}{rest}", preset("cloud-3", "lan")));
    let environment = variables([("RAFT_NETWORK_DATA_WINDOW_BYTES", "2000000")]);
    let loaded = parse("node.toml", &text, &environment).expect("valid");
    let lanes = loaded.config.node_options().lanes;
    let windows = [lanes.control, lanes.data, lanes.bulk].map(|lane| lane.window_bytes);
    assert_eq!(windows, [1_000_000, 2_000_000, 32 << 20]);
    let by_variable = variables([("RAFT_PRESET_DEPLOYMENT", "durable-5")]);
    let loaded = parse("node.toml", &minimal(5, ""), &by_variable).expect("valid");
    assert_eq!(loaded.config.lanes.bulk.window_bytes, 64 << 20, "a variable may name one too");
}

#[test]
fn whoever_chooses_a_strategy_chooses_all_about_it() {
    let with_strategy = |strategy: &str| {
        let rest = format!("[raft.persistence]\nstrategy = \"{strategy}\"\n");
        minimal(1, &format!("{}{rest}", preset("dev-single", "none")))
    };
    let loaded = valid(&with_strategy("DiskFirst"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    assert_eq!(loaded.config.persistence.strategy, Strategy::DiskFirst);
    assert_eq!(ids(&with_strategy("MemFirst")), ["E135"], "a preset accepts no risk of another");
    let refused = "[raft.persistence]\npower_loss_may_lose_acknowledged_writes = false\n";
    let text = minimal(1, &format!("{}{refused}", preset("dev-single", "none")));
    let told = problems(&text).to_string();
    assert!(told.starts_with("error[E135] preset dev-single: under MemFirst"), "{told}");
}

#[test]
fn presets_that_do_nothing_or_are_for_another_size_are_named() {
    let told = |text: &str| problems(text).to_string();
    let five = told(&minimal(3, &preset("durable-5", "none")));
    assert!(five.contains("W136") && five.contains("meant for 5 nodes, and there are 3"), "{five}");
    let idle = EXAMPLE.replace("network = \"none\" ", "network = \"lan\" ");
    let idle = told(&idle);
    assert!(idle.contains("W136") && idle.contains("`lan` changes nothing"), "{idle}");
    assert_eq!(ids(&minimal(3, &preset("cloud-4", "lan"))), ["E011"]);
}

/// Presets with values of keys at their edges: what is valid is what a node starts with.
#[test]
fn what_is_valid_is_what_a_node_starts_with_whatever_the_preset() {
    const EDGES: &[&str] = &[
        "",
        "[raft]\nelection_timeout_min_ms = 300\nelection_timeout_max_ms = 600\n",
        "[raft]\nheartbeat_interval_ms = 1\nelection_timeout_min_ms = 60000\n\
         election_timeout_max_ms = 120000\n",
        "[raft]\nappend_bytes_max = 1\ninflight_appends_max = 1\n",
        "[network.data]\nframe_bytes_max = 1_114_112\nwindow_bytes = 65_536\n",
        "[network.control]\nframe_bytes_max = 65536\nlong_messages_max = 1\nchunk_bytes = 512\n",
        "[raft.persistence]\nflush_policy = { Batch = { threshold = 1, interval_ms = 1000 } }\n",
        "[raft]\ndisk_stall_max_ms = 5000\n",
    ];
    let (mut started, mut refused) = (0, 0);
    for deployment in ["none", "dev-single", "cloud-3", "durable-5"] {
        for network in ["none", "lan", "wan-stable", "cloud-lossy", "wan-unstable"] {
            for edge in EDGES {
                let text = minimal(1, &format!("{}{edge}", preset(deployment, network)));
                let parsed = parse("node.toml", &text, &Environment::default());
                let Ok(loaded) = parsed else {
                    refused += 1;
                    continue;
                };
                let mut options = loaded.config.node_options();
                options.validate().expect("the check has asked");
                options.log = LogKind::Memory { keep_bytes: None };
                options.network = NodeOptions::default().network;
                let host = NodeHost::start(options, Arc::new(KvFactory))
                    .unwrap_or_else(|why| panic!("{why}\n{text}"));
                host.stop();
                started += 1;
            }
        }
    }
    assert!(started >= 80 && refused >= 10, "{started} started, {refused} refused");
}

#[test]
fn each_value_is_explained_by_where_it_comes_from() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("node.toml");
    let text = minimal(3, &format!("{}[groups]\ncount = 7\n", preset("cloud-3", "none")));
    std::fs::write(&file, &text).expect("written");
    let environment = variables([("RAFT_NODE_SHARDS", "2")]);
    let (_, explained) = explain(&file, &environment).expect("valid");
    let of = |key: &str| {
        let found = explained.iter().find(|explained| explained.key == key);
        let Explained { value, source, .. } = found.unwrap_or_else(|| panic!("{key}"));
        format!("{value} by {source}")
    };
    let line =
        |start: &str| text.lines().position(|line| line.starts_with(start)).expect("there") + 1;
    assert_eq!(of("groups.count"), format!("7 by line {}", line("count")));
    assert_eq!(of("node.shards"), "2 by RAFT_NODE_SHARDS");
    assert_eq!(of("network.bulk.window_bytes"), "33554432 by preset cloud-3");
    assert_eq!(of("network.control.chunk_bytes"), "32768 by default");
    assert_eq!(of("raft.disk_stall_max_ms"), "2000 by default");
    assert_eq!(of("raft.persistence.flush_policy"), "\"Immediate\" by default");
    assert_eq!(
        of("peers.2.raft"),
        format!("\"127.0.0.1:7003\" by line {}", line("raft = \"127.0.0.1:7003"))
    );
    assert!(explained.iter().all(|explained| !explained.meaning.is_empty()), "{explained:?}");
}

#[test]
fn what_is_explained_is_what_the_example_says() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("node.toml");
    std::fs::write(&file, EXAMPLE).expect("written");
    let (_, explained) = explain(&file, &Environment::default()).expect("valid");
    let example: toml::Table = toml::from_str(EXAMPLE).expect("TOML");
    for Explained { key, value, source, .. } in &explained {
        let mut names = key.split('.');
        let first = example.get(names.next().expect("one")).expect("a section");
        let said = names.try_fold(first, |at, name| match name.parse::<usize>() {
            Ok(index) => at.get(index),
            Err(_) => at.get(name),
        });
        assert_eq!(Some(value), said, "{key}");
        assert!(matches!(source, Source::File { .. }), "{key}: {source}");
    }
    // Two more peers, with three keys each.
    let keys = super::super::explanation::described().len();
    assert_eq!(explained.len(), keys + 6);
}

#[test]
fn the_tables_of_presets_in_the_documents_are_those_in_code() {
    let document = include_str!("../../../../docs/CONFIGURATION.md");
    /// With the keys of a table in the order of their names.
    fn said(value: &DeValue<'_>) -> String {
        match value {
            DeValue::Integer(value) => value.to_string(),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::String(value) => format!("{value:?}"),
            DeValue::Table(table) => {
                let entries: BTreeMap<&str, String> = table
                    .iter()
                    .map(|(key, value)| (key.get_ref().as_ref(), said(value.get_ref())))
                    .collect();
                let entries: Vec<String> =
                    entries.iter().map(|(key, value)| format!("{key} = {value}")).collect();
                format!("{{ {} }}", entries.join(", "))
            }
            other => panic!("no preset has had such a value before: {other:?}"),
        }
    }
    let (deployments, networks) = presets().split_at(Deployment::ALL.len());
    for columns in [deployments, networks] {
        let values: Vec<BTreeMap<String, String>> = columns
            .iter()
            .map(|preset| preset.keys().iter().map(|(key, v)| (key.join("."), said(v))).collect())
            .collect();
        let keys: BTreeSet<&String> = values.iter().flat_map(BTreeMap::keys).collect();
        for key in keys {
            let mut row = format!("| `{key}` |");
            for column in &values {
                let value =
                    column.get(key).map_or_else(|| "default".to_owned(), |v| format!("`{v}`"));
                let _ = write!(row, " {value} |");
            }
            assert!(document.lines().any(|line| line == row), "docs/CONFIGURATION.md lacks\n{row}");
        }
    }
}
