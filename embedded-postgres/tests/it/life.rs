//! The ordinary life of a cluster: first start, stop, second start, removal.

use std::os::unix::fs::MetadataExt;

use embedded_postgres::{Cluster, Options, Purpose, StopMode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::getpgid;

use crate::{WAIT_LIMIT, is_gone, options, pid_of, place, query, query_at, state_on_disk, throw_away, until};

#[tokio::test]
async fn data_and_password_survive_a_stop_and_a_second_start() {
    let (_parent, data_dir) = place();
    let first = Cluster::start(Options::durable(&data_dir)).await.unwrap();
    query(&first, "create table kept (value text); insert into kept values ('here')");
    let password = std::fs::read_to_string(data_dir.join("password")).unwrap();
    assert!(first.url("config_api").contains(&password));
    let pid = pid_of(&first);
    first.stop(StopMode::Fast).await.unwrap();
    first.stop(StopMode::Fast).await.unwrap();
    assert!(is_gone(pid));
    assert_eq!(state_on_disk(first.bin_dir(), &data_dir), "shut down");
    drop(first);

    let second = Cluster::start(Options::durable(&data_dir)).await.unwrap();
    assert_eq!(query(&second, "select value from kept"), "here");
    assert_eq!(std::fs::read_to_string(data_dir.join("password")).unwrap(), password);
    let version = std::fs::read_to_string(data_dir.join("postgres/PG_VERSION")).unwrap();
    assert!(second.server_version().starts_with(version.trim()));
    second.stop(StopMode::Fast).await.unwrap();
}

#[tokio::test]
async fn settings_follow_the_purpose_and_the_callers_parameters_win() {
    let show = "select string_agg(setting, ' ' order by name) from pg_settings where name in
        ('fsync', 'full_page_writes', 'synchronous_commit', 'data_checksums', 'listen_addresses', 'unix_socket_directories')";
    let sorts = "select string_agg(v, '' order by v) from (values ('a'), ('B')) as t(v)";
    for (purpose, expected) in [
        (Purpose::Durable, "on on on 127.0.0.1 on ../socket"),
        (Purpose::ThrowAway, "on off off 127.0.0.1 on ../socket"),
    ] {
        let (_parent, data_dir) = place();
        let mut options = options(purpose, &data_dir);
        options.parameters.push(("work_mem".to_owned(), "5MB".to_owned()));
        let cluster = Cluster::start(options).await.unwrap();
        assert_eq!(query(&cluster, show), expected, "{purpose:?}");
        assert_eq!(query(&cluster, "show work_mem"), "5MB");
        assert_eq!(query(&cluster, "show server_encoding"), "UTF8");
        assert_eq!(query(&cluster, sorts), "Ba", "text sorts by its bytes");
        cluster.stop(StopMode::Immediate).await.unwrap();
    }
}

#[tokio::test]
async fn secrets_are_readable_by_their_owner_alone_and_the_password_is_needed() {
    let (_parent, data_dir) = place();
    let cluster = throw_away(&data_dir).await;
    for (name, mode) in
        [("password", 0o600), ("postgres.log", 0o600), ("lock", 0o600), ("postgres", 0o700), ("socket", 0o700)]
    {
        assert_eq!(data_dir.join(name).metadata().unwrap().mode() & 0o777, mode, "{name}");
    }
    let password = std::fs::read_to_string(data_dir.join("password")).unwrap();
    assert!(!format!("{cluster:?}").contains(&password));
    let wrong = cluster.url("config_api").replace(&password, "wrong");
    let refused = std::process::Command::new(cluster.bin_dir().join("psql")).arg(wrong).output().unwrap();
    assert!(!refused.status.success());
    cluster.remove().await.unwrap();
}

/// Null: through the Unix socket.
const CLIENT: &str = "select coalesce(host(inet_client_addr()), 'socket')";

#[tokio::test]
async fn who_is_on_this_machine_comes_through_the_socket_also_after_a_kill() {
    let (_parent, data_dir) = place();
    let cluster = throw_away(&data_dir).await;
    let url = cluster.local_url("config_api");
    assert_eq!(query_at(&cluster, &url, CLIENT), "socket");
    assert_eq!(query(&cluster, CLIENT), "127.0.0.1");
    kill(pid_of(&cluster), Signal::SIGKILL).unwrap();
    tokio::time::timeout(WAIT_LIMIT, cluster.exited()).await.unwrap();
    let left = || std::fs::read_dir(data_dir.join("socket")).unwrap().count();
    assert_eq!(left(), 2, "the socket and its lock file");
    cluster.start_again().await.unwrap();
    assert_eq!(cluster.local_url("config_api"), url);
    assert_eq!(query_at(&cluster, &url, CLIENT), "socket");

    let pid = pid_of(&cluster);
    kill(pid, Signal::SIGKILL).unwrap();
    tokio::time::timeout(WAIT_LIMIT, cluster.exited()).await.unwrap();
    drop(cluster);
    let next = throw_away(&data_dir).await;
    assert_eq!(left(), 2, "those of the new port, and no others");
    next.remove().await.unwrap();
}

#[tokio::test]
async fn a_path_that_no_client_can_use_as_a_socket_leaves_tcp() {
    for name in ["d".repeat(100), "a,b".to_owned()] {
        let (_parent, data_dir) = place();
        let cluster = throw_away(&data_dir.join(name)).await;
        assert_eq!(cluster.local_url("config_api"), cluster.url("config_api"));
        assert_eq!(query(&cluster, "show unix_socket_directories"), "");
        cluster.stop(StopMode::Immediate).await.unwrap();
        cluster.start_again().await.unwrap();
        assert_eq!(query(&cluster, CLIENT), "127.0.0.1");
        cluster.remove().await.unwrap();
    }
}

#[tokio::test]
async fn a_path_with_letters_that_mean_something_in_a_url_has_a_socket() {
    let (_parent, data_dir) = place();
    let cluster = throw_away(&data_dir.join("a b%ü&?+#")).await;
    assert_eq!(query_at(&cluster, &cluster.local_url("config_api"), CLIENT), "socket");
    cluster.remove().await.unwrap();
}

#[tokio::test]
async fn an_interrupted_first_start_leaves_nothing_in_the_way() {
    let (_parent, data_dir) = place();
    std::fs::create_dir(&data_dir).unwrap();
    std::fs::write(data_dir.join("lock"), "1\n").unwrap();
    std::fs::write(data_dir.join("password"), "half").unwrap();
    std::fs::create_dir_all(data_dir.join("postgres.new/base")).unwrap();
    let cluster = throw_away(&data_dir).await;
    assert_eq!(query(&cluster, "select 1"), "1");
    assert!(!data_dir.join("postgres.new").exists());
    cluster.remove().await.unwrap();
}

#[tokio::test]
async fn a_terminals_interrupt_does_not_reach_the_server() {
    let (_parent, data_dir) = place();
    let cluster = throw_away(&data_dir).await;
    let pid = pid_of(&cluster);
    assert_eq!(getpgid(Some(pid)).unwrap(), pid);
    assert_ne!(getpgid(None).unwrap(), pid);
    cluster.remove().await.unwrap();
}

#[tokio::test]
async fn removal_stops_the_server_and_leaves_no_directory() {
    let (_parent, data_dir) = place();
    let cluster = throw_away(&data_dir).await;
    let pid = pid_of(&cluster);
    cluster.remove().await.unwrap();
    assert!(is_gone(pid));
    assert!(!data_dir.exists());
}

#[test]
fn removal_works_without_a_runtime() {
    let (_parent, data_dir) = place();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cluster = runtime.block_on(throw_away(&data_dir));
    drop(runtime);
    let pid = pid_of(&cluster);
    cluster.remove_blocking().unwrap();
    assert!(is_gone(pid));
    assert!(!data_dir.exists());
}

#[tokio::test]
async fn dropping_the_handle_ends_the_server_and_frees_the_directory() {
    let (_parent, data_dir) = place();
    let cluster = throw_away(&data_dir).await;
    let pid = pid_of(&cluster);
    drop(cluster);
    until("the end of the server", || is_gone(pid)).await;
    throw_away(&data_dir).await.remove().await.unwrap();
}
