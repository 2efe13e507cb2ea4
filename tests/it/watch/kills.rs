//! Query services that are killed and stopped with watchers on them.

use std::time::{Duration, Instant};

use end_to_end::{Client, CommandService, Database, QueryService, Watcher, process::Process, until};
use futures_util::future::join_all;

/// Watchers of the process that is killed.
const WATCHERS: usize = 1_000;

async fn start(database: &Database) -> Process {
    let process = Process::start("query-service", &["--database-url", &database.url]).await;
    process.client.until_ready().await;
    process
}

/// Waits for the bookmark, which says from where it watches.
async fn watch(client: &Client, query: &str, last_id: Option<&str>) -> Watcher {
    let mut watcher = client.watch(query, last_id).await;
    assert_eq!(watcher.status, 200);
    assert_eq!(watcher.next().await.expect("a bookmark").event, "bookmark");
    watcher
}

#[tokio::test]
async fn a_thousand_watchers_of_a_killed_process_go_on_at_another_without_loss() {
    let database = Database::new().await;
    let command = CommandService::start(&database).await;
    command.client.put("before", 1).await;
    let killed = start(&database).await;
    let queries: Vec<_> = (0..WATCHERS).map(|n| format!("name=n{}&prefix=all", n % 10)).collect();
    let mut watchers = join_all(queries.iter().map(|query| watch(&killed.client, query, None))).await;
    command.client.put("all", "first").await;
    for watcher in &mut watchers {
        assert_eq!(watcher.expect("change").await.changes(), ["all@1"]);
    }
    killed.kill().await;
    for watcher in &mut watchers {
        while watcher.next().await.is_some() {}
    }
    for n in 0..10 {
        command.client.put(&format!("n{n}"), "missed").await;
    }
    let other = start(&database).await;
    let back =
        watchers.iter().zip(&queries).map(|(watcher, query)| watch(&other.client, query, watcher.last_id.as_deref()));
    let back = join_all(back).await;
    command.client.put("all", "second").await;
    for (n, mut watcher) in back.into_iter().enumerate() {
        assert_eq!(watcher.expect("change").await.changes(), [format!("n{}@1", n % 10)]);
        assert_eq!(watcher.expect("change").await.changes(), ["all@2"]);
    }
    other.kill().await;
}

#[tokio::test]
async fn at_a_stop_watchers_are_told_to_come_back_not_all_at_once() {
    let database = Database::new().await;
    let query = QueryService::start(&database).await;
    let client = query.client.clone();
    let mut watchers = join_all((0..50).map(|_| watch(&client, "", None))).await;
    let began = Instant::now();
    query.stop().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let mut retries = vec![];
    for watcher in &mut watchers {
        let reset = watcher.expect("reset").await;
        assert_eq!(reset.data["reason"], "shutdown");
        assert!(reset.data["detail"].as_str().unwrap().contains("Last-Event-ID"), "{reset:?}");
        retries.push(watcher.retry.unwrap());
        assert_eq!(watcher.next().await, None);
        assert!(watcher.last_id.is_some(), "it goes on from there");
    }
    assert!(retries.iter().all(|retry| (1_000..=10_000).contains(retry)), "{retries:?}");
    retries.sort_unstable();
    retries.dedup();
    assert!(retries.len() > 25, "{retries:?}");
}

/// What a client holds that does not read is bounded, and let go in the end.
#[tokio::test]
async fn a_watcher_that_never_reads_is_cut_and_others_do_not_notice() {
    let database = Database::new().await;
    let command = CommandService::start(&database).await;
    let mut config = super::config(&database.url);
    config.watching.ring_bytes = 1 << 20;
    let query = QueryService::start_with(config).await;
    query.until_ready().await;
    let stuck = tokio::net::TcpStream::connect(query.client.base().strip_prefix("http://").unwrap()).await.unwrap();
    let request = b"GET /v1/watch HTTP/1.1\r\nhost: x\r\n\r\n";
    stuck.writable().await.unwrap();
    assert_eq!(stuck.try_write(request).unwrap(), request.len());
    let mut other = watch(&query.client, "", None).await;
    let value = "x".repeat(512 * 1024);
    for version in 1..=40 {
        command.client.put("large", format!("{version}{value}")).await;
        assert_eq!(other.expect("change").await.changes(), [format!("large@{version}")]);
    }
    until("it is cut", async || (query.client.get("/v1/projection").await.json()["watchers"] == 1).then_some(())).await;
    command.client.put("large", "small").await;
    assert_eq!(other.expect("change").await.changes(), ["large@41"]);
    drop(stuck);
}

#[tokio::test]
async fn a_watcher_that_reads_too_slowly_is_told_and_goes_on_from_what_it_has() {
    let database = Database::new().await;
    let command = CommandService::start(&database).await;
    let mut config = super::config(&database.url);
    config.watching.ring_bytes = 1 << 20;
    let query = QueryService::start_with(config).await;
    query.until_ready().await;
    let mut slow = watch(&query.client, "", None).await;
    let value = "x".repeat(1000 * 1024);
    const VERSIONS: usize = 30;
    for version in 1..=VERSIONS {
        command.client.put("large", format!("{version}{value}")).await;
    }
    let applied = command.client.put("end", 1).await;
    query.client.value_after("end", &applied).await;
    let mut told = vec![];
    let reset = loop {
        let event = slow.next().await.expect("it is told before the end");
        match event.event.as_str() {
            "change" => told.extend(event.changes()),
            "reset" => break event,
            _ => {}
        }
    };
    assert_eq!(reset.data["reason"], "slow");
    assert_eq!(slow.next().await, None);
    assert!(!told.is_empty() && told.len() < VERSIONS, "{told:?}");
    let mut back = query.client.watch("", slow.last_id.as_deref()).await;
    while told.len() <= VERSIONS {
        told.extend(back.expect("change").await.changes());
    }
    let all = (1..=VERSIONS).map(|version| format!("large@{version}")).chain(["end@1".to_owned()]);
    assert_eq!(told, all.collect::<Vec<_>>());
}
