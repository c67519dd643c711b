//! The front on a real node: proxy port, cluster port, engine and state machines together.

mod resp_support;

use std::sync::Arc;

use raft_core::{GroupId, NodeId};
use raft_harness::kv::{KvFactory, SlotMap};
use raft_harness::resp::{FrontNode, Limits, Mode, NodeHostBackend, RespServer, Topology};
use raft_harness::{GroupSpec, NodeHost, NodeOptions};
use resp_support::{Client, listener};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_serves_both_ports() {
    const GROUPS: u32 = 4;
    let slots = SlotMap::new(GROUPS).expect("a legal number of groups");
    let host = NodeHost::start(NodeOptions::default(), Arc::new(KvFactory)).expect("it starts");
    let specs: Vec<GroupSpec> = slots
        .groups()
        .map(|group| {
            let label = slots.label_of(group).expect("a group of the map");
            GroupSpec::on_nodes(group, [NodeId::new(1)]).with_label(label)
        })
        .collect();
    for spec in &specs {
        host.create_group(spec.clone()).expect("a new group");
    }
    let (cluster_port, port) = listener().await;
    let (proxy_port, _) = listener().await;
    let node = NodeId::new(1);
    let fronts = vec![FrontNode { node, host: "127.0.0.1".to_owned(), port }];
    let topology = Topology::new(node, fronts, slots, &specs, host.is_durable()).expect("complete");
    let serve = |listener, mode| {
        let backend = NodeHostBackend::new(host.clone());
        RespServer::start(listener, backend, topology.clone(), mode, Limits::default())
            .expect("a bound listener")
    };
    let cluster = serve(cluster_port, Mode::Cluster);
    let proxy = serve(proxy_port, Mode::Proxy);

    // The proxy waits for the first elections. Writes that are under way when a leader is found may not
    // be tried again, as later ones have been carried out; reads may.
    let mut client = Client::connect(proxy.address()).await;
    let reads: Vec<String> = (0..50).map(|key| format!("STRLEN key:{key}")).collect();
    let reads: Vec<&str> = reads.iter().map(String::as_str).chain(["STRLEN total"]).collect();
    client.talk(&reads, &":0\r\n".repeat(reads.len())).await;
    let mut lines = String::new();
    let mut replies = String::new();
    for round in 0..20 {
        for key in 0..50 {
            lines.push_str(&format!("APPEND key:{key} .\r\nSTRLEN key:{key}\r\nINCR total\r\n"));
            let total = round * 50 + key + 1;
            replies.push_str(&format!(":{0}\r\n:{0}\r\n:{total}\r\n", round + 1));
        }
    }
    client.send(lines).await;
    client.expect(replies).await;

    let mut client = Client::connect(cluster.address()).await;
    client.talk(&["GET total", "DBSIZE"], "$4\r\n1000\r\n:51\r\n").await;
    let info = client.bulk("CLUSTER INFO").await;
    assert!(info.contains("cluster_state:ok"), "{info}");
    let nodes = client.bulk("CLUSTER NODES").await;
    assert!(nodes.ends_with(" connected 0-16383\n"), "{nodes}");
    let mut info = client.bulk("INFO raft").await;
    // Applied is counted a moment after it is answered.
    while !info.contains("raft_applied_commands:2000") {
        info = client.bulk("INFO raft").await;
    }
    for field in ["raft_groups:4", "raft_groups_led:4"] {
        assert!(info.contains(field), "{info}");
    }
    // Asking costs the shards nothing, however often and about however many groups.
    let turns = || host.status().counters.turns;
    let before = turns();
    for _ in 0..500 {
        client.bulk("INFO").await;
        client.bulk("CLUSTER NODES").await;
    }
    let taken = turns() - before;
    assert!(taken < 200, "the shards took {taken} turns for 1,000 questions");
    // A key's time runs on a group that has nothing else to do.
    client.talk(&["SET brief v PX 1"], "+OK\r\n").await;
    while client.line("EXISTS brief").await != ":0" {}
    let slot = raft_harness::kv::key_slot(b"brief");
    let group = slots.group_of(slot);
    let (index, digest) = host.digest(group).await.expect("the group is here");
    assert!(index.get() > 2);
    assert_ne!(digest, 0);
    assert_eq!(host.leader_of(GroupId::new(GROUPS + 1)), None);
    host.stop();
}
