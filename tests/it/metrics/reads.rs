//! What the query service tells of its projection.

use end_to_end::{CommandService, Database, Page, QueryService, until};

const HOLE: &str = "
    insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                        position, recorded_at, command_id, part)
    values ('ConfigValue', 'behind', 1, 'ConfigValueSet', '1.0', '{\"value\":1}', '{}', 3, now(), gen_random_uuid(), 0);
    select pg_notify('events', '3')";

const FILL: &str = "
    insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                        position, recorded_at, command_id, part)
    values ('ConfigValue', 'filled', 1, 'ConfigValueSet', '1.0', '{\"value\":1}', '{}', 2, now(), gen_random_uuid(), 0)";

#[tokio::test]
async fn the_projection_is_told_as_it_is() {
    let database = Database::new().await;
    let command = CommandService::start(&database).await;
    for (name, value) in [("a", 1), ("b", 1), ("b", 2)] {
        command.client.put(name, value).await;
    }
    let query = QueryService::start(&database).await;
    let page = Page::of(&query.client).await;
    for (name, expected) in [
        ("config_projection_ready", 1.0),
        ("config_projection_position", 3.0),
        ("config_projection_head_position", 3.0),
        ("config_projection_lag_events", 0.0),
        ("config_projection_lag_seconds", 0.0),
        ("config_projection_configurations", 2.0),
        ("config_projection_replaying", 0.0),
        ("config_projection_replay_events", 3.0),
        ("config_projection_replay_target_events", 3.0),
        ("config_projection_events_applied_total", 0.0),
        ("config_projection_apply_delay_seconds_count", 0.0),
        ("config_projection_divergences_total", 0.0),
        ("config_projection_replay_failures_total", 0.0),
    ] {
        assert_eq!(page.value(name, &[]), expected, "{name}");
    }
    assert!(page.value("config_projection_last_contact_seconds", &[]) < 5.0);
    assert!(page.value("config_projection_replay_events_per_second", &[]) > 0.0);
    assert_eq!(page.value("config_projection_replays_total", &[("cause", "start")]), 1.0);

    let written = command.client.put("c", 1).await;
    query.client.value_after("c", &written).await;
    let page = Page::of(&query.client).await;
    assert_eq!(page.value("config_projection_position", &[]), 4.0);
    assert_eq!(page.value("config_projection_events_applied_total", &[]), 1.0);
    assert_eq!(page.value("config_projection_apply_delay_seconds_count", &[]), 1.0);
    assert!(page.value("config_projection_apply_delay_seconds_sum", &[]) < 5.0);

    assert_eq!(query.client.send(reqwest::Method::POST, "/v1/projection/rebuild", &[], None).await.status, 202);
    let rebuilt = until("it is rebuilt", async || {
        let page = Page::of(&query.client).await;
        (page.value("config_projection_replays_total", &[("cause", "rebuild")]) == 1.0).then_some(page)
    })
    .await;
    assert_eq!(rebuilt.value("config_projection_replay_events", &[]), 4.0);
    assert_eq!(rebuilt.value("config_projection_replays_total", &[]), 2.0);
    assert_eq!(rebuilt.value("config_projection_events_applied_total", &[]), 1.0);
}

#[tokio::test]
async fn pages_of_lists_pin_states() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    for name in ["a", "b", "c"] {
        let written = command.client.put(name, 1).await;
        query.client.value_after(name, &written).await;
    }
    assert_eq!(query.client.get("/v1/config?limit=1").await.status, 200);
    assert_eq!(Page::of(&query.client).await.value("config_projection_snapshots_pinned", &[]), 1.0);
}

#[tokio::test]
async fn a_halt_is_told_with_its_cause_and_so_is_its_end() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let written = command.client.put("a", 1).await;
    query.client.value_after("a", &written).await;
    database.execute(HOLE).await;
    let halted = |page: &Page, cause| page.value("config_projection_halted", &[("cause", cause)]);
    let page = until("it halts", async || {
        let page = Page::of(&query.client).await;
        let well = page.value("config_health_check", &[("check", "projection")]);
        (halted(&page, "hole") == 1.0 && well == 0.0).then_some(page)
    })
    .await;
    assert_eq!(halted(&page, "unreadable_event"), 0.0);
    assert_eq!(page.value("config_projection_lag_events", &[]), 2.0);
    assert!(page.value("config_projection_lag_seconds", &[]) > 0.0);
    database.execute(FILL).await;
    until("it goes on", async || {
        let page = Page::of(&query.client).await;
        (halted(&page, "hole") == 0.0 && page.value("config_projection_lag_seconds", &[]) == 0.0).then_some(())
    })
    .await;
    let newer = FILL
        .replace("ConfigValueSet", "ConfigValueRenamed")
        .replace("filled", "newer")
        .replace(", 2, now()", ", 4, now()");
    database.execute(&newer).await;
    until("it halts", async || (halted(&Page::of(&query.client).await, "unreadable_event") == 1.0).then_some(())).await;
    let restarted = QueryService::start_with(QueryService::config(&database.url)).await;
    until("a replay halts", async || {
        let page = Page::of(&restarted.client).await;
        let failed = page.value("config_projection_replay_failures_total", &[]) == 1.0;
        (failed && halted(&page, "unreadable_event") == 1.0).then_some(())
    })
    .await;
    let page = Page::of(&restarted.client).await;
    assert_eq!(page.value("config_projection_ready", &[]), 0.0);
    assert_eq!(page.value("config_projection_replaying", &[]), 1.0);
    assert!(page.value("config_projection_replay_duration_seconds", &[]) > 0.0);
    assert_eq!(page.value("config_projection_replay_target_events", &[]), 4.0);
}

#[tokio::test]
async fn a_rewritten_log_is_told() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let written = command.client.put("a", 1).await;
    query.client.value_after("a", &written).await;
    let mut watcher = query.client.watch("", None).await;
    watcher.expect("bookmark").await;
    database
        .execute(
            "begin;
             alter table events disable trigger events_append_only;
             update events set command_id = gen_random_uuid();
             alter table events enable trigger events_append_only;
             commit;",
        )
        .await;
    assert_eq!(watcher.expect("reset").await.data["reason"], "rewritten");
    let page = until("it is folded anew", async || {
        let page = Page::of(&query.client).await;
        (page.value("config_projection_replays_total", &[("cause", "divergence")]) == 1.0).then_some(page)
    })
    .await;
    assert_eq!(page.value("config_projection_divergences_total", &[]), 1.0);
    assert_eq!(page.value("config_watchers_cut_total", &[("cause", "rewritten")]), 1.0);
    let stale = written.header("config-position");
    let mut back = query.client.watch("", Some(stale)).await;
    back.expect("reset").await;
    let page = Page::of(&query.client).await;
    assert_eq!(page.value("config_watch_resets_total", &[("cause", "rewritten")]), 2.0);
    assert_eq!(page.value("config_watchers_cut_total", &[("cause", "rewritten")]), 1.0, "it was never begun");
}
