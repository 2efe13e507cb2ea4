//! What loading costs: few statements for many names, and look-ups by index, whatever the statistics say.

use std::{convert::Infallible, time::Duration};

use command_service::{
    command::COMMAND_LIMIT,
    metrics::LoadMetrics,
    store::{LoadedConfig, Loader, LoaderHandle, StoreError},
};
use end_to_end::{
    CommandService, Database, LogLines, Page, until,
    wait::{PATIENCE, later},
};
use futures_util::future::join_all;
use shared::{metrics::Metrics, name::ConfigName};
use sqlx::{
    Connection, PgConnection, Postgres, Transaction,
    types::chrono::{DateTime, Utc},
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::put;
use crate::{
    append::group::{Group, names, new_id},
    committer::outages::set_read_only,
};

/// Sessions of others than the test's own lanes. One that has ended has told its part of the counters.
const OTHERS: &str = "
select count(*) from pg_stat_activity
 where datname = current_database() and pid <> pg_backend_pid() and application_name is distinct from $1";

/// How the sessions of the tests' services and lanes call themselves.
const SERVICE: &str = "tests command";

/// Waits until only sessions of this name are left, or none.
async fn until_alone_but_for(name: Option<&str>, connection: &mut PgConnection) {
    until("all others have ended their sessions", async || {
        let others = sqlx::query_scalar(OTHERS).bind(name).fetch_one(&mut *connection).await;
        let others: i64 = others.expect("it answers");
        (others == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn first_writes_to_many_names_at_once_load_them_by_few_statements() {
    const NAMES: usize = 200;
    let lines = LogLines::collect();
    let database = Database::new().await;
    let service = CommandService::start(&database).await;
    // Nobody can read the log until all of them are asked for.
    let mut holder = database.connect().await;
    let holding = log_held(&mut holder).await;
    let mut writing = JoinSet::new();
    for name in 0..NAMES {
        writing.spawn(put(&format!("n{name}"), 1).sent_to(service.client.clone()));
    }
    until("all writes have arrived", async || (lines.count("[info] PUT /config/n") == NAMES).then_some(())).await;
    holding.rollback().await.unwrap();
    holder.close().await.unwrap();
    assert!(writing.join_all().await.iter().all(|answer| answer.status == 200));
    service.stop().await.unwrap();

    let mut connection = database.connect().await;
    until_alone_but_for(None, &mut connection).await;
    assert_eq!(names(&mut connection).await.len(), NAMES);
    let transactions: i64 =
        sqlx::query_scalar("select xact_commit from pg_stat_database where datname = current_database()")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    // All that the service did, from its start on; each statement of its own is a transaction.
    assert!((10..100).contains(&transactions), "{transactions} transactions for {NAMES} writes");
}

/// Names in a measured load.
const NAMES: u32 = 64;

/// Measured loads; more than the five after which a statement has one plan for good.
const LOADS: u32 = 10;

/// Most pages that they may fetch: per name one look-up, through two or three pages, and the row; and as many look-ups before,
/// when the log was empty. One that walks the log costs many times that.
const MOST_PAGES: i64 = 12 * NAMES as i64 * LOADS as i64;

/// On the log, in sessions that have ended: scans of tables, scans of indexes, pages fetched.
const COUNTERS: &str = "
select sum(seq_scan)::bigint, sum(idx_scan)::bigint,
       sum(coalesce(heap_blks_read + heap_blks_hit, 0) + coalesce(idx_blks_read + idx_blks_hit, 0)
           + coalesce(toast_blks_read + toast_blks_hit, 0))::bigint
  from pg_stat_user_tables join pg_statio_user_tables using (relid)
 where relid = 'events'::regclass";

#[tokio::test]
async fn a_load_from_a_log_without_statistics_looks_up_by_index() {
    looks_up_by_index("select").await;
}

/// Worse than none: by them, reading the whole table is best.
#[tokio::test]
async fn a_load_from_a_log_with_statistics_from_when_it_was_empty_does_as_well() {
    looks_up_by_index("analyze events").await;
}

async fn looks_up_by_index(prepare: &str) {
    let database = Database::new().await;
    database.execute(prepare).await;
    // The plans of this session are made while the log is empty, and live as long as it.
    let old = OneLane::on(&database);
    old.load(0).await;
    let mut session = database.connect().await;
    fill(&mut session, 0..20_000).await;
    session.close().await.expect("it is open");
    for lane in [old, OneLane::on(&database)] {
        let before = counters(Some(SERVICE), &database).await;
        lane.load(1).await;
        lane.end().await;
        let after = counters(None, &database).await;
        let (tables, indexes, pages) = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
        assert_eq!(tables, 0, "scans of tables");
        assert!(indexes >= i64::from(NAMES * LOADS), "{indexes} scans of indexes");
        assert!(pages <= MOST_PAGES, "{pages} pages, and at most {MOST_PAGES} are right");
    }
}

/// One event for each name.
async fn fill(session: &mut PgConnection, names: std::ops::Range<u32>) {
    for first in names.clone().step_by(500) {
        let units = (first..names.end.min(first + 500))
            .fold(Group::default(), |group, name| group.unit(new_id()).event(&name.to_string(), 0));
        units.append(&mut *session).await.expect("the log is filled");
    }
}

/// Loads by the service's own statement, on a session as it opens them.
struct OneLane {
    handle: LoaderHandle,
    stop: CancellationToken,
    task: JoinSet<Result<(), Infallible>>,
}

fn loader(database: &Database) -> (Loader, LoaderHandle, Metrics) {
    let config = CommandService::config(&database.url);
    let (loader, handle) = Loader::new(config.database, LoadMetrics::new(&config.metrics));
    (loader, handle, config.metrics)
}

impl OneLane {
    fn on(database: &Database) -> Self {
        let (loader, handle, _) = loader(database);
        let (stop, mut task) = (CancellationToken::new(), JoinSet::new());
        let lane = loader.lanes().next().expect("a first lane");
        task.spawn(lane.run(stop.clone()));
        Self { handle, stop, task }
    }

    /// Loads one name; where it stands, or why not, in a word.
    async fn load_one(&self, name: &str, until: Instant) -> Result<u64, &'static str> {
        match self.handle.load(vec![ConfigName::stored(name)], until).await {
            Ok(loaded) => Ok(loaded[0].version()),
            Err(StoreError::Late) => Err("late"),
            Err(StoreError::Load(_)) => Err("refused"),
            Err(error) => panic!("{error:?}"),
        }
    }

    /// Loads the first names of the log, which have this version.
    async fn load(&self, version: u64) {
        for load in 0..LOADS {
            let wanted = (0..NAMES).map(|name| ConfigName::stored(&(load * NAMES + name).to_string())).collect();
            let loaded = self.handle.load(wanted, Instant::now() + PATIENCE).await.expect("they are loaded");
            assert!(loaded.iter().all(|loaded| loaded.version() == version));
        }
    }

    async fn end(self) {
        self.stop.cancel();
        assert!(self.task.join_all().await.iter().all(Result::is_ok));
    }
}

/// What sessions have told that have ended; all but those of this name have.
async fn counters(running: Option<&str>, database: &Database) -> (i64, i64, i64) {
    let mut connection = database.connect().await;
    until_alone_but_for(running, &mut connection).await;
    sqlx::query_as(COUNTERS).fetch_one(&mut connection).await.expect("the counters")
}

/// A statement takes 256 names; these wait before any is under way.
#[tokio::test]
async fn loads_that_wait_together_are_answered_each_with_its_own_names() {
    let database = Database::new().await;
    fill(&mut database.connect().await, 0..300).await;
    let (loader, handle, metrics) = loader(&database);
    let wanted = |n: u32| [n, n + 300].map(|name| ConfigName::stored(&name.to_string())).to_vec();
    let loads = join_all((0..300).map(|n| handle.load(wanted(n), Instant::now() + PATIENCE)));
    let (stop, mut lanes) = (CancellationToken::new(), JoinSet::new());
    for lane in loader.lanes() {
        lanes.spawn(lane.run(stop.clone()));
    }
    for (n, loaded) in loads.await.into_iter().enumerate() {
        let told = |loaded: &LoadedConfig| (loaded.name().to_string(), loaded.token().position.0);
        let loaded: Vec<_> = loaded.expect("they are loaded").iter().map(told).collect();
        // The names were filled in their order; those behind them were never written.
        let position = u64::try_from(n).unwrap() + 1;
        assert_eq!(loaded, [(n.to_string(), position), ((n + 300).to_string(), 0)]);
    }
    let page = Page::read(&String::from_utf8(metrics.page()).unwrap());
    let statements = page.value("config_aggregate_load_duration_seconds_count", &[]);
    assert!((1.0..=10.0).contains(&statements), "{statements} statements for 300 loads");
    stop.cancel();
    assert!(lanes.join_all().await.iter().all(Result::is_ok));
}

/// So that nobody waits for an answer longer than their command may take: the time is the behaviour.
fn soon() -> Instant {
    Instant::now() + Duration::from_millis(300)
}

fn in_time() -> Instant {
    Instant::now() + PATIENCE
}

/// Nobody reads the log until this is rolled back.
async fn log_held(holder: &mut PgConnection) -> Transaction<'_, Postgres> {
    let mut holding = holder.begin().await.expect("a transaction");
    sqlx::query("lock table events in access exclusive mode").execute(&mut *holding).await.expect("the lock");
    holding
}

/// The newest session that waits for the log's table, and since when.
async fn until_a_load_waits(watcher: &mut PgConnection, since: Option<DateTime<Utc>>) -> (i32, DateTime<Utc>) {
    let waiting = "select pid, query_start from pg_stat_activity
                    where datname = current_database() and wait_event_type = 'Lock' and query like '%wanted (name, index)%'
                    order by query_start desc limit 1";
    until("a load waits", async || {
        let found: Option<(i32, DateTime<Utc>)> =
            sqlx::query_as(waiting).fetch_optional(&mut *watcher).await.expect("it answers");
        found.filter(|(_, began)| Some(*began) > since)
    })
    .await
}

#[tokio::test]
async fn a_load_that_is_cancelled_is_done_again_and_one_that_is_not_done_in_time_is_given_up() {
    let database = Database::new().await;
    fill(&mut database.connect().await, 0..1).await;
    let lane = OneLane::on(&database);
    let (mut holder, mut watcher) = (database.connect().await, database.connect().await);
    let holding = log_held(&mut holder).await;
    let cancelled = async {
        let (pid, began) = until_a_load_waits(&mut watcher, None).await;
        sqlx::query("select pg_cancel_backend($1)").bind(pid).execute(&mut watcher).await.unwrap();
        until_a_load_waits(&mut watcher, Some(began)).await;
        holding.rollback().await.unwrap();
    };
    let (loaded, ()) = tokio::join!(lane.load_one("0", in_time()), cancelled);
    assert_eq!(loaded, Ok(1));

    let holding = log_held(&mut holder).await;
    assert_eq!(lane.load_one("0", soon()).await, Err("late"));
    holding.rollback().await.unwrap();
    assert_eq!(lane.load_one("0", in_time()).await, Ok(1));
    lane.end().await;
}

/// Nobody says that the link is dead, or the server stuck: an exchange has a limit of its own, well within a command's.
#[tokio::test]
async fn a_load_that_is_not_answered_is_cut_off_and_done_again_on_another_connection() {
    let database = Database::new().await;
    fill(&mut database.connect().await, 0..1).await;
    let lane = OneLane::on(&database);
    let (mut holder, mut watcher) = (database.connect().await, database.connect().await);
    let holding = log_held(&mut holder).await;
    let cut_off = async {
        let (stuck, began) = until_a_load_waits(&mut watcher, None).await;
        later(Duration::from_secs(8)).await;
        let (again, _) = until_a_load_waits(&mut watcher, Some(began)).await;
        assert_ne!(again, stuck);
        holding.rollback().await.unwrap();
    };
    let (loaded, ()) = tokio::join!(lane.load_one("0", in_time()), cut_off);
    assert_eq!(loaded, Ok(1));
    lane.end().await;
}

#[tokio::test]
async fn a_load_that_the_database_refuses_fails_alone() {
    let database = Database::new().await;
    fill(&mut database.connect().await, 0..10).await;
    let lane = OneLane::on(&database);
    // Text in Postgres has no NUL, and a name that comes in has none.
    let names = ["0", "1", "2", "\0", "4", "5", "6", "7", "8", "9"];
    let loaded = join_all(names.map(|name| lane.load_one(name, in_time()))).await;
    let refused: Vec<_> = (0..).zip(loaded).filter_map(|(n, loaded)| Some((n, loaded.err()?))).collect();
    assert_eq!(refused, [(3, "refused")]);
    lane.end().await;
}

/// It may be a primary that was demoted: what it has is old, and no "no" is to rest on it.
#[tokio::test]
async fn nothing_is_loaded_from_a_server_that_takes_no_writes() {
    let database = Database::new().await;
    fill(&mut database.connect().await, 0..1).await;
    let mut admin = database.connect().await;
    set_read_only(&mut admin, "on").await;
    let lane = OneLane::on(&database);
    assert_eq!(lane.load_one("0", soon()).await, Err("late"));
    set_read_only(&mut admin, "off").await;
    assert_eq!(lane.load_one("0", in_time()).await, Ok(1));
    lane.end().await;
}

/// A change that is written long after it was asked for may undo a later one.
#[tokio::test]
async fn a_write_that_could_not_be_decided_in_its_time_is_given_up_and_never_written() {
    let database = Database::new().await;
    let service = CommandService::start(&database).await;
    let (mut holder, mut watcher) = (database.connect().await, database.connect().await);
    let holding = log_held(&mut holder).await;
    let mut writing = JoinSet::new();
    writing.spawn(put("a", 1).sent_to(service.client.clone()));
    until("its load waits", async || {
        let waiting = "select count(*) from pg_stat_activity
                        where datname = current_database() and wait_event_type = 'Lock'";
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut watcher).await.unwrap();
        (waiting == 1).then_some(())
    })
    .await;
    later(COMMAND_LIMIT).await;
    let answer = writing.join_next().await.unwrap().unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.json()["type"], "urn:config-api:problem:event-store-unavailable");
    holding.rollback().await.unwrap();
    assert_eq!(put("b", 1).send(&service.client).await.status, 200);
    assert_eq!(names(&mut watcher).await, ["b"]);
}
