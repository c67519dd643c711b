//! `raftd` as a client sees it: three processes, the Redis protocol, one connection per client
//! straight to the leader of its key.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use peerbench::load::{Proposer, sweep};
use peerbench::{Args, Reporter};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// `raftd demo --hold`: it starts the nodes, says where they are, and ends with its input.
struct Held {
    child: Child,
    nodes: Vec<Value>,
}

impl Held {
    fn start(bin: &str, groups: u32) -> Self {
        let groups = groups.to_string();
        let mut child = Command::new(bin)
            .args(["demo", "--hold", "--json", "--nodes", "3", "--groups", &groups])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("raftd starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let ready = out
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
            .find(|line| line["event"] == "ready")
            .expect("the cluster is ready");
        let nodes = ready["nodes"].as_array().expect("nodes").clone();
        Self { child, nodes }
    }

    fn pids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| node["pid"].as_u64()).map(|pid| pid as u32).collect()
    }

    fn stop(mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// One connection per client, opened at its first request.
#[derive(Clone)]
struct Clients {
    first: Arc<str>,
    connections: Arc<Vec<Mutex<Option<Connection>>>>,
    reads: u64,
}

struct Connection {
    stream: TcpStream,
    out: Vec<u8>,
    input: Vec<u8>,
    turn: u64,
}

impl Connection {
    async fn open(addr: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(addr).await.map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        Ok(Self { stream, out: Vec::new(), input: Vec::new(), turn: 0 })
    }

    /// Sends one command and reads one reply: a simple string, a bulk string or an error.
    async fn ask(&mut self, args: &[&[u8]]) -> Result<Vec<u8>, String> {
        self.out.clear();
        self.out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
        for arg in args {
            self.out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            self.out.extend_from_slice(arg);
            self.out.extend_from_slice(b"\r\n");
        }
        self.stream.write_all(&self.out).await.map_err(|e| e.to_string())?;
        self.input.clear();
        loop {
            let read = self.stream.read_buf(&mut self.input).await.map_err(|e| e.to_string())?;
            if read == 0 {
                return Err("closed".to_owned());
            }
            let Some(line) = self.input.windows(2).position(|pair| pair == b"\r\n") else {
                continue;
            };
            let head = String::from_utf8_lossy(&self.input[1..line]).into_owned();
            match self.input[0] {
                b'$' => {
                    let len: i64 = head.parse().map_err(|_| "bad length".to_owned())?;
                    let want = line + 2 + if len < 0 { 0 } else { len as usize + 2 };
                    if self.input.len() >= want {
                        return Ok(self.input[line + 2..want.max(line + 4) - 2].to_vec());
                    }
                }
                b'-' => return Err(head),
                _ => return Ok(head.into_bytes()),
            }
        }
    }
}

impl Proposer for Clients {
    async fn propose(&self, client: usize, payload: Bytes) -> Result<(), String> {
        let mut slot = self.connections[client].lock().await;
        if slot.is_none() {
            *slot = Some(Connection::open(&self.first).await?);
        }
        let connection = slot.as_mut().expect("just opened");
        connection.turn += 1;
        let key = format!("bench:{client}");
        let result = if connection.turn % 10 < self.reads && connection.turn > 1 {
            connection.ask(&[b"GET", key.as_bytes()]).await
        } else {
            connection.ask(&[b"SET", key.as_bytes(), &payload]).await
        };
        match result {
            Ok(_) => Ok(()),
            Err(error) => {
                // `MOVED slot host:port`: that is where this key lives.
                let moved = error.strip_prefix("MOVED ").and_then(|rest| rest.split(' ').nth(1));
                *slot = match moved {
                    Some(addr) => Some(Connection::open(addr).await?),
                    None => None,
                };
                Err(error)
            }
        }
    }
}

pub fn run(args: &Args, rep: &Reporter) {
    let groups: u32 = args.num("groups", 1);
    let held = Held::start(&args.str("bin", "raftd"), groups);
    let pids = held.pids();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.num("workers", 2))
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(async {
        let clients: Vec<usize> = args.list("clients", "1,64,256,1024");
        let most = clients.iter().copied().max().unwrap_or(1);
        let op = args.str("op", "write");
        let proposer = Clients {
            first: held.nodes[0]["resp"].as_str().expect("resp").into(),
            connections: Arc::new((0..most).map(|_| Mutex::new(None)).collect()),
            reads: match op.as_str() {
                "write" => 0,
                "mix" => 9,
                "read" => 10,
                other => panic!("unknown --op {other}: write, read or mix"),
            },
        };
        // Every client finds its leader before anything is measured.
        for client in 0..most {
            for _ in 0..100 {
                if proposer.propose(client, Bytes::from_static(b"first")).await.is_ok() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let payload = args.num("payload", 256);
        let span = Duration::from_secs_f64(args.num("secs", 4.0));
        let mut extra = json!({"client": "remote, RESP", "nodes": "3 processes", "groups": groups});
        if op != "write" {
            extra["op"] = json!(op);
        }
        let reps = args.num("reps", 3);
        sweep(&proposer, rep, "W3-durable", extra, &clients, payload, span, reps, &pids).await;
    });
    runtime.shutdown_background();
    held.stop();
}
