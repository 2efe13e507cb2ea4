//! What an append costs: look-ups by index, whatever the statistics say, and as many pages in a long log as in a short one.

use end_to_end::{Database, wait::PATIENCE};
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;

use crate::append::group::{Group, new_id};

/// Units in a measured append. Each has a key, an event of a name that is there, and a check of another one.
const UNITS: u8 = 64;

/// Measured appends.
const GROUPS: u8 = 3;

/// Most pages that they may fetch, in a log of any length: per unit three look-ups and four entries in indexes, each through
/// two or three pages, and the rows. A look-up that walks the log costs many times that in the longest one here.
const MOST_PAGES: i64 = 40 * UNITS as i64 * GROUPS as i64;

/// In this transaction, on the log, the keys and their indexes: scans of tables, scans of indexes, pages fetched.
const COUNTERS: &str = "
with relations as (
    select t.oid from pg_class t where t.oid in ('events'::regclass, 'idempotency_keys'::regclass)
     union all
    select i.indexrelid from pg_index i where i.indrelid in ('events'::regclass, 'idempotency_keys'::regclass)
)
select sum(pg_stat_get_xact_numscans(c.oid)) filter (where c.relkind = 'r')::bigint as table_scans,
       sum(pg_stat_get_xact_numscans(c.oid)) filter (where c.relkind = 'i')::bigint as index_scans,
       sum(pg_stat_get_xact_blocks_fetched(c.oid))::bigint as pages
  from pg_class c join relations using (oid)";

#[derive(Debug, sqlx::FromRow)]
struct Counters {
    table_scans: i64,
    index_scans: i64,
    pages: i64,
}

#[tokio::test]
async fn an_append_to_a_log_without_statistics_looks_up_by_index_and_costs_the_same_at_any_length() {
    costs_the_same_at_any_length(-1.0, "select").await;
}

/// Worse than none: by them, reading the whole table is best.
#[tokio::test]
async fn an_append_to_a_log_with_statistics_from_when_it_was_empty_does_as_well() {
    costs_the_same_at_any_length(0.0, "analyze events, idempotency_keys").await;
}

async fn costs_the_same_at_any_length(known_events: f32, prepare: &str) {
    let database = Database::new().await;
    database.execute(prepare).await;
    // The plans of this session are made while the log is empty, and live as long as it.
    let mut old_session = database.connect().await;
    let statistics = "select reltuples from pg_class where relname = 'events'";

    fill(&mut old_session, 0..1_000).await;
    measure(&mut old_session, 0).await;
    fill(&mut old_session, 1_000..20_000).await;
    measure(&mut old_session, 5_000).await;
    measure(&mut database.connect().await, 10_000).await;
    let still_known: f32 = sqlx::query_scalar(statistics).fetch_one(&mut old_session).await.expect("an estimate");
    assert_eq!(still_known, known_events, "autovacuum is off in the tests' cluster");
}

fn check(counters: &Counters) {
    // A unit looks for its key, its event's name and its check's name.
    let look_ups = i64::from(GROUPS) * i64::from(UNITS) * 3;
    assert_eq!(counters.table_scans, 0, "{counters:?}");
    assert!(counters.index_scans >= look_ups, "{counters:?}");
    assert!(counters.pages <= MOST_PAGES, "{counters:?}, and at most {MOST_PAGES} pages are right");
}

async fn fill(session: &mut PgConnection, names: std::ops::Range<u32>) {
    for first in names.clone().step_by(500) {
        let units = (first..names.end.min(first + 500))
            .fold(Group::default(), |group, name| group.unit(new_id()).event(&name.to_string(), 0));
        let filled = timeout(PATIENCE, units.append(&mut *session)).await;
        filled.expect("an append takes no such time").expect("the log is filled");
    }
}

/// What some appends cost, to names from `first` on: new ones, the same again, and others that come too late.
async fn measure(session: &mut PgConnection, first: u32) {
    let groups: Vec<_> = (0..GROUPS).map(|group| group_of(first, group)).collect();
    check(&appended(session, &groups, "appended").await);
    check(&appended(session, &groups, "repeated").await);
    let late: Vec<_> = (0..GROUPS).map(|group| group_of(first, group)).collect();
    check(&appended(session, &late, "conflict").await);
}

fn group_of(first: u32, group: u8) -> Group {
    (0..UNITS).fold(Group::default(), |units, unit| {
        let name = first + u32::from(group) * u32::from(UNITS) + u32::from(unit);
        let units = units.unit(new_id()).event(&name.to_string(), 1).check(&(name + 300).to_string(), 1);
        units.key(group * UNITS + unit, 0, "1").keys_live("0 seconds")
    })
}

async fn appended(session: &mut PgConnection, groups: &[Group], outcome: &str) -> Counters {
    let mut transaction = session.begin().await.expect("a transaction");
    let before: Counters = sqlx::query_as(COUNTERS).fetch_one(&mut *transaction).await.expect("the counters");
    for group in groups {
        let outcomes = group.append(&mut *transaction).await.expect("they are appended");
        assert!(outcomes.iter().all(|unit| unit.outcome == outcome), "{outcomes:?}");
    }
    let after: Counters = sqlx::query_as(COUNTERS).fetch_one(&mut *transaction).await.expect("the counters");
    transaction.commit().await.expect("a commit");
    Counters {
        table_scans: after.table_scans - before.table_scans,
        index_scans: after.index_scans - before.index_scans,
        pages: after.pages - before.pages,
    }
}
