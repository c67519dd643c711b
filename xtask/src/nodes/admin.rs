//! What an operator sees of a node over HTTP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Longest the status page may take to answer.
const LIMIT: Duration = Duration::from_secs(10);
/// The status of some thousand groups fits many times over.
const BYTES_MAX: u64 = 64 << 20;

/// The status code and the body of a page.
pub(crate) fn get(admin: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&admin, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    // HTTP/1.0 ends the body by closing, so there are no chunks to decode.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {admin}\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(BYTES_MAX).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let first = head.lines().next().unwrap_or_default();
    let code = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((code.with_context(|| format!("no status code: {first}"))?, body.to_owned()))
}

/// The whole status of a node.
pub(crate) fn status(admin: SocketAddr) -> Result<Value> {
    let (code, body) = get(admin, "/status.json")?;
    ensure!(code == 200, "status code {code}: {body}");
    Ok(serde_json::from_str(&body)?)
}
