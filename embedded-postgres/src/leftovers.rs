//! Processes of an earlier run that still use the cluster, though we hold its lock: their parent was killed.
//!
//! Two servers on one cluster destroy it. Postgres guards against that with `postmaster.pid` and its shared memory; this
//! comes before, so that a start after a crash waits for what is left instead of failing.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use crate::directory::Directory;
use crate::{Error, log};

/// How long an orphan may take for its fast shutdown; a checkpoint is part of it.
const ORPHAN_LIMIT: Duration = Duration::from_secs(60);

/// How long its processes may take to end at once.
const IMMEDIATE_LIMIT: Duration = Duration::from_secs(10);

/// How often is looked.
const EVERY: Duration = Duration::from_millis(20);

/// What `postmaster.pid` says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PidFile {
    pub(crate) pid: Pid,
    /// Accepts connections.
    pub(crate) ready: bool,
}

impl PidFile {
    /// `None` when there is none, or it is being written.
    pub(crate) fn read(cluster: &Path) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(cluster.join("postmaster.pid")).ok()?)
    }

    /// The process is on line 1, its state on line 8, padded with blanks.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let pid = Pid::from_raw(lines.next()?.trim().parse().ok()?);
        Some(Self { pid, ready: lines.nth(6).is_some_and(|state| state.trim() == "ready") })
    }
}

/// Ends what still uses the cluster, and returns when nothing does.
///
/// # Errors
/// [`Error::Timeout`] when it cannot be ended; [`Error::DataDir`].
pub(crate) async fn stop(directory: &Directory) -> Result<(), Error> {
    let Ok(cluster) = directory.cluster().canonicalize() else { return Ok(()) };
    let mut left = processes_in(&cluster);
    let postmaster = PidFile::read(&cluster).map(|file| file.pid).filter(|pid| left.contains(pid));
    if let Some(pid) = postmaster {
        tracing::warn!(%pid, data_dir = %directory.path.display(), "stopping an orphaned Postgres: its parent was killed");
        left = end(&[pid], Signal::SIGINT, &cluster, ORPHAN_LIMIT).await;
    }
    if !left.is_empty() {
        left = end(&left, Signal::SIGQUIT, &cluster, IMMEDIATE_LIMIT).await;
    }
    if !left.is_empty() {
        let what = "stopping an orphaned Postgres";
        return Err(Error::Timeout { what, limit: IMMEDIATE_LIMIT, log: log::path(directory) });
    }
    disown_reused_pid(&cluster)
}

/// Sends `signal` and waits until no process uses the cluster; those that still do after `limit`.
async fn end(pids: &[Pid], signal: Signal, cluster: &Path, limit: Duration) -> Vec<Pid> {
    for pid in pids {
        // It may just have ended, which the loop finds out.
        let _ = kill(*pid, signal);
    }
    let deadline = Instant::now() + limit;
    loop {
        let left = processes_in(cluster);
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
        sleep(EVERY).await;
    }
}

/// A stale `postmaster.pid` is for Postgres to handle, but when its id was given to an unrelated process or thread,
/// as happens in a restarted container, Postgres takes that for a postmaster and refuses to start. Postgres is known to
/// ignore the id of its own parent, and then still checks the shared memory that the file names: so the file gets ours.
fn disown_reused_pid(cluster: &Path) -> Result<(), Error> {
    let path = cluster.join("postmaster.pid");
    let Some(PidFile { pid, .. }) = PidFile::read(cluster) else { return Ok(()) };
    if kill(pid, None).is_err() {
        return Ok(());
    }
    let failed = || Error::data_dir("read or write", &path);
    let text = std::fs::read_to_string(&path).map_err(failed())?;
    let (_, rest) = text.split_once('\n').unwrap_or_default();
    let text = format!("{}\n{rest}", std::process::id());
    // As root this writes in another user's directory: never through a link.
    let mut file =
        OpenOptions::new().write(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(&path).map_err(failed())?;
    file.write_all(text.as_bytes()).map_err(failed())?;
    file.set_len(text.len() as u64).map_err(failed())
}

/// Server processes that work in the cluster: each of them has it as its current directory.
#[cfg(target_os = "linux")]
fn processes_in(cluster: &Path) -> Vec<Pid> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let numbered =
        processes.flatten().filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())));
    let works_there = |process: &Path| {
        std::fs::read_to_string(process.join("comm")).is_ok_and(|name| name.contains("postgres"))
            && std::fs::read_link(process.join("cwd")).is_ok_and(|dir| dir == cluster)
    };
    numbered.filter(|(_, process)| works_there(process)).map(|(pid, _)| Pid::from_raw(pid)).collect()
}

/// Without `/proc` only the postmaster can be recognised, by its arguments.
#[cfg(not(target_os = "linux"))]
fn processes_in(cluster: &Path) -> Vec<Pid> {
    let Some(PidFile { pid, .. }) = PidFile::read(cluster) else { return Vec::new() };
    let listed = std::process::Command::new("ps").args(["-o", "args=", "-p", &pid.to_string()]).output();
    let is_ours = listed.is_ok_and(|output| {
        let arguments = String::from_utf8_lossy(&output.stdout).into_owned();
        arguments.contains("postgres") && arguments.contains(&*cluster.to_string_lossy())
    });
    if is_ours { vec![pid] } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pid_file_is_read_while_the_server_starts_and_when_it_is_ready() {
        let starting = "4711\n/data\n1700000000\n20000\n\n127.0.0.1\n  1 2\nstarting\n";
        assert_eq!(PidFile::parse(starting), Some(PidFile { pid: Pid::from_raw(4711), ready: false }));
        let ready = starting.replace("starting", "ready   ");
        assert_eq!(PidFile::parse(&ready), Some(PidFile { pid: Pid::from_raw(4711), ready: true }));
        assert_eq!(PidFile::parse(""), None);
        assert_eq!(PidFile::parse("4711\n"), Some(PidFile { pid: Pid::from_raw(4711), ready: false }));
    }
}
