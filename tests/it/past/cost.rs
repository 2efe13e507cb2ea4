//! What the past costs: look-ups by index whatever the statistics say, and as many pages of a long log as of a short one.

use end_to_end::{Database, QueryService, until};
use sqlx::{Connection, PgConnection};

/// In this transaction, on the log and its indexes: scans of tables, pages fetched.
const COUNTERS: &str = "
with relations as (
    select 'events'::regclass::oid as oid union all select indexrelid from pg_index where indrelid = 'events'::regclass
)
select sum(pg_stat_get_xact_numscans(c.oid)) filter (where c.relkind = 'r')::bigint as table_scans,
       sum(pg_stat_get_xact_blocks_fetched(c.oid))::bigint as pages
  from pg_class c join relations using (oid)";

/// One change in two is that of one name; the others take turns. One value in ten is a deletion.
const FILL: &str = "
insert into events
select 'ConfigValue', case when i % 2 = 0 then 'hot' else 'name-' || lpad((i / 2 % 500)::text, 4, '0') end,
       case when i % 2 = 0 then i / 2 else i / 2 / 500 + 1 end,
       case when i / 2 % 10 = 0 then 'ConfigValueDeleted' else 'ConfigValueSet' end, '1.0',
       case when i / 2 % 10 = 0 then '{}' else '{\"value\":1}' end::json, '{}', i,
       '2024-01-15T10:30:00Z'::timestamptz + i * interval '1 s', gen_random_uuid(), 0
  from generate_series($1::bigint, $2) i";

/// What is measured: how many events are in the log, and the most pages that it may fetch.
type Measured = (&'static str, i64);

/// A name is found, its newest version looked up, the one at each bound searched for, and its event read: each of them through
/// two or three pages of an index and one of the table.
const MEASURED: [Measured; 6] = [
    ("select position_at('2024-01-15T10:30:00Z'::timestamptz + $1::bigint / 2 * interval '1 s')", 80),
    ("select count(*) from changes_between('ConfigValue', 0, $1, '', null, false, true, 50, 50, 1000000)", 50 * 40),
    ("select count(*) from changes_between('ConfigValue', 0, $1 / 2, '', null, false, true, 50, 50, 1000000)", 50 * 60),
    ("select count(*) from changes_between('ConfigValue', 0, $1 / 2, 'hot', null, false, true, 50, 50, 1000000)", 100),
    (
        "select count(*) from changes_between('ConfigValue', $1 / 3, $1 / 2, 'name-02', null, false, true, 50, 50, 1000000)",
        50 * 80,
    ),
    (
        "select count(*) from changes_between('ConfigValue', $1 / 2, $1 / 2 + 20, '', null, true, true, 50, 50, 1000000)",
        20 * 80,
    ),
];

#[tokio::test]
async fn the_past_of_a_log_without_statistics_costs_the_same_at_any_length() {
    costs_the_same_at_any_length("select").await;
}

/// Worse than none: by them, reading the whole table is best.
#[tokio::test]
async fn the_past_of_a_log_with_statistics_from_when_it_was_empty_does_as_well() {
    costs_the_same_at_any_length("analyze events").await;
}

async fn costs_the_same_at_any_length(prepare: &str) {
    let database = Database::new().await;
    database.execute(prepare).await;
    // The plans of this session are made while the log is short, and live as long as it.
    let mut old_session = database.connect().await;
    fill(&mut old_session, 1, 2_000).await;
    for measured in MEASURED {
        check(&mut old_session, measured, 2_000).await;
    }
    fill(&mut old_session, 2_001, 60_000).await;
    for measured in MEASURED {
        check(&mut old_session, measured, 60_000).await;
        check(&mut database.connect().await, measured, 60_000).await;
    }
}

async fn fill(session: &mut PgConnection, from: i64, to: i64) {
    sqlx::query(FILL).bind(from).bind(to).execute(session).await.expect("the log is filled");
}

async fn check(session: &mut PgConnection, (statement, most_pages): Measured, events: i64) {
    let mut transaction = session.begin().await.expect("a transaction");
    let before: (i64, i64) = sqlx::query_as(COUNTERS).fetch_one(&mut *transaction).await.expect("the counters");
    let found: i64 =
        sqlx::query_scalar(statement).bind(events).fetch_one(&mut *transaction).await.expect("what is measured");
    let after: (i64, i64) = sqlx::query_as(COUNTERS).fetch_one(&mut *transaction).await.expect("the counters");
    transaction.commit().await.expect("a commit");
    let (table_scans, pages) = (after.0 - before.0, after.1 - before.1);
    assert!(found > 0, "{statement} found nothing");
    assert_eq!(table_scans, 0, "{statement} at {events} events reads the table");
    assert!(pages <= most_pages, "{statement} at {events} events fetches {pages} pages, and {most_pages} are right");
}

/// Each question about the past, at places of a log of 20,000 events.
const QUESTIONS: [&str; 10] = [
    "/v1/config/hot/history?limit=10",
    "/v1/config/hot/history?limit=10&order=asc&after=4999",
    "/v1/config/hot/versions/5001",
    "/v1/config/hot/at/2024-01-15T13:00:04Z",
    "/v1/config?at=10001&limit=10",
    "/v1/config?at=2024-01-15T13:00:04Z&limit=10",
    "/v1/diff?from=9000&to=10001&limit=10",
    "/v1/diff?from=19000&limit=10",
    "/v1/events?from=10001&limit=10",
    "/v1/events?limit=10",
];

/// A statement is planned anew a few times, and then as it was planned once.
const TIMES: usize = 7;

/// Rows that were read without an index; null as long as the service has a session, which has not told all it did.
const READS: &str = "
select case when not exists (select from pg_stat_activity
                              where datname = current_database() and application_name = 'tests query')
            then seq_tup_read end
  from pg_stat_user_tables where relname = 'events'";

/// The service was started on an empty log, and has planned all its statements by then.
#[tokio::test]
async fn a_service_from_when_the_log_was_empty_asks_a_long_one_by_index() {
    let database = Database::new().await;
    let query = QueryService::start(&database).await;
    for question in QUESTIONS.repeat(TIMES) {
        // Not all of it is there yet.
        let path = question.replace("10001", "0").replace("9000", "0").replace("from=10", "from=0");
        let answer = query.client.get(&path).await;
        assert!(answer.status.is_success() || answer.status == 404, "{path}: {answer:?}");
    }
    let mut session = database.connect().await;
    fill(&mut session, 1, 20_000).await;
    until("all of it is applied", async || {
        (query.client.get("/v1/projection").await.json()["position"] == 20_000).then_some(())
    })
    .await;
    for question in QUESTIONS.repeat(3) {
        let answer = query
            .client
            .get(&format!("{question}{}min_position=20000", if question.contains('?') { '&' } else { '?' }))
            .await;
        assert_eq!(answer.status, 200, "{question}: {answer:?}");
        assert!(!["", "[]"].contains(&answer.body.as_str()), "{question}: {answer:?}");
    }
    query.stop().await.expect("it stops");
    let read = until("what the service did is counted", async || {
        sqlx::query_scalar::<_, Option<i64>>(READS).fetch_one(&mut session).await.expect("the table's counters")
    })
    .await;
    assert_eq!(read, 0, "rows were read without an index");
}

/// Events that were read by an index; null as long as the service has a session.
const LOOK_UPS: &str = "
select case when not exists (select from pg_stat_activity
                              where datname = current_database() and application_name = 'tests query')
            then sum(idx_tup_read)::bigint end
  from pg_stat_user_indexes where relname = 'events'";

/// The service has read them all once, in its replay.
#[tokio::test]
async fn a_page_over_a_long_range_of_the_log_does_not_read_the_range() {
    const EVENTS: i64 = 60_000;
    let database = Database::new().await;
    let mut session = database.connect().await;
    fill(&mut session, 1, EVENTS).await;
    let query = QueryService::start(&database).await;
    for question in [
        "/v1/config?at=59000&limit=10",
        "/v1/diff?from=10&to=59000&limit=10",
        "/v1/events?from=10&limit=10",
        "/v1/config/hot/history?limit=10",
        "/v1/config/hot/history?limit=10&order=asc",
    ]
    .repeat(3)
    {
        let answer = query.client.get(question).await;
        assert_eq!(answer.status, 200, "{question}: {answer:?}");
    }
    query.stop().await.expect("it stops");
    let read = until("what the service did is counted", async || {
        sqlx::query_scalar::<_, Option<i64>>(LOOK_UPS).fetch_one(&mut session).await.expect("the index's counters")
    })
    .await;
    assert!((EVENTS..2 * EVENTS).contains(&read), "{read} events were read");
}
