//! The real binaries: what they write to their log, how they stop, and what they find when they start again.

use end_to_end::{Database, HeldLog, process::Process, until};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::append::group::names;

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
    second.terminate();
    let (status, log) = second.ended().await;
    assert_eq!(status.code(), Some(0), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("recovers")), "it was shut down properly: {log:#?}");
}
