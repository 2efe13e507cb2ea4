//! etcd, as Debian has it, with its defaults, and its clients, over gRPC.

mod grpc;
mod protobuf;
mod reads;

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tokio::{process::Command, task::JoinSet};

use self::{
    grpc::{Connection, Procedure, framed},
    protobuf::{Message, Value, field, field_at},
};
use crate::{
    BoxError,
    load::{self, Done, Fault},
    server::Server,
    template::{Numbers, Template, number_in},
    workload::{Kind, Workload},
};

pub(crate) use self::reads::{Putter, Ranges, Watch, fill, put, ranges};

/// With how many connections etcd was fastest here; docs/PERFORMANCE.md has the comparison.
pub(crate) const BEST_CONNECTIONS: u16 = 2;

/// How much etcd may keep, in bytes: its own limit of 2 GB is in reach of large values.
const QUOTA_BYTES: u64 = 8 << 30;

/// How it is installed.
pub(crate) const INSTALL: &str = "etcd is not there, so Config API is measured alone; install it (Debian, Ubuntu: \
     apt-get install etcd-server), or name the program by --etcd or ETCD_BIN";

/// The given program, or the one in PATH.
pub(crate) fn program(given: Option<&PathBuf>) -> Option<PathBuf> {
    let in_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|directory| directory.join("etcd")).find(|program| program.is_file())
    };
    given.cloned().or_else(in_path)
}

/// Starts it with its defaults (fsync on), but for the quota; its port.
pub(crate) fn start(program: &Path, directory: &Path) -> Result<(Server, u16), BoxError> {
    let (port, peers) = (free_port()?, free_port()?);
    let (clients, peers) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peers}"));
    let mut command = Command::new(program);
    for (variable, _) in std::env::vars_os().filter(|(variable, _)| variable.to_string_lossy().starts_with("ETCD_")) {
        command.env_remove(variable);
    }
    command.args(["--name", "bench", "--data-dir"]).arg(directory.join("etcd"));
    command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
    command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    command.args(["--initial-cluster", &format!("bench={peers}"), "--quota-backend-bytes", &QUOTA_BYTES.to_string()]);
    Ok((Server::spawn("etcd", command, directory.join("etcd.log"))?, port))
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until it takes writes.
pub(crate) async fn ready(server: &mut Server, port: u16) -> Result<(), BoxError> {
    let asks = async |_: &Server| {
        let mut drivers = JoinSet::new();
        let mut connection = Connection::open(port, &mut drivers).await.ok()?;
        let put = Message::default().bytes(1, b"ready").bytes(2, b"yes");
        connection.call(&Procedure::of_kv("Put"), once(&put)).await.ok().map(drop)
    };
    server.until(asks).await
}

/// The clients of a workload, and the tasks that drive their connections.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) clients: Vec<Client>,
    /// They end when this is dropped.
    pub(crate) drivers: JoinSet<()>,
}

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    connection: Connection,
    numbers: Numbers,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Write { procedure: Procedure, request: Template, names: usize, turn: usize },
    Increment { procedure: Procedure, name: String, quoted: String, known: Option<Known> },
}

/// The counter, as this client saw it last.
#[derive(Clone, Copy, Debug)]
struct Known {
    mod_revision: u64,
    number: u64,
}

/// Connects the clients of a workload over so many connections at most; 0: one each.
pub(crate) async fn connect(
    port: u16,
    workload: &Workload,
    numbers: &Numbers,
    most_connections: u16,
) -> Result<Clients, BoxError> {
    let most = if most_connections == 0 { workload.clients } else { most_connections.into() };
    let mut drivers = JoinSet::new();
    let mut connections = Vec::new();
    for _ in 0..workload.clients.min(most) {
        connections.push(Connection::open(port, &mut drivers).await?);
    }
    let clients = connections.iter().cycle().take(workload.clients).enumerate().map(|(client, connection)| Client {
        connection: connection.clone(),
        numbers: numbers.clone(),
        work: Work::of(workload, client),
    });
    Ok(Clients { clients: clients.collect(), drivers })
}

/// Sets the counter to zero.
pub(crate) async fn reset(port: u16, workload: &Workload) -> Result<(), BoxError> {
    let mut drivers = JoinSet::new();
    let mut connection = Connection::open(port, &mut drivers).await?;
    let put = Message::default().bytes(1, workload.name_of(0, 0).as_bytes()).bytes(2, workload.value().as_bytes());
    connection.call(&Procedure::of_kv("Put"), once(&put)).await?;
    Ok(())
}

/// The counter's number.
pub(crate) async fn counter(port: u16, workload: &Workload) -> Result<u64, BoxError> {
    let mut drivers = JoinSet::new();
    let mut connection = Connection::open(port, &mut drivers).await?;
    Ok(known(&mut connection, &workload.name_of(0, 0)).await?.number)
}

impl Work {
    fn of(workload: &Workload, client: usize) -> Self {
        let (name, value) = (workload.name_of(client, 0), workload.value());
        let (procedure, message) = match workload.kind {
            Kind::CompareAndSet => {
                return Self::Increment { procedure: Procedure::of_kv("Txn"), name, quoted: value, known: None };
            }
            Kind::Put => ("Put", Message::default().indexed_name(1, &name).value(2, &value)),
            Kind::Hot => ("Put", Message::default().bytes(1, name.as_bytes()).value(2, &value)),
            Kind::Batch(operations) => {
                let puts = (0..operations).map(|index| {
                    let put = Message::default().bytes(1, workload.name_of(client, index).as_bytes()).value(2, &value);
                    // RequestOp.request_put
                    Message::default().message(2, &put)
                });
                // TxnRequest.success
                ("Txn", puts.fold(Message::default(), |transaction, put| transaction.message(2, &put)))
            }
        };
        let names = workload.names_in_turn();
        Self::Write { procedure: Procedure::of_kv(procedure), request: framed(&message.0), names, turn: 0 }
    }
}

/// `TxnRequest`: if the name was last changed at this revision, put the value; else read what is there.
fn compare_and_set(name: &str, mod_revision: u64, value: &[u8]) -> Message {
    // Compare: result EQUAL (0, left out), target MOD (2), key, mod_revision.
    let compare = Message::default().number(2, 2).bytes(3, name.as_bytes()).number(6, mod_revision);
    let put = Message::default().message(2, &Message::default().bytes(1, name.as_bytes()).bytes(2, value));
    let range = Message::default().message(1, &Message::default().bytes(1, name.as_bytes()));
    Message::default().message(1, &compare).message(2, &put).message(3, &range)
}

fn once(message: &Message) -> Bytes {
    Bytes::copy_from_slice(framed(&message.0).filled(0, &Numbers::default()))
}

/// Reads the counter.
async fn known(connection: &mut Connection, name: &str) -> Result<Known, Fault> {
    let range = Message::default().bytes(1, name.as_bytes());
    let answer = connection.call(&Procedure::of_kv("Range"), once(&range)).await?;
    known_in(&answer)
}

/// The counter in a `RangeResponse`: its first key-value pair.
fn known_in(range_response: &[u8]) -> Result<Known, Fault> {
    let mod_revision = field_at(range_response, &[2, 3]).and_then(Value::number);
    let number = field_at(range_response, &[2, 5]).and_then(Value::bytes).and_then(number_in);
    let counter = mod_revision.zip(number).map(|(mod_revision, number)| Known { mod_revision, number });
    counter.ok_or_else(|| Fault::Answer("an answer without revision or number".to_owned()))
}

impl load::Client for Client {
    async fn operate(&mut self) -> Result<Done, Fault> {
        match &mut self.work {
            Work::Write { procedure, request, names, turn } => {
                *turn = (*turn + 1) % *names;
                let message = Bytes::copy_from_slice(request.filled(*turn, &self.numbers));
                let answer = self.connection.call(procedure, message).await?;
                if field(&answer, 1).is_some() {
                    Ok(Done::default())
                } else {
                    Err(Fault::Answer("an answer without a header".to_owned()))
                }
            }
            Work::Increment { procedure, name, quoted, known: seen } => {
                let mut refused = 0;
                loop {
                    let Known { mod_revision, number } = match *seen {
                        Some(known) => known,
                        None => known(&mut self.connection, name).await?,
                    };
                    let mut value = Template::default();
                    value.value(quoted);
                    let message = once(&compare_and_set(name, mod_revision, value.with_number(number + 1)));
                    let answer = self.connection.call(procedure, message).await?;
                    // TxnResponse.succeeded; false is left out.
                    if field(&answer, 2) == Some(Value::Number(1)) {
                        let revision = field_at(&answer, &[1, 3]).and_then(Value::number);
                        *seen = revision.map(|mod_revision| Known { mod_revision, number: number + 1 });
                        return Ok(Done { refused });
                    }
                    refused += 1;
                    let range_response = field_at(&answer, &[3, 1]).and_then(Value::bytes);
                    *seen = Some(known_in(range_response.unwrap_or_default())?);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::grpc::PREFIX;
    use super::*;
    use crate::workload::Family;

    #[test]
    fn requests_are_framed_messages_with_one_put_for_each_event() {
        for workload in Workload::chosen(&Family::ALL, &[1]) {
            let Work::Write { mut request, .. } = Work::of(&workload, 0) else { continue };
            let numbers = Numbers::default();
            let framed = request.filled(0, &numbers).to_vec();
            let length = u32::from_be_bytes(framed[1..PREFIX].try_into().unwrap());
            let message = &framed[PREFIX..];
            assert_eq!(message.len(), length as usize);
            let path: &[u64] = if matches!(workload.kind, Kind::Batch(_)) { &[2, 2, 2] } else { &[2] };
            let value = field_at(message, path).and_then(Value::bytes).unwrap();
            assert_eq!((value.len(), number_in(value)), (workload.value_bytes + 2, Some(1)), "{}", workload.name);
            request.filled(0, &numbers);
            let next = number_in(&request.filled(0, &numbers)[framed.len() - value.len()..]);
            assert_eq!(next, Some(workload.events() as u64 * 3), "{}", workload.name);
        }
    }

    #[test]
    fn a_lost_compare_and_set_brings_what_was_there() {
        let pair = Message::default().bytes(1, b"cas").number(3, 77).bytes(5, br#""0000000000000009""#);
        let response = once(&Message::default().message(2, &pair));
        let known = known_in(&response[PREFIX..]).unwrap();
        assert_eq!((known.mod_revision, known.number), (77, 9));
        assert!(known_in(b"").is_err());
    }
}
