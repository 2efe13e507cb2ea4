//! As little HTTP/1.1 as a lean client needs: one kept connection, one request at a time.

use std::cmp::Ordering;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::load::Fault;

/// The head of an answer, and how long it and its body are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The version in `ETag`.
    pub(crate) version: Option<u64>,
    head_bytes: usize,
    body: Body,
}

/// How an answer's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// After so many bytes.
    Bytes(usize),
    /// With an empty chunk. Nothing in it looks like one: JSON has no bare line ends.
    Chunks,
}

/// What an answer breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the status line is not HTTP/1.1's")]
    StatusLine,
    #[error("a header has no colon")]
    Header,
    #[error("the answer has neither content-length nor chunks")]
    Length,
    #[error("more came than the answer")]
    Surplus,
}

/// Reads the head, if all of it is there.
pub(crate) fn parse(received: &[u8]) -> Result<Option<Answer>, Malformed> {
    let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let mut lines = received[..end].split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let line = lines.next().and_then(|line| line.strip_prefix(b"HTTP/1.1 ")).ok_or(Malformed::StatusLine)?;
    let status = line.get(..3).and_then(number).ok_or(Malformed::StatusLine)?;
    let (mut body, mut version) = (None, None);
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Malformed::Header)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            body = number(value).map(Body::Bytes);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") && value.eq_ignore_ascii_case(b"chunked") {
            body = Some(Body::Chunks);
        } else if name.eq_ignore_ascii_case(b"etag") {
            version = value.strip_prefix(b"\"").and_then(|tag| tag.strip_suffix(b"\"")).and_then(number);
        }
    }
    Ok(Some(Answer { status, version, head_bytes: end + 4, body: body.ok_or(Malformed::Length)? }))
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The end of a body in chunks, with the end of the line before it.
const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

/// A connection to the service.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    /// The last answer.
    received: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::with_capacity(4096) })
    }

    /// Sends a request, and reads its answer to the end.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<Answer, Fault> {
        self.stream.write_all(request).await.map_err(Fault::connection)?;
        self.received.clear();
        let mut head = None;
        loop {
            if self.stream.read_buf(&mut self.received).await.map_err(Fault::connection)? == 0 {
                return Err(Fault::connection("the service closed it"));
            }
            if head.is_none() {
                head = parse(&self.received).map_err(Fault::connection)?;
            }
            let Some(answer) = head else { continue };
            match answer.body {
                Body::Bytes(bytes) => match self.received.len().cmp(&(answer.head_bytes + bytes)) {
                    Ordering::Less => {}
                    Ordering::Equal => return Ok(answer),
                    Ordering::Greater => return Err(Fault::connection(Malformed::Surplus)),
                },
                // From the end of the head on, which is a line's end too.
                Body::Chunks if self.received[answer.head_bytes - 2..].ends_with(LAST_CHUNK) => return Ok(answer),
                Body::Chunks => {}
            }
        }
    }

    /// The body of the last answer, its chunks as they came.
    pub(crate) fn body(&self, answer: &Answer) -> &[u8] {
        &self.received[answer.head_bytes..]
    }

    /// A header of the last answer.
    pub(crate) fn header(&self, answer: &Answer, name: &str) -> Option<&str> {
        let head = std::str::from_utf8(&self.received[..answer.head_bytes]).ok()?;
        let mut lines = head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(its, _)| its.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// Sends a request whose answer does not end; the head of it, and what came of its body.
    pub(crate) async fn stream(mut self, request: &[u8]) -> Result<(TcpStream, Vec<u8>), Fault> {
        self.stream.write_all(request).await.map_err(Fault::connection)?;
        self.received.clear();
        loop {
            if self.stream.read_buf(&mut self.received).await.map_err(Fault::connection)? == 0 {
                return Err(Fault::connection("the service closed it"));
            }
            let Some(answer) = parse(&self.received).map_err(Fault::connection)? else { continue };
            return match (answer.status, answer.body) {
                (200, Body::Chunks) => Ok((self.stream, self.received.split_off(answer.head_bytes))),
                (status, _) => Err(Fault::Answer(format!("HTTP {status}"))),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_when_its_head_is_complete() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nETag: \"17\"\r\nx-y: a: b\r\n\r\nOK";
        let head = whole.len() - 2;
        for part in 0..head {
            assert_eq!(parse(&whole[..part]), Ok(None), "{part}");
        }
        let answer = Answer { status: 200, version: Some(17), head_bytes: head, body: Body::Bytes(2) };
        assert_eq!(parse(&whole[..head]), Ok(Some(answer)));
        assert_eq!(parse(whole), Ok(Some(answer)));
    }

    #[test]
    fn chunks_are_told_apart_from_a_length() {
        let answer = parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap().unwrap();
        assert_eq!(answer.body, Body::Chunks);
    }

    #[test]
    fn what_cannot_be_read_is_told_and_not_guessed() {
        assert_eq!(parse(b"HTTP/1.0 200 OK\r\n\r\n"), Err(Malformed::StatusLine));
        assert_eq!(parse(b"HTTP/1.1 2x0 OK\r\n\r\n"), Err(Malformed::StatusLine));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n"), Err(Malformed::Length));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), Err(Malformed::Header));
    }
}
