//! The handle of a running cluster: where to connect, and how to stop, start again and remove it.

use std::fmt::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use crate::binaries::{self, Binaries};
use crate::child::Child;
use crate::directory::{self, Directory, cluster_in};
use crate::log::Log;
use crate::options::USER;
use crate::{Error, Options, Purpose, disk, initialise, leftovers, log, password, port, postmaster, settings, socket};

/// How long a fast stop may take, its checkpoint included, before it becomes an immediate one.
const FAST_LIMIT: Duration = Duration::from_secs(60);

/// How long an immediate stop may take; the postmaster itself kills its processes after 5 s.
const IMMEDIATE_LIMIT: Duration = Duration::from_secs(15);

/// Longest that [`Cluster::stop`] takes.
pub const STOP_LIMIT: Duration = Duration::from_secs(FAST_LIMIT.as_secs() + IMMEDIATE_LIMIT.as_secs());

/// How many ports are tried when others are quicker to take them.
const PORT_TRIES: u32 = 5;

/// How the server is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// SIGINT: sessions are ended, a checkpoint is written, the next start needs no recovery.
    Fast,
    /// SIGQUIT: ends at once, as a crash does; what was acknowledged is recovered at the next start.
    Immediate,
}

/// A private Postgres server, a child of this process.
///
/// Dropping the handle asks the server to stop (durable: fast, throw-away: immediate) without waiting for it; the data
/// directory is free when the server has ended.
pub struct Cluster {
    options: Options,
    directory: Directory,
    binaries: Binaries,
    password: String,
    port: u16,
    /// The directory of its Unix socket, when it has one.
    socket: Option<PathBuf>,
    run: watch::Sender<Arc<Run>>,
    /// Held while a start is under way.
    starting: Mutex<()>,
}

/// One life of the postmaster.
#[derive(Debug)]
struct Run {
    child: Child,
    /// Its end, if it comes, was asked for.
    asked: AtomicBool,
}

impl Run {
    fn new(child: Child) -> Arc<Self> {
        Arc::new(Self { child, asked: AtomicBool::new(false) })
    }
}

impl fmt::Debug for Cluster {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { options, port, .. } = self;
        f.debug_struct("Cluster").field("options", options).field("port", port).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Finds the binaries, takes the data directory, makes the cluster if it is new, ends what a killed parent left
    /// running, and starts the server; returns when it accepts connections. Bounded: 3 minutes for each of the two
    /// steps of a first start, 5 minutes for the start with its recovery. Dropping the future ends the children.
    ///
    /// # Errors
    /// Every cause has its own variant of [`Error`].
    pub async fn start(options: Options) -> Result<Self, Error> {
        settings::check(&options)?;
        let (options, binaries, directory) = blocking(move || prepare(options)).await?;
        leftovers::stop(&directory).await?;
        if !directory.cluster().exists() {
            initialise::create(&directory, &binaries, options.purpose).await?;
        }
        let password = password::read(&directory)?;
        report_recovery(&directory, &binaries).await;
        let mut tries = 1;
        let (port, socket, child) = loop {
            let port = port::free()?;
            let socket = socket::make(&directory, port)?;
            match postmaster::start(&directory, &binaries, &options, port, socket.is_some()).await {
                Ok(child) => break (port, socket, child),
                Err(Error::Port { .. }) if tries < PORT_TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        };
        let run = watch::Sender::new(Run::new(child));
        Ok(Self { options, directory, binaries, password, port, socket, run, starting: Mutex::new(()) })
    }

    /// Where to connect: `postgres://config_api:<password>@127.0.0.1:<port>/<database>`. It holds the password: not
    /// for logs. Whether the database exists is the caller's matter; [`DATABASE`](crate::DATABASE) does.
    pub fn url(&self, database: &str) -> String {
        let (password, port) = (&self.password, self.port);
        format!("postgres://{USER}:{password}@{}:{port}/{}", Ipv4Addr::LOCALHOST, percent_encoded(database))
    }

    /// The same for processes of the cluster's owner, and of root: through the Unix socket, which costs less than TCP, or as
    /// [`url`](Self::url) where there can be no socket.
    pub fn local_url(&self, database: &str) -> String {
        let Some(socket) = self.socket.as_ref().and_then(|socket| socket.to_str()) else { return self.url(database) };
        let (database, socket) = (percent_encoded(database), percent_encoded(socket));
        let (password, port) = (&self.password, self.port);
        format!("postgres:///{database}?host={socket}&port={port}&user={USER}&password={password}")
    }

    /// The loopback port, the same for as long as this handle lives.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's version as it tells it, such as `15.18`.
    pub fn server_version(&self) -> &str {
        &self.binaries.version
    }

    /// Where the binaries in use are: `psql`, `pg_dump` and others, as far as they are installed.
    pub fn bin_dir(&self) -> &Path {
        &self.binaries.dir
    }

    /// The process id of the postmaster; of the last one when it does not run.
    pub fn pid(&self) -> u32 {
        self.run.borrow().child.pid().as_raw().unsigned_abs()
    }

    /// Stops the server and waits for its end; at once `Ok` when it does not run. A fast stop that takes more than 60 s
    /// becomes an immediate one. The data directory stays reserved for [`start_again`](Self::start_again) until the
    /// handle is dropped. A start that is under way is waited for.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it still runs 15 s after an immediate stop.
    pub async fn stop(&self, mode: StopMode) -> Result<(), Error> {
        let run = {
            let _not_while_starting = self.starting.lock().await;
            self.run.borrow().clone()
        };
        if run.child.status().is_some() {
            return Ok(());
        }
        run.asked.store(true, Ordering::Release);
        if mode == StopMode::Fast {
            run.child.signal(Signal::SIGINT);
            if timeout(FAST_LIMIT, run.child.ended()).await.is_ok() {
                tracing::info!("Postgres has stopped");
                return self.directory.end_in_order();
            }
            tracing::warn!(limit_seconds = FAST_LIMIT.as_secs(), "Postgres does not stop in time, stopping it at once");
        }
        run.child.signal(Signal::SIGQUIT);
        let ended = timeout(IMMEDIATE_LIMIT, run.child.ended()).await;
        ended.map_err(|_| self.stop_timeout())?;
        tracing::info!("Postgres has stopped, without a checkpoint");
        Ok(())
    }

    /// Starts the server after a stop or a crash, with the same port and password, and recovers if it has to.
    ///
    /// # Errors
    /// [`Error::Running`]; [`Error::Port`] when another process took the port; and what a start can fail with.
    pub async fn start_again(&self) -> Result<(), Error> {
        let _one_at_a_time = self.starting.lock().await;
        if self.run.borrow().child.status().is_none() {
            return Err(Error::Running { pid: self.pid() });
        }
        leftovers::stop(&self.directory).await?;
        report_recovery(&self.directory, &self.binaries).await;
        self.directory.begin_again()?;
        let with_socket = self.socket.is_some() && socket::make(&self.directory, self.port)?.is_some();
        let child = postmaster::start(&self.directory, &self.binaries, &self.options, self.port, with_socket).await?;
        self.run.send_replace(Run::new(child));
        Ok(())
    }

    /// Resolves when the postmaster has ended without [`stop`](Self::stop) having been asked; at once when that is so
    /// already. After a stop it waits on, through a [`start_again`](Self::start_again). Safe to cancel.
    pub async fn exited(&self) -> ExitStatus {
        let mut runs = self.run.subscribe();
        loop {
            let run = runs.borrow_and_update().clone();
            let ended = async {
                let status = run.child.ended().await;
                if run.asked.load(Ordering::Acquire) { std::future::pending().await } else { status }
            };
            tokio::select! {
                status = ended => return status,
                next = runs.changed() => next.expect("the sender lives in self"),
            }
        }
    }

    /// Why the server ended by itself with `status`, as [`exited`](Self::exited) gave it: a full disk, or what it wrote last.
    pub fn why_ended(&self, status: ExitStatus) -> Error {
        let log = Log::of(&self.directory);
        let fault = disk::fault(&self.directory.cluster(), disk::WAL_SEGMENT);
        fault.unwrap_or_else(|| Error::Ended { status, output: log.last_line(), log: log.path })
    }

    /// Stops a throw-away cluster at once and deletes its data directory.
    ///
    /// # Errors
    /// [`Error::NotThrowAway`], [`Error::Timeout`], [`Error::DataDir`].
    pub async fn remove(&self) -> Result<(), Error> {
        self.check_throw_away()?;
        self.stop(StopMode::Immediate).await?;
        leftovers::stop(&self.directory).await?;
        let data_dir = self.directory.path.clone();
        blocking(move || directory::remove(&data_dir)).await
    }

    /// The same without a runtime, and without a log line: for a hook that runs while the process exits. Blocks its
    /// thread for at most 15 s, usually some milliseconds.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub fn remove_blocking(&self) -> Result<(), Error> {
        self.check_throw_away()?;
        let run = self.run.borrow().clone();
        run.asked.store(true, Ordering::Release);
        run.child.signal(Signal::SIGQUIT);
        if !run.child.wait_blocking(IMMEDIATE_LIMIT) {
            return Err(self.stop_timeout());
        }
        directory::remove(&self.directory.path)
    }

    fn check_throw_away(&self) -> Result<(), Error> {
        match self.options.purpose {
            Purpose::ThrowAway => Ok(()),
            Purpose::Durable => Err(Error::NotThrowAway { data_dir: self.directory.path.clone() }),
        }
    }

    fn stop_timeout(&self) -> Error {
        Error::Timeout { what: "stopping Postgres", limit: IMMEDIATE_LIMIT, log: log::path(&self.directory) }
    }
}

/// The binaries first: without them nothing is made on disk.
fn prepare(options: Options) -> Result<(Options, Binaries, Directory), Error> {
    let data = binaries::version_of_data(&cluster_in(&options.data_dir));
    let binaries = binaries::find(options.bin_dir.as_deref(), &options.data_dir, data)?;
    let directory = Directory::open(&options)?;
    Ok((options, binaries, directory))
}

async fn report_recovery(directory: &Directory, binaries: &Binaries) {
    let (program, cluster) = (binaries.program("pg_controldata"), directory.cluster());
    if blocking(move || postmaster::needs_recovery(&program, &cluster)).await {
        tracing::info!(data_dir = %directory.path.display(), "Postgres was not shut down properly and recovers now");
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("the work does not panic, and its runtime polls us")
}

/// Everything but letters, digits, `-`, `.`, `_` and `~`, which mean themselves in a URL.
fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a String does not fail");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test suite keeps it in a static, for the hook that removes it.
    const _: fn() = || {
        fn shared<T: Send + Sync + 'static>() {}
        shared::<Cluster>();
    };

    #[test]
    fn a_database_of_any_name_fits_in_a_url() {
        assert_eq!(percent_encoded("test_42-a.b~c"), "test_42-a.b~c");
        assert_eq!(percent_encoded("a b/ü?%"), "a%20b%2F%C3%BC%3F%25");
    }
}
