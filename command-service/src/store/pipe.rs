//! The committer's connection: a statement can be sent on it before the one in front of it is answered. The server carries them out
//! in their order, each in a transaction of its own.

use std::{
    borrow::Cow,
    error::Error as StdError,
    future::poll_fn,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use percent_encoding::percent_decode_str;
use shared::telemetry::Chain;
use sqlx::{
    ConnectOptions,
    error::{DatabaseError, ErrorKind},
    postgres::PgConnectOptions,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, Error, NoTls, Row, Socket, Statement, config::SslMode, error::DbError,
    types::ToSql,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    append::APPEND,
    connection::Link,
    tls::{self, Files},
};

/// Longest that what was sent may stay unacknowledged by the server's machine.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// An open connection, with its statement prepared. It is closed when it is dropped, whatever is under way.
#[derive(Debug)]
pub(super) struct Pipe {
    client: Client,
    append: Statement,
    driver: Driver,
    has_appended: AtomicBool,
}

impl Pipe {
    /// Whether an append on it has succeeded.
    pub(super) fn has_appended(&self) -> bool {
        self.has_appended.load(Ordering::Relaxed)
    }

    /// An append on it has succeeded.
    pub(super) fn appended(&self) {
        self.has_appended.store(true, Ordering::Relaxed);
    }

    /// Sends the append when it is polled for the first time. The rows are here when the server has said its last word of it.
    pub(super) async fn append(&self, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, sqlx::Error> {
        self.client
            .query(&self.append, parameters)
            .await
            .map_err(|error| told(self.driver.cause(&error).unwrap_or(&error)))
    }
}

/// Reads and writes, and ends when it is dropped. Left to itself it would wait for what is under way, perhaps on a machine that is gone.
#[derive(Debug)]
struct Driver {
    _task: JoinSet<()>,
    /// Why it ended.
    ended: Arc<OnceLock<Error>>,
}

impl Driver {
    fn of<T>(mut connection: Connection<Socket, T>) -> Self
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut task = JoinSet::new();
        let ended = Arc::new(OnceLock::new());
        let why = Arc::clone(&ended);
        task.spawn(async move {
            loop {
                match poll_fn(|context| connection.poll_message(context)).await {
                    Some(Ok(AsyncMessage::Notice(notice))) => tell(&notice),
                    Some(Ok(_)) => {}
                    // Told before the connection is dropped, which is what those who wait for an answer hear of.
                    Some(Err(error)) => {
                        let _first = why.set(error);
                        return;
                    }
                    None => return,
                }
            }
        });
        Self { _task: task, ended }
    }

    /// Why there is no connection, where that is what an error says.
    fn cause(&self, error: &Error) -> Option<&Error> {
        self.ended.get().filter(|_| error.is_closed())
    }
}

impl Link for Arc<Pipe> {
    async fn open(options: &PgConnectOptions) -> Result<Self, sqlx::Error> {
        let (config, files) = config(options);
        // Over a socket there is no host that a certificate could name.
        let (client, driver) = if config.get_ssl_mode() == SslMode::Disable {
            let (client, connection) = Box::pin(config.connect(NoTls)).await.map_err(|error| told(&error))?;
            (client, Driver::of(connection))
        } else {
            let tls = tls::client(options.get_ssl_mode(), &files).map_err(sqlx::Error::Tls)?;
            let (client, connection) =
                Box::pin(config.connect(MakeRustlsConnect::new(tls))).await.map_err(|error| told(&error))?;
            (client, Driver::of(connection))
        };
        let append = client.prepare(APPEND).await.map_err(|error| told(&error))?;
        Ok(Self::new(Pipe { client, append, driver, has_appended: AtomicBool::new(false) }))
    }

    fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    async fn ping(&mut self) -> Result<(), sqlx::Error> {
        self.client.check_connection().await.map_err(|error| told(&error))
    }
}

/// What the other driver was told, for this one.
fn config(options: &PgConnectOptions) -> (Config, Files) {
    // The password and the certificates stand nowhere else; there, a path has a word in front. Not every user and host can stand in it.
    let url = options.clone().username("user").host("host").to_url_lossy();
    let certificate = |name| {
        let (_, value) = url.query_pairs().find(|(known, _)| known == name)?;
        Some(value.strip_prefix("file: ").unwrap_or(&value).to_owned())
    };
    let files =
        Files { roots: certificate("sslrootcert"), certificate: certificate("sslcert"), key: certificate("sslkey") };
    let mut config = Config::new();
    match options.get_socket() {
        Some(socket) => config.host_path(socket).ssl_mode(SslMode::Disable),
        // An IPv6 address has brackets in a URL, and none for the resolver.
        None => config
            .host(options.get_host().trim_start_matches('[').trim_end_matches(']'))
            .ssl_mode(tls::negotiation(options.get_ssl_mode())),
    };
    config
        .port(options.get_port())
        .user(options.get_username())
        .keepalives_idle(Duration::from_secs(3))
        .keepalives_interval(Duration::from_secs(1))
        .keepalives_retries(3)
        .tcp_user_timeout(UNACKNOWLEDGED);
    if let Some(password) = url.password() {
        config.password(percent_decode_str(password).collect::<Vec<_>>());
    }
    if let Some(database) = options.get_database() {
        config.dbname(database);
    }
    if let Some(application) = options.get_application_name() {
        config.application_name(application);
    }
    if let Some(options) = options.get_options() {
        config.options(options);
    }
    (config, files)
}

/// What the server said of its own accord: a wait for a standby that was cancelled, for one.
fn tell(notice: &DbError) {
    if notice.severity() == "WARNING" {
        tracing::warn!(code = notice.code().code(), "Postgres warns: {}", notice.message());
    } else {
        tracing::debug!(code = notice.code().code(), "Postgres notes: {}", notice.message());
    }
}

/// The error as sqlx has it, by which the services know what happened.
fn told(error: &Error) -> sqlx::Error {
    if let Some(said) = error.as_db_error() {
        return sqlx::Error::Database(Box::new(Said(said.clone())));
    }
    if let Some(io) = error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        return sqlx::Error::Io(io::Error::new(io.kind(), shown(error)));
    }
    let kind = if error.is_closed() { io::ErrorKind::ConnectionReset } else { io::ErrorKind::Other };
    sqlx::Error::Io(io::Error::new(kind, shown(error)))
}

/// With its causes, for it may be told twice.
fn shown(error: &Error) -> String {
    Chain(error).to_string()
}

/// What the server said. Its message alone: the details of a refusal have values in them.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.message())]
struct Said(DbError);

impl DatabaseError for Said {
    fn message(&self) -> &str {
        self.0.message()
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(self.0.code().code().into())
    }

    fn constraint(&self) -> Option<&str> {
        self.0.constraint()
    }

    fn table(&self) -> Option<&str> {
        self.0.table()
    }

    fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn StdError + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn StdError + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

#[cfg(test)]
mod tests {
    use shared::database::connect_options;
    use tokio_postgres::config::Host;

    use super::*;

    #[test]
    fn it_connects_as_the_other_driver_does() {
        let url =
            "postgres://a%2Fb%40c:p%40ss%2Fw%C3%B6rd%25@[::1]:5433/some%20data?sslrootcert=/ca.crt&sslmode=require";
        let (config, files) = config(&connect_options(url, "config-api command").unwrap());
        assert_eq!((config.get_user(), config.get_password()), (Some("a/b@c"), Some("p@ss/wörd%".as_bytes())));
        assert_eq!((config.get_hosts(), config.get_ports()), (&[Host::Tcp("::1".to_owned())][..], &[5433][..]));
        assert_eq!(config.get_dbname(), Some("some data"));
        assert_eq!(config.get_application_name(), Some("config-api command"));
        assert!(config.get_options().is_some_and(|options| options.contains("statement_timeout=30s")), "{config:?}");
        assert_eq!((config.get_ssl_mode(), files.roots.as_deref()), (SslMode::Require, Some("/ca.crt")));

        let url = "postgres://u@localhost/d?host=%2Frun%2Fpostgresql&sslcert=c.pem&sslkey=k.pem";
        let (config, files) = super::config(&connect_options(url, "test").unwrap());
        assert_eq!(config.get_hosts(), [Host::Unix("/run/postgresql".into())]);
        assert_eq!((config.get_password(), config.get_ssl_mode()), (None, SslMode::Disable));
        assert_eq!((files.certificate.as_deref(), files.key.as_deref()), (Some("c.pem"), Some("k.pem")));
    }
}
