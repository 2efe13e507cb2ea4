//! The commands that a refusal names, run as they stand.

use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use embedded_postgres::{Cluster, Error, Options, StopMode};
use nix::unistd::{Uid, User};

use crate::{place, query};

/// From the installed version to itself, which `pg_upgrade` does like any other: a machine seldom has two.
#[tokio::test]
async fn the_commands_of_a_refused_major_version_upgrade_the_data() {
    let (parent, data_dir) = place();
    let cluster = Cluster::start(Options::durable(&data_dir)).await.unwrap();
    query(&cluster, "create table kept (value text); insert into kept values ('here')");
    let bin_dir = cluster.bin_dir().to_owned();
    assert!(bin_dir.join("pg_upgrade").exists(), "{} has no pg_upgrade, which this needs", bin_dir.display());
    let data: u32 = cluster.server_version().split('.').next().unwrap().parse().unwrap();
    cluster.stop(StopMode::Fast).await.unwrap();
    drop(cluster);

    let owner = User::from_uid(Uid::from_raw(data_dir.join("postgres").metadata().unwrap().uid())).unwrap().unwrap();
    let owner = Uid::effective().is_root().then_some(owner.name);
    let (old_bin_dir, data_dir) = (bin_dir.clone(), data_dir.canonicalize().unwrap());
    let told =
        Error::OtherMajorVersion { data_dir: data_dir.clone(), data, old_bin_dir, binaries: data, bin_dir, owner }
            .to_string();
    let commands: Vec<_> = told.lines().skip(1).map(|line| line.strip_prefix("    ").unwrap()).collect();
    let mut upgrade = Command::new("sh");
    upgrade.args(["-exc", &commands.join("\n")]).env("TMPDIR", parent.path()).stdin(Stdio::null());
    let upgrade = upgrade.output().unwrap();
    let said = [upgrade.stdout, upgrade.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(upgrade.status.success(), "{said}");

    assert!(data_dir.join(format!("postgres.old-{data}/PG_VERSION")).exists());
    assert!(!data_dir.join(format!("postgres.new-{data}")).exists());
    let cluster = Cluster::start(Options::durable(&data_dir)).await.unwrap();
    assert_eq!(query(&cluster, "select value from kept"), "here");
    assert_eq!(query(&cluster, "show data_checksums"), "on");
    cluster.stop(StopMode::Fast).await.unwrap();
}
