//! The real binaries: what they write to their log, how they stop, and what they find when they start again.

use std::{path::Path, time::Duration};

use end_to_end::{Database, HeldLog, process::Process, until};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::{net::TcpStream, process::Command, task::JoinSet, time::timeout};

use crate::append::group::{insert_stock, names};

#[tokio::test]
async fn each_line_of_a_json_log_is_an_object_and_a_failures_has_its_causes() {
    let database = Database::new().await;
    database.execute("alter table events add constraint poison check (aggregate_id <> 'poison')").await;
    let service =
        Process::start_with("command-service", &["--database-url", &database.url], &[("LOG_FORMAT", "json")]).await;
    service.client.put("a", "a value\nof two lines").await;
    let failed = service.client.put_with("poison", r#"{"value":1}"#, &[]).await;
    assert_eq!(failed.status, 500);
    assert!(!failed.body.contains("constraint"), "{failed:?}");
    service.terminate();
    let (_, log) = service.ended().await;

    let lines: Vec<Value> = log.iter().map(|line| serde_json::from_str(line).expect(line)).collect();
    for line in &lines {
        assert!(["timestamp", "level", "message"].iter().all(|field| line[*field].is_string()), "{line}");
    }
    let with_causes: Vec<_> = lines.iter().filter(|line| line["error"].is_string()).collect();
    let [failure] = with_causes[..] else { panic!("told once: {with_causes:#?}") };
    assert_eq!(failure["level"], "ERROR");
    assert_eq!(failure["message"], "PUT /config/poison - Failed to store value: internal_error");
    let request_id = failure["request_id"].as_str().unwrap();
    assert!(failed.body.contains(request_id), "it is found by what the client was told: {failed:?}");
    let chain = failure["error"].as_str().unwrap();
    let causes = ["the events could not be appended", ": the event store refused the events", "constraint \"poison\""];
    let found: Vec<_> = causes.iter().map(|cause| chain.find(cause)).collect();
    assert!(found.iter().all(Option::is_some) && found.is_sorted(), "{chain}");
}

#[tokio::test]
async fn a_write_under_way_is_finished_and_answered_before_the_process_ends() {
    let database = Database::new().await;
    let service = Process::start("command-service", &["--database-url", &database.url]).await;
    let mut log = HeldLog::take(&database).await;
    let mut writing = JoinSet::new();
    let client = service.client.clone();
    writing.spawn(async move { client.put("a", "1").await });
    log.until_waiting(1).await;
    service.terminate();
    until("it heard", async || service.log().iter().any(|line| line.contains("Stopping on SIGTERM")).then_some(()))
        .await;
    log.release().await;

    assert_eq!(writing.join_next().await.unwrap().unwrap().short(), (200, "OK"));
    let (status, log) = service.ended().await;
    assert_eq!(status.code(), Some(0), "{log:#?}");
    assert_eq!(names(&mut database.connect().await).await, ["a"]);
}

/// Whoever tells a line waits then: in the end that is every thread of the runtime.
#[tokio::test]
async fn a_process_whose_log_nobody_reads_ends_all_the_same() {
    let database = Database::new().await;
    let mut service = Process::start("command-service", &["--database-url", &database.url]).await;
    let client = service.client.clone();
    let (unread, _) = tokio::join!(service.unread(), client.put("a", "a line"));
    let mut writing = JoinSet::new();
    // Each tells its value three times, cut at 1 KiB: more than the pipe and what is gathered hold.
    for number in 0..32 {
        let client = client.clone();
        writing.spawn(async move {
            for version in 0..32 {
                let body = json!({"value": format!("{version}{}", "x".repeat(1_024))}).to_string();
                client.try_send(Method::PUT, &format!("/v1/config/n{number}"), &[], Some(body)).await;
            }
        });
    }
    until("nobody is answered", async || {
        timeout(Duration::from_secs(2), client.get("/v1/live")).await.is_err().then_some(())
    })
    .await;
    service.terminate();
    assert_eq!(service.exit().await.code(), Some(1));
    drop(unread);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn connections_that_cannot_be_accepted_are_told_once_and_accepted_when_there_is_room() {
    let database = Database::new().await;
    let service = Process::start("command-service", &["--database-url", &database.url]).await;
    let open = std::fs::read_dir(format!("/proc/{}/fd", service.pid())).unwrap().count();
    let limit = format!("--nofile={}:{}", open + 2, open + 2);
    let limited = Command::new("prlimit").args(["--pid", &service.pid().to_string(), &limit]).status().await;
    assert!(limited.expect("util-linux is there").success());
    let address = service.client.base().trim_start_matches("http://").to_owned();
    let mut clients = vec![];
    for _ in 0..8 {
        clients.push(TcpStream::connect(&address).await.unwrap());
    }
    let told = || service.log().iter().filter(|line| line.contains("Connections cannot be accepted")).count();
    until("it is told", async || (told() > 0).then_some(())).await;
    clients.clear();
    assert_eq!(service.client.get("/v1/live").await.status, 200);
    assert_eq!(told(), 1, "{:#?}", service.log());
}

/// A connection to the Postgres of a data directory, through TCP.
#[expect(clippy::unwrap_used, reason = "fails its test")]
async fn postgres_of(data_dir: &Path) -> PgConnection {
    let password = std::fs::read_to_string(data_dir.join("password")).unwrap();
    let postmaster = std::fs::read_to_string(data_dir.join("postgres/postmaster.pid")).unwrap();
    let port = postmaster.lines().nth(3).unwrap();
    let url = format!("postgres://config_api:{password}@127.0.0.1:{port}/config_api");
    PgConnection::connect(&url).await.unwrap()
}

/// Who has come to the Postgres of a data directory through TCP, beside who asks. There is somebody else.
#[expect(clippy::unwrap_used, reason = "fails its test")]
async fn clients_by_tcp(data_dir: &Path) -> i64 {
    let mut connection = postgres_of(data_dir).await;
    let others = "select count(*), count(client_addr) from pg_stat_activity
                   where backend_type = 'client backend' and pid <> pg_backend_pid()";
    let (all, by_tcp): (i64, i64) = sqlx::query_as(others).fetch_one(&mut connection).await.unwrap();
    assert!(all > 0, "the service has connections");
    by_tcp
}

#[tokio::test]
async fn a_standalone_with_a_postgres_of_its_own_has_everything_after_a_restart() {
    // Removed at the end; as root, Postgres's own user may pass through it.
    let data = tempfile::Builder::new().prefix("config-api-tests-").tempdir().unwrap();
    let arguments = ["--data-dir", data.path().to_str().unwrap()];
    let first = Process::start("config-api", &arguments).await;
    first.client.put("a", json!({"k": [1, null]})).await;
    first.client.put("b", "1").await;
    first.client.put("b", "2").await;
    first.client.delete("a").await;
    let everything = async |service: &Process| {
        let paths = ["/v1/config", "/v1/config/a/history", "/v1/config/b/history"];
        futures_util::future::join_all(paths.map(async |path| service.client.get(path).await.body)).await
    };
    first.client.until_ready().await;
    let before = everything(&first).await;
    assert_eq!(before[0], r#"[{"name":"b","value":"2"}]"#);
    first.terminate();
    let (status, log) = first.ended().await;
    assert_eq!(status.code(), Some(0), "{log:#?}");

    let second = Process::start("config-api", &arguments).await;
    second.client.until_ready().await;
    assert_eq!(everything(&second).await, before);
    second.client.put("b", "3").await;
    assert_eq!(clients_by_tcp(data.path()).await, 0, "it reaches its Postgres through the Unix socket");
    second.terminate();
    let (status, log) = second.ended().await;
    assert_eq!(status.code(), Some(0), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("recovers")), "it was shut down properly: {log:#?}");
}

/// It is not told of what others append there, for nobody is expected to; what is appended all the same is read.
#[tokio::test]
async fn a_standalone_follows_its_own_postgres_by_what_it_appends_and_by_its_poll() {
    let data = tempfile::Builder::new().prefix("config-api-tests-").tempdir().unwrap();
    let service = Process::start("config-api", &["--data-dir", data.path().to_str().unwrap()]).await;
    service.client.until_ready().await;
    service.client.put("a", "1").await;
    insert_stock(&mut postgres_of(data.path()).await, "b", 1).await.unwrap();
    until("the poll has read it", async || (service.client.value("b").await.status == 200).then_some(())).await;

    service.terminate();
    let (_, log) = service.ended().await;
    let told = log.iter().find(|line| line.contains("subscribed to EventStore events"));
    assert!(told.is_some_and(|line| line.contains("what this process appends, and polling")), "{log:#?}");
}
