//! The replay of a long log, which is copied in ranges through several connections: it is the fold of the log, whatever
//! happens meanwhile, and it never holds the log.

use embedded_postgres::StopMode;
use end_to_end::{
    Answer, Client, CommandService, Database, LogLines, Page, Proxy, QueryService, cluster, process::Process,
    services::Running, until,
};
use serde_json::{Value, json};
use sqlx::PgConnection;

/// Enough for several ranges of each connection.
const EVENTS: u64 = 40_000;

/// Random events: about a thousand names of all kinds, values of several sizes, deletions, events of another aggregate.
async fn random_history(database: &Database, events: u64) {
    let fill = format!(
        "insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata, position,
                             recorded_at, command_id, part)
         select case when kind < 0.02 then 'Other' else 'ConfigValue' end,
                (array['a', 'a/b', 'größe ', 'ü/', '🦀'])[1 + n % 5] || n,
                position,
                case when kind < 0.02 then 'Happened' when kind < 0.2 then 'ConfigValueDeleted' else 'ConfigValueSet' end,
                '1.0',
                case when kind < 0.2 then '{{}}'
                     else '{{\"value\":' || (array['null', '12345678901234567890123', '\"' || repeat('x', (kind * 300)::int) || '\"',
                                                  '{{\"b\": [1.10, \"é\\\\n\"]}}'])[1 + position % 4] || '}}' end::json,
                case when kind < 0.6 then '{{}}' else '{{\"actor\":\"ann\",\"reason\":\"it \\\"is\\\" so\"}}' end::json,
                position, timestamptz '2024-01-15T10:30:00Z' + position * interval '1 microsecond', gen_random_uuid(), 0
           from (select position, random() as kind, (random() * 1000)::int as n
                   from generate_series(1, {events}) as position) as events"
    );
    database.execute(&fill).await;
}

/// What the log leads to, as Postgres folds it: names, values and versions.
async fn folded(connection: &mut PgConnection) -> Vec<(String, String, i64)> {
    sqlx::query_as(
        "select aggregate_id, (payload->'value')::text, sequence
           from (select distinct on (aggregate_id) * from events
                  where aggregate_type = 'ConfigValue' order by aggregate_id, position desc) as newest
          where event_type = 'ConfigValueSet'
          order by aggregate_id",
    )
    .fetch_all(connection)
    .await
    .expect("the log can be read")
}

/// That a service answers with just that state.
async fn agrees(client: &Client, database: &Database) {
    let folded = folded(&mut database.connect().await).await;
    let items: Vec<_> =
        folded.iter().map(|(name, value, _)| format!("{{\"name\":{},\"value\":{value}}}", json!(name))).collect();
    let list = client.get("/v1/config").await;
    assert_eq!(list.body, format!("[{}]", items.join(",")));
    for (name, _, version) in folded.iter().step_by(97) {
        let one = client.get_json(&format!("/v1/config/{}", Client::encode(name))).await.json();
        assert_eq!((&one["version"], &one["position"]), (&json!(version), &json!(version)), "{one}");
    }
}

async fn projection(client: &Client) -> Value {
    client.get("/v1/projection").await.json()
}

/// A service in the middle of its replay, whose connections carry nothing more.
struct Stalled {
    log: LogLines,
    proxy: Proxy,
    query: Running,
    /// Events that it had replayed by then.
    at: u64,
}

impl Stalled {
    async fn on(database: &Database) -> Self {
        random_history(database, EVENTS).await;
        let log = LogLines::collect();
        let proxy = Proxy::to(database).await;
        proxy.stall_after(3_000_000);
        let query = QueryService::start_with(QueryService::config(&proxy.database.url)).await;
        let at = until_stalled(&query.client).await;
        assert!(at < EVENTS, "{at}");
        Self { log, proxy, query, at }
    }
}

/// Waits until a replay has come somewhere and then no further; where.
async fn until_stalled(client: &Client) -> u64 {
    let mut last = 0;
    until("the replay stands still on its way", async || {
        let now = projection(client).await;
        let events = now["progress"]["events"].as_u64().unwrap_or(0);
        let stands = events > 0 && events == std::mem::replace(&mut last, events);
        stands.then_some(events)
    })
    .await
}

#[tokio::test]
async fn a_long_replay_is_the_fold_of_the_log() {
    let database = Database::new().await;
    random_history(&database, EVENTS).await;
    let log = LogLines::collect();
    let query = QueryService::start(&database).await;
    agrees(&query.client, &database).await;
    let told = projection(&query.client).await;
    assert_eq!((&told["position"], &told["replay"]["events"]), (&json!(EVENTS), &json!(EVENTS)));
    assert_eq!((told.get("progress"), &told["status"]), (None, &json!("live")));
    assert!(log.has("[info] Found 40000 events to replay"), "{:#?}", log.lines());
    assert_eq!(Page::of(&query.client).await.value("config_projection_replay_failures_total", &[]), 0.0, "at one go");
    // A position that was copied is known as one that was followed is.
    let token = query.client.get("/v1/config").await.header("config-position").to_owned();
    let again = query.client.get(&format!("/v1/config?min_position={token}")).await;
    assert_eq!(again.status, 200, "{again:?}");
    let another = format!("{EVENTS}.00000000");
    assert_eq!(query.client.get(&format!("/v1/config?min_position={another}")).await.status, 409);
}

#[tokio::test]
async fn events_that_arrive_during_the_replay_are_in_it() {
    let database = Database::new().await;
    random_history(&database, EVENTS).await;
    let command = CommandService::start(&database).await;
    let query = QueryService::start_with(QueryService::config(&database.url)).await;
    let (mut written, mut last): (u64, Option<Answer>) = (0, None);
    while query.client.get("/v1/ready").await.status != 200 || written < 20 {
        written += 1;
        last = Some(command.client.put(&format!("late-{}", written % 7), written).await);
    }
    let last = last.expect("at least one was written");
    let newest = query.client.value_after(&format!("late-{}", written % 7), &last).await;
    assert_eq!(newest.short(), (200, written.to_string().as_str()));
    assert_eq!(projection(&query.client).await["position"], EVENTS + written);
    let late = query.client.get("/v1/config?prefix=late-").await.json();
    assert_eq!(late.as_array().unwrap().len(), 7.min(usize::try_from(written).unwrap()));
}

#[tokio::test]
async fn a_replay_goes_on_where_it_was_when_the_database_is_lost_and_back() {
    let database = Database::new().await;
    let Stalled { log, proxy, query, at: stalled } = Stalled::on(&database).await;
    let copies = "select count(*) from pg_stat_activity where datname = current_database()
                     and application_name = 'tests query' and query like 'copy (select %'";
    let copies: i64 = sqlx::query_scalar(copies).fetch_one(&mut database.connect().await).await.unwrap();
    let cpus = std::thread::available_parallelism().unwrap().get().min(4);
    assert_eq!(usize::try_from(copies).unwrap(), cpus, "a range for each");
    until("it tells how far it is", async || log.has("[info] Replayed ").then_some(())).await;
    let told = projection(&query.client).await["progress"].clone();
    let events = told["events"].as_u64().unwrap();
    assert_eq!((&told["of"], &told["percent"]), (&json!(EVENTS), &json!(events * 100 / EVENTS)), "{told}");
    assert!(told["events_per_second"].is_u64() && told["seconds_left"].is_u64(), "{told}");
    assert_eq!(query.client.get("/v1/ready").await.status, 503);
    assert_eq!(query.client.get("/v1/live").await.status, 200);
    proxy.down().await;
    until("it noticed", async || (projection(&query.client).await["status"] == "disconnected").then_some(())).await;
    let interrupted = projection(&query.client).await["progress"]["events"].as_u64().unwrap();
    assert!(interrupted >= stalled, "{interrupted}");
    proxy.up();
    until("it is ready", async || {
        let told = projection(&query.client).await;
        let events = told["progress"]["events"].as_u64().unwrap_or(EVENTS);
        assert!(events >= interrupted, "it went back behind {interrupted}: {told}");
        (told["status"] == "live").then_some(())
    })
    .await;
    agrees(&query.client, &database).await;
    assert_eq!(log.count("[info] Found "), 1, "it did not begin anew: {:#?}", log.lines());
    assert_eq!(log.count("[warning] Lost the connection to EventStore"), 1, "{:#?}", log.lines());
}

#[tokio::test]
async fn a_log_that_is_rewritten_while_it_is_replayed_is_replayed_from_zero() {
    let database = Database::new().await;
    let Stalled { log, proxy, query, .. } = Stalled::on(&database).await;
    proxy.down().await;
    database
        .execute(
            "alter table events disable trigger events_append_only;
             update events set command_id = gen_random_uuid(),
                               payload = case when event_type = 'ConfigValueSet' then '{\"value\":\"another\"}' else '{}' end::json;
             alter table events enable trigger events_append_only",
        )
        .await;
    proxy.up();
    query.until_ready().await;
    agrees(&query.client, &database).await;
    let told = projection(&query.client).await;
    assert_eq!(told["divergences"], 1, "{told}");
    assert_eq!(log.count("[error] The event log was rewritten"), 1, "{:#?}", log.lines());
}

#[tokio::test]
async fn a_service_that_is_killed_while_it_replays_replays_again() {
    let database = Database::new().await;
    random_history(&database, EVENTS).await;
    let proxy = Proxy::to(&database).await;
    proxy.stall_after(3_000_000);
    let query = Process::start("query-service", &["--database-url", &proxy.database.url]).await;
    assert!(until_stalled(&query.client).await < EVENTS);
    query.kill().await;
    proxy.up();
    let again = Process::start("query-service", &["--database-url", &proxy.database.url]).await;
    again.client.until_ready().await;
    agrees(&again.client, &database).await;
}

#[tokio::test]
async fn a_replay_goes_on_when_postgres_was_restarted() {
    let cluster = cluster::own().await;
    let database = Database::in_cluster(&cluster).await;
    let Stalled { log, proxy, query, .. } = Stalled::on(&database).await;
    proxy.up();
    cluster.stop(StopMode::Immediate).await.unwrap();
    proxy.down().await;
    until("it noticed", async || (projection(&query.client).await["status"] == "disconnected").then_some(())).await;
    cluster.start_again().await.unwrap();
    proxy.up();
    query.until_ready().await;
    agrees(&query.client, &database).await;
    assert_eq!(log.count("[info] Found "), 1, "{:#?}", log.lines());
}

#[tokio::test]
async fn a_hole_inside_a_range_halts_the_replay_until_it_is_filled() {
    let database = Database::new().await;
    random_history(&database, EVENTS).await;
    let (hole, last_of_a_range) = (EVENTS - 9_000, 2 * 4_096);
    let take_out = format!(
        "alter table events disable trigger events_append_only;
         create table kept as select * from events where position in ({hole}, {last_of_a_range});
         delete from events where position in ({hole}, {last_of_a_range});
         alter table events enable trigger events_append_only"
    );
    database.execute(&take_out).await;
    let log = LogLines::collect();
    let query = QueryService::start_with(QueryService::config(&database.url)).await;
    for missing in [last_of_a_range, hole] {
        let alarm = format!(
            "[error] ConfigStateProjection halted: the event log has a hole: position {missing} is missing, {} is there; \
             nothing behind it is applied",
            missing + 1
        );
        until("it halts", async || log.has(&alarm).then_some(())).await;
        let told = projection(&query.client).await;
        assert_eq!((&told["status"], &told["replaying"]), (&json!("halted"), &json!(missing - 1)), "{told}");
        assert_eq!(query.client.get("/v1/config").await.status, 503, "nothing is shown of half a state");
        database.execute(&format!("insert into events select * from kept where position = {missing}")).await;
    }
    query.until_ready().await;
    agrees(&query.client, &database).await;
    assert_eq!(log.count("[error]"), 2, "{:#?}", log.lines());
}

#[tokio::test]
async fn an_event_of_a_newer_release_inside_a_range_halts_the_replay_before_it() {
    let database = Database::new().await;
    random_history(&database, EVENTS).await;
    database
        .execute(
            "alter table events disable trigger events_append_only;
             update events set aggregate_type = 'ConfigValue', event_type = 'ConfigValueRenamed' where position = 30000;
             alter table events enable trigger events_append_only",
        )
        .await;
    let query = QueryService::start_with(QueryService::config(&database.url)).await;
    let told = until("it halts", async || {
        let told = projection(&query.client).await;
        (told["status"] == "halted").then_some(told)
    })
    .await;
    assert_eq!(told["replaying"], 29_999, "{told}");
    assert_eq!(told["halted"], "the event at position 30000 cannot be read by this release");
}

#[tokio::test]
async fn a_rebuild_of_a_long_log_serves_the_old_state_until_the_new_one_is_there() {
    let database = Database::new().await;
    random_history(&database, EVENTS).await;
    let query = QueryService::start(&database).await;
    let before = query.client.get("/v1/config").await.body;
    let accepted = query.client.send(reqwest::Method::POST, "/v1/projection/rebuild", &[], None).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    until("it is rebuilt", async || {
        assert_eq!(query.client.get("/v1/config").await.body, before, "served all the while");
        (projection(&query.client).await["rebuilds"] == 1).then_some(())
    })
    .await;
    agrees(&query.client, &database).await;
}

#[tokio::test]
async fn a_replay_of_large_values_never_holds_the_log() {
    let database = Database::new().await;
    random_history(&database, EVENTS).await;
    // 400 MB of values in 100 events side by side, of which 4 names keep one each.
    let large = format!(
        "insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata, position,
                             recorded_at, command_id, part)
         select 'ConfigValue', 'large-' || n % 4, n, 'ConfigValueSet', '1.0',
                ('{{\"value\":\"' || repeat('x', 4 * 1024 * 1024) || '\"}}')::json, '{{}}', {EVENTS} + n,
                timestamptz '2024-01-16T00:00:00Z' + n * interval '1 microsecond', gen_random_uuid(), 0
           from generate_series(1, 100) as n"
    );
    database.execute(&large).await;
    let query = Process::start("query-service", &["--database-url", &database.url]).await;
    query.client.until_ready().await;
    assert_eq!(query.client.value("large-3").await.body.len(), 4 * 1024 * 1024);
    let status = std::fs::read_to_string(format!("/proc/{}/status", query.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells");
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < 220 * 1024, "{peak_kib} KiB");
}
