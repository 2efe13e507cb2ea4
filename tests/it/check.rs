//! `./dev check`: what it tells of a running system, and that it leaves nothing behind.

use std::{path::Path, process::Stdio, time::Duration};

use end_to_end::{CommandService, Database, QueryService};
use tokio::process::Command;

/// Longest that a check may take here.
const LIMIT: Duration = Duration::from_secs(60);

/// Its exit code, and its lines.
async fn check(urls: &[&str]) -> (Option<i32>, Vec<String>) {
    let dev = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dev");
    let mut command = Command::new(dev);
    command.arg("check").args(urls).stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(LIMIT, command.output()).await.expect("it ends in time").expect("it starts");
    let output = String::from_utf8(ended.stdout).expect("it speaks UTF-8");
    (ended.status.code(), output.lines().map(str::to_owned).collect())
}

#[tokio::test]
async fn a_check_of_two_services_reads_what_it_wrote_and_deletes_it() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    // As people copy them.
    let urls = [format!("{}/", command.client.base()), format!("{}/v1", query.client.base())];
    let (code, lines) = check(&urls.each_ref().map(String::as_str)).await;
    let steps = ["ready", "ready to read", "store", "retrieve", "history", "worker stats", "clean up", "it is gone"];
    assert_eq!(lines, steps.map(|step| format!("ok      {step}")));
    assert_eq!(code, Some(0));
}

#[tokio::test]
async fn a_check_that_fails_says_where_and_deletes_what_it_stored() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let (code, lines) = check(&[command.client.base()]).await;
    assert_eq!(code, Some(1), "{lines:#?}");
    let told = "serves no reads; name the query service's URL second";
    let failed: Vec<_> = lines.iter().filter(|line| line.starts_with("failed")).collect();
    assert!(
        failed.len() == 1 && failed[0].starts_with("failed  retrieve: ") && failed[0].ends_with(told),
        "{lines:#?}"
    );
    assert_eq!(lines.last().map(String::as_str), Some("ok      clean up"));
    let deleted: i64 = sqlx::query_scalar("select count(*) from events where event_type = 'ConfigValueDeleted'")
        .fetch_one(&mut database.connect().await)
        .await
        .unwrap();
    assert_eq!(deleted, 1);

    let (code, lines) = check(&[query.client.base()]).await;
    assert_eq!(code, Some(1), "{lines:#?}");
    assert!(
        lines.iter().any(|line| line.ends_with("takes no writes; name the command service's URL first")),
        "{lines:#?}"
    );
    assert_eq!(check(&["http://127.0.0.1:1"]).await.1, ["failed  ready: no answer from http://127.0.0.1:1/v1/ready"]);
    for no_url in [&[][..], &["--foo"], &["ftp://127.0.0.1:1"], &["http://127.0.0.1:1", "127.0.0.1:1"]] {
        assert_eq!(check(no_url).await, (Some(2), vec![]), "{no_url:?}");
    }
}
