//! Services behind one port through the example that does it: what a client and its service see
//! is what they would see without it.

#![cfg(not(loom_model))]

mod common;
#[path = "../examples/port_saver.rs"]
#[allow(dead_code, reason = "its `main`")]
mod port_saver;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::*;
use port_saver::{Dial, Options, PortSaver};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A service of the test behind two port savers, as seen by a client and by the service.
struct Saved {
    service: TcpListener,
    local: SocketAddr,
    one_port: SocketAddr,
    _savers: [PortSaver; 2],
}

impl Saved {
    async fn new() -> Self {
        let service = TcpListener::bind(any_port()).await.unwrap();
        let groups = vec![
            (group(7), service.local_addr().unwrap().to_string()),
            (group(8), nobody().await.to_string()),
        ];
        let near = Options { listen: Some(any_port()), groups, ..Options::default() };
        let near = PortSaver::start(near).await.unwrap();
        let one_port = near.listens_on().unwrap();
        let dials = vec![Dial { local: any_port(), group: group(7), remote: one_port.to_string() }];
        let far = PortSaver::start(Options { dials, ..Options::default() }).await.unwrap();
        let local = far.local_ports()[0];
        Self { service, local, one_port, _savers: [near, far] }
    }

    /// A new connection: the client's end, and the service's.
    async fn connect(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.local).await.unwrap();
        let (service, _) = self.service.accept().await.unwrap();
        (client, service)
    }
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind(any_port()).await.unwrap().local_addr().unwrap()
}

async fn read_all(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.map(|_| all)
}

/// Writes in pieces of random length, then ends this direction.
async fn write_all(stream: &mut (impl tokio::io::AsyncWrite + Unpin), bytes: &[u8], seed: u64) {
    let mut noise = Noise::quiet(seed);
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(rest.len().min(1 + noise.below(40_000) as usize));
        stream.write_all(piece).await.unwrap();
        rest = later;
    }
    stream.shutdown().await.unwrap();
}

#[tokio::test]
async fn not_a_byte_is_changed_either_way_on_connections_at_once() {
    let saved = Saved::new().await;
    let mut connections = tokio::task::JoinSet::new();
    for seed in 1..=20 {
        let (mut client, mut service) = saved.connect().await;
        connections.spawn(async move {
            let mut noise = Noise::quiet(seed * 0x9e37_79b9);
            let (asked, answered) = (noise.bytes(300_000), noise.bytes(500_000));
            let (mut client_in, mut client_out) = client.split();
            let (mut service_in, mut service_out) = service.split();
            let (mut at_service, mut at_client) = (Vec::new(), Vec::new());
            let (read, also_read, (), ()) = tokio::join!(
                service_in.read_to_end(&mut at_service),
                client_in.read_to_end(&mut at_client),
                write_all(&mut client_out, &asked, seed),
                write_all(&mut service_out, &answered, seed + 99),
            );
            assert_eq!((read.unwrap(), also_read.unwrap()), (asked.len(), answered.len()));
            assert!(at_service == asked && at_client == answered);
        });
    }
    connections.join_all().await;
}

#[tokio::test]
async fn four_bytes_travel_before_the_clients_and_nothing_else() {
    let there = TcpListener::bind(any_port()).await.unwrap();
    let remote = there.local_addr().unwrap().to_string();
    let dials = vec![Dial { local: any_port(), group: group(0x0102_0304), remote }];
    let saver = PortSaver::start(Options { dials, ..Options::default() }).await.unwrap();
    let mut client = TcpStream::connect(saver.local_ports()[0]).await.unwrap();
    write_all(&mut client, b"hello", 1).await;
    let (mut arrived, _) = there.accept().await.unwrap();
    assert_eq!(read_all(&mut arrived).await.unwrap(), b"\x01\x02\x03\x04hello");

    let saved = Saved::new().await;
    let mut prefixed = connect_raw(saved.one_port, b"\0\0\0\x07hello");
    let (mut service, _) = saved.service.accept().await.unwrap();
    prefixed.shutdown().await.unwrap();
    assert_eq!(read_all(&mut service).await.unwrap(), b"hello");
}

#[tokio::test]
async fn either_side_may_end_its_direction_and_go_on_listening() {
    let saved = Saved::new().await;
    for client_first in [true, false] {
        let (client, service) = saved.connect().await;
        let (mut first, mut second) =
            if client_first { (client, service) } else { (service, client) };
        write_all(&mut first, b"all I have to say", 1).await;
        assert_eq!(read_all(&mut second).await.unwrap(), b"all I have to say");
        let long = Noise::quiet(5).bytes(400_000);
        let (heard, ()) = tokio::join!(read_all(&mut first), write_all(&mut second, &long, 2));
        assert!(heard.unwrap() == long);
    }
}

/// What three hops of sockets can hold is far below this.
const TOO_MUCH: usize = 128 << 20;

/// Writes until nothing more is taken, with nobody reading: how much that was.
async fn fill(stream: &TcpStream) -> usize {
    let piece = [7; 64 * 1024];
    let mut written = 0;
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_millis(100) {
        match stream.try_write(&piece) {
            Ok(count) => {
                written += count;
                since = Instant::now();
                assert!(written < TOO_MUCH, "nobody reads, and it is taken all the same");
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        tokio::task::yield_now().await;
    }
    written
}

#[tokio::test]
async fn whoever_does_not_read_holds_its_sender_up_and_loses_nothing() {
    let saved = Saved::new().await;
    for client_writes in [true, false] {
        let (client, service) = saved.connect().await;
        let (mut writer, mut reader) =
            if client_writes { (client, service) } else { (service, client) };
        let written = fill(&writer).await;
        let (read, ended) = tokio::join!(read_all(&mut reader), writer.shutdown());
        ended.unwrap();
        let read = read.unwrap();
        assert!(read.len() == written && read.iter().all(|byte| *byte == 7));
    }
}

fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
}

/// Reads to the end, which must be a reset: what came before it.
async fn until_reset(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut piece = [0; 64 * 1024];
    loop {
        match stream.read(&mut piece).await {
            Ok(0) => panic!("an end and no reset"),
            Ok(count) => all.extend_from_slice(&piece[..count]),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                return all;
            }
        }
    }
}

#[tokio::test]
async fn a_reset_arrives_as_a_reset_and_after_what_was_said_before() {
    let saved = Saved::new().await;
    for client_resets in [true, false] {
        let (client, service) = saved.connect().await;
        let (mut leaver, mut other) =
            if client_resets { (client, service) } else { (service, client) };
        leaver.write_all(b"last words").await.unwrap();
        let mut heard = [0; 10];
        other.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"last words");
        reset(leaver);
        assert_eq!(until_reset(&mut other).await, b"");
    }
}

#[tokio::test]
async fn words_that_a_reset_follows_at_once_are_not_lost() {
    let saved = Saved::new().await;
    for round in 0..50 {
        let (mut client, mut service) = saved.connect().await;
        // As a server does that refuses after the first bytes and leaves the others unread.
        client.write_all(b"a question").await.unwrap();
        service.read_exact(&mut [0; 2]).await.unwrap();
        service.write_all(b"go away").await.unwrap();
        client.write_all(b" that goes on").await.unwrap();
        reset(service);
        assert_eq!(until_reset(&mut client).await, b"go away", "round {round}");
    }
}

#[tokio::test]
async fn a_reset_passes_by_bytes_that_nobody_reads() {
    let saved = Saved::new().await;
    for client_resets in [true, false] {
        let (client, service) = saved.connect().await;
        let (leaver, mut other) = if client_resets { (client, service) } else { (service, client) };
        fill(&leaver).await;
        reset(leaver);
        // Nothing is read until the reset is here.
        busily("the reset arrives", other.ready(tokio::io::Interest::ERROR)).await.unwrap();
        until_reset(&mut other).await;
    }
}

#[tokio::test]
async fn a_reset_after_an_end_arrives_too() {
    let saved = Saved::new().await;
    for client_resets in [true, false] {
        let (client, service) = saved.connect().await;
        let (mut leaver, mut other) =
            if client_resets { (client, service) } else { (service, client) };
        leaver.shutdown().await.unwrap();
        assert_eq!(read_all(&mut other).await.unwrap(), b"");
        reset(leaver);
        busily("the reset arrives", other.ready(tokio::io::Interest::ERROR)).await.unwrap();
        let error = other.write_all(b"are you there?").await.unwrap_err();
        assert!(
            matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn service_that_is_down_is_a_reset_and_its_group_is_served_when_it_is_back() {
    let addr = nobody().await;
    let groups = vec![(group(8), addr.to_string())];
    let options = Options { listen: Some(any_port()), groups, ..Options::default() };
    let saver = PortSaver::start(options).await.unwrap();
    let one_port = saver.listens_on().unwrap();
    until_reset(&mut connect_raw(one_port, b"\0\0\0\x08hello")).await;

    let service = TcpListener::bind(addr).await.unwrap();
    let mut client = connect_raw(one_port, b"\0\0\0\x08hello");
    let (mut stream, _) = service.accept().await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await.unwrap(), b"hello");
}

fn parse(line: &str) -> Result<Options, String> {
    Options::parse(line.split_whitespace().map(str::to_owned)).map_err(|error| format!("{error:#}"))
}

#[test]
fn command_line_is_taken_whole_or_refused_by_name() {
    let options = parse(
        "--listen 127.0.0.1:7000 --group 7=127.0.0.1:9007 --group 8=db:9008 \
         --dial 127.0.0.1:9107=7@host:7000",
    )
    .unwrap();
    assert_eq!(options.listen, Some("127.0.0.1:7000".parse().unwrap()));
    let service = |id: u32, addr: &str| (group(id), addr.to_owned());
    assert_eq!(options.groups, [service(7, "127.0.0.1:9007"), service(8, "db:9008")]);
    let Dial { local, group: dialed, remote } = options.dials[0].clone();
    assert_eq!((local.port(), dialed, remote.as_str()), (9107, group(7), "host:7000"));

    let table = [
        ("", "nothing to do"),
        ("--group 7=127.0.0.1:9007", "needs --listen"),
        ("--listen", "--listen needs a value"),
        ("--listen here", "--listen here: invalid socket address"),
        ("--listen 127.0.0.1:1 --listen 127.0.0.1:2", "given twice"),
        ("--listen 127.0.0.1:1 --group 7", "expected ID=HOST:PORT"),
        ("--listen 127.0.0.1:1 --group seven=a:1", "seven is no group id"),
        ("--listen 127.0.0.1:1 --group 7=a", "a names no port"),
        ("--dial 127.0.0.1:9107=7", "expected LOCAL=ID@HOST:PORT"),
        ("--dial 127.0.0.1:9107=7@host:http", "http is no port"),
        ("--port 1", "unknown option --port"),
    ];
    for (line, reason) in table {
        let refused = parse(line).unwrap_err();
        assert!(refused.contains(reason), "{line}: {refused}");
    }
}
