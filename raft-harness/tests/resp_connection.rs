//! One client on a cluster port, against a scripted engine: order, refusals, limits.

mod resp_support;

use std::time::Duration;

use raft_core::NodeId;
use raft_harness::kv::key_slot;
use raft_harness::resp::{ClientBudget, Limits, Mode, OperationKind, Refusal, RespServer};
use resp_support::{Client, Engine, listener, serve, topology};
use tokio::io::AsyncWriteExt;

async fn alone(groups: u32) -> (Engine, raft_harness::resp::RespServer, Client) {
    let engine = Engine::led_by(groups, &[1]);
    let (server, client) = serve(&engine, groups, Limits::default()).await;
    (engine, server, client)
}

#[tokio::test]
async fn commands_answer_as_redis_does() {
    let (_engine, _server, mut client) = alone(8).await;
    let table = [
        ("PING", "+PONG\r\n"),
        ("PING hello", "$5\r\nhello\r\n"),
        ("ECHO hi", "$2\r\nhi\r\n"),
        ("SELECT 0", "+OK\r\n"),
        ("UNWATCH", "+OK\r\n"),
        ("WATCH k", "-ERR WATCH is not supported, nor is MULTI\r\n"),
        ("EXEC", "-ERR EXEC without MULTI\r\n"),
        ("DISCARD", "-ERR DISCARD without MULTI\r\n"),
        ("COMMAND INFO multi exec", "*2\r\n$-1\r\n$-1\r\n"),
        ("GET k", "$-1\r\n"),
        ("SET k v", "+OK\r\n"),
        ("get k", "$1\r\nv\r\n"),
        ("SET k w NX", "$-1\r\n"),
        ("SET k w XX GET", "$1\r\nv\r\n"),
        ("SETNX k x", ":0\r\n"),
        ("SETNX fresh x", ":1\r\n"),
        ("GETSET k y", "$1\r\nw\r\n"),
        ("GETDEL k", "$1\r\ny\r\n"),
        ("EXISTS k", ":0\r\n"),
        ("TYPE k", "+none\r\n"),
        ("INCR n", ":1\r\n"),
        ("INCRBY n 41", ":42\r\n"),
        ("DECR n", ":41\r\n"),
        ("DECRBY n 40", ":1\r\n"),
        ("TYPE n", "+string\r\n"),
        ("APPEND s hello", ":5\r\n"),
        ("STRLEN s", ":5\r\n"),
        ("GETRANGE s 1 -2", "$3\r\nell\r\n"),
        ("INCR s", "-ERR value is not an integer or out of range\r\n"),
        ("MSET {t}a 1 {t}b 2", "+OK\r\n"),
        ("MGET {t}a {t}x {t}b", "*3\r\n$1\r\n1\r\n$-1\r\n$1\r\n2\r\n"),
        ("DEL {t}a {t}b {t}c", ":2\r\n"),
        ("UNLINK s", ":1\r\n"),
        ("TTL n", ":-1\r\n"),
        ("TTL k", ":-2\r\n"),
        ("EXPIRE n 100", ":1\r\n"),
        ("TTL n", ":100\r\n"),
        ("PTTL n", ":100000\r\n"),
        ("PERSIST n", ":1\r\n"),
        ("PTTL n", ":-1\r\n"),
        ("PEXPIRE n 0", ":1\r\n"),
        ("EXISTS n", ":0\r\n"),
        ("DBSIZE", ":1\r\n"),
        ("MSET a 1 b 2", "-CROSSSLOT Keys in request don't hash to the same slot\r\n"),
        ("GET", "-ERR wrong number of arguments for 'get' command\r\n"),
        ("SET k v EX 0", "-ERR invalid expire time in 'set' command\r\n"),
        ("SET k v EX 9223372036854775", "-ERR invalid expire time in 'set' command\r\n"),
        ("SET k v PX 9223372036854775807", "-ERR invalid expire time in 'set' command\r\n"),
        ("EXPIRE k 9223372036854775", "-ERR invalid expire time in 'expire' command\r\n"),
        ("DECRBY k -9223372036854775808", "-ERR decrement would overflow\r\n"),
        ("SET k v WAT", "-ERR syntax error\r\n"),
        ("LPUSH k v", "-ERR unknown command 'LPUSH'\r\n"),
        ("CLIENT GETNAME", "$-1\r\n"),
        ("CLIENT SETNAME me", "+OK\r\n"),
        ("CLIENT GETNAME", "$2\r\nme\r\n"),
        ("CLIENT ID", ":1\r\n"),
        (
            "CLIENT MAINT_NOTIFICATIONS ON",
            "-ERR unknown subcommand 'MAINT_NOTIFICATIONS' of CLIENT\r\n",
        ),
        (
            "CONFIG GET save appendonly",
            "*4\r\n$4\r\nsave\r\n$0\r\n\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n",
        ),
        ("COMMAND GETKEYS MSET a 1 b 2", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
        ("CLUSTER KEYSLOT foo", ":12182\r\n"),
        ("CLUSTER COUNTKEYSINSLOT 16384", "-ERR Invalid slot\r\n"),
        ("READONLY", "+OK\r\n"),
        ("FLUSHALL", "-ERR removing all keys at once is not supported\r\n"),
        ("RESET", "+RESET\r\n"),
        ("QUIT", "+OK\r\n"),
    ];
    for (line, reply) in table {
        println!("{line}");
        client.talk(&[line], reply).await;
    }
    client.expect_close().await;
}

#[tokio::test]
async fn replies_keep_request_order_though_groups_finish_in_another() {
    let (engine, _server, mut client) = alone(64).await;
    engine.hold(true, true);
    let lines = ["SET a 1", "SET b 2", "PING", "GET c", "SET d 4"];
    client.send(lines.map(|line| format!("{line}\r\n")).concat()).await;
    engine.until_held(4).await;
    // All four run at once; the last is finished first.
    for index in [3, 1, 1, 0] {
        engine.finish(index);
    }
    client.expect("+OK\r\n+OK\r\n+PONG\r\n$-1\r\n+OK\r\n").await;
}

#[tokio::test]
async fn a_read_sees_the_write_before_it_in_the_pipeline() {
    let (engine, _server, mut client) = alone(8).await;
    // Reads are answered at once, from whatever has been applied by then.
    engine.hold(false, true);
    client.send("SET k v\r\nSET k w\r\nGET k\r\nGET other\r\n").await;
    engine.until_held(2).await;
    let reads = engine.count(OperationKind::Read);
    assert_eq!(reads, 1, "the read of another slot does not wait, that of the same slot does");
    engine.finish(0);
    engine.finish(0);
    client.expect("+OK\r\n+OK\r\n$1\r\nw\r\n$-1\r\n").await;
}

#[tokio::test]
async fn a_read_does_not_see_the_write_after_it_in_the_pipeline() {
    let (engine, _server, mut client) = alone(8).await;
    client.talk(&["SET k old"], "+OK\r\n").await;
    engine.hold(true, false);
    client.send("GET k\r\nSET k new\r\nGET k\r\n").await;
    engine.until_held(1).await;
    assert_eq!(engine.count(OperationKind::Write), 1, "the second write waits for the read");
    engine.finish(0);
    engine.until_held(1).await;
    engine.finish(0);
    client.expect("$3\r\nold\r\n+OK\r\n$3\r\nnew\r\n").await;
}

/// Pipelines of random commands, finished in random order, against the same commands one by one.
#[tokio::test]
async fn a_random_pipeline_answers_like_the_same_commands_one_by_one() {
    for seed in 1..=30u64 {
        println!("seed {seed}");
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut below = move |bound: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % bound
        };
        let mut lines = String::new();
        let mut count = 0;
        for number in 0..200 {
            let key = ["a", "b", "{a}c", "d"][below(4) as usize];
            let line = match below(6) {
                0 => format!("SET {key} {number}"),
                1 => format!("INCR {key}"),
                2 => format!("APPEND {key} 1"),
                3 => format!("DEL {key}"),
                _ => format!("GET {key}"),
            };
            lines.push_str(&line);
            lines.push_str("\r\n");
            count += 1;
        }
        let (_, _one_by_one, mut model) = alone(4).await;
        let mut expected = String::new();
        for line in lines.lines() {
            let mut reply = model.line(line).await;
            if reply.starts_with('$') && reply != "$-1" {
                model.send("PING\r\n").await;
                let value = model.line("PING").await;
                reply = format!("{reply}\r\n{value}");
                model.expect("+PONG\r\n+PONG\r\n").await;
            }
            expected.push_str(&reply);
            expected.push_str("\r\n");
        }
        let (engine, _server, mut client) = alone(4).await;
        engine.hold(true, true);
        client.send(&lines).await;
        while engine.lock().history.len() < count || engine.held() > 0 {
            // A group's writes are applied in order; everything else is chance.
            let held = engine.held();
            if held > 0 && below(3) == 0 {
                let wanted = below(held as u64) as usize;
                let index = {
                    let inner = engine.lock();
                    let operation = &inner.held[wanted].0;
                    let same = |other: &(raft_harness::resp::Operation, _)| {
                        operation.kind == OperationKind::Write
                            && other.0.kind == OperationKind::Write
                            && other.0.group == operation.group
                    };
                    inner.held.iter().position(same).unwrap_or(wanted)
                };
                engine.finish(index);
            }
            tokio::task::yield_now().await;
        }
        client.expect(expected).await;
    }
}

#[tokio::test]
async fn a_slot_led_elsewhere_is_moved_and_one_led_by_nobody_is_down() {
    let engine = Engine::led_by(2, &[1, 2]);
    let (_server, mut client) = serve(&engine, 2, Limits::default()).await;
    assert_eq!((key_slot(b"bar"), key_slot(b"foo")), (5061, 12182));
    client.talk(&["SET bar 1", "SET foo 1"], "+OK\r\n-MOVED 12182 127.0.0.1:7002\r\n").await;
    engine.set_leader(2, None);
    let down = "-CLUSTERDOWN Hash slot not served: no leader is known\r\n";
    client.talk(&["GET foo"], down).await;
    assert_eq!(engine.count(OperationKind::Write), 1, "what is refused here goes no further");
}

#[tokio::test]
async fn every_refusal_has_its_reply() {
    let (engine, _server, mut client) = alone(1).await;
    let leader = Some(NodeId::new(3));
    let table = [
        (Refusal::NotLeader { leader }, "-MOVED 12182 127.0.0.1:7003"),
        (
            Refusal::NotLeader { leader: None },
            "-CLUSTERDOWN Hash slot not served: no leader is known",
        ),
        (Refusal::Transferring, "-TRYAGAIN Leadership of the slot is being handed over"),
        (
            Refusal::Overloaded { uncommitted_bytes: 12_345 },
            "-BUSY Not executed: 12345 bytes wait to be committed",
        ),
        (Refusal::NotExecuted, "-TRYAGAIN Not executed, try again"),
        (
            Refusal::Unavailable,
            "-CLUSTERDOWN Hash slot not served: its group is not available here",
        ),
        (
            Refusal::TooLarge { bytes: 9, max: 8 },
            "-ERR Not executed: the command has 9 bytes, at most 8 are taken",
        ),
    ];
    for (refusal, reply) in table {
        engine.refuse_next([refusal]);
        assert_eq!(client.line("SET foo 1").await, reply);
    }
    engine.refuse_next([Refusal::Unknown]);
    assert_eq!(client.line("GET foo").await, "-TRYAGAIN Not answered, try again");
}

#[tokio::test]
async fn an_unknown_outcome_closes_the_connection_after_the_replies_before_it() {
    let (engine, _server, mut client) = alone(1).await;
    engine.hold(true, true);
    client.send("SET a 1\r\nSET b 2\r\nSET c 3\r\nPING\r\n").await;
    engine.until_held(3).await;
    engine.finish(0);
    {
        let mut inner = engine.lock();
        let (_, reply) = inner.held.pop_front().expect("two are held");
        let _ = reply.send(Err(Refusal::Unknown));
    }
    client.expect("+OK\r\n").await;
    client.expect_close().await;
    assert_eq!(engine.count(OperationKind::Write), 3, "nothing is tried again");
}

#[tokio::test]
async fn a_client_that_asks_is_told_of_unknown_outcomes() {
    let (engine, _server, mut client) = alone(1).await;
    client.talk(&["CLIENT CAPA unknown"], "+OK\r\n").await;
    engine.refuse_next([Refusal::Unknown]);
    let reply = "-UNKNOWN outcome: the command may or may not have been executed\r\n+PONG\r\n";
    client.talk(&["SET a 1", "PING"], reply).await;
}

#[tokio::test]
async fn an_expired_key_is_not_served_though_log_time_stands_still() {
    let (engine, _server, mut client) = alone(1).await;
    client.talk(&["SET k v PX 500"], "+OK\r\n").await;
    engine.lock().wall_time += 200;
    client.talk(&["PTTL k"], ":300\r\n").await;
    assert_eq!(engine.ticks(), 0, "a key with time left needs no tick");
    engine.lock().wall_time += 300;
    client.talk(&["GET k"], "$-1\r\n").await;
    assert_eq!(engine.ticks(), 1, "log time was moved past the deadline first");
    client.talk(&["GET k", "EXISTS k"], "$-1\r\n:0\r\n").await;
    assert_eq!(engine.ticks(), 1, "and now every replica knows");
}

#[tokio::test]
async fn a_front_whose_clock_is_wrong_judges_no_deadline_by_it() {
    let (engine, _server, mut client) = alone(1).await;
    client.talk(&["SET k v PX 500"], "+OK\r\n").await;
    engine.lock().front_time = Some(1 << 40);
    client.talk(&["GET k", "PTTL k"], "$1\r\nv\r\n:500\r\n").await;
    assert_eq!(engine.ticks(), 0, "a clock that is ahead moves no log");
    engine.lock().front_time = Some(1);
    engine.lock().wall_time += 500;
    client.talk(&["GET k"], "$-1\r\n").await;
    assert_eq!(engine.ticks(), 1, "a clock that is behind keeps no key alive");
}

#[tokio::test]
async fn a_pipeline_longer_than_the_limit_waits_in_the_socket() {
    let engine = Engine::led_by(1, &[1]);
    let limits = Limits { requests_in_flight_max: 10, ..Limits::default() };
    let (_server, mut client) = serve(&engine, 1, limits).await;
    engine.hold(true, true);
    client.send("INCR n\r\n".repeat(100)).await;
    engine.until_held(10).await;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
        assert_eq!(engine.held(), 10);
    }
    let mut replies = String::new();
    for number in 1..=100 {
        while engine.held() == 0 {
            tokio::task::yield_now().await;
        }
        engine.finish(0);
        assert!(engine.held() <= 10);
        replies.push_str(&format!(":{number}\r\n"));
    }
    client.expect(replies).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_costs_a_bounded_amount_of_memory() {
    const VALUE: usize = 1 << 20;
    const GETS: usize = 300;
    let (engine, _server, mut client) = alone(1).await;
    let value = "x".repeat(VALUE);
    client.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${VALUE}\r\n{value}\r\n")).await;
    client.expect("+OK\r\n").await;
    client.send("GET k\r\n".repeat(GETS)).await;
    // Wait until the server has done all it will do for a client that does not read.
    let (mut reads, mut quiet) = (0, 0);
    while quiet < 2000 {
        tokio::task::yield_now().await;
        let now = engine.count(OperationKind::Read);
        quiet = if now == reads { quiet + 1 } else { 0 };
        reads = now;
    }
    // Each value that left the engine lies in the server or in the sockets.
    let bytes = engine.lock().read_bytes;
    assert!(bytes < 24 << 20, "{bytes} bytes were read for a client that takes none");
    let reply = format!("${VALUE}\r\n{value}\r\n");
    for _ in 0..GETS {
        client.expect(&reply).await;
    }
}

#[tokio::test]
async fn an_answer_beyond_the_cap_is_refused_and_never_made() {
    const VALUE: usize = 1 << 20;
    let (engine, _server, mut client) = alone(1).await;
    let value = "x".repeat(VALUE);
    client.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${VALUE}\r\n{value}\r\n")).await;
    client.expect("+OK\r\n").await;
    client
        .talk(
            &[&format!("MGET{}", " k".repeat(3000)), "PING"],
            "-ERR the answer has 3145728000 bytes, at most 67108864 are sent at once\r\n+PONG\r\n",
        )
        .await;
    let bytes = engine.lock().read_bytes;
    assert!(bytes < 1 << 10, "{bytes} bytes were made");
    // As much as the cap is sent.
    client.send(format!("MGET{}\r\n", " k".repeat(64))).await;
    client.expect(format!("*64\r\n{}", format!("${VALUE}\r\n{value}\r\n").repeat(64))).await;
}

#[tokio::test]
async fn old_values_that_stay_are_not_copied_without_end() {
    const VALUE: usize = 1 << 20;
    let (engine, _server, mut client) = alone(1).await;
    let value = "x".repeat(VALUE);
    client.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${VALUE}\r\n{value}\r\n")).await;
    client.expect("+OK\r\n").await;
    engine.hold(false, true);
    client.send("SET k v NX GET\r\n".repeat(100)).await;
    engine.until_held(1).await;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
        assert_eq!(engine.held(), 1, "the next waits for the answer to the first");
    }
    engine.hold(false, false);
    engine.finish(0);
    for _ in 0..100 {
        client.expect(format!("${VALUE}\r\n{value}\r\n")).await;
    }
}

#[tokio::test]
async fn long_answers_to_short_local_commands_are_not_made_ahead() {
    const COMMANDS: u64 = 1000;
    let (engine, server, mut client) = alone(1).await;
    // Nothing can be written before the first command has ended, so whatever is made waits.
    engine.hold(true, true);
    client.send("INCR n\r\n").await;
    engine.until_held(1).await;
    client.send(format!("COMMAND INFO{}\r\n", " get".repeat(500)).repeat(COMMANDS as usize)).await;
    // Wait until the server has done all it will do for a client that does not read.
    let mut other = Client::connect(server.address()).await;
    let (mut taken, mut quiet, mut asked) = (0, 0, 0);
    while quiet < 200 {
        let stats = other.bulk("INFO stats").await;
        let field = "total_commands_processed:";
        let count = stats.lines().find_map(|line| line.strip_prefix(field)).expect("a field");
        // The questions before this one are counted as well.
        let now = count.parse::<u64>().expect("a number") - asked;
        asked += 1;
        quiet = if now == taken { quiet + 1 } else { 0 };
        taken = now;
    }
    assert!(taken < COMMANDS / 2, "{taken} answers were made");
}

const NOT_IN_TRANSACTION: &str =
    "-ERR Not executed: MULTI was refused, nothing runs until EXEC, DISCARD or RESET\r\n";

#[tokio::test]
async fn nothing_of_a_refused_transaction_runs() {
    for mode in [Mode::Cluster, Mode::Proxy] {
        let engine = Engine::led_by(8, &[1]);
        let (listener, port) = listener().await;
        let topology = topology(1, 8, [port, 7002, 7003]);
        let server = RespServer::start(listener, engine.clone(), topology, mode, Limits::default())
            .expect("a bound listener");
        let mut client = Client::connect(server.address()).await;
        let refused = "-ERR MULTI is not supported: nothing runs until EXEC, DISCARD or RESET\r\n";
        let aborted = "-EXECABORT Transaction discarded because MULTI is not supported\r\n";
        // As a client pipelines it: it looks at no reply before it has sent EXEC.
        let lines = ["MULTI", "SET k 1", "INCR n", "NOSUCH", "DBSIZE", "CLIENT ID", "EXEC", "PING"];
        let replies = format!("{refused}{}{aborted}+PONG\r\n", NOT_IN_TRANSACTION.repeat(5));
        client.talk(&lines, &replies).await;
        assert_eq!(engine.lock().history, [], "nothing reached the engine");
        for (end, reply) in [("DISCARD", "+OK\r\n"), ("RESET", "+RESET\r\n"), ("EXEC", aborted)] {
            let nested = "-ERR MULTI calls can not be nested\r\n";
            let replies = format!("{refused}{nested}{NOT_IN_TRANSACTION}{reply}:0\r\n");
            client.talk(&["MULTI", "MULTI", "SET k 1", end, "EXISTS k"], &replies).await;
        }
        let replies = format!("{refused}{NOT_IN_TRANSACTION}+OK\r\n");
        client.talk(&["MULTI", "SET k 1", "QUIT"], &replies).await;
        client.expect_close().await;
        assert_eq!(engine.count(OperationKind::Write), 0);
    }
}

#[tokio::test]
async fn keys_meant_for_another_database_are_not_touched_in_this_one() {
    let (engine, _server, mut client) = alone(8).await;
    let refused =
        "-ERR DB index is out of range: there is only 0, no key is touched until SELECT 0\r\n";
    let barred =
        "-ERR Not executed: meant for a database that does not exist; SELECT 0 goes on\r\n";
    let replies = format!("{refused}{barred}{barred}+PONG\r\n{barred}");
    client.talk(&["SELECT 1", "SET k 1", "GET k", "PING", "DBSIZE"], &replies).await;
    // A transaction between does not make it forget.
    client.send("MULTI\r\nDISCARD\r\nSET k 1\r\n").await;
    client
        .expect("-ERR MULTI is not supported: nothing runs until EXEC, DISCARD or RESET\r\n")
        .await;
    client.expect(format!("+OK\r\n{barred}")).await;
    assert_eq!(engine.lock().history, []);
    client.talk(&["SELECT 0", "SET k 1"], "+OK\r\n+OK\r\n").await;
    let replies =
        format!("-ERR value is not an integer or out of range\r\n{barred}+RESET\r\n:1\r\n");
    client.talk(&["SELECT other", "DEL k", "RESET", "DEL k"], &replies).await;
}

#[tokio::test]
async fn a_client_that_wants_no_replies_gets_none_that_it_would_take_for_others() {
    let (engine, _server, mut client) = alone(8).await;
    let lines =
        ["CLIENT REPLY SKIP", "SET k 1", "GET k", "CLIENT REPLY OFF", "INCR k", "GET", "NOSUCH"];
    client.talk(&lines, "$1\r\n1\r\n").await;
    let lines = ["CLIENT REPLY SKIP", "INCR k", "CLIENT REPLY ON", "GET k"];
    client.talk(&lines, "+OK\r\n$1\r\n3\r\n").await;
    client.talk(&["CLIENT REPLY SKIP", "CLIENT REPLY ON", "PING"], "+OK\r\n+PONG\r\n").await;
    client.talk(&["CLIENT REPLY OFF", "GET k", "RESET", "PING"], "+RESET\r\n+PONG\r\n").await;
    client.talk(&["CLIENT REPLY perhaps"], "-ERR syntax error\r\n").await;
    assert_eq!(engine.count(OperationKind::Write), 3, "silent commands run all the same");
}

#[tokio::test]
async fn no_line_of_an_http_request_runs() {
    let (engine, server, mut observer) = alone(8).await;
    let body = "SET pwned 1\r\n";
    let heads = [
        "POST / HTTP/1.1\r\nContent-Type: text/plain\r\n\r\n",
        "PUT / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "X-First: 1\r\nHost: 127.0.0.1\r\n\r\n",
        "GET /path\r\nhost: x\r\n",
    ];
    for head in heads {
        for pieces in [1, 2] {
            let mut client = Client::connect(server.address()).await;
            let bytes = format!("{head}{body}").into_bytes();
            for piece in bytes.chunks(bytes.len().div_ceil(pieces)) {
                // It may be gone before the last piece.
                let _ = client.stream.write_all(piece).await;
                tokio::task::yield_now().await;
            }
            client.expect_end().await;
        }
    }
    assert_eq!(engine.count(OperationKind::Write), 0);
    let stats = observer.bulk("INFO stats").await;
    assert!(stats.contains("http_connections_closed:10\r\n"), "{stats}");
    // A key may have any name.
    observer.talk(&["SET / HTTP/1.1", "GET /"], "+OK\r\n$8\r\nHTTP/1.1\r\n").await;
}

#[tokio::test]
async fn memory_is_in_proportion_to_the_bytes_that_came() {
    const CLIENTS: u64 = 50;
    const SENT: usize = 200 << 10;
    let engine = Engine::led_by(1, &[1]);
    let (server, _observer) = serve(&engine, 1, Limits::default()).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Client::connect(server.address()).await;
        client.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", 64 << 20)).await;
        for _ in 0..SENT >> 10 {
            client.send([7; 1 << 10]).await;
            tokio::task::yield_now().await;
        }
        clients.push(client);
    }
    // As much as came is held; what each has for free is not told.
    let came = CLIENTS * (SENT as u64 - (64 << 10));
    while server.buffered_bytes() < came {
        tokio::task::yield_now().await;
    }
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    let held = server.buffered_bytes();
    assert!(held <= CLIENTS * 2 * (SENT as u64 + (16 << 10)), "{held} bytes for {came} that came");
}

#[tokio::test]
async fn clients_that_do_not_read_stay_within_the_budget_of_all() {
    const CLIENTS: usize = 16;
    const GETS: usize = 400;
    const VALUE: usize = 48 << 10;
    // What each has for free, one answer, and what is rounded up.
    const CLIENT_SLACK: usize = 512 << 10;
    let engine = Engine::led_by(1, &[1]);
    const BUDGET: usize = 4 << 20;
    let limits = Limits { buffered_bytes_max: BUDGET as u64, ..Limits::default() };
    let (server, mut observer) = serve(&engine, 1, limits).await;
    let value = "x".repeat(VALUE);
    observer.talk(&[&format!("SET k {value}")], "+OK\r\n").await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Client::connect(server.address()).await;
        client.send("GET k\r\n".repeat(GETS)).await;
        clients.push(client);
    }
    let (mut most, mut reads, mut quiet) = (0, 0, 0);
    while quiet < 2000 {
        tokio::task::yield_now().await;
        most = most.max(server.buffered_bytes());
        let now = engine.count(OperationKind::Read);
        quiet = if now == reads { quiet + 1 } else { 0 };
        reads = now;
    }
    assert!(most > BUDGET as u64 / 2, "{most} bytes: the budget was never tried");
    assert!(most <= (BUDGET + CLIENTS * CLIENT_SLACK) as u64, "{most} bytes were held");
    // The others go on, and so do they, once they read.
    observer.talk(&["STRLEN k"], &format!(":{VALUE}\r\n")).await;
    let reply = format!("${VALUE}\r\n{value}\r\n");
    for client in &mut clients {
        for _ in 0..GETS {
            client.expect(&reply).await;
        }
    }
}

#[tokio::test]
async fn a_pipeline_written_before_anything_is_read_is_served() {
    const GETS: usize = 14_000;
    let (_engine, _server, mut client) = alone(1).await;
    let (key, value) = ("k".repeat(1 << 10), "x".repeat(2 << 10));
    client.talk(&[&format!("SET {key} {value}")], "+OK\r\n").await;
    // More than the sockets hold, in both directions; nothing is read before all is written.
    client.send(format!("*2\r\n$3\r\nGET\r\n$1024\r\n{key}\r\n").repeat(GETS)).await;
    let reply = format!("$2048\r\n{value}\r\n").repeat(GETS / 100);
    for _ in 0..100 {
        client.expect(&reply).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_no_replies_is_closed_with_a_reason_and_not_before_its_time() {
    const VALUE: usize = 1 << 20;
    let engine = Engine::led_by(1, &[1]);
    let limits = Limits { reply_stall_max: Duration::from_secs(30), ..Limits::default() };
    let (_server, mut client) = serve(&engine, 1, limits).await;
    let value = "x".repeat(VALUE);
    client.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${VALUE}\r\n{value}\r\n")).await;
    client.expect("+OK\r\n").await;
    // Idle for longer than that, with nothing to take.
    tokio::time::sleep(Duration::from_secs(100)).await;
    client.send("GET k\r\n".repeat(200)).await;
    let reply = format!("${VALUE}\r\n{value}\r\n");
    // A client that takes something now and then may take its time. What it reads at once is more
    // than the sockets hold, so the server sees it.
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(29)).await;
        for _ in 0..20 {
            client.expect(&reply).await;
        }
    }
    let begun = tokio::time::Instant::now();
    let mut observer = Client::connect(client.stream.peer_addr().expect("connected")).await;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let stats = observer.bulk("INFO stats").await;
        if stats.contains("stalled_clients_closed:1\r\n") {
            break;
        }
    }
    let waited = begun.elapsed().as_secs();
    assert!((29..=32).contains(&waited), "{waited} s");
    client.expect_end().await;
}

#[tokio::test]
async fn unfinished_input_beyond_the_budget_of_all_clients_is_refused() {
    let engine = Engine::led_by(1, &[1]);
    let limits = Limits { buffered_bytes_max: 4 << 20, ..Limits::default() };
    let (server, mut first) = serve(&engine, 1, limits).await;
    let mut second = Client::connect(server.address()).await;
    let part = "x".repeat(2 << 20);
    let start = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", 6 << 20);
    first.send(format!("{start}{part}")).await;
    // It is read to its end before the second begins: the whole part lies in the server.
    let mut quiet = 0;
    while quiet < 1000 {
        tokio::task::yield_now().await;
        quiet = if server.buffered_bytes() < (2 << 20) - (64 << 10) { 0 } else { quiet + 1 };
    }
    second.send(format!("{start}{part}")).await;
    second.expect("-ERR too many bytes of unfinished requests, try again later\r\n").await;
    second.expect_close().await;
    drop(first);
    while server.buffered_bytes() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn ports_that_share_a_budget_share_its_connections() {
    let engine = Engine::led_by(1, &[1]);
    let limits = Limits::default();
    let budget = ClientBudget::new(1, limits.buffered_bytes_max);
    let mut servers = Vec::new();
    for _ in 0..2 {
        let (listener, port) = listener().await;
        let topology = topology(1, 1, [port, 7002, 7003]);
        let mode = Mode::Cluster;
        let server =
            RespServer::start_within(listener, engine.clone(), topology, mode, limits, &budget);
        servers.push(server.expect("a bound listener"));
    }
    let mut first = Client::connect(servers[0].address()).await;
    first.talk(&["PING"], "+PONG\r\n").await;
    let mut second = Client::connect(servers[1].address()).await;
    second.expect("-ERR max number of clients reached\r\n").await;
    second.expect_close().await;
    first.talk(&["QUIT"], "+OK\r\n").await;
    first.expect_close().await;
    while Client::connect(servers[1].address()).await.line("PING").await != "+PONG" {}
}

#[tokio::test]
async fn hello_switches_the_protocol_at_its_place_in_the_pipeline() {
    let (engine, _server, mut client) = alone(1).await;
    engine.hold(true, false);
    client.send("GET k\r\nHELLO 3\r\nGET k\r\nHELLO 2\r\nGET k\r\n").await;
    engine.until_held(3).await;
    for _ in 0..3 {
        engine.finish(0);
    }
    let fields = "$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.2.0\r\n$5\r\nproto\r\n:3\r\n\
                  $2\r\nid\r\n:1\r\n$4\r\nmode\r\n$7\r\ncluster\r\n$4\r\nrole\r\n$6\r\nmaster\r\n\
                  $7\r\nmodules\r\n*0\r\n";
    client.expect(format!("$-1\r\n%7\r\n{fields}_\r\n*14\r\n")).await;
    client.expect(fields.replace(":3", ":2")).await;
    client.expect("$-1\r\n").await;
    client.talk(&["HELLO 4"], "-NOPROTO unsupported protocol version\r\n").await;
}

#[tokio::test]
async fn bytes_that_are_no_request_are_answered_and_end_the_connection() {
    let (_engine, _server, mut client) = alone(1).await;
    client.send(b"PING\r\n*1\r\n+garbage\r\n").await;
    client.expect("+PONG\r\n-ERR Protocol error: expected '$', got '+'\r\n").await;
    client.expect_close().await;
}

#[tokio::test]
async fn first_bytes_that_are_no_request_are_answered_and_end_the_connection() {
    // The deadline for connections that are to close must not be what ends them here.
    let engine = Engine::led_by(1, &[1]);
    let limits = Limits { drain_stall_max: Duration::from_secs(3600), ..Limits::default() };
    let (server, _client) = serve(&engine, 1, limits).await;
    let inline = "x".repeat(70 << 10);
    let table = [
        ("*x\r\n", "invalid multibulk length"),
        (
            "*1\r\n$9000000000000000000\r\n",
            "9000000000000000000 bytes, at most 67108864 are allowed",
        ),
        (&inline, "too big inline request"),
    ];
    for (bytes, reply) in table {
        let mut client = Client::connect(server.address()).await;
        client.send(bytes).await;
        client.expect(format!("-ERR Protocol error: {reply}\r\n")).await;
        client.expect_close().await;
    }
}

#[tokio::test]
async fn a_connection_that_is_to_close_does_not_wait_for_ever() {
    let engine = Engine::led_by(1, &[1]);
    let limits = Limits { drain_stall_max: Duration::from_millis(50), ..Limits::default() };
    let (_server, mut client) = serve(&engine, 1, limits).await;
    // The client has said all it will say, and the engine never answers.
    engine.hold(true, true);
    client.send("INCR n\r\n").await;
    client.stream.shutdown().await.expect("half a close");
    engine.until_held(1).await;
    client.expect_close().await;
}

#[tokio::test]
async fn a_client_that_reads_none_of_its_last_replies_is_cut_off() {
    const VALUE: usize = 16 << 20;
    let engine = Engine::led_by(1, &[1]);
    let limits = Limits {
        drain_stall_max: Duration::from_millis(50),
        connections_max: 1,
        ..Limits::default()
    };
    let (server, mut client) = serve(&engine, 1, limits).await;
    let value = "x".repeat(VALUE);
    client.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${VALUE}\r\n{value}\r\n")).await;
    client.expect("+OK\r\n").await;
    client.send("GET k\r\nGET k\r\n*x\r\n").await;
    // Its place is free again once it is gone.
    loop {
        let mut next = Client::connect(server.address()).await;
        if next.line("PING").await == "+PONG" {
            break;
        }
    }
}

#[tokio::test]
async fn what_was_asked_before_half_a_close_is_answered() {
    let (engine, _server, mut client) = alone(1).await;
    engine.hold(true, true);
    client.send("INCR n\r\nPING\r\n").await;
    client.stream.shutdown().await.expect("half a close");
    engine.until_held(1).await;
    engine.finish(0);
    client.expect(":1\r\n+PONG\r\n").await;
    client.expect_close().await;
}

#[tokio::test]
async fn one_client_too_many_is_told_so() {
    let engine = Engine::led_by(1, &[1]);
    let limits = Limits { connections_max: 1, ..Limits::default() };
    let (server, mut client) = serve(&engine, 1, limits).await;
    client.talk(&["PING"], "+PONG\r\n").await;
    let mut second = Client::connect(server.address()).await;
    second.expect("-ERR max number of clients reached\r\n").await;
    second.expect_close().await;
    client.talk(&["PING"], "+PONG\r\n").await;
}

#[tokio::test]
async fn a_shutdown_answers_what_was_read_and_closes() {
    let (engine, server, mut client) = alone(1).await;
    engine.hold(true, true);
    client.send("INCR n\r\n").await;
    engine.until_held(1).await;
    let address = server.address();
    let down = tokio::spawn(server.shutdown(Duration::from_secs(60)));
    engine.finish(0);
    client.expect(":1\r\n").await;
    client.expect_close().await;
    down.await.expect("no panic");
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn stock_clients_get_through_their_first_words() {
    // What redis-benchmark, redis-py, node-redis, ioredis and redis-rs send at connect.
    let (_engine, _server, mut client) = alone(4).await;
    for line in [
        "CONFIG GET save",
        "CONFIG GET appendonly",
        "CLIENT SETINFO LIB-NAME redis-py",
        "CLIENT SETINFO LIB-VER 1",
        "COMMAND",
        "COMMAND DOCS",
        "CLUSTER SLOTS",
        "CLUSTER SHARDS",
        "CLUSTER NODES",
        "CLUSTER INFO",
        "INFO",
        "DBSIZE",
        "HELLO 3",
    ] {
        let mut client = Client::connect(client.stream.peer_addr().expect("connected")).await;
        let reply = client.line(line).await;
        assert!(!reply.starts_with('-'), "{line}: {reply}");
    }
    let info = client.bulk("INFO").await;
    for field in ["redis_version:7", "loading:0", "raft_groups:4", "raft_applied_commands:0"] {
        assert!(info.contains(field), "{info}");
    }
    let stats = client.bulk("INFO stats").await;
    assert!(stats.starts_with("# Stats\r\n") && !stats.contains("# Server"), "{stats}");
}

#[tokio::test]
async fn the_cluster_is_described_by_who_leads_what() {
    // Groups 1 and 2 are neighbours with one leader; group 3 has none; group 4 is led elsewhere.
    let engine = Engine::led_by(4, &[1, 1, 1, 2]);
    engine.set_leader(3, None);
    let (server, mut client) = serve(&engine, 4, Limits::default()).await;
    let port = server.address().port();
    let names = [1, 2, 3].map(|node| format!("72616674{node:032}"));
    let bus = port.checked_add(10_000).unwrap_or(port);
    assert_eq!(
        client.bulk("CLUSTER NODES").await,
        format!(
            "{} 127.0.0.1:{port}@{bus} myself,master - 0 0 1 connected 0-8191\n\
             {} 127.0.0.1:7002@17002 master - 0 0 2 connected 12288-16383\n\
             {} 127.0.0.1:7003@17003 master - 0 0 3 connected\n",
            names[0], names[1], names[2]
        )
    );
    assert_eq!(client.bulk("CLUSTER MYID").await, names[0]);
    let info = client.bulk("CLUSTER INFO").await;
    for field in ["cluster_state:fail", "cluster_slots_ok:12288", "cluster_size:2"] {
        assert!(info.contains(field), "{info}");
    }
    let node = |port: u16, name: &str| {
        let digits = port.to_string();
        format!("*4\r\n$9\r\n127.0.0.1\r\n:{digits}\r\n$40\r\n{name}\r\n*0\r\n")
    };
    let own = node(port, &names[0]);
    let (two, three) = (node(7002, &names[1]), node(7003, &names[2]));
    let slots = format!(
        "*2\r\n*5\r\n:0\r\n:8191\r\n{own}{two}{three}*5\r\n:12288\r\n:16383\r\n{two}{own}{three}"
    );
    client.talk(&["CLUSTER SLOTS"], &slots).await;
    client.talk(&["SET bar 1", "CLUSTER COUNTKEYSINSLOT 5061"], "+OK\r\n:1\r\n").await;
}

#[tokio::test]
async fn a_node_that_is_not_reached_is_told_as_failed_and_replicas_are_listed() {
    let engine = Engine::led_by(2, &[1, 2]);
    engine.lock().unreached.push(NodeId::new(3));
    let (server, mut client) = serve(&engine, 2, Limits::default()).await;
    let port = server.address().port();
    let names = [1, 2, 3].map(|node| format!("72616674{node:032}"));
    let nodes = client.bulk("CLUSTER NODES").await;
    let lines: Vec<&str> = nodes.lines().collect();
    assert!(lines[0].ends_with("myself,master - 0 0 1 connected 0-8191"), "{nodes}");
    assert!(lines[1].ends_with("master - 0 0 2 connected 8192-16383"), "{nodes}");
    assert!(lines[2].ends_with("master,fail - 0 0 3 disconnected"), "{nodes}");
    let node = |port: u16, name: &str| {
        format!("*4\r\n$9\r\n127.0.0.1\r\n:{port}\r\n$40\r\n{name}\r\n*0\r\n")
    };
    let (own, two) = (node(port, &names[0]), node(7002, &names[1]));
    let slots = format!("*2\r\n*4\r\n:0\r\n:8191\r\n{own}{two}*4\r\n:8192\r\n:16383\r\n{two}{own}");
    client.talk(&["CLUSTER SLOTS"], &slots).await;
    let member = |port: u16, name: &str, role: &str, health: &str| {
        let text = |text: &str| format!("${}\r\n{text}\r\n", text.len());
        let host = text("127.0.0.1");
        [
            "*14\r\n",
            &format!("{}{}", text("id"), text(name)),
            &format!("{}:{port}\r\n", text("port")),
            &format!("{}{host}{}{host}", text("ip"), text("endpoint")),
            &format!("{}{}", text("role"), text(role)),
            &format!("{}:0\r\n", text("replication-offset")),
            &format!("{}{}", text("health"), text(health)),
        ]
        .concat()
    };
    let shard = |first: u16, last: u16, members: [String; 3]| {
        let members = members.concat();
        format!("*4\r\n$5\r\nslots\r\n*2\r\n:{first}\r\n:{last}\r\n$5\r\nnodes\r\n*3\r\n{members}")
    };
    let dead = member(7003, &names[2], "replica", "fail");
    let own = |role| member(port, &names[0], role, "online");
    let two = |role| member(7002, &names[1], role, "online");
    let shards = format!(
        "*2\r\n{}{}",
        shard(0, 8191, [own("master"), two("replica"), dead.clone()]),
        shard(8192, 16383, [two("master"), own("replica"), dead]),
    );
    client.talk(&["CLUSTER SHARDS"], &shards).await;
    // It comes back, and is told of again.
    engine.lock().unreached.clear();
    while client.bulk("CLUSTER NODES").await.contains("fail") {}
}

#[tokio::test]
async fn the_cluster_is_described_once_however_many_ask() {
    const GROUPS: u32 = 1024;
    let engine = Engine::led_by(GROUPS, &[1, 2, 3]);
    let (server, _client) = serve(&engine, GROUPS, Limits::default()).await;
    for _ in 0..20 {
        let mut client = Client::connect(server.address()).await;
        for command in ["NODES", "INFO"] {
            client.bulk(&format!("CLUSTER {command}")).await;
        }
        assert_eq!(client.line("CLUSTER SLOTS").await, format!("*{GROUPS}"));
    }
    let asked = engine.lock().asked;
    assert!(asked <= 2 * GROUPS as usize, "leaders were asked for {asked} times");
    let mut client = Client::connect(server.address()).await;
    engine.set_leader(1, Some(2));
    while !client
        .bulk("CLUSTER NODES")
        .await
        .lines()
        .any(|line| line.contains(" 2 connected 0-31 "))
    {}
}
