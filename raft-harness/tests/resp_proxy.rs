//! A proxy port in front of other nodes' cluster ports: it forwards, follows, and knows when not
//! to try again.

mod resp_support;

use std::time::Duration;

use raft_core::NodeId;
use raft_harness::kv::key_slot;
use raft_harness::resp::{Limits, Mode, OperationKind, Refusal, RespServer};
use resp_support::{Client, Engine, listener, topology};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

// `bar` lies in the lower half of the slots, `foo` in the upper.

/// Node 1's proxy port; the cluster ports of nodes 2 and 3 are served by other engines.
struct Cluster {
    engines: [Engine; 3],
    client: Client,
    proxy: RespServer,
    _others: Vec<RespServer>,
}

impl Cluster {
    async fn start(groups: u32, leaders: &[u64], retry: Duration) -> Self {
        let engines = [1, 2, 3].map(|_| Engine::led_by(groups, leaders));
        let (two, port_two) = listener().await;
        let (three, port_three) = listener().await;
        let ports = [7001, port_two, port_three];
        let mut others = Vec::new();
        for (node, listener) in [(2, two), (3, three)] {
            let engine = engines[node as usize - 1].clone();
            let topology = topology(node, groups, ports);
            let server =
                RespServer::start(listener, engine, topology, Mode::Cluster, Limits::default());
            others.push(server.expect("a bound listener"));
        }
        let (proxy, client) = proxy(&engines[0], groups, ports, retry).await;
        Self { engines, client, proxy, _others: others }
    }

    fn count(&self, node: usize, kind: OperationKind) -> usize {
        self.engines[node - 1].count(kind)
    }
}

async fn proxy(
    engine: &Engine,
    groups: u32,
    ports: [u16; 3],
    retry: Duration,
) -> (RespServer, Client) {
    let limits = Limits { proxy_retry_max: retry, ..Limits::default() };
    proxy_within(engine, groups, ports, limits).await
}

async fn proxy_within(
    engine: &Engine,
    groups: u32,
    ports: [u16; 3],
    limits: Limits,
) -> (RespServer, Client) {
    let (listener, _) = listener().await;
    let topology = topology(1, groups, ports);
    let proxy = RespServer::start(listener, engine.clone(), topology, Mode::Proxy, limits)
        .expect("a bound listener");
    let client = Client::connect(proxy.address()).await;
    (proxy, client)
}

const SHORT: Duration = Duration::from_millis(60);
const LONG: Duration = Duration::from_secs(60);
const DOWN: &str = "-CLUSTERDOWN Hash slot not served: no leader is known";

#[tokio::test]
async fn any_key_is_served_whoever_leads_it_and_replies_keep_their_order() {
    let mut cluster = Cluster::start(64, &[1, 2, 3], LONG).await;
    let mut lines = String::new();
    let mut replies = String::new();
    for key in 0..300 {
        lines.push_str(&format!("SET key:{key} {key}\r\nGET key:{key}\r\n"));
        replies.push_str(&format!("+OK\r\n${}\r\n{key}\r\n", key.to_string().len()));
    }
    cluster.client.send(lines).await;
    cluster.client.expect(replies).await;
    for node in 1..=3 {
        assert!(cluster.count(node, OperationKind::Write) > 50, "node {node}");
    }
    cluster.client.talk(&["DBSIZE"], ":300\r\n").await;
    cluster
        .client
        .talk(&["CLUSTER SLOTS"], "-ERR This instance has cluster support disabled\r\n")
        .await;
}

#[tokio::test]
async fn every_reply_passes_through_in_the_clients_protocol() {
    let mut cluster = Cluster::start(1, &[2], LONG).await;
    let lines = ["SET {t}a 1", "MGET {t}a {t}b", "INCR {t}a", "TYPE {t}a", "SET {t}a x EX 0"];
    let error = "-ERR invalid expire time in 'set' command\r\n";
    let replies = format!("+OK\r\n*2\r\n$1\r\n1\r\n$-1\r\n:2\r\n+string\r\n{error}");
    cluster.client.talk(&lines, &replies).await;
    let hello = cluster.client.line("HELLO 3").await;
    assert_eq!(hello, "%7");
    let mut client = Client::connect(cluster.proxy.address()).await;
    client.send("HELLO 3\r\n").await;
    let mut rest = vec![0; "%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.2.0\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:2\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n".len()];
    client.stream.read_exact(&mut rest).await.expect("the reply to HELLO");
    client.talk(&["GET missing", "MGET missing"], "_\r\n*1\r\n_\r\n").await;
}

#[tokio::test]
async fn a_stale_hint_is_followed_to_the_leader() {
    let mut cluster = Cluster::start(1, &[3], LONG).await;
    cluster.engines[0].set_leader(1, Some(2));
    cluster.client.talk(&["SET k v", "GET k"], "+OK\r\n$1\r\nv\r\n").await;
    assert_eq!(cluster.count(3, OperationKind::Write), 1);
    assert_eq!(cluster.count(2, OperationKind::Write), 0);
}

#[tokio::test]
async fn a_local_refusal_is_followed_to_the_new_leader() {
    let mut cluster = Cluster::start(1, &[1], LONG).await;
    cluster.engines[1].set_leader(1, Some(2));
    let leader = Some(NodeId::new(2));
    cluster.engines[0].refuse_next([Refusal::NotLeader { leader }]);
    cluster.client.talk(&["SET k v"], "+OK\r\n").await;
    assert_eq!(cluster.count(2, OperationKind::Write), 1);
}

#[tokio::test]
async fn commands_wait_for_an_election_to_end() {
    let mut cluster = Cluster::start(1, &[2], LONG).await;
    for engine in &cluster.engines {
        engine.set_leader(1, None);
    }
    cluster.client.send("SET k 1\r\nINCR k\r\nGET k\r\nSET other 1\r\n").await;
    // The other node refuses what is forwarded on a stale hint, and then it leads.
    cluster.engines[0].set_leader(1, Some(2));
    cluster.engines[1].refuse_next([
        Refusal::NotLeader { leader: None },
        Refusal::Transferring,
        Refusal::NotExecuted,
    ]);
    cluster.engines[1].set_leader(1, Some(2));
    cluster.client.expect("+OK\r\n:2\r\n$1\r\n2\r\n+OK\r\n").await;
}

#[tokio::test]
async fn writes_of_one_key_that_were_all_refused_are_tried_again_in_order() {
    let mut cluster = Cluster::start(1, &[1], LONG).await;
    cluster.engines[0].refuse_next([Refusal::NotLeader { leader: None }; 5]);
    let lines = ["APPEND k a", "APPEND k b", "APPEND k c", "APPEND k d", "APPEND k e", "GET k"];
    cluster.client.talk(&lines, ":1\r\n:2\r\n:3\r\n:4\r\n:5\r\n$5\r\nabcde\r\n").await;
}

#[tokio::test]
async fn a_refused_write_is_not_tried_again_once_a_later_one_has_happened() {
    let mut cluster = Cluster::start(1, &[1], LONG).await;
    cluster.engines[0].refuse_next([Refusal::NotLeader { leader: None }]);
    let replies = format!("{DOWN}\r\n+OK\r\n$6\r\nsecond\r\n");
    cluster.client.talk(&["SET k first", "SET k second", "GET k"], &replies).await;
}

#[tokio::test]
async fn a_group_without_a_leader_is_given_up_in_time() {
    let mut cluster = Cluster::start(2, &[1], SHORT).await;
    for engine in &cluster.engines {
        engine.set_leader(2, None);
    }
    let replies = format!("{DOWN}\r\n+OK\r\n");
    cluster.client.talk(&["SET foo 1", "SET bar 1"], &replies).await;
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_is_refused_without_effect() {
    let engine = Engine::led_by(1, &[2]);
    let (gone, port) = listener().await;
    drop(gone);
    let (_proxy, mut client) = proxy(&engine, 1, [7001, port, 7003], SHORT).await;
    let reply = client.line("SET k v").await;
    assert!(reply.starts_with("-CLUSTERDOWN"), "{reply}");
}

#[tokio::test]
async fn a_write_of_unknown_outcome_is_told_and_never_tried_again() {
    let unknown = "-UNKNOWN outcome: the command may or may not have been executed";
    for node in [1, 2] {
        let mut cluster = Cluster::start(1, &[node], LONG).await;
        let engine = cluster.engines[node as usize - 1].clone();
        engine.refuse_next([Refusal::Unknown]);
        assert_eq!(cluster.client.line("INCR k").await, unknown);
        assert_eq!(engine.count(OperationKind::Write), 1);
        // The connection to the other node is shared, so it survives.
        cluster.client.talk(&["INCR k"], ":1\r\n").await;
        engine.refuse_next([Refusal::Unknown]);
        cluster.client.talk(&["GET k"], "$1\r\n1\r\n").await;
    }
}

/// Accepts, greets as our nodes do, reads one request, and closes without a reply.
async fn break_after_one_request(listener: &TcpListener) -> String {
    let (mut stream, _) = listener.accept().await.expect("the proxy connects");
    let mut seen = String::new();
    let greeting = "*3\r\n$6\r\nCLIENT\r\n$4\r\nCAPA\r\n$7\r\nunknown\r\n";
    stream.write_all(b"+OK\r\n").await.expect("the proxy reads");
    while seen.replace(ROOM, "").len() <= greeting.len() || !seen.ends_with("\r\n") {
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer).await.expect("the proxy writes");
        assert_ne!(read, 0);
        seen.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
    }
    seen.strip_prefix(greeting).expect("the greeting comes first").replace(ROOM, "")
}

/// What a proxy says before it forwards a read of a client that has not had long answers.
const ROOM: &str = "*3\r\n$6\r\nCLIENT\r\n$4\r\nROOM\r\n$5\r\n65536\r\n";

#[tokio::test]
async fn a_connection_that_breaks_after_a_write_leaves_its_outcome_unknown() {
    let engine = Engine::led_by(1, &[2]);
    let (node, port) = listener().await;
    let (_proxy, mut client) = proxy(&engine, 1, [7001, port, 7003], LONG).await;
    client.send("INCR k\r\n").await;
    assert_eq!(break_after_one_request(&node).await, "INCR k\r\n");
    client.expect("-UNKNOWN outcome: the command may or may not have been executed\r\n").await;
    // A read has no effect, so it is tried again: the node sees it a second time.
    client.send("GET k\r\n").await;
    assert_eq!(break_after_one_request(&node).await, "GET k\r\n");
    assert_eq!(break_after_one_request(&node).await, "GET k\r\n");
    engine.set_leader(1, Some(1));
    client.expect("$-1\r\n").await;
}

/// A key in the lower half of the slots, another than `bar`.
fn low_key() -> String {
    let mut keys = (0..).map(|number| format!("low{number}"));
    keys.find(|key| key_slot(key.as_bytes()) < 8192).expect("half of all")
}

/// Accepts, greets, and hears what follows the greeting until that ends like this.
async fn hear(listener: &TcpListener, end: &str) -> (TcpStream, String) {
    let (mut stream, _) = listener.accept().await.expect("the proxy connects");
    let greeting = "*3\r\n$6\r\nCLIENT\r\n$4\r\nCAPA\r\n$7\r\nunknown\r\n";
    stream.write_all(b"+OK\r\n").await.expect("the proxy reads");
    let mut seen = String::new();
    while !seen.ends_with(end) {
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer).await.expect("the proxy writes");
        assert_ne!(read, 0);
        seen.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
    }
    let seen = seen.strip_prefix(greeting).expect("the greeting comes first").replace(ROOM, "");
    (stream, seen)
}

const UNKNOWN: &str = "-UNKNOWN outcome: the command may or may not have been executed\r\n";

#[tokio::test(start_paused = true)]
async fn a_leader_that_stands_still_is_given_up_once_another_leads() {
    // Node 2 leads both halves, and stands still.
    let engine = Engine::led_by(2, &[2]);
    let (node, port) = listener().await;
    let (_proxy, mut client) = proxy(&engine, 2, [7001, port, 7003], LONG).await;
    let low = low_key();
    client.send(format!("INCR bar\r\nGET {low}\r\nINCR foo\r\n")).await;
    let (mut stream, seen) = hear(&node, "INCR foo\r\n").await;
    assert_eq!(seen, format!("INCR bar\r\nGET {low}\r\nINCR foo\r\n"));
    let noticed = tokio::time::Instant::now();
    engine.set_leader(1, Some(1));
    // The write may have happened; the read is asked again where the group is led now.
    client.expect(format!("{UNKNOWN}$-1\r\n")).await;
    let waited = noticed.elapsed();
    assert!(waited >= Duration::from_millis(500), "the old leader had {waited:?} to answer");
    assert!(waited <= Duration::from_millis(800), "{waited:?}");
    // The lower half goes on; the upper one still waits for the node that leads it.
    client.send("INCR bar\r\n").await;
    // It comes to, and answers all: each reply finds its place.
    stream.write_all(b":7\r\n+OK\r\n$5\r\nstale\r\n:3\r\n").await.expect("the proxy reads");
    client.expect(":3\r\n:1\r\n").await;
    client.send("INCR foo\r\n").await;
    let mut buffer = [0; 64];
    let read = stream.read(&mut buffer).await.expect("the same connection");
    assert_eq!(&buffer[..read], b"INCR foo\r\n");
    stream.write_all(b":4\r\n").await.expect("the proxy reads");
    client.expect(":4\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_deposed_and_answers_in_time_is_believed() {
    let engine = Engine::led_by(2, &[2]);
    let (node, port) = listener().await;
    let (_proxy, mut client) = proxy(&engine, 2, [7001, port, 7003], LONG).await;
    client.send("INCR bar\r\n").await;
    let (mut stream, _) = hear(&node, "INCR bar\r\n").await;
    engine.set_leader(1, Some(1));
    tokio::time::sleep(Duration::from_millis(400)).await;
    stream.write_all(b":9\r\n").await.expect("the proxy reads");
    client.expect(":9\r\n").await;
    assert_eq!(engine.count(OperationKind::Write), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_never_sent_to_a_leader_that_stands_still_is_carried_out_by_the_next() {
    const VALUE: usize = 48 << 20;
    let engine = Engine::led_by(2, &[2]);
    let (node, port) = listener().await;
    let limits = Limits { bytes_in_flight_max: 1 << 30, ..Limits::default() };
    let (_proxy, mut client) = proxy_within(&engine, 2, [7001, port, 7003], limits).await;
    let low = low_key();
    // More than the sockets hold, so the second write cannot leave.
    let value = "x".repeat(VALUE);
    client.send(format!("*3\r\n$3\r\nSET\r\n$3\r\nbar\r\n${VALUE}\r\n{value}\r\n")).await;
    client.send(format!("INCR {low}\r\n")).await;
    let (stream, _) = node.accept().await.expect("the proxy connects");
    tokio::time::sleep(Duration::from_millis(300)).await;
    engine.set_leader(1, Some(1));
    client.expect(format!("{UNKNOWN}:1\r\n")).await;
    assert_eq!(engine.count(OperationKind::Write), 1, "the first is never tried again");
    drop(stream);
}

/// Sets a value of so many bytes over a connection of its own.
async fn set_long(address: std::net::SocketAddr, key: &str, bytes: usize) -> String {
    let value = "x".repeat(bytes);
    let length = key.len();
    let mut client = Client::connect(address).await;
    let head = format!("*3\r\n$3\r\nSET\r\n${length}\r\n{key}\r\n${bytes}\r\n");
    client.send(format!("{head}{value}\r\n")).await;
    client.expect("+OK\r\n").await;
    value
}

/// Lets the others run until this number has stood still for long.
async fn until_still(mut number: impl FnMut() -> usize) -> usize {
    let (mut last, mut quiet) = (number(), 0);
    while quiet < 5000 {
        tokio::task::yield_now().await;
        let now = number();
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
    }
    last
}

#[tokio::test]
async fn a_client_that_does_not_read_costs_bounded_memory_whoever_leads() {
    const VALUE: usize = 1 << 20;
    const GETS: usize = 200;
    let mut cluster = Cluster::start(1, &[2], LONG).await;
    let value = set_long(cluster.proxy.address(), "k", VALUE).await;
    cluster.client.send("GET k\r\n".repeat(GETS)).await;
    let engine = cluster.engines[1].clone();
    let read = until_still(|| engine.lock().read_bytes).await;
    assert!(read < 24 << 20, "{read} bytes were made for a client that takes none");
    // Those who share its connections to the node are served meanwhile, with long answers as well.
    let reply = format!("${VALUE}\r\n{value}\r\n");
    for _ in 0..8 {
        let mut other = Client::connect(cluster.proxy.address()).await;
        other.send("SET other 1\r\nGET k\r\nGET other\r\n").await;
        other.expect(format!("+OK\r\n{reply}$1\r\n1\r\n")).await;
    }
    // And so is it, once it reads.
    for _ in 0..GETS {
        cluster.client.expect(&reply).await;
    }
}

#[tokio::test]
async fn values_that_leave_another_node_come_one_at_a_time() {
    const VALUE: usize = 1 << 20;
    const KEYS: usize = 40;
    let mut cluster = Cluster::start(1, &[2], LONG).await;
    let mut value = String::new();
    for key in 0..KEYS {
        value = set_long(cluster.proxy.address(), &format!("{{k}}{key}"), VALUE).await;
    }
    let engine = cluster.engines[1].clone();
    let before = engine.count(OperationKind::Write);
    let takes: String = (0..KEYS).map(|key| format!("GETDEL {{k}}{key}\r\n")).collect();
    cluster.client.send(takes).await;
    let taken = until_still(|| engine.count(OperationKind::Write)).await - before;
    assert!(taken < 24, "{taken} values were taken for a client that reads none");
    for _ in 0..KEYS {
        cluster.client.expect(format!("${VALUE}\r\n{value}\r\n")).await;
    }
}

#[tokio::test]
async fn all_who_do_not_read_stay_within_the_budget_whoever_leads() {
    const CLIENTS: usize = 16;
    const GETS: usize = 40;
    const VALUE: usize = 256 << 10;
    const BUDGET: usize = 4 << 20;
    // What each has for free, one answer with what it is made from, and what is rounded up.
    const CLIENT_SLACK: usize = 1 << 20;
    let engines = [1, 2].map(|_| Engine::led_by(1, &[2]));
    let (two, port_two) = listener().await;
    let ports = [7001, port_two, 7003];
    let place = topology(2, 1, ports);
    let other = RespServer::start(two, engines[1].clone(), place, Mode::Cluster, Limits::default())
        .expect("a bound listener");
    let limits = Limits { buffered_bytes_max: BUDGET as u64, ..Limits::default() };
    let (proxy, mut observer) = proxy_within(&engines[0], 1, ports, limits).await;
    let value = set_long(other.address(), "k", VALUE).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Client::connect(proxy.address()).await;
        client.send("GET k\r\n".repeat(GETS)).await;
        clients.push(client);
    }
    let mut most = 0;
    let engine = engines[1].clone();
    let made = until_still(|| {
        most = most.max(proxy.buffered_bytes());
        engine.lock().read_bytes
    })
    .await;
    assert!(most <= (BUDGET + CLIENTS * CLIENT_SLACK) as u64, "{most} bytes were held");
    // What the sockets hold is not ours.
    assert!(made < 2 * (BUDGET + CLIENTS * CLIENT_SLACK) + (CLIENTS << 22), "{made} bytes");
    // The others go on, and so do they, once they read: with answers, or with the reason why not.
    observer.talk(&["STRLEN k"], &format!(":{VALUE}\r\n")).await;
    let mut served = 0;
    for client in &mut clients {
        for _ in 0..GETS {
            let head = client.line("").await;
            if head == format!("${VALUE}") {
                client.expect(format!("{value}\r\n")).await;
                served += 1;
            } else {
                assert!(head.starts_with("-ERR the answer has"), "{head}");
            }
        }
    }
    assert!(served > CLIENTS, "{served} answers");
}

#[tokio::test]
async fn an_answer_that_grew_is_asked_for_with_the_room_it_needs() {
    let mut cluster = Cluster::start(1, &[2], LONG).await;
    let value = set_long(cluster.proxy.address(), "k", 100_000).await;
    let reply = format!("$100000\r\n{value}\r\n");
    // Long answers among short ones keep their place.
    let lines = ["STRLEN k", "GET k", "APPEND k y", "GET none", "GETRANGE k 99999 -1", "STRLEN k"];
    let replies = format!(":100000\r\n{reply}:100001\r\n$-1\r\n$2\r\nxy\r\n:100001\r\n");
    cluster.client.talk(&lines, &replies).await;
    // Who asks for it is told of the length.
    let lines = ["CLIENT ROOM 1000", "GET k", "STRLEN k", "CLIENT ROOM 0", "STRLEN k"];
    let replies = "+OK\r\n-TOOLONG 100001\r\n:100001\r\n+OK\r\n:100001\r\n";
    cluster.client.talk(&lines, replies).await;
}
