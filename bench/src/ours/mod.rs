//! Config API: one process with a Postgres of its own, and its clients, over HTTP/1.1.

pub(crate) mod http;
pub(crate) mod watch;

use std::path::{Path, PathBuf};

use embedded_postgres::{Cluster, Options};
use tokio::process::Command;

use self::http::{Answer, Connection};
use crate::{
    BoxError,
    load::{self, Done, Fault},
    server::{self, Server},
    settings::Service,
    template::{Numbers, Template, number_in},
    workload::{Kind, Workload},
};

/// What the services log when they accept requests; the port follows.
pub(crate) const SERVES: &str = "Listening on http://127.0.0.1:";

/// The program to measure: the given one, or the one that was built beside this.
pub(crate) fn program(name: &str, given: Option<&PathBuf>) -> Result<PathBuf, BoxError> {
    let program = match given {
        Some(given) => given.clone(),
        None => std::env::current_exe()?.with_file_name(name),
    };
    let shown = program.display();
    if program.is_file() {
        Ok(program)
    } else {
        Err(format!("{shown} is not there; build it: cargo build --release -p {name}").into())
    }
}

/// Starts it: the settings are its defaults, the log (level `info`, three lines for each write) goes into a file. Its Postgres
/// is its own or, of a command service, one beside it with the same settings.
pub(crate) async fn start(
    service: Service,
    program: &Path,
    directory: &Path,
) -> Result<(Server, Option<Cluster>), BoxError> {
    let log = directory.join("ours.log");
    let mut command = clean(program);
    command.args(["--listen", "127.0.0.1:0"]);
    if service == Service::ConfigApi {
        command.arg("--data-dir").arg(directory.join("config-api"));
        return Ok((Server::spawn(service.program(), command, log)?, None));
    }
    let cluster = Cluster::start(Options::durable(directory.join("postgres"))).await?;
    let url = cluster.local_url(embedded_postgres::DATABASE);
    let migrated = clean(program).arg("migrate").env("DATABASE_URL", &url).output().await?;
    if !migrated.status.success() {
        return Err(format!("the schema cannot be made: {}", String::from_utf8_lossy(&migrated.stderr)).into());
    }
    command.env("DATABASE_URL", &url);
    let server = Server::spawn(service.program(), command, log)?.beside(cluster.pid());
    Ok((server, Some(cluster)))
}

/// As users have it: nothing that is set here for something else changes it.
pub(crate) fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    for variable in ["RUST_LOG", "LOG_FORMAT", "DATABASE_URL", "CONFIG_FILE", "LISTEN_ADDR", "MIGRATE_DATABASE_URL"] {
        command.env_remove(variable);
    }
    for (variable, _) in std::env::vars_os().filter(|(variable, _)| variable.to_string_lossy().starts_with("OTEL_")) {
        command.env_remove(variable);
    }
    command
}

/// Waits until it serves; its port.
pub(crate) async fn ready(server: &mut Server) -> Result<u16, BoxError> {
    let port = server.until(async |server| port_in(&server.log())).await?;
    let ready = b"GET /v1/ready HTTP/1.1\r\nhost: bench\r\n\r\n";
    let asks = async |_: &Server| {
        let answer = Connection::open(port).await.ok()?.exchange(ready).await.ok()?;
        (answer.status == 200).then_some(port)
    };
    server.until(asks).await
}

fn port_in(log: &str) -> Option<u16> {
    let (_, rest) = log.split_once(SERVES)?;
    rest.split_once(|character: char| !character.is_ascii_digit())?.0.parse().ok()
}

/// The version of the program, and of the Postgres that it started.
pub(crate) async fn versions(program: &Path, server: &Server) -> (String, String) {
    let postgres = match server.program_below() {
        Some(postgres) => server::version(&postgres).await,
        None => "unknown".to_owned(),
    };
    (server::version(program).await, postgres)
}

/// A client with a connection of its own.
#[derive(Debug)]
pub(crate) struct Client {
    connection: Connection,
    numbers: Numbers,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Write { request: Template, names: usize, turn: usize },
    Increment { read: Vec<u8>, put_head: Vec<u8>, put_tail: Template, known: Option<Known>, request: Vec<u8> },
}

/// The counter, as this client saw it last.
#[derive(Clone, Copy, Debug)]
struct Known {
    version: u64,
    number: u64,
}

/// Connects the clients of a workload.
pub(crate) async fn connect(port: u16, workload: &Workload, numbers: &Numbers) -> Result<Vec<Client>, BoxError> {
    let mut clients = Vec::with_capacity(workload.clients);
    for client in 0..workload.clients {
        let connection = Connection::open(port).await?;
        clients.push(Client { connection, numbers: numbers.clone(), work: Work::of(workload, client) });
    }
    Ok(clients)
}

/// Tries one operation; `Ok(false)` when the service does not know its route.
pub(crate) async fn knows(port: u16, workload: &Workload, numbers: &Numbers) -> Result<bool, BoxError> {
    if workload.kind == Kind::CompareAndSet {
        reset(port, workload).await?;
    }
    let one = Workload { clients: 1, ..workload.clone() };
    let mut client = connect(port, &one, numbers).await?.pop().ok_or("one client")?;
    match load::Client::operate(&mut client).await {
        Ok(_) => Ok(true),
        Err(Fault::Answer(answer)) if answer == "HTTP 404" => Ok(false),
        Err(fault) => Err(format!("{}: {fault}", workload.name).into()),
    }
}

/// Sets the counter to zero.
pub(crate) async fn reset(port: u16, workload: &Workload) -> Result<(), BoxError> {
    let mut body = body(workload);
    let mut request = put(&workload.name_of(0, 0), &[]);
    request.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    request.extend_from_slice(body.with_number(0));
    let answer = Connection::open(port).await?.exchange(&request).await?;
    if answer.status == 200 { Ok(()) } else { Err(refused(&answer).into()) }
}

/// The counter's number.
pub(crate) async fn counter(port: u16, workload: &Workload) -> Result<u64, BoxError> {
    let mut connection = Connection::open(port).await?;
    Ok(known(&mut connection, &get(workload)).await?.number)
}

impl Work {
    fn of(workload: &Workload, client: usize) -> Self {
        let body = body(workload);
        let mut request = Template::default();
        match workload.kind {
            Kind::CompareAndSet => {
                return Self::Increment {
                    read: get(workload),
                    put_head: put(&workload.name_of(client, 0), b"if-match: \""),
                    put_tail: body,
                    known: None,
                    request: Vec::new(),
                };
            }
            Kind::Put => {
                request.fixed(b"PUT /v1/config/");
                request.indexed_name(&workload.name_of(client, 0));
                request.fixed(&head_after("", body.len()));
                request.part(&body);
            }
            Kind::Hot => {
                request.fixed(&put(&workload.name_of(client, 0), &[]));
                request.fixed(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
                request.part(&body);
            }
            Kind::Batch(operations) => {
                let batch = batch(workload, client, operations);
                request.fixed(b"POST /v1/batch");
                request.fixed(&head_after("", batch.len()));
                request.part(&batch);
            }
        }
        Self::Write { request, names: workload.names_in_turn(), turn: 0 }
    }
}

/// `{"value":"…"}`.
fn body(workload: &Workload) -> Template {
    let mut body = Template::default();
    body.fixed(br#"{"value":"#);
    body.value(&workload.value());
    body.fixed(b"}");
    body
}

fn batch(workload: &Workload, client: usize, operations: usize) -> Template {
    let mut body = Template::default();
    body.fixed(br#"{"operations":["#);
    for index in 0..operations {
        let comma = if index == 0 { "" } else { "," };
        let name = workload.name_of(client, index);
        body.fixed(format!(r#"{comma}{{"op":"set","name":"{name}","value":"#).as_bytes());
        body.value(&workload.value());
        body.fixed(b"}");
    }
    body.fixed(b"]}");
    body
}

/// What follows the target of a request: the rest of its line, and its headers.
fn head_after(target: &str, body_bytes: usize) -> Vec<u8> {
    format!(
        "{target} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {body_bytes}\r\n\r\n"
    )
    .into_bytes()
}

/// The head of a PUT, up to `more`; its length is still to come.
fn put(name: &str, more: &[u8]) -> Vec<u8> {
    let head = format!("PUT /v1/config/{name} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n");
    [head.as_bytes(), more].concat()
}

fn get(workload: &Workload) -> Vec<u8> {
    format!("GET /v1/config/{} HTTP/1.1\r\nhost: bench\r\n\r\n", workload.name_of(0, 0)).into_bytes()
}

fn refused(answer: &Answer) -> Fault {
    Fault::Answer(format!("HTTP {}", answer.status))
}

/// Reads the counter.
async fn known(connection: &mut Connection, get: &[u8]) -> Result<Known, Fault> {
    let answer = connection.exchange(get).await?;
    if answer.status != 200 {
        return Err(refused(&answer));
    }
    let number = number_in(connection.body(&answer));
    let (Some(version), Some(number)) = (answer.version, number) else {
        return Err(Fault::Answer("an answer without version or number".to_owned()));
    };
    Ok(Known { version, number })
}

impl load::Client for Client {
    async fn operate(&mut self) -> Result<Done, Fault> {
        match &mut self.work {
            Work::Write { request, names, turn } => {
                *turn = (*turn + 1) % *names;
                let answer = self.connection.exchange(request.filled(*turn, &self.numbers)).await?;
                if answer.status == 200 { Ok(Done::default()) } else { Err(refused(&answer)) }
            }
            Work::Increment { read, put_head, put_tail, known: seen, request } => {
                let mut refusals = 0;
                loop {
                    let Known { version, number } = match *seen {
                        Some(known) => known,
                        None => known(&mut self.connection, read).await?,
                    };
                    request.clear();
                    request.extend_from_slice(put_head);
                    request.extend_from_slice(version.to_string().as_bytes());
                    request.extend_from_slice(format!("\"\r\ncontent-length: {}\r\n\r\n", put_tail.len()).as_bytes());
                    request.extend_from_slice(put_tail.with_number(number + 1));
                    let answer = self.connection.exchange(request).await?;
                    *seen = match (answer.status, answer.version) {
                        (200, Some(version)) => Some(Known { version, number: number + 1 }),
                        (412, _) => None,
                        _ => return Err(refused(&answer)),
                    };
                    if seen.is_some() {
                        return Ok(Done { refused: refusals });
                    }
                    refusals += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Family;

    #[test]
    fn requests_say_how_long_their_bodies_are() {
        for workload in Workload::chosen(&Family::ALL, &[1]) {
            let Work::Write { mut request, .. } = Work::of(&workload, 0) else { continue };
            let text = String::from_utf8(request.filled(0, &Numbers::default()).to_vec()).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}", body.len())), "{text}");
            serde_json::from_str::<serde_json::Value>(body).unwrap();
            assert_eq!(body.matches(r#""value":"0"#).count(), workload.events(), "{text}");
        }
    }

    #[test]
    fn the_port_is_in_the_log() {
        assert_eq!(port_in("x [info] Listening on http://127.0.0.1:4123\n"), Some(4123));
        assert_eq!(port_in("x [info] Listening on http://127.0.0.1:41"), None, "the line may go on");
    }
}
