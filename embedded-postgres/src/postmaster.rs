//! One run of the server: spawned, and waited for until it accepts connections.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::binaries::{Binaries, output_of};
use crate::child::{Child, Task};
use crate::directory::Directory;
use crate::leftovers::PidFile;
use crate::log::Log;
use crate::{Error, Options, disk, port, settings};

/// How long a start may take, recovery after a crash included: it reads at most `max_wal_size` of WAL.
const START_LIMIT: Duration = Duration::from_secs(300);

/// How often is looked whether it is ready.
const READY_EVERY: Duration = Duration::from_millis(10);

/// How often a start that takes long says so.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// The line of pg_controldata that says how the server ended.
const STATE: &str = "Database cluster state:";

/// Starts the server on `port`, with a Unix socket or without, and returns when it accepts connections.
///
/// # Errors
/// [`Error::Port`] when the port is taken; [`Error::DiskFull`], [`Error::Start`], [`Error::Timeout`], [`Error::Spawn`], [`Error::DataDir`].
pub(crate) async fn start(
    directory: &Directory,
    binaries: &Binaries,
    options: &Options,
    port: u16,
    with_socket: bool,
) -> Result<Child, Error> {
    let mut task = Task::new(&binaries.program("postgres"), directory, options.purpose.farewell())?;
    task.command.arg("-D").arg(directory.cluster()).args(settings::arguments(options, port, with_socket));
    let (child, log) = Child::spawn(task).await?;
    until_ready(&child, &log, directory, port).await?;
    tracing::info!(
        pid = child.pid().as_raw(),
        port,
        "Postgres {} accepts connections, data in {}",
        binaries.version,
        directory.path.display()
    );
    Ok(child)
}

async fn until_ready(child: &Child, log: &Log, directory: &Directory, port: u16) -> Result<(), Error> {
    let cluster = directory.cluster();
    let began = Instant::now();
    let mut reported = began;
    let mut look = interval(READY_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            status = child.ended() => {
                let taken = !port::is_free(port);
                let (log, output) = (log.path.clone(), log.tail());
                let fault = disk::fault(&cluster, disk::WAL_SEGMENT);
                let otherwise = || if taken { Error::Port { port } } else { Error::Start { status, output, log } };
                return Err(fault.unwrap_or_else(otherwise));
            }
            _ = look.tick() => {}
        }
        if PidFile::read(&cluster).is_some_and(|file| file.pid == child.pid() && file.ready) {
            return Ok(());
        }
        if began.elapsed() >= START_LIMIT {
            return Err(Error::Timeout { what: "starting Postgres", limit: START_LIMIT, log: log.path.clone() });
        }
        if reported.elapsed() >= REPORT_EVERY {
            reported = Instant::now();
            tracing::info!(waited_seconds = began.elapsed().as_secs(), "Postgres is still starting");
        }
    }
}

/// Whether the server was not shut down properly the last time, and will recover when it starts. Runs a program.
pub(crate) fn needs_recovery(pg_controldata: &Path, cluster: &Path) -> bool {
    let told = output_of(pg_controldata, cluster);
    let state = told.as_deref().and_then(|told| told.lines().find_map(|line| line.strip_prefix(STATE)));
    // pg_controldata is missing from minimal installations.
    state.map_or_else(|| cluster.join("postmaster.pid").exists(), |state| !state.trim().starts_with("shut down"))
}
