//! Two protocols on one port: group 1 echoes bytes, group 2 answers lines.
//!
//! ```text
//! cargo run -p raft-mux --example echo_two_groups
//! ```

use std::time::Duration;

use raft_core::GroupId;
use raft_mux::{GroupListener, MuxAcceptor, MuxConfig, MuxError, dial};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

const ECHO: GroupId = GroupId::new(1);
const SHOUT: GroupId = GroupId::new(2);
const TIMEOUT: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let acceptor = MuxAcceptor::bind("127.0.0.1:0".parse()?, MuxConfig::default()).await?;
    let addr = acceptor.advertised_addr()?;
    println!("one port: {addr}");

    let echo = tokio::spawn(serve_echo(acceptor.register(ECHO)?));
    let shout = tokio::spawn(serve_shout(acceptor.register(SHOUT)?));

    let mut stream = dial(addr, ECHO, TIMEOUT).await?;
    stream.write_all(&[1, 2, 3]).await?;
    let mut bytes = [0; 3];
    stream.read_exact(&mut bytes).await?;
    println!("group {ECHO} echoed {bytes:?}");

    let mut stream = BufReader::new(dial(addr, SHOUT, TIMEOUT).await?);
    stream.write_all(b"hello\n").await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    println!("group {SHOUT} answered {}", line.trim_end());

    // Nobody serves group 3: the connection is closed without a word, and counted.
    let mut stream = dial(addr, GroupId::new(3), TIMEOUT).await?;
    let silence = stream.read(&mut [0]).await;
    println!("group 3 gave {silence:?}");
    println!("{:#?}", acceptor.stats());

    acceptor.close();
    acceptor.closed().await;
    println!("both servers end: {} / {}", echo.await?, shout.await?);
    Ok(())
}

async fn serve_echo(listener: GroupListener) -> MuxError {
    loop {
        let mut stream = match listener.accept().await {
            Ok((stream, _peer)) => stream,
            Err(ended) => return ended,
        };
        tokio::spawn(async move {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await
        });
    }
}

async fn serve_shout(listener: GroupListener) -> MuxError {
    loop {
        let mut stream = match listener.accept().await {
            Ok((stream, _peer)) => BufReader::new(stream),
            Err(ended) => return ended,
        };
        tokio::spawn(async move {
            let mut line = String::new();
            while stream.read_line(&mut line).await? > 0 {
                stream.write_all(line.to_uppercase().as_bytes()).await?;
                line.clear();
            }
            std::io::Result::Ok(())
        });
    }
}
