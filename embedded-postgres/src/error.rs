//! What can go wrong, one variant per cause, each a line for the person on call: what, why, what to do.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::unistd::Uid;

use crate::account::name_of;
use crate::{disk, upgrade};

const MIB: u64 = 1024 * 1024;

/// Why a cluster could not be started, stopped or removed. The text is one line and complete but for the operating
/// system's reason, which is the [`source`](std::error::Error::source).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No directory holds both `initdb` and `postgres`.
    #[error(
        "no Postgres server found (initdb and postgres, version 14 to 18); looked in {}. Install it: Debian or Ubuntu \
         `apt-get install postgresql`, Fedora `dnf install postgresql-server`, Arch `pacman -S postgresql`, Alpine \
         `apk add postgresql`, macOS `brew install postgresql@17`; or name the directory of its binaries", listed(.searched)
    )]
    BinariesNotFound {
        /// Where was looked, in this order; a `*` stands for any name.
        searched: Vec<PathBuf>,
    },

    /// A Postgres was found, but none of a version this is run with.
    #[error(
        "Postgres {version} in {} is not supported, versions 14 to 18 are. Install one of them beside it, or name the \
         directory of its binaries", .bin_dir.display()
    )]
    UnsupportedVersion {
        /// The first that was found.
        bin_dir: PathBuf,
        /// As `postgres --version` gives it, such as `13.4`.
        version: String,
    },

    /// The data was written by another major version than the binaries have.
    ///
    /// The one text of several lines: the commands that upgrade the data follow the first.
    #[error(
        "the data in {} was written by Postgres {data} and cannot be read by the Postgres {binaries} in {}. Install \
         Postgres {data} again beside it, and it is used as before. Or, with both installed, move the data to \
         {binaries}; the old cluster is kept:\n{}",
        .data_dir.display(), .bin_dir.display(),
        upgrade::commands(.data_dir, (*.data, .old_bin_dir), (*.binaries, .bin_dir), .owner.as_deref())
    )]
    OtherMajorVersion {
        /// The data directory.
        data_dir: PathBuf,
        /// The major version in its `PG_VERSION`.
        data: u32,
        /// Where the binaries of that version are, or will be once they are installed.
        old_bin_dir: PathBuf,
        /// The major version of the first supported binaries found.
        binaries: u32,
        /// Where those are.
        bin_dir: PathBuf,
        /// Root's case: the user that Postgres runs as.
        owner: Option<String>,
    },

    /// There is no room for what has to be written.
    #[error(
        "no space is left on the disk of {}: {} MiB are free, {} MiB are needed. Make room there and start again; what was \
         acknowledged is not lost", .path.display(), .free / MIB, .needed / MIB
    )]
    DiskFull {
        /// What was to be written, or the directory that it is in.
        path: PathBuf,
        /// What is free for ordinary users, in bytes.
        free: u64,
        /// What is needed at least, in bytes.
        needed: u64,
    },

    /// The data is on a file system that cannot be written, or not any more: Linux remounts so after a disk error.
    #[error(
        "the file system of {} is read-only. Look into the system's log (dmesg) for a disk error, mount it writable, or \
         name another data directory", .path.display()
    )]
    ReadOnly {
        /// What was to be written.
        path: PathBuf,
    },

    /// Another instance holds the lock of this data directory.
    #[error(
        "the data directory {} is in use by {}. Stop that instance, or name another data directory (--data-dir)",
        .data_dir.display(), holder(*.pid)
    )]
    InUse {
        /// The data directory.
        data_dir: PathBuf,
        /// The process that holds it, when its lock file says.
        pid: Option<u32>,
    },

    /// The data directory or a file in it could not be made, read or written.
    #[error(
        "cannot {action} {}. Check its owner, its permissions and the free space, or name another data directory",
        .path.display()
    )]
    DataDir {
        /// What was to be done, such as `create`.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },

    /// The data directory holds files, and nothing says they are ours.
    #[error(
        "the directory {} is not empty and is not a data directory of this program. Name an empty or a new one",
        .data_dir.display()
    )]
    NotOurs {
        /// The directory named.
        data_dir: PathBuf,
    },

    /// The cluster belongs to another user than the one that Postgres would run as.
    #[error(
        "{} belongs to user {}, but Postgres would run as user {}. Start as user {}, as before, or give it away, as root: \
         `chown -R {} {}`", .path.display(), name_of(*.owner), name_of(*.user), name_of(*.starter), name_of(*.user), listed_by_blank(.give)
    )]
    WrongOwner {
        /// The cluster.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who would run it.
        user: u32,
        /// Whose the data directory is: who started it before.
        starter: u32,
        /// What would have to change hands.
        give: Vec<PathBuf>,
    },

    /// We may not do something in the data directory.
    #[error(
        "cannot {action} {}: {} belongs to user {} (mode {mode:03o}), and this runs as user {}. Start as its owner, allow it, \
         or name another data directory", .path.display(), .directory.display(), name_of(*.owner), name_of(*.user)
    )]
    NotPermitted {
        /// What was to be done, such as `create`.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What refuses: `path`, or the directory that it is, or was to be, in.
        directory: PathBuf,
        /// Whose that is.
        owner: u32,
        /// Its permissions.
        mode: u32,
        /// Who we are.
        user: u32,
    },

    /// Root's case: the user that Postgres runs as cannot enter a directory above the data.
    #[error(
        "Postgres refuses to run as root and would run as user {user}, who may not enter {}. Name a data directory that \
         user can reach, such as /var/lib/config-api, or allow it: `chmod o+x {}`",
        .directory.display(), .directory.display()
    )]
    Unreachable {
        /// The first such directory from the top.
        directory: PathBuf,
        /// The user that Postgres would run as.
        user: String,
    },

    /// Root's case: there is no user that Postgres could run as.
    #[error(
        "Postgres refuses to run as root, and there is neither a user postgres nor a user nobody to run it as. Start as \
         an ordinary user, or create one: `useradd --system postgres`"
    )]
    NoUnprivilegedUser,

    /// There is a cluster, but its password is gone.
    #[error(
        "cannot read {}, the password of the cluster beside it. Restore it from a copy; or write a new one there (mode \
         0600) and set it, as the user that owns the cluster, with `alter role config_api password '…'` in \
         `postgres --single`", .path.display()
    )]
    Password {
        /// Where it should be.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },

    /// The operating system gave no random numbers for the password or the port.
    #[error("the operating system gives no random numbers")]
    Randomness(#[source] rand::rngs::SysError),

    /// A server setting that may not be passed.
    #[error("the server setting {name} = {value} cannot be passed: {reason}. Leave it out")]
    Parameter {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
        /// Why not.
        reason: &'static str,
    },

    /// No loopback port could be had, or the one of this cluster was taken while it was down.
    #[error(
        "port {port} on 127.0.0.1 is taken by another process. Stop that one, or start this program again: it then \
         chooses another port"
    )]
    Port {
        /// The last one tried.
        port: u16,
    },

    /// A program of Postgres could not be executed.
    #[error("cannot execute {}. Check that the user Postgres runs as may execute it", .program.display())]
    Spawn {
        /// Its path.
        program: PathBuf,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },

    /// Making the cluster failed; nothing was kept of it.
    #[error("Postgres could not make its cluster ({status}): {output}. Remove the cause and start again")]
    InitDb {
        /// How `initdb` or `postgres --single` ended.
        status: ExitStatus,
        /// The last lines it wrote.
        output: String,
    },

    /// The server ended before it accepted connections.
    #[error("Postgres ended while starting ({status}): {output}. The whole log is {}", .log.display())]
    Start {
        /// How it ended.
        status: ExitStatus,
        /// The last line it wrote.
        output: String,
        /// Where the rest is.
        log: PathBuf,
    },

    /// The server ended though nobody had asked.
    #[error("Postgres ended by itself ({status}); start again, it recovers what was acknowledged. Its log is {}, and ends: {output}", .log.display())]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The last lines it wrote.
        output: String,
        /// Where the rest is.
        log: PathBuf,
    },

    /// Something took longer than it may.
    #[error("{what} took longer than {} s. Look for the reason in {}", .limit.as_secs(), .log.display())]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
        /// The server's log.
        log: PathBuf,
    },

    /// `start_again` was called on a running server.
    #[error("Postgres already runs (process {pid}). Stop it before starting it again")]
    Running {
        /// The postmaster.
        pid: u32,
    },

    /// `remove` was called on data that matters.
    #[error("{} holds durable data and is not removed by a program. Remove it by hand if you mean it", .data_dir.display())]
    NotThrowAway {
        /// The data directory, untouched.
        data_dir: PathBuf,
    },
}

impl Error {
    /// For `map_err` where a file could not be handled.
    pub(crate) fn data_dir(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| {
            let told = disk::refused(&path, source.kind()).or_else(|| not_permitted(action, &path, source.kind()));
            told.unwrap_or(Self::DataDir { action, path, source })
        }
    }
}

/// Whose the nearest thing is that we can look at, when the system refused something for want of permission.
fn not_permitted(action: &'static str, path: &Path, kind: ErrorKind) -> Option<Error> {
    if kind != ErrorKind::PermissionDenied {
        return None;
    }
    let (directory, found) = path.ancestors().find_map(|path| Some((path.to_owned(), path.metadata().ok()?)))?;
    let (owner, mode, user) = (found.uid(), found.mode() & 0o777, Uid::effective().as_raw());
    Some(Error::NotPermitted { action, path: path.to_owned(), directory, owner, mode, user })
}

fn listed_by_blank(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}
