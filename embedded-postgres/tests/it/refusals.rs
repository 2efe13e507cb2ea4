//! What a start refuses, and that the message says what to do.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use embedded_postgres::{Cluster, Error, Options, StopMode};
use nix::unistd::Uid;

use crate::{place, query, throw_away};

#[tokio::test]
async fn missing_binaries_name_the_command_that_installs_them_and_make_nothing() {
    let (parent, data_dir) = place();
    let options = Options { bin_dir: Some(parent.path().to_owned()), ..Options::durable(&data_dir) };
    let refused = Cluster::start(options).await.unwrap_err();
    assert!(matches!(&refused, Error::BinariesNotFound { searched } if searched == &[parent.path()]), "{refused}");
    let text = refused.to_string();
    for command in [
        "apt-get install postgresql",
        "dnf install",
        "pacman -S",
        "apk add",
        "brew install",
        parent.path().to_str().unwrap(),
    ] {
        assert!(text.contains(command), "{text}");
    }
    assert!(!text.contains('\n'));
    assert!(!data_dir.exists());
}

#[tokio::test]
async fn a_second_instance_on_the_same_data_is_refused_with_the_firsts_pid() {
    let (_parent, data_dir) = place();
    let cluster = throw_away(&data_dir).await;
    let refused = Cluster::start(Options::throw_away(&data_dir)).await.unwrap_err();
    assert!(matches!(refused, Error::InUse { pid, .. } if pid == Some(std::process::id())), "{refused}");
    assert_eq!(query(&cluster, "select 1"), "1", "the first is left alone");

    cluster.stop(StopMode::Fast).await.unwrap();
    let refused = Cluster::start(Options::throw_away(&data_dir)).await.unwrap_err();
    assert!(matches!(refused, Error::InUse { .. }), "reserved for starting again: {refused}");
    cluster.remove().await.unwrap();
}

#[tokio::test]
async fn data_of_another_major_version_is_refused_and_left_alone() {
    let (_parent, data_dir) = place();
    let cluster = throw_away(&data_dir).await;
    cluster.stop(StopMode::Fast).await.unwrap();
    drop(cluster);
    std::fs::write(data_dir.join("postgres/PG_VERSION"), "11\n").unwrap();
    let refused = Cluster::start(Options::throw_away(&data_dir)).await.unwrap_err();
    assert!(matches!(refused, Error::OtherMajorVersion { data: 11, .. }), "{refused}");
    assert!(refused.to_string().contains("pg_upgrade"), "{refused}");
    assert_eq!(std::fs::read_to_string(data_dir.join("postgres/PG_VERSION")).unwrap(), "11\n");
}

#[tokio::test]
async fn a_directory_that_postgres_cannot_use_is_named() {
    let (parent, data_dir) = place();
    // Root may write anywhere, but the user that Postgres runs as may not enter; anybody else may not write.
    let root = Uid::effective().is_root();
    let mode = if root { 0o700 } else { 0o500 };
    std::fs::set_permissions(parent.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    let refused = Cluster::start(Options::durable(&data_dir)).await.unwrap_err();
    if root {
        assert!(matches!(&refused, Error::Unreachable { directory, .. } if directory == parent.path()), "{refused}");
        assert!(refused.to_string().contains("/var/lib/config-api"), "{refused}");
    } else {
        assert!(
            matches!(&refused, Error::NotPermitted { directory, mode: 0o500, .. } if directory == parent.path()),
            "{refused}"
        );
    }
    assert!(refused.to_string().contains(parent.path().to_str().unwrap()), "{refused}");
    assert!(!data_dir.exists(), "nothing is left behind");
}

#[tokio::test]
async fn a_cluster_of_another_user_is_refused() {
    if !Uid::effective().is_root() {
        return; // Nobody else can give a directory away.
    }
    let (_parent, data_dir) = place();
    std::fs::create_dir_all(data_dir.join("postgres")).unwrap();
    std::fs::write(data_dir.join("lock"), "").unwrap();
    std::os::unix::fs::chown(data_dir.join("postgres"), Some(4711), Some(4711)).unwrap();
    let refused = Cluster::start(Options::durable(&data_dir)).await.unwrap_err();
    assert!(matches!(refused, Error::WrongOwner { owner: 4711, starter: 0, .. }), "{refused}");
    let text = refused.to_string();
    assert!(text.contains("belongs to user id 4711") && text.contains("Start as user root"), "{text}");
    // What it says is enough.
    let command = text.split('`').nth(1).unwrap();
    std::fs::remove_dir_all(&data_dir).unwrap();
    throw_away(&data_dir).await.stop(StopMode::Fast).await.unwrap();
    for given in ["postgres", "password"] {
        assert!(Command::new("chown").args(["-R", "4711"]).arg(data_dir.join(given)).status().unwrap().success());
    }
    Cluster::start(Options::durable(&data_dir)).await.unwrap_err();
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success());
    throw_away(&data_dir).await.remove().await.unwrap();
}

#[tokio::test]
async fn a_server_that_cannot_start_is_quoted_and_leaves_the_directory_free() {
    let (_parent, data_dir) = place();
    let mut options = Options::throw_away(&data_dir);
    options.parameters.push(("work_mem".to_owned(), "plenty".to_owned()));
    let refused = Cluster::start(options).await.unwrap_err();
    assert!(matches!(&refused, Error::Start { output, .. } if output.contains("work_mem")), "{refused}");
    throw_away(&data_dir).await.remove().await.unwrap();
}

#[tokio::test]
async fn a_lost_password_is_told_with_the_way_to_set_a_new_one() {
    let (_parent, data_dir) = place();
    let cluster = throw_away(&data_dir).await;
    cluster.stop(StopMode::Fast).await.unwrap();
    drop(cluster);
    std::fs::remove_file(data_dir.join("password")).unwrap();
    let refused = Cluster::start(Options::throw_away(&data_dir)).await.unwrap_err();
    assert!(matches!(refused, Error::Password { .. }), "{refused}");
    assert!(refused.to_string().contains("alter role config_api"), "{refused}");
}

#[tokio::test]
async fn durable_data_is_never_removed() {
    let (_parent, data_dir) = place();
    let cluster = Cluster::start(Options::durable(&data_dir)).await.unwrap();
    assert!(matches!(cluster.remove().await, Err(Error::NotThrowAway { .. })));
    assert!(matches!(cluster.remove_blocking(), Err(Error::NotThrowAway { .. })));
    assert!(matches!(cluster.start_again().await, Err(Error::Running { pid }) if pid == cluster.pid()));
    assert_eq!(query(&cluster, "select 1"), "1", "it still runs");
    cluster.stop(StopMode::Immediate).await.unwrap();
}
