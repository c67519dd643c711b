//! Reads an admin port: one request per connection, everything bounded in bytes and time.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use raft_core::GroupId;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::view::{DigestView, StatusView};

/// Covers the whole of a request.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The status of 16,384 groups fits several times.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Why an admin port gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// Nobody listens there, or the connection broke.
    #[error("no answer from {address}")]
    Unreachable {
        /// The port.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// It took too long.
    #[error("no answer from {address} within {TIMEOUT:?}")]
    Timeout {
        /// The port.
        address: SocketAddr,
    },
    /// Something else listens there, or it cannot tell.
    #[error("{address} answered {path} with: {answer}")]
    Refused {
        /// The port.
        address: SocketAddr,
        /// What was asked.
        path: String,
        /// The beginning of the answer.
        answer: String,
    },
}

/// A client of one admin port.
#[derive(Clone, Copy, Debug)]
pub struct AdminClient {
    address: SocketAddr,
}

impl AdminClient {
    /// Connects at each request.
    pub fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// The status of the node.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn status(&self) -> Result<StatusView, AdminError> {
        self.json("/status.json").await
    }

    /// A group's digest.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn digest(&self, group: GroupId) -> Result<DigestView, AdminError> {
        self.json(&format!("/groups/{group}/digest")).await
    }

    /// Any path, as text.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn text(&self, path: &str) -> Result<String, AdminError> {
        let answer = match timeout(TIMEOUT, self.exchange(path)).await {
            Ok(Ok(answer)) => String::from_utf8_lossy(&answer).into_owned(),
            Ok(Err(source)) => {
                return Err(AdminError::Unreachable { address: self.address, source });
            }
            Err(_) => {
                return Err(AdminError::Timeout { address: self.address });
            }
        };
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
            Some(_) | None => Err(self.refused(path, &answer)),
        }
    }

    async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, AdminError> {
        let text = self.text(path).await?;
        serde_json::from_str(&text).map_err(|_| self.refused(path, &text))
    }

    /// HTTP/1.0 ends the body by closing, so there are no chunks to decode.
    async fn exchange(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(self.address).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.address);
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        Ok(answer)
    }

    fn refused(&self, path: &str, answer: &str) -> AdminError {
        AdminError::Refused {
            address: self.address,
            path: path.to_owned(),
            answer: answer.lines().next().unwrap_or_default().chars().take(100).collect(),
        }
    }
}
