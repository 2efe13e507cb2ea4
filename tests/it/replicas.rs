//! Several services on one database, and what the query service does when its log is slow, away or another.

use std::collections::HashSet;

use embedded_postgres::StopMode;
use end_to_end::{CommandService, Database, LogLines, Proxy, QueryService, cluster, until};
use serde_json::json;
use sqlx::Executor;

#[tokio::test]
async fn two_command_and_two_query_services_agree() {
    let database = Database::new().await;
    let commands = [CommandService::start(&database).await, CommandService::start(&database).await];
    let queries = [QueryService::start(&database).await, QueryService::start(&database).await];
    let writes = (0..100).map(async |n| commands[n % 2].client.put(&format!("name-{}", n % 10), n).await);
    futures_util::future::join_all(writes).await;
    let lists = until("both have applied all", async || {
        let (a, b) = (queries[0].client.get("/v1/config").await, queries[1].client.get("/v1/config").await);
        let all = |answer: &end_to_end::Answer| answer.header("config-position").starts_with("100.");
        (all(&a) && all(&b)).then_some((a, b))
    })
    .await;
    assert_eq!(lists.0.body, lists.1.body);
    assert_eq!(lists.0.json().as_array().unwrap().len(), 10);
    assert_eq!(lists.0.header("config-position"), lists.1.header("config-position"));
}

#[tokio::test]
async fn a_restarted_query_service_has_everything_and_says_so_as_the_runbook_does() {
    let database = Database::new().await;
    let command = CommandService::start(&database).await;
    for (name, value) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
        command.client.put(name, value).await;
    }
    command.client.delete("b").await;
    let first = QueryService::start(&database).await;
    let before = first.client.get("/v1/config").await;
    first.stop().await.unwrap();

    let log = LogLines::collect();
    let second = QueryService::start(&database).await;
    let after = second.client.get("/v1/config").await;
    assert_eq!(after.body, r#"[{"name":"a","value":3},{"name":"c","value":4}]"#);
    assert_eq!((&after.body, after.header("config-position")), (&before.body, before.header("config-position")));
    for line in [
        "[info] Rebuilding ConfigStateProjection state from existing events...",
        "[info] Found 5 events to replay",
        "[info] State rebuild complete: 2 configurations restored",
        "[info] ConfigStateProjection subscribed to EventStore events",
    ] {
        assert!(log.has(line), "{line:?} is not in {:#?}", log.lines());
    }
}

#[tokio::test]
async fn until_its_first_replay_is_complete_it_is_not_ready() {
    let database = Database::new().await;
    let command = CommandService::start(&database).await;
    command.client.put("a", "1").await;
    let (mut holder, mut watcher) = (database.connect().await, database.connect().await);
    holder.execute("begin; lock table events in access exclusive mode").await.unwrap();
    let query = QueryService::start_with(QueryService::config(&database.url)).await;
    let waits = "select exists (select from pg_stat_activity where datname = current_database()
                                   and application_name = 'tests query' and wait_event_type = 'Lock')";
    until("it waits for the log", async || {
        sqlx::query_scalar::<_, bool>(waits).fetch_one(&mut watcher).await.unwrap().then_some(())
    })
    .await;
    for path in ["/v1/ready", "/v1/config/a", "/v1/config"] {
        assert_eq!(query.client.get(path).await.status, 503, "{path}");
    }
    assert_eq!(query.client.get("/v1/live").await.status, 200, "nobody is to restart it");
    holder.execute("rollback").await.unwrap();
    query.until_ready().await;
    assert_eq!(query.client.value("a").await.short(), (200, "1"));
}

/// What is applied before readers see it is limited in events, and in bytes.
#[tokio::test]
async fn of_a_log_that_comes_slowly_readers_see_the_first_while_the_rest_is_on_its_way() {
    for (events, value_bytes, bytes_that_come, seen) in [(20, 1 << 20, 12 << 20, 8), (20_000, 0, 1 << 20, 4_999)] {
        let database = Database::new().await;
        let network = Proxy::to(&database).await;
        let query = QueryService::start(&network.database).await;
        network.stall_after(bytes_that_come);
        let fill = format!(
            "insert into events
             select 'ConfigValue', 'a', i, 'ConfigValueSet', '1.0',
                    ('{{\"value\":\"' || repeat('x', {value_bytes}) || '\"}}')::json, '{{}}', i,
                    '2024-01-15T10:30:00Z'::timestamptz + i * interval '1 s', gen_random_uuid(), 0
               from generate_series(1, {events}) i"
        );
        database.execute(&fill).await;
        let first = until("some of it is seen", async || {
            let told = query.client.get("/v1/projection").await.json();
            (told["position"] != 0).then_some(told)
        })
        .await;
        assert_eq!((&first["position"], &first["status"]), (&json!(seen), &json!("live")), "{events} events: {first}");
        assert_eq!(query.client.get_json("/v1/config/a").await.json()["version"], seen);
    }
}

#[tokio::test]
async fn without_notifications_it_still_converges() {
    let database = Database::new().await;
    let command = CommandService::start(&database).await;
    let config =
        query_service::Config { listening: query_service::Listening::Off, ..QueryService::config(&database.url) };
    let query = QueryService::start_with(config).await;
    query.until_ready().await;
    for n in 0..5 {
        let written = command.client.put("a", n.to_string()).await;
        assert_eq!(query.client.value_after("a", &written).await.short(), (200, n.to_string().as_str()));
    }
}

/// It tells how far the log is; here it lies, until the log is read.
#[tokio::test]
async fn a_notification_is_heard() {
    let database = Database::new().await;
    let query = QueryService::start(&database).await;
    let mut notifier = database.connect().await;
    until("its hint is known", async || {
        notifier.execute("select pg_notify('events', '999')").await.expect("it notifies");
        (query.client.get("/v1/projection").await.json()["head"] == 999).then_some(())
    })
    .await;
}

#[tokio::test]
async fn while_postgres_is_away_reads_go_on_and_then_it_catches_up() {
    let cluster = cluster::own().await;
    let database = Database::in_cluster(&cluster).await;
    let log = LogLines::collect();
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let written = command.client.put("a", "before").await;
    query.client.value_after("a", &written).await;

    cluster.stop(StopMode::Immediate).await.unwrap();
    until("health fails", async || (query.client.get("/v1/health").await.status == 503).then_some(())).await;
    let away = query.client.get("/v1/health").await.json();
    assert_ne!(away["checks"]["database"], "ok", "{away}");
    assert_eq!(query.client.value("a").await.short(), (200, "before"));
    until("an answer says how old it may be", async || {
        let silence_ms: u64 = query.client.value("a").await.header("config-last-contact").parse().unwrap();
        (silence_ms > 1_500).then_some(())
    })
    .await;
    assert_eq!(query.client.get("/v1/ready").await.status, 200, "it can still serve what it has");
    const FAILED: &str = "[error] Failed to subscribe to EventStore: ";
    until("it failed to come back", async || log.has(FAILED).then_some(())).await;

    cluster.start_again().await.unwrap();
    let written = until("writes go through again", async || {
        let answer = command.client.put_with("a", r#"{"value":"after"}"#, &[]).await;
        answer.status.is_success().then_some(answer)
    })
    .await;
    until("the replica has it", async || {
        (query.client.value_after("a", &written).await.short() == (200, "after")).then_some(())
    })
    .await;
    until("health is back", async || query.client.get("/v1/health").await.status.is_success().then_some(())).await;
    let lost = "[warning] Lost the connection to EventStore: ";
    for line in [lost, FAILED, "[info] Reconnected to EventStore after "] {
        assert_eq!(log.count(line), 1, "{line:?} in {:#?}", log.lines());
    }
    command.stop().await.unwrap();
    query.stop().await.unwrap();
}

#[tokio::test]
async fn a_listener_that_is_killed_comes_back_without_a_gap() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let mut admin = database.connect().await;
    for n in 0..10 {
        let killed = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                       where datname = current_database() and pid <> pg_backend_pid() and application_name = 'tests query'";
        let _count: i64 = sqlx::query_scalar(killed).fetch_one(&mut admin).await.unwrap();
        let written = command.client.put("a", n.to_string()).await;
        until("the replica has it", async || {
            (query.client.value_after("a", &written).await.short() == (200, n.to_string().as_str())).then_some(())
        })
        .await;
    }
    assert_eq!(query.client.get("/v1/projection").await.json()["divergences"], 0);
}

/// What a failover to an asynchronous standby does: the last events are gone, and others take their positions.
#[tokio::test]
async fn a_rewritten_tail_is_detected_and_the_state_rebuilt() {
    let database = Database::new().await;
    let log = LogLines::collect();
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    command.client.put("kept", "1").await;
    let phantom = command.client.put("phantom", "1").await;
    query.client.value_after("phantom", &phantom).await;
    database.rewrite_from(2, &[("real", r#""2""#)]).await;
    until("the phantom is gone", async || (query.client.value("phantom").await.status == 404).then_some(())).await;
    assert_eq!(query.client.value("real").await.short(), (200, "2"));
    assert_eq!(query.client.value("kept").await.short(), (200, "1"));
    assert_eq!(query.client.get("/v1/projection").await.json()["divergences"], 1);
    let stale = phantom.header("config-position");
    let refused = query.client.get(&format!("/v1/config/kept?min_position={stale}")).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    let alarm = "[error] The event log was rewritten: the event at position 2 is no longer the one that was applied; \
                 rebuilding from zero, serving the old state meanwhile";
    assert_eq!((log.count(alarm), log.count("[error]")), (1, 1), "{:#?}", log.lines());
}

#[tokio::test]
async fn a_hole_in_the_log_is_an_alarm_and_never_skipped() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let written = command.client.put("a", "1").await;
    query.client.value_after("a", &written).await;
    let log = LogLines::collect();
    database
        .execute(
            "insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                                 position, recorded_at, command_id, part)
             values ('ConfigValue', 'behind', 1, 'ConfigValueSet', '1.0', '{\"value\":1}', '{}', 3, now(), gen_random_uuid(), 0);
             select pg_notify('events', '3')",
        )
        .await;
    until("health names the projection", async || {
        let health = query.client.get("/v1/health").await.json();
        (health["checks"]["projection"] != "ok").then_some(())
    })
    .await;
    assert_eq!(query.client.value("behind").await.status, 404);
    assert_eq!(query.client.value("a").await.short(), (200, "1"));
    // Said once, not for each attempt.
    let mut watcher = database.connect().await;
    let newest = "select max(query_start)::text from pg_stat_activity where datname = current_database()
                     and application_name = 'tests query' and query like '%where position >= %'";
    let mut attempts = HashSet::new();
    until("it was tried again", async || {
        attempts.insert(sqlx::query_scalar::<_, String>(newest).fetch_one(&mut watcher).await.unwrap());
        (attempts.len() > 2).then_some(())
    })
    .await;
    // Filled, it goes on by itself.
    database
        .execute(
            "insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                                 position, recorded_at, command_id, part)
             values ('ConfigValue', 'filled', 1, 'ConfigValueSet', '1.0', '{\"value\":1}', '{}', 2, now(), gen_random_uuid(), 0)",
        )
        .await;
    until("it goes on", async || (query.client.value("behind").await.status == 200).then_some(())).await;
    let alarm = "[error] ConfigStateProjection halted: the event log has a hole: position 2 is missing, 3 is there; \
                 nothing behind it is applied";
    assert_eq!((log.count(alarm), log.count("[error]")), (1, 1), "{:#?}", log.lines());
    let over = "[info] The event log can be applied again, after: the event log has a hole: position 2 is missing";
    until("it says so", async || log.has(over).then_some(())).await;
}

#[tokio::test]
async fn an_event_of_a_newer_release_halts_the_projection_and_keeps_its_state() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let written = command.client.put("a", "1").await;
    query.client.value_after("a", &written).await;
    database
        .execute(
            "insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
             values ('ConfigValue', 'new', 1, 'ConfigValueRenamed', '1.0', '{}', '{}'), ('Other', 'x', 1, 'Y', '7', '[]', '{}')",
        )
        .await;
    let projection = until("it halts", async || {
        let projection = query.client.get("/v1/projection").await.json();
        (projection["status"] == "halted").then_some(projection)
    })
    .await;
    assert_eq!(projection["position"], 1);
    assert_eq!(query.client.value("a").await.short(), (200, "1"));
    assert_eq!(query.client.get("/v1/health").await.status, 503);
}

#[tokio::test]
async fn a_rebuild_serves_the_old_state_and_ends_with_the_same() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    for n in 0..20 {
        command.client.put(&format!("n{n}"), json!({ "n": n })).await;
    }
    let all = until("it has applied all", async || {
        let list = query.client.get("/v1/config").await;
        list.header("config-position").starts_with("20.").then_some(list.body)
    })
    .await;
    let accepted = query.client.send(reqwest::Method::POST, "/v1/projection/rebuild", &[], None).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    until("it is rebuilt", async || {
        assert_eq!(query.client.get("/v1/config").await.body, all, "served all the while");
        (query.client.get("/v1/projection").await.json()["rebuilds"] == 1).then_some(())
    })
    .await;
    assert_eq!(query.client.get("/v1/config").await.body, all);
}
