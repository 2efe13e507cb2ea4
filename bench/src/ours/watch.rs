//! A watcher: the messages of an event stream, one after the other.

use tokio::{io::AsyncReadExt, net::TcpStream};

use super::http::Connection;
use crate::load::Fault;

/// Bytes that are read at once: a message of the workloads, its chunk's head included, fits.
const READ_BYTES: usize = 512;

/// A stream of server-sent events in chunks.
#[derive(Debug)]
pub(crate) struct Watch {
    stream: TcpStream,
    /// What came and was not told yet.
    received: Vec<u8>,
}

impl Watch {
    /// Watches; returns when the first event, which says from where, was sent.
    pub(crate) async fn open(port: u16, query: &str) -> Result<Self, Fault> {
        let connection = Connection::open(port).await.map_err(Fault::connection)?;
        let request = format!("GET /v1/watch?{query} HTTP/1.1\r\nhost: bench\r\n\r\n");
        let (stream, received) = connection.stream(request.as_bytes()).await?;
        let mut watch = Self { stream, received };
        watch.message(b"event: bookmark").await?;
        Ok(watch)
    }

    /// The next change, as its bytes.
    pub(crate) async fn change(&mut self) -> Result<Vec<u8>, Fault> {
        self.message(b"event: change").await
    }

    /// The next message with this line. A message ends with an empty line, and so does what follows it in its chunk's end.
    async fn message(&mut self, line: &[u8]) -> Result<Vec<u8>, Fault> {
        loop {
            while let Some(end) = self.received.windows(2).position(|window| window == b"\n\n") {
                let message = self.received.drain(..end + 2).collect::<Vec<_>>();
                if message.windows(line.len()).any(|window| window == line) {
                    return Ok(message);
                }
            }
            self.received.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.received).await.map_err(Fault::connection)? == 0 {
                return Err(Fault::connection("the service ended the stream"));
            }
        }
    }
}
