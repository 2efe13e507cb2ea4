//! What a reader finds of replicas: live, behind, and replaying; and of those who watch.

use end_to_end::{Collector, Database, Proxy, otlp::Span, process::Process, until};

use super::{trace_of, traced};

#[tokio::test]
async fn a_change_is_delivered_once_however_many_watch() {
    let (database, collector) = (Database::new().await, Collector::start().await);
    let service = traced("config-api", &database, &collector).await;
    let mut watchers = [service.client.watch("prefix=a", None).await, service.client.watch("", None).await];
    let written = service.client.put("a", "canary-2").await;
    for watcher in &mut watchers {
        watcher.expect("change").await;
    }
    let trace = trace_of(&written);
    let deliver = collector.one(&trace, "deliver config.watch").await;
    let process = collector.one(&trace, "process config.events").await;
    assert_eq!((deliver.kind, &deliver.parent), ("producer", &process.id));
    assert_eq!(deliver.attribute("config.watchers"), "2");
    assert!(process.start <= deliver.start && deliver.end <= process.end, "{process:#?} {deliver:#?}");
    let unwatched = service.client.delete("a").await;
    drop(watchers);
    assert_eq!(unwatched.status, 200);
    assert!(!collector.has_bytes(b"canary-2"));
}

#[tokio::test]
async fn a_replay_is_one_span_and_has_no_processing_of_its_events() {
    let (database, collector) = (Database::new().await, Collector::start().await);
    let command = traced("command-service", &database, &collector).await;
    let mut written = vec![];
    for n in 0..10 {
        written.push(command.client.put(&format!("n{n}"), "1").await);
    }
    let query = traced("query-service", &database, &collector).await;
    let replay = collector.find("a replay of ten", |span| span.name == "replay config.events").await;
    assert_eq!((replay.kind, replay.parent.as_str(), replay.links.len()), ("consumer", "", 0));
    assert_eq!(replay.attribute("messaging.batch.message_count"), "10");
    assert_eq!(replay.attribute("config.configurations"), "10");
    // Behind the replay each change is its own again.
    let live = command.client.put("live", "1").await;
    collector.one(&trace_of(&live), "process config.events").await;
    let processed = collector.spans().into_iter().filter(|span| span.name == "process config.events").count();
    assert_eq!(processed, 1, "{:#?}", collector.spans());
    assert!(written.iter().all(|written| trace_of(written) != replay.trace));
    assert_eq!(query.client.value_after("live", &live).await.short(), (200, "1"));
}

#[tokio::test]
async fn a_replica_that_was_cut_off_catches_up_in_one_span_that_links_to_what_it_missed() {
    let (database, collector) = (Database::new().await, Collector::start().await);
    let command = traced("command-service", &database, &collector).await;
    let proxy = Proxy::to(&database).await;
    let variables = collector.variables();
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let query = Process::start_with("query-service", &["--database-url", &proxy.database.url], &variables).await;
    query.client.until_ready().await;
    proxy.down().await;
    until("it has noticed", async || {
        (query.client.get("/v1/projection").await.json()["status"] == "disconnected").then_some(())
    })
    .await;
    let mut missed = vec![];
    for n in 0..5 {
        let written = command.client.put(&format!("n{n}"), "1").await;
        missed.push(collector.one(&trace_of(&written), "append config.events").await);
    }
    proxy.up();
    let caught_up = collector.find("it caught up", |span| span.name == "process config.events").await;
    assert_eq!((caught_up.kind, caught_up.parent.as_str()), ("consumer", ""), "{caught_up:#?}");
    assert_eq!(caught_up.links, missed.iter().map(Span::place).collect::<Vec<_>>());
    assert_eq!(caught_up.attribute("messaging.batch.message_count"), "5");
    assert!(missed.iter().all(|append| append.trace != caught_up.trace), "a trace of its own");
    let live = command.client.put("live", "1").await;
    collector.one(&trace_of(&live), "process config.events").await;
}
