//! Client libraries: small scripts handed to the interpreter they are installed in.
//!
//! A script gets host and port as arguments, prints one line per check, `ok <what>`, and exits 0
//! only if every check held.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Result, ensure};

use super::server::Server;
use super::{Check, LIMIT};
use crate::job::{Job, available};

struct Library {
    client: &'static str,
    program: &'static str,
    /// Succeeds if the library is there.
    probe: [&'static str; 2],
    install: &'static str,
    what: &'static str,
    script: &'static str,
    port: Port,
}

#[derive(Clone, Copy)]
enum Port {
    Proxy,
    Cluster,
}

const REDIS_PY: [&str; 2] = ["-c", "import redis, redis.cluster"];
const IOREDIS: [&str; 2] = ["-e", "require('ioredis')"];

const ALL: [Library; 4] = [
    Library {
        client: "redis-py",
        program: "python3",
        probe: REDIS_PY,
        install: "pip install redis",
        what: "plain, proxy port",
        script: include_str!("libraries/redis_py.py"),
        port: Port::Proxy,
    },
    Library {
        client: "redis-py",
        program: "python3",
        probe: REDIS_PY,
        install: "pip install redis",
        what: "RedisCluster",
        script: include_str!("libraries/redis_py_cluster.py"),
        port: Port::Cluster,
    },
    Library {
        client: "ioredis",
        program: "node",
        probe: IOREDIS,
        install: "npm install ioredis",
        what: "plain, proxy port",
        script: include_str!("libraries/ioredis.js"),
        port: Port::Proxy,
    },
    Library {
        client: "ioredis",
        program: "node",
        probe: IOREDIS,
        install: "npm install ioredis",
        what: "Cluster",
        script: include_str!("libraries/ioredis_cluster.js"),
        port: Port::Cluster,
    },
];

pub(super) fn all(server: &Server) -> Vec<Check> {
    ALL.iter()
        .map(|library| {
            if !available(library.program, &library.probe) {
                return Check::skipped(library.client, library.what, library.install);
            }
            let address = match library.port {
                Port::Proxy => server.proxy(),
                Port::Cluster => server.nodes[0].resp,
            };
            Check::new(library.client, library.what, run(library, address))
        })
        .collect()
}

fn run(library: &Library, address: SocketAddr) -> Result<String> {
    let mut command = Command::new(library.program);
    command.args(["-", &address.ip().to_string(), &address.port().to_string()]);
    let finished = Job::new(command).input(library.script).limit(LIMIT).apart()?;
    ensure!(finished.success(), "{}", finished.evidence());
    let held: Vec<_> =
        finished.stdout.lines().filter_map(|line| line.strip_prefix("ok ")).collect();
    ensure!(!held.is_empty(), "the script checked nothing: {}", finished.evidence());
    Ok(held.join(", "))
}
