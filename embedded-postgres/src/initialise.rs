//! The first start: makes the cluster beside its place and renames it when it is complete, so that an interrupted
//! attempt leaves nothing half-made.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::timeout;

use crate::binaries::Binaries;
use crate::child::{Child, Task};
use crate::directory::Directory;
use crate::options::USER;
use crate::{Error, Purpose, disk, log, password};

/// How long each step may take; about a second on an idle machine, most of it syncing.
const STEP_LIMIT: Duration = Duration::from_secs(180);

/// In single-user mode a line is a statement. The name is [`crate::DATABASE`].
const CREATE_DATABASE: &str = "create database config_api\n";

/// Makes the cluster, its superuser with a new password, and the database.
///
/// # Errors
/// [`Error::DiskFull`], [`Error::InitDb`], [`Error::Timeout`], [`Error::Spawn`], [`Error::DataDir`], [`Error::Randomness`].
pub(crate) async fn create(directory: &Directory, binaries: &Binaries, purpose: Purpose) -> Result<(), Error> {
    if let Some(fault) = disk::fault(&directory.path, disk::NEW_CLUSTER) {
        return Err(fault);
    }
    tracing::info!(version = binaries.version, "Creating a private Postgres cluster in {}", directory.path.display());
    let unfinished = directory.begin_cluster()?;
    password::create(directory)?;

    let mut initdb = Task::new(&binaries.program("initdb"), directory, Signal::SIGKILL)?;
    initdb
        .command
        .arg("-D")
        .arg(&unfinished)
        .arg("--username")
        .arg(USER)
        .arg("--pwfile")
        .arg(password::file(directory));
    // Without a locale text sorts by its bytes: the same on every machine, and after every update of its libraries.
    initdb.command.args(["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--data-checksums"]);
    initdb.command.arg("--no-instructions");
    if purpose == Purpose::ThrowAway {
        initdb.command.arg("--no-sync");
    }
    run(initdb, directory, "making the Postgres cluster").await?;

    let mut single = Task::new(&binaries.program("postgres"), directory, Signal::SIGKILL)?;
    single.command.arg("--single").arg("-D").arg(&unfinished).args(["-c", "exit_on_error=on"]);
    if purpose == Purpose::ThrowAway {
        single.command.args(["-c", "fsync=off"]);
    }
    single.command.arg("postgres");
    single.input = Some(CREATE_DATABASE);
    run(single, directory, "creating the database in the new Postgres cluster").await?;

    directory.finish_cluster()
}

async fn run(task: Task, directory: &Directory, what: &'static str) -> Result<(), Error> {
    let (child, log) = Child::spawn(task).await?;
    // Out of time, the child is dropped and thereby killed.
    let status = timeout(STEP_LIMIT, child.ended()).await.map_err(|_| Error::Timeout {
        what,
        limit: STEP_LIMIT,
        log: log::path(directory),
    })?;
    if status.success() {
        return Ok(());
    }
    // initdb has removed what it had made.
    let fault = disk::fault(&directory.path, disk::NEW_CLUSTER);
    Err(fault.unwrap_or_else(|| Error::InitDb { status, output: log.tail() }))
}
