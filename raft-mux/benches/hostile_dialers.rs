//! Who is served while ten thousand strangers hold on to the port?
//!
//! ```text
//! cargo bench -p raft-mux --bench hostile_dialers
//! ```
//!
//! Three processes over loopback: a server with one group that echoes, 10,000 strangers who dial
//! it again two seconds after they were closed, and an honest client who dials 200 times a second,
//! whatever became of the dials before. An honest dial counts from its connect to its first echoed
//! byte; it has failed if that takes 5 s. Memory and descriptors are the server's, at their peak.
//! Every kind of stranger has a row of its own, with fresh processes: those who never send, who
//! drip one byte a second, who stop half a second anywhere within the prefix, who send garbage,
//! who hang up at once, and all of them together: from the honest client's own address, and from
//! others. Strangers leave by a reset, but for one in ten of those who hang up: what they would
//! leave in TIME_WAIT makes every further dial on this machine slower, and that is the kernel's.

use std::error::Error;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use raft_core::GroupId;
use raft_mux::{MuxAcceptor, MuxConfig, dial, encode_prefix};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{interval, sleep, timeout};

const GROUP: GroupId = GroupId::new(7);
const STRANGERS: usize = 10_000;
/// Between a stranger's end and its next dial: at most 5,000 dials a second, so that the row is
/// about the mux and not about how many connections two cores can open.
const PAUSE: Duration = Duration::from_secs(2);
/// The strangers arrive over so long a time.
const ARRIVAL: Duration = Duration::from_secs(2);
const DIALS_PER_SECOND: u64 = 200;
const MEASURED: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(5);

/// Says which of the processes this one is.
const ROLE: &str = "HOSTILE_DIALERS_ROLE";
const ADDR: &str = "HOSTILE_DIALERS_ADDR";
const KIND: &str = "HOSTILE_DIALERS_KIND";
const FROM: &str = "HOSTILE_DIALERS_FROM";

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    match std::env::var(ROLE).as_deref() {
        Err(_) => report(),
        Ok("server") => runtime.block_on(serve()),
        Ok("strangers") => runtime.block_on(molest()),
        Ok(_) => runtime.block_on(behave()),
    }
}

/// What strangers do.
#[derive(Clone, Copy)]
enum Kind {
    Silent,
    Drip,
    Split,
    Garbage,
    HangUp,
}

const KINDS: [(&str, Kind); 5] = [
    ("never send", Kind::Silent),
    ("drip a byte a second", Kind::Drip),
    ("stop within the prefix", Kind::Split),
    ("send garbage", Kind::Garbage),
    ("hang up at once", Kind::HangUp),
];

fn report() -> Result<()> {
    println!(
        "{:<32}{:>9}{:>8}{:>8}{:>10}{:>10}{:>10}{:>9}{:>7}",
        "", "strange/s", "honest", "failed", "p50", "p99", "max", "peak MB", "fds"
    );
    row("nobody", None, "127.0.0.1")?;
    for (kind, (name, _)) in KINDS.iter().enumerate() {
        row(name, Some(kind.to_string()), "127.0.0.1")?;
    }
    row("all, from the honest address", Some("all".to_owned()), "127.0.0.1")?;
    row("all, from another address", Some("all".to_owned()), "127.0.0.9")
}

fn row(name: &str, strangers: Option<String>, from: &str) -> Result<()> {
    let mut server = Process::start("server", &[])?;
    let addr = server.line()?;
    let strangers = match strangers {
        None => None,
        Some(kind) => {
            let told = [(ADDR, addr.as_str()), (KIND, &kind), (FROM, from)];
            let mut strangers = Process::start("strangers", &told)?;
            // They say so when all have arrived.
            strangers.line()?;
            Some(strangers)
        }
    };
    let honest = Process::start("honest", &[(ADDR, addr.as_str())])?.rest()?;
    let dialed = strangers.map_or(Ok("0".to_owned()), Process::rest)?;
    let server = server.rest()?;
    println!("{name:<32}{:>9}{}{}", dialed.trim(), honest.trim_end(), server.trim_end());
    Ok(())
}

/// A child that ends when its input does.
struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(role: &str, told: &[(&str, &str)]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env(ROLE, role).envs(told.iter().copied());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().ok_or("no output")?);
        Ok(Self { input: child.stdin.take(), output, child })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Lets it end, and takes the rest of what it says.
    fn rest(mut self) -> Result<String> {
        drop(self.input.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest)?;
        let status = self.child.wait()?;
        if !status.success() {
            return Err(format!("a process ended with {status}").into());
        }
        Ok(rest)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = (self.child.kill(), self.child.wait());
    }
}

/// Waits for the end of our input.
async fn until_told() {
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await;
}

async fn serve() -> Result<()> {
    let acceptor = MuxAcceptor::bind("127.0.0.1:0".parse()?, MuxConfig::default()).await?;
    let listener = acceptor.register(GROUP)?;
    println!("{}", acceptor.local_addr());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echo(stream));
        }
    });
    let peak = Arc::new(AtomicU64::new(0));
    tokio::spawn({
        let peak = peak.clone();
        async move {
            let mut ticks = interval(Duration::from_millis(20));
            while let Ok(open) = std::fs::read_dir("/proc/self/fd") {
                peak.fetch_max(open.count() as u64, Relaxed);
                ticks.tick().await;
            }
        }
    });
    until_told().await;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    println!("{:>9.1}{:>7}", kib / 1024.0, peak.load(Relaxed));
    eprintln!("    {:?}", acceptor.stats());
    Ok(())
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut byte = [0];
    stream.read_exact(&mut byte).await?;
    stream.write_all(&byte).await
}

async fn molest() -> Result<()> {
    let addr: SocketAddr = std::env::var(ADDR)?.parse()?;
    let from: SocketAddr = format!("{}:0", std::env::var(FROM)?).parse()?;
    let kind = std::env::var(KIND)?.parse::<usize>().ok();
    let dialed = Arc::new(AtomicU64::new(0));
    for stranger in 0..STRANGERS {
        let (_, kind) = KINDS[kind.unwrap_or(stranger % KINDS.len())];
        let dialed = dialed.clone();
        tokio::spawn(async move {
            sleep(ARRIVAL.mul_f64(stranger as f64 / STRANGERS as f64)).await;
            for turn in stranger.. {
                dialed.fetch_add(1, Relaxed);
                // However it ends, it was a try.
                let _ = timeout(PATIENCE, pester(addr, from, kind, turn)).await;
                sleep(PAUSE).await;
            }
        });
    }
    sleep(ARRIVAL).await;
    println!("here");
    let (before, start) = (dialed.load(Relaxed), Instant::now());
    until_told().await;
    let dialed = dialed.load(Relaxed) - before;
    println!("{:.0}", dialed as f64 / start.elapsed().as_secs_f64());
    Ok(())
}

async fn pester(addr: SocketAddr, from: SocketAddr, kind: Kind, turn: usize) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    if !from.ip().is_loopback() || from.ip() != addr.ip() {
        socket.bind(from)?;
    }
    let mut stream = socket.connect(addr).await?;
    if !matches!(kind, Kind::HangUp) || !turn.is_multiple_of(10) {
        stream.set_zero_linger()?;
    }
    let prefix = encode_prefix(GROUP);
    match kind {
        Kind::Silent => {}
        Kind::Drip => {
            for byte in prefix {
                stream.write_all(&[byte]).await?;
                sleep(Duration::from_secs(1)).await;
            }
        }
        Kind::Split => {
            let (first, rest) = prefix.split_at(turn % 4);
            stream.write_all(first).await?;
            sleep(Duration::from_millis(500)).await;
            stream.write_all(rest).await?;
            stream.write_all(b"!").await?;
        }
        Kind::Garbage => {
            let noise = (turn as u64 | 1 << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            stream.write_all(&[noise.to_be_bytes(); 8].concat()).await?;
        }
        Kind::HangUp => return Ok(()),
    }
    // Until it is closed.
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(())
}

async fn behave() -> Result<()> {
    let addr: SocketAddr = std::env::var(ADDR)?.parse()?;
    let mut ticks = interval(Duration::from_secs(1) / DIALS_PER_SECOND as u32);
    let mut dials = tokio::task::JoinSet::new();
    for _ in 0..MEASURED.as_secs() * DIALS_PER_SECOND {
        let due = ticks.tick().await;
        dials.spawn(async move {
            let served = timeout(PATIENCE, ask(addr)).await;
            matches!(served, Ok(Ok(()))).then(|| due.elapsed())
        });
    }
    let all = dials.join_all().await;
    let mut times: Vec<Duration> = all.iter().copied().flatten().collect();
    times.sort();
    let failed = all.len() - times.len();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{:>8}{failed:>8}{:>10.1?}{:>10.1?}{:>10.1?}", all.len(), at(50), at(99), at(100));
    Ok(())
}

async fn ask(addr: SocketAddr) -> Result<()> {
    let mut stream = dial(addr, GROUP, PATIENCE).await?;
    stream.write_all(b"?").await?;
    stream.read_exact(&mut [0]).await?;
    Ok(())
}
