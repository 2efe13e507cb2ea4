//! Against a real Postgres: each test has a data directory of its own, so they run side by side.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test, as tests do")]

mod disk;
mod faults;
mod life;
mod refusals;
mod terminal;
mod upgrade;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use embedded_postgres::{Cluster, DATABASE, Options, Purpose};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long a condition may take to come true on a busy machine.
const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// A directory that an unprivileged user can pass through, and the data directory to be made in it.
fn place() -> (TempDir, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let open = std::fs::Permissions::from_mode(0o755);
    let parent = tempfile::Builder::new().prefix("embedded-postgres-").permissions(open).tempdir().unwrap();
    let data_dir = parent.path().join("data");
    (parent, data_dir)
}

async fn throw_away(data_dir: &Path) -> Cluster {
    Cluster::start(Options::throw_away(data_dir)).await.unwrap()
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let mut look = tokio::time::interval(Duration::from_millis(10));
    let came_true = async {
        while !condition() {
            look.tick().await;
        }
    };
    tokio::time::timeout(WAIT_LIMIT, came_true).await.unwrap_or_else(|_| panic!("{what} did not come true"));
}

/// What `statement` gives in the cluster's own database, through a real client.
fn query(cluster: &Cluster, statement: &str) -> String {
    query_at(cluster, &cluster.url(DATABASE), statement)
}

/// The same by a URL of the cluster's.
fn query_at(cluster: &Cluster, url: &str, statement: &str) -> String {
    let mut psql = Command::new(cluster.bin_dir().join("psql"));
    psql.args([
        "--no-psqlrc",
        "--tuples-only",
        "--no-align",
        "--quiet",
        "--set=ON_ERROR_STOP=1",
        "--command",
        statement,
    ]);
    let output = psql.arg(url).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// `in production`, `shut down`, … as the cluster's files say.
fn state_on_disk(bin_dir: &Path, data_dir: &Path) -> String {
    let output = Command::new(bin_dir.join("pg_controldata")).arg(data_dir.join("postgres")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let state = text.lines().find_map(|line| line.strip_prefix("Database cluster state:")).unwrap();
    state.trim().to_owned()
}

fn pid_of(cluster: &Cluster) -> Pid {
    Pid::from_raw(i32::try_from(cluster.pid()).unwrap())
}

fn is_gone(pid: Pid) -> bool {
    kill(pid, None).is_err()
}

fn options(purpose: Purpose, data_dir: &Path) -> Options {
    match purpose {
        Purpose::Durable => Options::durable(data_dir),
        Purpose::ThrowAway => Options::throw_away(data_dir),
    }
}
