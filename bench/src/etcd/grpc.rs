//! As little gRPC as a lean client needs: unary calls over HTTP/2 connections that clients may share.

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{Builder, SendRequest},
};
use http::{HeaderMap, Method, Request, Version};
use tokio::{net::TcpStream, task::JoinSet};

use crate::{BoxError, load::Fault, template::Template};

/// Bytes before a message: whether it is compressed, and its length.
pub(crate) const PREFIX: usize = 5;

/// A connection; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
}

impl Connection {
    /// Connects; the task that drives the connection joins the others.
    pub(crate) async fn open(port: u16, drivers: &mut JoinSet<()>) -> Result<Self, BoxError> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        // Answers of a few bytes, thousands a second, look like an attack to a client that does not trust its server.
        let (requests, connection) = Builder::new().data_frame_budget(usize::MAX).handshake(stream).await?;
        drivers.spawn(async move {
            // Whoever uses the connection hears of its end.
            let _ended = connection.await;
        });
        Ok(Self { requests })
    }

    /// Calls a procedure with a message that has its prefix; the answer's message.
    pub(crate) async fn call(&mut self, procedure: &Procedure, message: Bytes) -> Result<Vec<u8>, Fault> {
        // Waits for a free stream, on a clone as the library has it.
        let mut requests = self.requests.clone().ready().await.map_err(Fault::connection)?;
        let (response, mut body) = requests.send_request(procedure.0.clone(), false).map_err(Fault::connection)?;
        body.send_data(message, true).map_err(Fault::connection)?;
        let (head, mut body) = response.await.map_err(Fault::connection)?.into_parts();
        let mut received = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.map_err(Fault::connection)?;
            body.flow_control().release_capacity(chunk.len()).map_err(Fault::connection)?;
            received.extend_from_slice(&chunk);
        }
        let trailers = body.trailers().await.map_err(Fault::connection)?;
        // An answer without a message has its status among the headers.
        status(trailers.as_ref().unwrap_or(&head.headers))?;
        let length = received.get(1..PREFIX).and_then(|length| length.try_into().ok()).map(u32::from_be_bytes);
        let message = received.split_off(PREFIX.min(received.len()));
        match length {
            Some(length) if message.len() == length as usize => Ok(message),
            _ => Err(Fault::Answer("an answer without exactly one message".to_owned())),
        }
    }

    /// Calls a procedure whose answer is a stream of messages.
    pub(crate) async fn stream(&mut self, procedure: &Procedure, message: Bytes) -> Result<Messages, Fault> {
        let mut requests = self.requests.clone().ready().await.map_err(Fault::connection)?;
        let (response, mut requests) = requests.send_request(procedure.0.clone(), false).map_err(Fault::connection)?;
        requests.send_data(message, false).map_err(Fault::connection)?;
        let body = response.await.map_err(Fault::connection)?.into_body();
        Ok(Messages { _requests: requests, body, received: Vec::new() })
    }
}

/// Messages as they come.
#[derive(Debug)]
pub(crate) struct Messages {
    /// The other direction; its end would be the stream's.
    _requests: SendStream<Bytes>,
    body: RecvStream,
    received: Vec<u8>,
}

impl Messages {
    /// The next one.
    pub(crate) async fn next(&mut self) -> Result<Vec<u8>, Fault> {
        loop {
            let length = self.received.get(1..PREFIX).and_then(|length| length.try_into().ok());
            if let Some(length) = length.map(u32::from_be_bytes)
                && let Some(message) = self.received.get(PREFIX..PREFIX + length as usize)
            {
                let message = message.to_vec();
                self.received.drain(..PREFIX + message.len());
                return Ok(message);
            }
            let chunk = self.body.data().await.ok_or_else(|| Fault::connection("etcd ended the stream"))?;
            let chunk = chunk.map_err(Fault::connection)?;
            self.body.flow_control().release_capacity(chunk.len()).map_err(Fault::connection)?;
            self.received.extend_from_slice(&chunk);
        }
    }
}

fn status(headers: &HeaderMap) -> Result<(), Fault> {
    let status = headers.get("grpc-status").and_then(|status| status.to_str().ok());
    if status == Some("0") {
        return Ok(());
    }
    let message = headers.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
    Err(Fault::Answer(format!("gRPC {} {message}", status.unwrap_or("no status"))))
}

/// A procedure, as the head of a request for it.
#[derive(Clone, Debug)]
pub(crate) struct Procedure(Request<()>);

impl Procedure {
    /// Of etcd's `KV` service.
    pub(crate) fn of_kv(name: &str) -> Self {
        Self::named(&format!("KV/{name}"))
    }

    /// Of any of etcd's services: `Service/Name`.
    pub(crate) fn named(name: &str) -> Self {
        let request = Request::builder()
            .method(Method::POST)
            .version(Version::HTTP_2)
            .uri(format!("http://127.0.0.1/etcdserverpb.{name}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(());
        Self(request.expect("a procedure's name fits into a URI"))
    }
}

/// A message with its prefix.
pub(crate) fn framed(message: &Template) -> Template {
    let length = u32::try_from(message.len()).expect("a message of megabytes at most");
    let mut framed = Template::default();
    framed.fixed(&[0]);
    framed.fixed(&length.to_be_bytes());
    framed.part(message);
    framed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Numbers;

    #[test]
    fn a_message_is_preceded_by_its_length() {
        let mut message = Template::default();
        message.fixed(&[7; 300]);
        let mut framed = framed(&message);
        assert_eq!(framed.filled(0, &Numbers::default())[..6], [0, 0, 0, 1, 44, 7]);
    }

    #[test]
    fn only_status_zero_is_an_answer() {
        let with =
            |status| HeaderMap::from_iter([("grpc-status".parse().unwrap(), http::HeaderValue::from_static(status))]);
        assert!(status(&with("0")).is_ok());
        assert_eq!(status(&with("8")).unwrap_err().to_string(), "gRPC 8 ");
        assert!(status(&HeaderMap::new()).is_err());
    }
}
