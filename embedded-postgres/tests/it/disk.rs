//! A disk that is full, or read-only: real ones, small, mounted where only the test's own thread sees them.
#![cfg(target_os = "linux")]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use embedded_postgres::{Cluster, Error, Options, StopMode};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::{WAIT_LIMIT, place, query};

/// The capability to mount, as a bit of `CapEff` in `/proc/self/status`.
const CAP_SYS_ADMIN: u32 = 21;

/// Runs `test` with a disk of `mib` in a mount namespace of its own.
///
/// Without the right to mount it cannot: that is said past the test harness, which would swallow it. Who has the right,
/// as CI does, cannot skip it.
fn on_a_disk_of<F: Future<Output = ()>>(mib: u32, test: impl FnOnce(PathBuf) -> F + Send + 'static) {
    if !may_mount() {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED {name}: only who may mount (root, CAP_SYS_ADMIN) can make a small disk"
        );
        return;
    }
    let (parent, _) = place();
    let disk = parent.path().to_owned();
    // A namespace belongs to a thread, and to those that it starts.
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let size = format!("size={mib}m,mode=755");
        mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(disk));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn may_mount() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() & (1 << CAP_SYS_ADMIN) != 0
}

/// Takes all the space that is left; gone when the file is removed.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    let block = vec![0; 64 * 1024];
    for block in [&block[..], &block[..4096]] {
        while file.write_all(block).is_ok() {}
    }
}

/// By a second mount over the first: that one may be busy for a moment yet, with a file that is open for writing.
fn remount_read_only(disk: &Path) {
    mount(Some(disk), disk, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(None::<&str>, disk, None::<&str>, flags, None::<&str>).unwrap();
}

async fn end_of(cluster: &Cluster) -> ExitStatus {
    tokio::time::timeout(WAIT_LIMIT, cluster.exited()).await.unwrap()
}

#[test]
fn a_disk_too_small_for_a_new_cluster_is_told_before_anything_is_made() {
    on_a_disk_of(48, async |disk| {
        let data_dir = disk.join("data");
        let refused = Cluster::start(Options::durable(&data_dir)).await.unwrap_err();
        assert!(
            matches!(&refused, Error::DiskFull { path, free, needed } if *path == data_dir && free < needed),
            "{refused}"
        );
        assert!(refused.to_string().starts_with("no space is left on the disk of "), "{refused}");
        assert!(refused.to_string().contains("47 MiB are free, 80 MiB are needed"), "{refused}");
        assert!(!data_dir.join("postgres.new").exists());
    });
}

#[test]
fn the_room_that_is_asked_for_is_enough_for_a_new_cluster() {
    on_a_disk_of(81, async |disk| {
        let cluster = Cluster::start(Options::durable(disk.join("data"))).await.unwrap();
        query(&cluster, "create table kept (value text); insert into kept values ('here')");
        cluster.stop(StopMode::Fast).await.unwrap();
    });
}

#[test]
fn a_start_on_a_full_disk_is_told_and_works_when_there_is_room_again() {
    on_a_disk_of(160, async |disk| {
        let data_dir = disk.join("data");
        let cluster = Cluster::start(Options::durable(&data_dir)).await.unwrap();
        query(&cluster, "create table kept (value text); insert into kept values ('acknowledged')");
        cluster.stop(StopMode::Fast).await.unwrap();
        drop(cluster);
        fill(&disk.join("filler"));
        let refused = Cluster::start(Options::durable(&data_dir)).await.unwrap_err();
        assert!(matches!(refused, Error::DiskFull { free: 0, .. }), "{refused}");
        std::fs::remove_file(disk.join("filler")).unwrap();
        let cluster = Cluster::start(Options::durable(&data_dir)).await.unwrap();
        assert_eq!(query(&cluster, "select value from kept"), "acknowledged");
        cluster.stop(StopMode::Fast).await.unwrap();
    });
}

#[test]
fn a_server_that_dies_of_a_full_disk_says_so_and_loses_nothing() {
    on_a_disk_of(160, async |disk| {
        let data_dir = disk.join("data");
        let cluster = Cluster::start(Options::durable(&data_dir)).await.unwrap();
        query(&cluster, "create table kept (value text); insert into kept values ('acknowledged')");
        fill(&disk.join("filler"));
        // A switch makes it take a new segment of WAL, for which there is no room.
        let psql = std::process::Command::new(cluster.bin_dir().join("psql"))
            .args([
                "--no-psqlrc",
                "--command",
                "select pg_switch_wal()",
                "--command",
                "insert into kept values ('lost')",
            ])
            .arg(cluster.url("config_api"))
            .output();
        assert!(!psql.unwrap().status.success());
        let ended = cluster.why_ended(end_of(&cluster).await);
        assert!(matches!(ended, Error::DiskFull { .. }), "{ended}");
        std::fs::remove_file(disk.join("filler")).unwrap();
        cluster.start_again().await.unwrap();
        assert_eq!(query(&cluster, "select string_agg(value, ' ') from kept"), "acknowledged");
        cluster.stop(StopMode::Fast).await.unwrap();
    });
}

#[test]
fn a_read_only_disk_is_told_for_new_and_for_existing_data() {
    on_a_disk_of(160, async |disk| {
        let data_dir = disk.join("data");
        Cluster::start(Options::durable(&data_dir)).await.unwrap().stop(StopMode::Fast).await.unwrap();
        remount_read_only(&disk);
        assert!(OpenOptions::new().append(true).open(data_dir.join("lock")).is_err(), "the test is one");
        for data_dir in [data_dir, disk.join("new")] {
            let refused = Cluster::start(Options::durable(&data_dir)).await.unwrap_err();
            assert!(matches!(&refused, Error::ReadOnly { path } if path.starts_with(&data_dir)), "{refused}");
            assert!(refused.to_string().contains("is read-only"), "{refused}");
        }
    });
}
