//! Each rule, shown by a file that breaks it and no other.

use std::time::Duration;

use raft_transport::{LaneConfig, LaneLayout, SocketOptions};

mod effects;
mod presets;

use super::*;
use crate::Compression;
use crate::node::{Heartbeats, LaneConfigs, LogPace};
use crate::persistence::{FlushPolicy, Persistence, Strategy};

fn with(key: &str, line: &str) -> String {
    let mut found = false;
    let text: String = EXAMPLE
        .lines()
        .map(|old| {
            if !found && old.starts_with(key) {
                found = true;
                format!("{line}\n")
            } else {
                format!("{old}\n")
            }
        })
        .collect();
    assert!(found, "the example has no line that starts with `{key}`");
    text
}

fn problems(text: &str) -> Problems {
    match parse("node.toml", text, &Environment::default()) {
        Ok(loaded) => loaded.warnings,
        Err(problems) => problems,
    }
}

fn ids(text: &str) -> Vec<&'static str> {
    problems(text).iter().map(|problem| problem.rule.id()).collect()
}

fn variables<const N: usize>(pairs: [(&str, &str); N]) -> Environment {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_example_is_complete_valid_and_says_the_defaults() {
    let loaded = parse("example", EXAMPLE, &Environment::default()).expect("valid");
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let minimal = r#"
        [node]
        id = 1
        cluster = "example"
        data_dir = "./data/node-1"
        [listen]
        raft = "127.0.0.1:7001"
        resp = "127.0.0.1:6371"
        resp_proxy = "127.0.0.1:6471"
        admin = "127.0.0.1:9071"
        [[peers]]
        id = 1
        raft = "127.0.0.1:7001"
        resp = "127.0.0.1:6371"
        [[peers]]
        id = 2
        raft = "127.0.0.1:7002"
        resp = "127.0.0.1:6372"
        [[peers]]
        id = 3
        raft = "127.0.0.1:7003"
        resp = "127.0.0.1:6373"
    "#;
    let minimal = parse("minimal", minimal, &Environment::default()).expect("valid");
    assert_eq!(format!("{:?}", loaded.config), format!("{:?}", minimal.config));
}

#[test]
fn every_key_of_the_types_is_in_the_example() {
    let file: file::FileConfig = toml::from_str(EXAMPLE).expect("the example is read");
    let written = toml::Table::try_from(&file).expect("and can be written");
    let read: toml::Table = toml::from_str(EXAMPLE).expect("as itself");
    assert_eq!(leaves(&written), leaves(&read));
}

fn leaves(table: &toml::Table) -> Vec<String> {
    let mut paths = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => {
                paths.extend(leaves(inner).into_iter().map(|path| format!("{key}.{path}")));
            }
            toml::Value::Array(_) => paths.push(format!("{key}[]")),
            _ => paths.push(key.clone()),
        }
    }
    paths
}

#[test]
fn broken_toml_is_shown_at_its_place() {
    let problems = problems(&with("id = 1", "id = = 1"));
    let problem = problems.iter().next().expect("one");
    assert_eq!(problem.rule, Rule::Syntax);
    assert!(problem.to_string().contains("id = = 1\n       ^"), "{problem}");
}

#[test]
fn groups_that_sleep_are_refused_by_name() {
    let text = with("heartbeat_interval_ms", "quiesce_after_ms = 5000");
    let problems = problems(&text);
    let line = text.lines().position(|line| line.starts_with("quiesce")).expect("there") + 1;
    assert_eq!(
        problems.to_string(),
        format!(
            "error[E015] node.toml:{line}:1: `quiesce_after_ms`: groups that sleep do not notice \
             yet that their leader died\n  quiesce_after_ms = 5000\n  ^^^^^^^^^^^^^^^^ leave it out"
        )
    );
}

#[test]
fn an_unknown_key_names_its_line_and_the_nearest_key() {
    let text = with("half_open_max", "half_opne_max = 7");
    let problems = problems(&text);
    let line = text.lines().position(|line| line.starts_with("half_opne")).expect("there") + 1;
    assert_eq!(
        problems.to_string(),
        format!(
            "error[E012] node.toml:{line}:1: unknown key `half_opne_max` in [mux]\n  \
             half_opne_max = 7\n  ^^^^^^^^^^^^^ did you mean `half_open_max`?"
        )
    );
    assert_eq!(ids(&format!("{EXAMPLE}\n[tsl]\nmode = 1\n")), ["E012"]);
    assert_eq!(ids(&with("id = 2", "id = 2\nrepl = 1")), ["E012"]);
}

#[test]
fn wrong_types_are_all_found_at_once() {
    let text = with("shards", "shards = \"many\"").replace("count = 16 ", "count = true ");
    let problems = problems(&text);
    let ids: Vec<_> = problems.iter().map(|problem| problem.rule.id()).collect();
    assert_eq!(ids, ["E011", "E011"]);
    let text = problems.to_string();
    assert!(text.contains("shards = \"many\"\n           ^^^^^^\n"), "{text}");
    assert!(text.contains("expected u64"), "{text}");
}

#[test]
fn a_wrong_value_of_a_required_key_is_one_problem() {
    assert_eq!(ids(&with("admin", "admin = \"localhost\"")), ["E011"]);
    assert_eq!(ids(&with("id = 1", "id = \"one\"")), ["E011"]);
    assert_eq!(ids(&with("strategy", "strategy = \"MemFrist\"")), ["E011"]);
}

#[test]
fn a_missing_key_is_named() {
    for key in ["id = 1", "cluster", "data_dir", "raft = ", "resp = ", "resp_proxy", "admin"] {
        let problems = problems(&with(key, ""));
        let rules: Vec<_> = problems.iter().map(|problem| problem.rule).collect();
        assert_eq!(rules, [Rule::MissingKey], "{key}: {problems}");
    }
    assert_eq!(ids(&with("id = 2", "")), ["E013"]);
}

#[test]
fn nothing_at_all_is_told_in_one_go() {
    let missing = ids("");
    assert_eq!(missing, ["E013"; 8], "seven keys and the peers");
}

#[test]
fn numbers_out_of_range_are_refused() {
    for (key, line) in [
        ("count", "count = 0"),
        ("count", "count = 16385"),
        ("shards", "shards = 0"),
        ("apply_workers", "apply_workers = 65"),
        ("segment_bytes", "segment_bytes = 5000"),
        ("segment_bytes", "segment_bytes = 134217728"),
        ("syncs_per_second", "syncs_per_second = 9"),
        ("checkpoint_bytes", "checkpoint_bytes = 0"),
        ("every_entries", "every_entries = 0"),
        ("every_bytes", "every_bytes = 0"),
        ("prefix_timeout_ms", "prefix_timeout_ms = 0"),
        ("half_open_max", "half_open_max = 0"),
        ("inflight_appends_max", "inflight_appends_max = 0"),
        ("cluster", "cluster = \"\""),
        ("filter", "filter = \"a=b=c\""),
        ("connect_timeout_ms", "connect_timeout_ms = 0"),
        ("long_messages_max", "long_messages_max = 0"),
        ("long_messages_max", "long_messages_max = 64"),
    ] {
        assert_eq!(ids(&with(key, line)), ["E014"], "{line}");
    }
}

#[test]
fn the_pace_of_the_log_is_one_of_three() {
    let pace = |line: &str| {
        let text = with("pace", line).replace("syncs_per_second = 1000", "syncs_per_second = 50");
        parse("node.toml", &text, &Environment::default()).expect("valid").config.log_pace
    };
    assert_eq!(pace("pace = \"Off\""), LogPace::Off);
    assert_eq!(pace("pace = \"Learned\""), LogPace::Learned);
    assert_eq!(pace("pace = \"Fixed\""), LogPace::Fixed(50));
    assert_eq!(ids(&with("pace", "pace = \"Fast\"")), ["E011"]);
}

#[test]
fn snapshots_are_compressed_as_the_build_can() {
    let compression = |line: &str| {
        let text = with("compression", line);
        let parsed = parse("node.toml", &text, &Environment::default());
        parsed.map(|parsed| parsed.config.snapshot_compression)
    };
    assert_eq!(compression("compression = \"None\"").expect("valid"), Compression::None);
    assert_eq!(compression("compression = \"Lz4\"").expect("valid"), Compression::Lz4);
    #[cfg(feature = "zstd")]
    assert_eq!(compression("compression = \"Zstd\"").expect("valid"), Compression::Zstd);
    #[cfg(not(feature = "zstd"))]
    assert_eq!(ids(&with("compression", "compression = \"Zstd\"")), ["E014"]);
    assert_eq!(ids(&with("compression", "compression = \"Fast\"")), ["E011"]);
}

#[test]
fn peers_need_addresses_that_can_be_dialed() {
    for wrong in ["10.0.0.2:0", "10.0.0.2", ":7002", "::1:7002", "0.0.0.0:7002", "a:b"] {
        let text = EXAMPLE.replace("raft = \"127.0.0.1:7002\"", &format!("raft = \"{wrong}\""));
        assert_eq!(ids(&text), ["E014"], "{wrong}");
    }
    let text = EXAMPLE.replace("raft = \"127.0.0.1:7002\"", "raft = \"node-2.example:7002\"");
    assert!(ids(&text).is_empty());
}

#[test]
fn what_can_lose_acknowledged_writes_is_asked_for_in_these_words() {
    // The example flushes at once, which gains nothing here.
    assert_eq!(ids(&with("strategy", "strategy = \"MemFirst\"")), ["E135", "W135"]);
}

/// The example with another strategy and flush policy, and the risk accepted where there is one.
fn flushed(strategy: &str, policy: &str) -> String {
    let text = with("strategy", &format!("strategy = \"{strategy}\""));
    let knows = if strategy == "MemFirst" { "true" } else { "false" };
    let key = "power_loss_may_lose_acknowledged_writes = ";
    text.replace(&format!("{key}false"), &format!("{key}{knows}"))
        .replace("flush_policy = \"Immediate\"", policy)
}

#[test]
fn flush_policies_that_gain_nothing_or_cannot_work_are_named() {
    let batch = |threshold: u64, interval_ms: u64| {
        format!(
            "flush_policy = {{ Batch = {{ threshold = {threshold}, interval_ms = {interval_ms} }} }}"
        )
    };
    let text = flushed("MemFirst", &batch(1000, 100));
    assert!(ids(&text).is_empty(), "{:?}", ids(&text));
    let loaded = parse("node.toml", &text, &Environment::default()).expect("valid");
    let wanted = FlushPolicy::Batch { threshold: 1000, interval: Duration::from_millis(100) };
    let options = loaded.config.node_options();
    let found = Persistence { strategy: Strategy::MemFirst, flush: wanted };
    assert_eq!(options.persistence, found);
    options.validate().expect("a node starts with it");
    for (strategy, policy, problem) in [
        ("MemFirst", "".to_owned(), None),
        ("DiskFirst", "".to_owned(), None),
        ("MemFirst", "flush_policy = \"Immediate\"".to_owned(), Some("W135")),
        ("MemFirst", batch(1, 100), Some("W135")),
        ("MemFirst", batch(10_000_000, 100), Some("W135")),
        ("DiskFirst", batch(1000, 100), Some("W135")),
        ("MemFirst", batch(0, 100), Some("E120")),
        ("MemFirst", batch(1000, 0), Some("E120")),
        ("MemFirst", batch(1000, 2_501), Some("E120")),
    ] {
        assert_eq!(
            ids(&flushed(strategy, &policy)),
            Vec::from_iter(problem),
            "{strategy} with {policy}"
        );
    }
    let key = "power_loss_may_lose_acknowledged_writes";
    assert_eq!(ids(&with(key, &format!("{key} = true"))), ["W135"]);
}

#[test]
fn times_that_contradict_each_other_are_refused() {
    assert_eq!(ids(&with("heartbeat_interval_ms", "heartbeat_interval_ms = 167")), ["E120"]);
    assert_eq!(ids(&with("election_timeout_max_ms", "election_timeout_max_ms = 500")), ["E120"]);
    assert!(ids(&with("heartbeat_interval_ms", "heartbeat_interval_ms = 166")).is_empty());
}

#[test]
fn what_is_valid_is_what_a_node_starts_with() {
    let slow = "election_timeout_min_ms = 6000\nelection_timeout_max_ms = 12000";
    let slow = with("election_timeout_min_ms", slow)
        .replace("election_timeout_max_ms = 1000 ", "# ")
        .replace("disk_stall_max_ms", "# ");
    let small_frames = "[network.data]\nframe_bytes_max = 16777216";
    let small_frames = with("[network.data]", small_frames);
    let (before, data) =
        small_frames.split_at(small_frames.find("[network.data]").expect("a section"));
    let data = data.replacen("frame_bytes_max = 67_174_400\n", "", 1);
    let small_frames = format!("{before}{data}");
    for (text, command_bytes_max) in [(&slow, 64 << 20), (&small_frames, (16 << 20) - (64 << 10))] {
        let loaded = parse("node.toml", text, &Environment::default());
        let options = loaded.expect("valid").config.node_options();
        options.validate().expect("a node starts with it");
        assert_eq!(options.command_bytes_max, command_bytes_max);
    }
    // A stall that is set is taken as it is, or refused by its name.
    assert_eq!(ids(&with("disk_stall_max_ms", "disk_stall_max_ms = 400")), ["E120"]);
}

#[test]
fn lanes_that_contradict_themselves_are_refused() {
    assert_eq!(ids(&with("backoff_max_ms", "backoff_max_ms = 10")), ["E120"]);
    assert_eq!(ids(&with("backoff_max_ms", "backoff_max_ms = 500")), ["E120"]);
    assert_eq!(ids(&with("frame_bytes_max", "frame_bytes_max = 1_048_576")), ["E130"]);
}

#[test]
fn keys_of_a_transport_with_requests_are_told_what_they_are_called_here() {
    let problem = |line: &str| problems(&with("window_bytes", line)).to_string();
    for (theirs, ours) in [
        ("connection_window_size", "`window_bytes`"),
        ("request_timeout_in_ms", "`stall_timeout_ms`"),
        ("concurrency_limit", "`long_messages_max`"),
        ("max_concurrent_streams", "`raft.inflight_appends_max`"),
        ("http2_keep_alive_interval_in_secs", "`keepalive_interval_ms`"),
        ("max_frame_size", "`frame_bytes_max`"),
    ] {
        let told = problem(&format!("{theirs} = 1"));
        assert!(told.contains(&format!("that is {ours} here")), "{told}");
    }
}

/// Every key of a lane, of values that are nobody's default.
const LANE_KEYS: &str = "connect_timeout_ms = 1001
handshake_timeout_ms = 1002
window_bytes = 2_000_003
frame_bytes_max = 67_174_404
backoff_min_ms = 25
backoff_max_ms = 406
keepalive_interval_ms = 1007
keepalive_timeout_ms = 3008
stall_timeout_ms = 5009
write_buffer_max = 1_048_010
chunk_bytes = 4011
long_messages_max = 7
nodelay = false
unsent_bytes_max = 65_012
send_buffer_bytes = 300_013
receive_buffer_bytes = 300_014
user_timeout_ms = 20_015
tcp_keepalive_ms = 60_016
";

#[test]
fn each_key_of_each_lane_reaches_the_options_of_a_node() {
    let lane = |name: &str| {
        let start = EXAMPLE.find(&format!("[network.{name}]")).expect("a section");
        let end = EXAMPLE[start + 1..].find("\n[").expect("another") + start + 1;
        let text = EXAMPLE.replace(&EXAMPLE[start..end], &format!("[network.{name}]\n{LANE_KEYS}"));
        parse("node.toml", &text, &Environment::default()).expect("valid").config.node_options()
    };
    let ms = Duration::from_millis;
    let expected = LaneConfig {
        connect_timeout: ms(1001),
        handshake_timeout: ms(1002),
        window_bytes: 2_000_003,
        frame_bytes_max: 67_174_404,
        backoff_min: ms(25),
        backoff_max: ms(406),
        keepalive_interval: ms(1007),
        keepalive_timeout: ms(3008),
        stall_timeout: ms(5009),
        write_buffer_max: 1_048_010,
        chunk_bytes: 4011,
        long_messages_max: 7,
        user_body_max: LaneConfig::default().user_body_max,
        socket: SocketOptions {
            nodelay: false,
            unsent_bytes_max: Some(65_012),
            send_buffer_bytes: Some(300_013),
            receive_buffer_bytes: Some(300_014),
            user_timeout: Some(ms(20_015)),
            keepalive: Some(ms(60_016)),
        },
    };
    let defaults = LaneConfigs::default();
    let [control, data, bulk] = ["control", "data", "bulk"].map(|name| lane(name).lanes);
    assert_eq!([&control.control, &data.data, &bulk.bulk], [&expected; 3]);
    assert_eq!([&data.control, &bulk.control], [&defaults.control; 2], "and no other lane");
    assert_eq!([&control.data, &bulk.data], [&defaults.data; 2]);
    assert_eq!([&control.bulk, &data.bulk], [&defaults.bulk; 2]);
}

#[test]
fn a_lane_filled_in_part_keeps_its_own_defaults() {
    let start = EXAMPLE.find("[network.control]").expect("a section");
    let end = EXAMPLE.find("[network.data]").expect("the next");
    let text = EXAMPLE.replace(&EXAMPLE[start..end], "[network.control]\nchunk_bytes = 0\n");
    let loaded = parse("node.toml", &text, &Environment::default()).expect("valid");
    let expected = LaneConfig { chunk_bytes: 0, ..LaneConfig::control() };
    assert_eq!(loaded.config.node_options().lanes.control, expected);
}

#[test]
fn what_all_lanes_share_reaches_the_options_of_a_node() {
    let text = with("bulk_append_bytes", "bulk_append_bytes = 1234")
        .replace("grant_bytes_max = 134_217_728", "grant_bytes_max = 1_000_000");
    let loaded = parse("node.toml", &text, &Environment::default()).expect("valid");
    let options = loaded.config.node_options();
    assert_eq!(options.lane_policy.bulk_append_min, Some(1234));
    assert_eq!(options.grant_bytes_max, 1_000_000);
    let never = with("bulk_append_bytes", "bulk_append_bytes = 0");
    let loaded = parse("node.toml", &never, &Environment::default()).expect("valid");
    assert_eq!(loaded.config.node_options().lane_policy.bulk_append_min, None);
    for wrong in ["chunk_bytes = 511", "chunk_bytes = 32_769"] {
        assert_eq!(ids(&with("chunk_bytes", wrong)), ["E014"]);
    }
    assert_eq!(ids(&with("unsent_bytes_max", "unsent_bytes_max = 1")), ["E014"]);
    assert_eq!(ids(&with("user_timeout_ms", "user_timeout_ms = 1")), ["E014"]);
}

#[test]
fn a_layout_and_the_way_of_heartbeats_reach_the_node() {
    let of = |text: &str| {
        let loaded = parse("node.toml", text, &Environment::default()).expect("valid");
        let options = loaded.config.node_options();
        (options.layout, options.heartbeats)
    };
    assert_eq!(of(EXAMPLE), (LaneLayout::ControlDataBulk, Heartbeats::Batched));
    let bulk = with("layout", "layout = \"control-bulk\"");
    assert_eq!(of(&bulk), (LaneLayout::ControlBulk, Heartbeats::Batched));
    assert!(ids(&bulk).is_empty());
    let single = with("layout", "layout = \"single\"");
    assert_eq!(of(&single), (LaneLayout::Single, Heartbeats::Batched));
    assert_eq!(ids(&single), ["W131"]);
    let alone = with("heartbeats", "heartbeats = \"per-group\"");
    assert_eq!(of(&alone), (LaneLayout::ControlDataBulk, Heartbeats::PerGroup));
    assert_eq!(ids(&with("layout", "layout = \"two\"")), ["E011"]);
}

#[test]
fn peers_that_contradict_each_other_are_refused() {
    assert_eq!(ids(&with("id = 3", "id = 2")), ["E141"]);
    let same = EXAMPLE.replace("raft = \"127.0.0.1:7003\"", "raft = \"127.0.0.1:7002\"");
    assert_eq!(ids(&same), ["E141"]);
    assert_eq!(ids(&with("id = 1", "id = 9")), ["E141", "E141"], "id unknown, address of 1");
    let both = EXAMPLE.replace("resp = \"127.0.0.1:6373\"", "resp = \"127.0.0.1:7003\"");
    assert_eq!(ids(&both), ["E141"]);
}

#[test]
fn the_admin_port_is_never_exposed() {
    let problems = problems(&with("admin", "admin = \"0.0.0.0:9071\""));
    assert!(problems.to_string().contains("E142"), "{problems}");
    assert!(problems.to_string().contains("127.0.0.1:9071"), "{problems}");
    assert!(ids(&with("admin", "admin = \"[::1]:9071\"")).is_empty());
}

#[test]
fn listeners_do_not_share_a_port() {
    assert_eq!(ids(&with("resp_proxy", "resp_proxy = \"127.0.0.1:6371\"")), ["E143"]);
    assert_eq!(ids(&with("resp_proxy", "resp_proxy = \"0.0.0.0:6371\"")), ["E143"]);
    assert!(ids(&with("resp_proxy", "resp_proxy = \"127.0.0.2:6371\"")).is_empty());
}

#[test]
fn an_even_number_of_voters_is_a_warning() {
    let text = EXAMPLE.split("[[peers]]").collect::<Vec<_>>();
    let rest = text[3].split_once("[groups]").expect("groups follow").1;
    let two = format!("{}[[peers]]{}[[peers]]{}[groups]{rest}", text[0], text[1], text[2]);
    assert_eq!(ids(&two), ["W140"]);
    assert!(parse("two", &two, &Environment::default()).is_ok());
}

#[test]
fn the_environment_goes_before_the_file_and_is_named_when_wrong() {
    let environment = variables([
        ("RAFT_NODE_CLUSTER", "other"),
        ("RAFT_GROUPS_COUNT", "7"),
        ("RAFT_ELECTION_TIMEOUT_MAX_MS", "1_500"),
        ("PATH", "/bin"),
    ]);
    let loaded = parse("node.toml", EXAMPLE, &environment).expect("valid");
    assert_eq!(loaded.config.cluster, "other");
    assert_eq!(loaded.config.groups, 7);
    assert_eq!(loaded.config.settings.election_timeout_max.as_millis(), 1500);
    for (value, id) in [("0", "E014"), ("many", "E011")] {
        let environment = variables([("RAFT_GROUPS_COUNT", value)]);
        let text = parse("node.toml", EXAMPLE, &environment).expect_err("wrong").to_string();
        assert!(
            text.starts_with(&format!("error[{id}] environment: RAFT_GROUPS_COUNT: ")),
            "{text}"
        );
    }
    let both = variables([("RAFT_GROUPS_COUNT", "x"), ("RAFT_NODE_SHARDS", "0")]);
    let problems = parse("node.toml", "", &both).expect_err("wrong");
    assert!(problems.to_string().contains("environment: RAFT_NODE_SHARDS: `node.shards` is 0"));
}

#[test]
fn an_unknown_variable_is_a_warning_with_the_nearest_name() {
    let environment = variables([("RAFT_NETWORK_CONTOL_WINDOW_BYTES", "1")]);
    let loaded = parse("node.toml", EXAMPLE, &environment).expect("only a warning");
    assert_eq!(
        loaded.warnings.to_string(),
        "warning[W001] environment: RAFT_NETWORK_CONTOL_WINDOW_BYTES: matches no setting\n  \
         nearest is RAFT_NETWORK_CONTROL_WINDOW_BYTES"
    );
}

#[test]
fn a_missing_file_says_how_to_get_one() {
    let problems = load(Path::new("/nowhere/node.toml"), &Environment::default()).expect_err("no");
    assert!(problems.to_string().starts_with("error[E001] /nowhere/node.toml: cannot be read"));
    assert!(problems.to_string().contains("raftd config example"));
}

#[test]
fn no_text_whatever_makes_the_reader_panic() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..300 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut bytes = EXAMPLE.as_bytes().to_vec();
        let at = (seed >> 33) as usize % bytes.len();
        bytes[at] = (seed >> 20) as u8 & 0x7f;
        bytes.truncate(bytes.len() - (seed >> 50) as usize % 512);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let _ = problems(&text).to_string();
    }
}
