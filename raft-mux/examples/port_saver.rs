//! Any number of existing TCP services behind one port, without a change to them.
//!
//! ```text
//!  on one machine                                     on the other
//!  client ─▶ 127.0.0.1:9107 ─┐   one port  ┌─▶ group 7 ─▶ 127.0.0.1:9007  a service
//!  client ─▶ 127.0.0.1:9108 ─┴────────────▶┴─▶ group 8 ─▶ 127.0.0.1:9008  another
//!
//! cargo run -p raft-mux --example port_saver        # shows itself
//! cargo run -p raft-mux --example port_saver -- --dial 127.0.0.1:9107=7@host:7000
//! cargo run -p raft-mux --example port_saver -- --listen 0.0.0.0:7000 --group 7=127.0.0.1:9007
//! ```
//!
//! One process may do both. Between the two travel four bytes more per connection than without,
//! and otherwise what a direct connection would carry: not a byte is changed, an end of one
//! direction leaves the other open, whoever does not read holds its sender up, and a reset arrives
//! as a reset. One thing differs: a client is connected before its service is asked, so a service
//! that cannot be reached is a connection that is reset instead of one that is refused.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use raft_core::GroupId;
use raft_mux::{GroupListener, MuxAcceptor, MuxConfig, dial};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long a service or a peer may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most connections relayed at a time. One more waits in the backlog of its port.
const CONNECTIONS_MAX: usize = 4096;
/// Bytes on their way through one direction of one connection, beside what the kernel holds.
const BUFFER_BYTES: usize = 16 * 1024;
/// Pause after a local port failed to accept, as it does without file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if std::env::args().len() == 1 {
        return show().await;
    }
    let options = Options::parse(std::env::args().skip(1))?;
    let mut saver = PortSaver::start(options).await?;
    if let Some(addr) = saver.listens_on() {
        println!("listening on {addr}");
    }
    saver.wait().await
}

/// Without arguments: a service that greets, behind one port, asked through another process's
/// local port, all of it in here.
async fn show() -> anyhow::Result<()> {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let service = TcpListener::bind(loopback).await?;
    let groups = vec![(GroupId::new(7), service.local_addr()?.to_string())];
    let near = Options { listen: Some(loopback), groups, dials: Vec::new() };
    let near = PortSaver::start(near).await?;
    let remote = near.listens_on().context("it was given one")?.to_string();
    let dials = vec![Dial { local: loopback, group: GroupId::new(7), remote }];
    let far = PortSaver::start(Options { dials, ..Options::default() }).await?;

    let mut client = TcpStream::connect(far.local[0]).await?;
    let (mut stream, _) = service.accept().await?;
    stream.write_all(b"hello through one port").await?;
    stream.shutdown().await?;
    let mut heard = String::new();
    client.read_to_string(&mut heard).await?;
    println!("the client of {} heard: {heard}", far.local[0]);
    Ok(())
}

/// What the command line says.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Where connections with a prefix arrive.
    pub(crate) listen: Option<SocketAddr>,
    /// Which service gets the connections of which group.
    pub(crate) groups: Vec<(GroupId, String)>,
    /// Local ports whose connections leave with a prefix.
    pub(crate) dials: Vec<Dial>,
}

/// `LOCAL=GROUP@HOST:PORT`
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    pub(crate) local: SocketAddr,
    pub(crate) group: GroupId,
    pub(crate) remote: String,
}

impl Options {
    pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> anyhow::Result<Self> {
        let mut options = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(name) = arguments.next() {
            let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
            let told = match name.as_str() {
                "--listen" => options.take_listen(&value),
                "--group" => options.take_group(&value),
                "--dial" => options.take_dial(&value),
                _ => bail!("unknown option {name}; there are --listen, --group and --dial"),
            };
            told.with_context(|| format!("{name} {value}"))?;
        }
        ensure!(
            options.listen.is_some() || options.groups.is_empty(),
            "--group needs --listen: where should its connections arrive?"
        );
        ensure!(
            options.listen.is_some() || !options.dials.is_empty(),
            "nothing to do: --listen ADDR with --group ID=SERVICE, or --dial LOCAL=ID@HOST:PORT"
        );
        Ok(options)
    }

    fn take_listen(&mut self, value: &str) -> anyhow::Result<()> {
        ensure!(self.listen.is_none(), "given twice");
        self.listen = Some(value.parse()?);
        Ok(())
    }

    fn take_group(&mut self, value: &str) -> anyhow::Result<()> {
        let (id, service) = value.split_once('=').context("expected ID=HOST:PORT")?;
        self.groups.push((parse_group(id)?, parse_host(service)?));
        Ok(())
    }

    fn take_dial(&mut self, value: &str) -> anyhow::Result<()> {
        let (local, there) = value.split_once('=').context("expected LOCAL=ID@HOST:PORT")?;
        let (id, remote) = there.split_once('@').context("expected LOCAL=ID@HOST:PORT")?;
        let (group, remote) = (parse_group(id)?, parse_host(remote)?);
        self.dials.push(Dial { local: local.parse()?, group, remote });
        Ok(())
    }
}

fn parse_group(id: &str) -> anyhow::Result<GroupId> {
    Ok(GroupId::new(id.parse().with_context(|| format!("{id} is no group id"))?))
}

fn parse_host(host: &str) -> anyhow::Result<String> {
    let (_, port) = host.rsplit_once(':').with_context(|| format!("{host} names no port"))?;
    port.parse::<u16>().with_context(|| format!("{port} is no port"))?;
    Ok(host.to_owned())
}

/// All of it, running. Ends with its drop.
pub(crate) struct PortSaver {
    acceptor: Option<MuxAcceptor>,
    local: Vec<SocketAddr>,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl PortSaver {
    pub(crate) async fn start(options: Options) -> anyhow::Result<Self> {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut tasks = JoinSet::new();
        let mut acceptor = None;
        if let Some(addr) = options.listen {
            let bound = MuxAcceptor::bind(addr, MuxConfig::default()).await?;
            for (group, service) in options.groups {
                let listener = bound.register(group)?;
                let route = Route::new(format!("group {group}"), Target::Service(service));
                tasks.spawn(serve(Door::Group(listener), route, room.clone()));
            }
            acceptor = Some(bound);
        }
        let mut local = Vec::new();
        for Dial { local: addr, group, remote } in options.dials {
            let bound =
                TcpListener::bind(addr).await.with_context(|| format!("listen on {addr}"))?;
            local.push(bound.local_addr()?);
            let route = Route::new(format!("port {addr}"), Target::Group(group, remote));
            tasks.spawn(serve(Door::Local(bound), route, room.clone()));
        }
        Ok(Self { acceptor, local, tasks })
    }

    /// The one port.
    pub(crate) fn listens_on(&self) -> Option<SocketAddr> {
        self.acceptor.as_ref().map(MuxAcceptor::local_addr)
    }

    /// The local ports, in the order of `--dial`.
    #[allow(dead_code, reason = "for those who gave port 0")]
    pub(crate) fn local_ports(&self) -> &[SocketAddr] {
        &self.local
    }

    /// Waits for a door to fail, which none does by itself.
    pub(crate) async fn wait(&mut self) -> anyhow::Result<()> {
        match self.tasks.join_next().await {
            Some(ended) => ended?,
            None => std::future::pending().await,
        }
    }
}

/// Where connections come in.
enum Door {
    Group(GroupListener),
    Local(TcpListener),
}

impl Door {
    /// The next connection; an error is final.
    async fn accept(&self) -> anyhow::Result<TcpStream> {
        match self {
            Self::Group(listener) => Ok(listener.accept().await?.0),
            Self::Local(listener) => loop {
                match listener.accept().await {
                    Ok((stream, _)) => return Ok(stream),
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                }
            },
        }
    }
}

/// Where they go.
struct Route {
    name: String,
    target: Target,
    /// Told when it changes, so that clients choose no number of lines.
    unreachable: AtomicBool,
}

enum Target {
    Service(String),
    Group(GroupId, String),
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Service(service) => write!(f, "{} -> {service}", self.name),
            Target::Group(group, remote) => write!(f, "{} -> group {group} at {remote}", self.name),
        }
    }
}

impl Route {
    fn new(name: String, target: Target) -> Arc<Self> {
        let route = Self { name, target, unreachable: AtomicBool::new(false) };
        println!("{route}");
        Arc::new(route)
    }

    async fn connect(&self) -> anyhow::Result<TcpStream> {
        let connected = match &self.target {
            Target::Service(service) => {
                let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(service)).await??;
                stream.set_nodelay(true)?;
                Ok(stream)
            }
            Target::Group(group, remote) => dial_any(*group, remote).await,
        };
        let unreachable = connected.is_err();
        if self.unreachable.swap(unreachable, Ordering::Relaxed) != unreachable {
            match &connected {
                Ok(_) => eprintln!("{self}: reachable again"),
                Err(error) => eprintln!("{self}: {error:#}"),
            }
        }
        connected
    }
}

/// Dials what the name resolves to, one after another.
async fn dial_any(group: GroupId, remote: &str) -> anyhow::Result<TcpStream> {
    let mut last = None;
    for addr in lookup_host(remote).await? {
        match dial(addr, group, CONNECT_TIMEOUT).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(|| anyhow::anyhow!("{remote} has no address"), Into::into))
}

async fn serve(door: Door, route: Arc<Route>, room: Arc<Semaphore>) -> anyhow::Result<()> {
    loop {
        let permit = room.clone().acquire_owned().await?;
        let inbound = door.accept().await?;
        let route = route.clone();
        tokio::spawn(async move {
            let _permit = permit;
            match route.connect().await {
                Ok(outbound) => relay(inbound, outbound).await,
                Err(_) => reset(&inbound),
            }
        });
    }
}

/// Carries bytes both ways until both directions have ended, or one side resets.
pub(crate) async fn relay(one: TcpStream, other: TcpStream) {
    // A local client may not have asked for it, and a delay here would be one more than without.
    let _ = (one.set_nodelay(true), other.set_nodelay(true));
    let (mut there, mut back) = (Flow::new(), Flow::new());
    if carry(&mut there, &mut back, &one, &other).await.is_err() {
        // What was said before the reset has arrived by now, and counts.
        there.drain(&one, &other);
        back.drain(&other, &one);
        reset(&one);
        reset(&other);
    }
}

/// One of the sides is gone.
struct Reset;

async fn carry(
    there: &mut Flow,
    back: &mut Flow,
    one: &TcpStream,
    other: &TcpStream,
) -> Result<(), Reset> {
    let mut there = pin!(there.run(one, other));
    let mut back = pin!(back.run(other, one));
    // A side that has ended its direction is no longer read from, and may still reset.
    tokio::select! {
        ended = &mut there => {
            ended?;
            tokio::select! {
                biased;
                ended = back => ended,
                reset = broken(one) => reset,
            }
        }
        ended = &mut back => {
            ended?;
            tokio::select! {
                biased;
                ended = there => ended,
                reset = broken(other) => reset,
            }
        }
    }
}

/// Waits for a reset of a socket that nobody reads from.
async fn broken(stream: &TcpStream) -> Result<(), Reset> {
    let _ = stream.ready(Interest::ERROR).await;
    Err(Reset)
}

/// One direction of a connection, and what is in it.
struct Flow {
    bytes: Box<[u8]>,
    held: Range<usize>,
}

impl Flow {
    fn new() -> Self {
        Self { bytes: vec![0; BUFFER_BYTES].into(), held: 0..0 }
    }

    /// Carries everything up to the end, and then that.
    async fn run(&mut self, from: &TcpStream, to: &TcpStream) -> Result<(), Reset> {
        loop {
            while !self.held.is_empty() {
                if self.write(to)? {
                    continue;
                }
                tokio::select! {
                    biased;
                    ready = to.writable() => ready.map_err(|_| Reset)?,
                    // Nobody takes what it said last, so a reset passes it by.
                    reset = broken(from) => return reset,
                }
            }
            from.readable().await.map_err(|_| Reset)?;
            if let Some(0) = self.read(from)? {
                break;
            }
        }
        shutdown(to, Shutdown::Write).map_err(|_| Reset)
    }

    /// Carries what is there and can be taken without waiting. It asks the sockets themselves:
    /// what is known of their readiness may be older than the reset.
    fn drain(&mut self, from: &TcpStream, to: &TcpStream) {
        loop {
            while !self.held.is_empty() {
                let held = &self.bytes[self.held.clone()];
                match send(to, held, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                    Ok(count @ 1..) => self.held.start += count,
                    Ok(0) | Err(_) => return,
                }
            }
            match recv(from, &mut self.bytes[..], RecvFlags::DONTWAIT) {
                Ok((count @ 1.., _)) => self.held = 0..count,
                Ok((0, _)) | Err(_) => return,
            }
        }
    }

    /// Reads into the empty buffer: how many bytes, 0 for the end, `None` for none yet.
    fn read(&mut self, from: &TcpStream) -> Result<Option<usize>, Reset> {
        match from.try_read(&mut self.bytes) {
            Ok(count) => {
                self.held = 0..count;
                Ok(Some(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(_) => Err(Reset),
        }
    }

    /// Writes some of what is held: whether any was taken.
    fn write(&mut self, to: &TcpStream) -> Result<bool, Reset> {
        match to.try_write(&self.bytes[self.held.clone()]) {
            Ok(count) => {
                self.held.start += count;
                Ok(count > 0)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(_) => Err(Reset),
        }
    }
}

/// Makes the drop of this socket a reset.
fn reset(stream: &TcpStream) {
    // It fails only on a socket that is gone.
    let _ = stream.set_zero_linger();
}
