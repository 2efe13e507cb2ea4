//! What watchers notice of a log that is away, slow, halted, or another one: never a false event.

use embedded_postgres::StopMode;
use end_to_end::{
    CommandService, Database, LogLines, Proxy, QueryService, cluster, services::Running, until, wait::PATIENCE,
};
use reqwest::Method;
use serde_json::json;

async fn start(database: &Database) -> (Running, Running) {
    let command = CommandService::start(database).await;
    let query = QueryService::start_with(super::config(&database.url)).await;
    query.until_ready().await;
    (command, query)
}

#[tokio::test]
async fn a_restart_of_postgres_is_not_noticed() {
    let cluster = cluster::own().await;
    let database = Database::in_cluster(&cluster).await;
    let (command, query) = start(&database).await;
    let mut watcher = query.client.watch("", None).await;
    command.client.put("a", 1).await;
    assert_eq!(watcher.expect("change").await.changes(), ["a@1"]);
    cluster.stop(StopMode::Immediate).await.unwrap();
    // It goes on telling how far it is.
    assert_eq!(watcher.expect("bookmark").await.position(), 1);
    cluster.start_again().await.unwrap();
    until("writes go through again", async || {
        command.client.put_with("a", r#"{"value":2}"#, &[]).await.status.is_success().then_some(())
    })
    .await;
    assert_eq!(watcher.expect("change").await.changes(), ["a@2"]);
    command.stop().await.unwrap();
    query.stop().await.unwrap();
}

/// The link is half-open: nothing says that it is dead. Without notifications, too.
#[tokio::test]
async fn a_dead_link_is_noticed_and_watchers_get_what_they_missed() {
    let database = Database::new().await;
    let proxy = Proxy::to(&database).await;
    let command = CommandService::start(&database).await;
    let config =
        query_service::Config { listening: query_service::Listening::Off, ..super::config(&proxy.database.url) };
    let query = QueryService::start_with(config).await;
    query.until_ready().await;
    let log = LogLines::collect();
    let mut watcher = query.client.watch("", None).await;
    command.client.put("a", 1).await;
    assert_eq!(watcher.expect("change").await.changes(), ["a@1"]);
    proxy.lose_answers();
    command.client.put("a", 2).await;
    until("it is noticed", async || log.has("[warning] Lost the connection to EventStore: timeout").then_some(()))
        .await;
    proxy.up();
    assert_eq!(watcher.expect("change").await.changes(), ["a@2"]);
}

/// A browser does not come back after an error: it is told in the stream.
#[tokio::test]
async fn a_watcher_whose_log_is_out_of_reach_is_told_to_come_back() {
    let database = Database::new().await;
    let proxy = Proxy::to(&database).await;
    let command = CommandService::start(&database).await;
    command.client.put("a", 1).await;
    let query = QueryService::start_with(super::config(&proxy.database.url)).await;
    query.until_ready().await;
    proxy.down().await;
    let mut watcher = query.client.watch("from=0", None).await;
    assert_eq!(watcher.status, 200);
    let reset = watcher.expect("reset").await;
    assert_eq!(reset.data["reason"], "unavailable", "{reset:?}");
    assert_eq!((watcher.next().await, watcher.last_id.as_deref()), (None, Some("0")), "it goes on where it was");
    proxy.up();
    until("it is told what it missed", async || {
        let mut watcher = query.client.watch("from=0", watcher.last_id.as_deref()).await;
        loop {
            match watcher.next().await?.event.as_str() {
                "bookmark" => {}
                event => return (event == "change").then_some(()),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_event_of_a_newer_release_halts_before_its_command_and_watchers_hear_nothing_false() {
    let database = Database::new().await;
    let (command, query) = start(&database).await;
    let mut forgetful = super::config(&database.url);
    forgetful.watching.ring_bytes = 1;
    let forgetful = QueryService::start_with(forgetful).await;
    forgetful.until_ready().await;
    let mut watcher = query.client.watch("", None).await;
    let written = command.client.put("a", 1).await;
    assert_eq!(watcher.expect("change").await.changes(), ["a@1"]);
    forgetful.client.value_after("a", &written).await;
    let log = LogLines::collect();
    // The third event of a command.
    database
        .execute(
            "insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                                 position, recorded_at, command_id, part)
             select 'ConfigValue', 'new' || part, 1, case part when 2 then 'ConfigValueRenamed' else 'ConfigValueSet' end, '1.0',
                    '{\"value\":1}', '{}', 2 + part, now(), '01890000-0000-7000-8000-000000000001', part
               from generate_series(0, 2) part;
             select pg_notify('events', '4')",
        )
        .await;
    until("it halts", async || (query.client.get("/v1/projection").await.json()["status"] == "halted").then_some(()))
        .await;
    assert!(log.has("[error] ConfigStateProjection halted: "), "{:#?}", log.lines());
    assert_eq!(query.client.value("new0").await.status, 404, "half of a command is not shown");
    assert_eq!(query.client.get("/v1/projection").await.json()["position"], 1);
    for _ in 0..3 {
        let event = watcher.next().await.unwrap();
        assert_eq!((event.event.as_str(), event.position()), ("bookmark", 1), "{event:?}");
    }
    // The other one reads it from the log, which has more than was applied.
    for query in [query, forgetful] {
        let mut late = query.client.watch("from=0", None).await;
        assert_eq!(late.expect("change").await.changes(), ["a@1"]);
        assert_eq!(late.next().await.unwrap().event, "bookmark");
    }
}

/// It cannot be folded anew: whoever waited for that would wait for long.
#[tokio::test]
async fn watchers_hear_of_a_rewritten_log_before_it_is_folded_anew() {
    let database = Database::new().await;
    let (command, query) = start(&database).await;
    let mut watcher = query.client.watch("", None).await;
    command.client.put("phantom", 1).await;
    watcher.expect("change").await;
    database
        .execute(
            "begin;
             alter table events disable trigger events_append_only;
             update events set command_id = gen_random_uuid(), event_type = 'ConfigValueRenamed';
             alter table events enable trigger events_append_only;
             commit",
        )
        .await;
    let reset = tokio::time::timeout(PATIENCE, watcher.expect("reset")).await.expect("not only bookmarks");
    assert_eq!(reset.data["reason"], "rewritten");
    assert_eq!(watcher.next().await, None);
    assert_eq!(query.client.value("phantom").await.status, 200, "the old state is served on");
}

#[tokio::test]
async fn a_rewritten_log_ends_watches_and_their_positions() {
    let database = Database::new().await;
    let (command, query) = start(&database).await;
    command.client.put("kept", 1).await;
    let mut watcher = query.client.watch("from=0", None).await;
    command.client.put("phantom", 1).await;
    while watcher.expect("change").await.changes() != ["phantom@1"] {}
    let phantom = watcher.last_id.clone().unwrap();
    database.rewrite_from(2, &[("real", "2")]).await;
    let reset = watcher.expect("reset").await;
    assert_eq!((reset.data["reason"].as_str(), reset.id.as_deref()), (Some("rewritten"), Some("")));
    assert_eq!(watcher.next().await, None);
    assert_eq!(watcher.last_id, None, "what it remembers is worth nothing");
    until("the state is folded anew", async || (query.client.value("real").await.status == 200).then_some(())).await;
    let mut stale = query.client.watch("", Some(&phantom)).await;
    assert_eq!(stale.status, 200);
    assert_eq!(stale.expect("reset").await.data["reason"], "rewritten");
    assert_eq!(stale.next().await, None);
    let mut anew = query.client.watch("initial=true", None).await;
    assert_eq!(anew.next().await.unwrap().data["name"], "kept");
    assert_eq!(anew.next().await.unwrap().data["name"], "real");
}

#[tokio::test]
async fn a_rebuild_that_was_asked_for_is_not_noticed() {
    let database = Database::new().await;
    let (command, query) = start(&database).await;
    let mut watcher = query.client.watch("", None).await;
    let writes = async {
        for n in 1..=300 {
            command.client.put("a", n).await;
        }
    };
    let rebuilds = async {
        for rebuilds in 1..=5 {
            query.client.send(Method::POST, "/v1/projection/rebuild", &[], None).await;
            until("it is rebuilt", async || {
                (query.client.get("/v1/projection").await.json()["rebuilds"] == rebuilds).then_some(())
            })
            .await;
        }
    };
    let watched = async {
        for n in 1..=300 {
            assert_eq!(watcher.expect("change").await.changes(), [format!("a@{n}")]);
        }
    };
    tokio::join!(writes, rebuilds, watched);
}

/// A page of the tail ends within it: behind an outage there is more than a page to read.
#[tokio::test]
async fn a_batch_of_128_across_the_pages_of_the_tail_is_seen_at_once() {
    let database = Database::new().await;
    let proxy = Proxy::to(&database).await;
    let command = CommandService::start(&database).await;
    let query = QueryService::start_with(super::config(&proxy.database.url)).await;
    query.until_ready().await;
    let mut watcher = query.client.watch("prefix=b", None).await;
    proxy.down().await;
    database
        .execute(
            "insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                                 position, recorded_at, command_id, part)
             select 'ConfigValue', 'a', n, 'ConfigValueSet', '1.0', '{\"value\":1}', '{}', n,
                    timestamptz '2024-01-01' + n * interval '1 ms', gen_random_uuid(), 0
               from generate_series(1, 4950) n",
        )
        .await;
    let operations: Vec<_> = (0..128).map(|n| json!({ "op": "set", "name": format!("b{n:03}"), "value": n })).collect();
    let batch = json!({ "operations": operations }).to_string();
    let batch = command.client.send(Method::POST, "/v1/batch", &[], Some(batch)).await;
    assert_eq!(batch.status, 200, "{batch:?}");
    command.client.put("a", "behind it").await;
    proxy.up();
    let mut seen = 0;
    while seen < 5_079 {
        let position = query.client.get("/v1/projection").await.json()["position"].as_u64().unwrap();
        assert!(position <= 4_950 || position >= 5_078, "at {position} the batch is seen in part");
        seen = position;
    }
    let change = watcher.expect("change").await;
    assert_eq!((change.position(), change.changes().len()), (5_078, 128));
    assert_eq!(query.client.get("/v1/config?prefix=b").await.json().as_array().unwrap().len(), 128);
}

/// The end of the log, at which the tail looks, is as it was; memory knows the old event still.
#[tokio::test]
async fn a_watch_that_reads_on_from_an_event_which_was_exchanged_is_told_so() {
    let database = Database::new().await;
    let command = CommandService::start(&database).await;
    let mut tokens = vec![];
    for n in 0..5 {
        tokens.push(command.client.put("a", n).await.header("config-position").to_owned());
    }
    // From the log: this process was started later.
    let query = QueryService::start_with(super::config(&database.url)).await;
    query.until_ready().await;
    database
        .execute(
            "begin;
             alter table events disable trigger events_append_only;
             update events set command_id = gen_random_uuid() where position = 2;
             alter table events enable trigger events_append_only;
             commit",
        )
        .await;
    for (position, token) in (1..).zip(&tokens) {
        let mut watcher = query.client.watch("", Some(token)).await;
        let first = watcher.next().await.expect("it is told where it begins");
        assert_eq!((watcher.status.as_u16(), first.event.as_str()), (200, "bookmark"), "behind {token}");
        if position == 2 {
            let second = watcher.next().await.expect("it is told why it ends");
            assert_eq!((second.event.as_str(), &second.data["reason"]), ("reset", &"rewritten".into()));
            assert_eq!(watcher.next().await, None);
        }
    }
}
