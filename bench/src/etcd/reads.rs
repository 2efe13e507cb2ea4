//! etcd as one reads it: ranges, serializable or linearizable, and watches.

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{
    grpc::{Connection, Messages, Procedure},
    once,
    protobuf::{Message, Value, field, field_at, fields},
};
use crate::{
    BoxError,
    load::{self, Done, Fault},
    template::number_in,
};

/// Puts in one transaction; etcd takes 128.
const PUTS_AT_ONCE: usize = 100;

/// Writes what is to be read.
pub(crate) async fn fill(port: u16, pairs: &[(String, String)]) -> Result<(), BoxError> {
    let mut drivers = JoinSet::new();
    let mut connection = Connection::open(port, &mut drivers).await?;
    for pairs in pairs.chunks(PUTS_AT_ONCE) {
        let puts = pairs.iter().map(|(name, value)| put_request(name, value));
        // TxnRequest.success, RequestOp.request_put
        let transaction =
            puts.fold(Message::default(), |all, put| all.message(2, &Message::default().message(2, &put)));
        connection.call(&Procedure::of_kv("Txn"), once(&transaction)).await?;
    }
    Ok(())
}

/// A name, or as many from it on as there are with its prefix.
#[derive(Clone, Debug)]
pub(crate) enum Ranges {
    /// This name.
    Name(String),
    /// So many names that begin so.
    Prefix(String, u64),
}

/// A client that reads the same again and again.
#[derive(Debug)]
pub(crate) struct Reader {
    connection: Connection,
    request: Bytes,
    procedure: Procedure,
}

/// Connects so many clients, over so many connections at most; the tasks that drive them.
pub(crate) async fn ranges(
    port: u16,
    what: &Ranges,
    serializable: bool,
    clients: usize,
    most_connections: u16,
) -> Result<(Vec<Reader>, JoinSet<()>), BoxError> {
    let most = if most_connections == 0 { clients } else { most_connections.into() };
    let (mut drivers, mut connections) = (JoinSet::new(), Vec::new());
    for _ in 0..clients.min(most) {
        connections.push(Connection::open(port, &mut drivers).await?);
    }
    // RangeRequest: key, range_end, limit, serializable.
    let (message, pairs) = match what {
        Ranges::Name(name) => (Message::default().bytes(1, name.as_bytes()), 1),
        Ranges::Prefix(prefix, limit) => {
            let mut end = prefix.clone().into_bytes();
            *end.last_mut().ok_or("a prefix")? += 1;
            (Message::default().bytes(1, prefix.as_bytes()).bytes(2, &end).number(3, *limit), *limit)
        }
    };
    let request = once(&if serializable { message.number(7, 1) } else { message });
    let answer = connections[0].call(&Procedure::of_kv("Range"), request.clone()).await?;
    let found = fields(&answer, 2).count() as u64;
    if found != pairs {
        return Err(format!("etcd has {found} of {pairs} pairs").into());
    }
    let readers = connections.iter().cycle().take(clients).map(|connection| Reader {
        connection: connection.clone(),
        request: request.clone(),
        procedure: Procedure::of_kv("Range"),
    });
    Ok((readers.collect(), drivers))
}

impl load::Client for Reader {
    async fn operate(&mut self) -> Result<Done, Fault> {
        let answer = self.connection.call(&self.procedure, self.request.clone()).await?;
        // RangeResponse.kvs
        field(&answer, 2).map(|_| Done::default()).ok_or_else(|| Fault::Answer("nothing was found".to_owned()))
    }
}

/// Puts, outside of any load.
pub(crate) async fn put(connection: &mut Putter, name: &str, value: &str) -> Result<(), Fault> {
    connection.0.call(&Procedure::of_kv("Put"), once(&put_request(name, value))).await.map(drop)
}

/// A connection to put with.
#[derive(Clone, Debug)]
pub(crate) struct Putter(Connection);

impl Putter {
    /// Connects.
    pub(crate) async fn open(port: u16, drivers: &mut JoinSet<()>) -> Result<Self, BoxError> {
        Ok(Self(Connection::open(port, drivers).await?))
    }
}

fn put_request(name: &str, value: &str) -> Message {
    Message::default().bytes(1, name.as_bytes()).bytes(2, value.as_bytes())
}

/// A watcher of all names with a prefix.
#[derive(Debug)]
pub(crate) struct Watch(Messages);

impl Watch {
    /// Watches; returns when etcd has said so.
    pub(crate) async fn open(port: u16, prefix: &str, drivers: &mut JoinSet<()>) -> Result<Self, BoxError> {
        let mut end = prefix.as_bytes().to_vec();
        *end.last_mut().ok_or("a prefix")? += 1;
        // WatchRequest.create_request: key, range_end.
        let create = Message::default().bytes(1, prefix.as_bytes()).bytes(2, &end);
        let mut connection = Connection::open(port, drivers).await?;
        let request = once(&Message::default().message(1, &create));
        let mut messages = connection.stream(&Procedure::named("Watch/Watch"), request).await?;
        // WatchResponse.created
        if field(&messages.next().await?, 3) == Some(Value::Number(1)) {
            Ok(Self(messages))
        } else {
            Err("etcd does not say that the watch was created".into())
        }
    }

    /// The numbers of the values of the next changes.
    pub(crate) async fn changes(&mut self) -> Result<Vec<u64>, Fault> {
        let response = self.0.next().await?;
        // WatchResponse.events, Event.kv, KeyValue.value
        let events = fields(&response, 11).filter_map(Value::bytes);
        Ok(events.filter_map(|event| field_at(event, &[2, 5])?.bytes().and_then(number_in)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_changes_of_a_response_are_read() {
        let event = |value: &str| {
            let pair = Message::default().bytes(1, b"a").bytes(5, value.as_bytes());
            Message::default().message(2, &pair)
        };
        let response =
            Message::default().message(11, &event("\"0000000000000007\"")).message(11, &event("\"0000000000000008\""));
        let bytes = once(&response);
        let events: Vec<_> = fields(&bytes[super::super::grpc::PREFIX..], 11).filter_map(Value::bytes).collect();
        let numbers: Vec<_> =
            events.iter().filter_map(|event| field_at(event, &[2, 5])?.bytes().and_then(number_in)).collect();
        assert_eq!(numbers, [7, 8]);
    }
}
