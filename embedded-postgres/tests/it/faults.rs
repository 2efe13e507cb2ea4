//! Killed servers, killed parents, and what they leave behind.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use embedded_postgres::{Cluster, Options, Purpose, StopMode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{WAIT_LIMIT, is_gone, options, pid_of, place, query, state_on_disk, throw_away, until};

/// Set for the helper process: its data directory.
const HELPER_DATA_DIR: &str = "EMBEDDED_POSTGRES_TEST_DATA_DIR";

/// Set for the helper process: `durable`, or something else.
const HELPER_PURPOSE: &str = "EMBEDDED_POSTGRES_TEST_PURPOSE";

/// A process of a test, which does not outlive it even when it fails.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // It may have ended, as it should.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_killed_server_is_noticed_and_recovers_on_the_same_url() {
    let (_parent, data_dir) = place();
    let cluster = Cluster::start(Options::durable(&data_dir)).await.unwrap();
    query(&cluster, "create table kept (value text); insert into kept values ('acknowledged')");
    let (url, pid) = (cluster.url("config_api"), cluster.pid());
    kill(pid_of(&cluster), Signal::SIGKILL).unwrap();
    let status = tokio::time::timeout(WAIT_LIMIT, cluster.exited()).await.unwrap();
    assert_eq!(status.signal(), Some(9));
    assert_eq!(state_on_disk(cluster.bin_dir(), &data_dir), "in production");

    cluster.start_again().await.unwrap();
    assert_eq!(cluster.url("config_api"), url);
    assert_ne!(cluster.pid(), pid);
    assert_eq!(query(&cluster, "select value from kept"), "acknowledged");
    cluster.stop(StopMode::Fast).await.unwrap();
}

#[tokio::test]
async fn a_busy_session_of_a_killed_server_does_not_keep_it_from_starting_again() {
    let (_parent, data_dir) = place();
    let cluster = throw_away(&data_dir).await;
    // A session that computes does not notice that its postmaster is gone.
    let busy = "select count(*) from generate_series(1, 10000000000)";
    let mut session = psql(&cluster, busy);
    until("the session", || query(&cluster, ACTIVE) == "1").await;
    kill(pid_of(&cluster), Signal::SIGKILL).unwrap();
    tokio::time::timeout(WAIT_LIMIT, cluster.exited()).await.unwrap();
    cluster.start_again().await.unwrap();
    assert_eq!(query(&cluster, "select 1"), "1");
    session.0.wait().unwrap();
    cluster.remove().await.unwrap();
}

const ACTIVE: &str =
    "select count(*) from pg_stat_activity where query like '%generate_series%' and pid <> pg_backend_pid()";

#[tokio::test]
async fn a_stop_is_no_exit_but_a_crash_after_it_is() {
    let (_parent, data_dir) = place();
    let cluster = throw_away(&data_dir).await;
    let exited = cluster.exited();
    tokio::pin!(exited);
    for mode in [StopMode::Immediate, StopMode::Fast] {
        cluster.stop(mode).await.unwrap();
        tokio::select! {
            biased;
            status = &mut exited => panic!("a stop was taken for an exit: {status}"),
            () = std::future::ready(()) => {}
        }
        cluster.start_again().await.unwrap();
    }
    kill(pid_of(&cluster), Signal::SIGKILL).unwrap();
    tokio::time::timeout(WAIT_LIMIT, exited).await.unwrap();
    cluster.remove().await.unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_killed_parent_leaves_no_orphan_and_durable_data_shut_down() {
    for (purpose, state) in [(Purpose::Durable, "shut down"), (Purpose::ThrowAway, "in production")] {
        let (parent, data_dir) = place();
        let mut helper = helper(purpose, &data_dir);
        let told = parent.path().join("told");
        until("the helper's server", || told.exists()).await;
        let told = std::fs::read_to_string(told).unwrap();
        let (pid, bin_dir) = told.split_once('\n').unwrap();
        let pid = Pid::from_raw(pid.parse().unwrap());
        assert!(!is_gone(pid));
        helper.0.kill().unwrap();
        helper.0.wait().unwrap();
        until("the end of the orphan", || is_gone(pid)).await;
        assert_eq!(state_on_disk(Path::new(bin_dir), &data_dir), state, "{purpose:?}");
        let next = Cluster::start(options(purpose, &data_dir)).await.unwrap();
        next.stop(StopMode::Immediate).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "the body of the helper process that another test starts and kills"]
async fn helper_body() {
    let Some(data_dir) = std::env::var_os(HELPER_DATA_DIR).map(PathBuf::from) else { return };
    let durable = std::env::var(HELPER_PURPOSE).unwrap() == "durable";
    let purpose = if durable { Purpose::Durable } else { Purpose::ThrowAway };
    let cluster = Cluster::start(options(purpose, &data_dir)).await.unwrap();
    let parent = data_dir.parent().unwrap();
    std::fs::write(parent.join("new"), format!("{}\n{}", cluster.pid(), cluster.bin_dir().display())).unwrap();
    std::fs::rename(parent.join("new"), parent.join("told")).unwrap();
    std::future::pending::<()>().await;
}

fn helper(purpose: Purpose, data_dir: &Path) -> Guarded {
    let mut helper = Command::new(std::env::current_exe().unwrap());
    helper.args(["--exact", "faults::helper_body", "--ignored"]).stdout(Stdio::null());
    helper.env(HELPER_DATA_DIR, data_dir);
    helper.env(HELPER_PURPOSE, if purpose == Purpose::Durable { "durable" } else { "throw away" });
    Guarded(helper.spawn().unwrap())
}

#[tokio::test]
async fn an_orphaned_server_is_stopped_before_the_new_one_starts() {
    let (_parent, data_dir) = place();
    let cluster = throw_away(&data_dir).await;
    cluster.stop(StopMode::Fast).await.unwrap();
    let (program, port) = (cluster.bin_dir().join("postgres"), format!("port={}", cluster.port()));
    drop(cluster);

    let mut orphan = as_owner_of(&data_dir.join("postgres"), Command::new(program));
    orphan.arg("-D").arg(data_dir.join("postgres")).args(["-c", &port, "-c", "unix_socket_directories="]);
    let mut orphan = Guarded(orphan.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let pid_file = data_dir.join("postgres/postmaster.pid");
    until("the orphan", || std::fs::read_to_string(&pid_file).is_ok_and(|text| text.contains("ready"))).await;

    let cluster = throw_away(&data_dir).await;
    assert!(orphan.0.wait().unwrap().success(), "a fast shutdown");
    assert_eq!(query(&cluster, "select 1"), "1");
    cluster.remove().await.unwrap();
}

#[tokio::test]
async fn a_stale_pid_that_now_belongs_to_another_process_does_not_prevent_a_start() {
    let (_parent, data_dir) = place();
    let cluster = throw_away(&data_dir).await;
    kill(pid_of(&cluster), Signal::SIGKILL).unwrap();
    tokio::time::timeout(WAIT_LIMIT, cluster.exited()).await.unwrap();
    let old = cluster.pid().to_string();
    drop(cluster);

    let mut other = as_owner_of(&data_dir.join("postgres"), Command::new("sleep"));
    let mut other = Guarded(other.arg("600").current_dir("/").stdout(Stdio::null()).spawn().unwrap());
    let pid_file = data_dir.join("postgres/postmaster.pid");
    let text = std::fs::read_to_string(&pid_file).unwrap();
    std::fs::write(&pid_file, text.replacen(&old, &other.0.id().to_string(), 1)).unwrap();

    let cluster = throw_away(&data_dir).await;
    assert_eq!(query(&cluster, "select 1"), "1");
    assert!(other.0.try_wait().unwrap().is_none(), "the other process is left alone");
    cluster.remove().await.unwrap();
}

fn psql(cluster: &Cluster, statement: &str) -> Guarded {
    let mut psql = Command::new(cluster.bin_dir().join("psql"));
    psql.args(["--no-psqlrc", "--command", statement]).arg(cluster.url("config_api"));
    Guarded(psql.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

fn as_owner_of(path: &Path, mut command: Command) -> Command {
    let metadata = path.metadata().unwrap();
    command.uid(metadata.uid()).gid(metadata.gid());
    command
}
