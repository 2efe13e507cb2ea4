//! The order rule: events become visible in the order of their positions, without a hole, and nobody holds the log for
//! long. Under stress in [`stress`]; here what can be shown step by step.

use end_to_end::{Database, until, wait::PATIENCE};
use sqlx::{Connection, Executor, PgConnection};
use tokio::{task::JoinSet, time::timeout};
use uuid::Uuid;

use crate::append::group::{Group, insert_stock, names, new_id, sqlstate};

mod cost;
mod stress;

#[tokio::test]
async fn an_append_waits_for_the_one_before_and_readers_see_neither_too_early() {
    let database = Database::new().await;
    let (mut first, mut watcher) = (database.connect().await, database.connect().await);
    let mut reader = Reader::new(&database, "events").await;
    first.execute("begin").await.unwrap();
    let first_id = insert_stock(&mut first, "first", 1).await.unwrap();

    let mut second = database.connect().await;
    let (first_pid, second_pid) = (pid(&mut first).await, pid(&mut second).await);
    let group = Group::default().unit(new_id()).event("second", 0);
    let second_id = group.command_ids[0];
    let mut appending = JoinSet::new();
    appending.spawn(async move { group.append(&mut second).await });
    let waits = "select pg_blocking_pids($1) = array[$2]";
    until("the second append waits for the first", async || {
        let waits = sqlx::query_scalar::<_, bool>(waits).bind(second_pid).bind(first_pid);
        waits.fetch_one(&mut watcher).await.unwrap().then_some(())
    })
    .await;
    assert_eq!(reader.read().await, Ok(0));

    first.execute("commit").await.unwrap();
    let second = appending.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(second[0].place(), ("appended", Some(2), Some(2)));
    assert_eq!(reader.read().await, Ok(2));
    assert_eq!(reader.seen, [first_id, second_id]);
}

/// What the readers' check is worth: the same check on a table with the usual numbering.
#[tokio::test]
async fn numbers_from_a_sequence_are_found_out_by_the_readers_check() {
    let database = Database::new().await;
    database
        .execute("create table toy (position bigserial primary key, command_id uuid default gen_random_uuid())")
        .await;
    let (mut slow, mut quick) = (database.connect().await, database.connect().await);
    let mut reader = Reader::new(&database, "toy").await;
    let insert = "insert into toy default values returning command_id";
    let first = sqlx::query_scalar(insert).fetch_one(&mut quick).await.unwrap();
    assert_eq!(reader.read().await, Ok(1));
    slow.execute("begin").await.unwrap();
    slow.execute(insert).await.unwrap();
    let third = sqlx::query_scalar(insert).fetch_one(&mut quick).await.unwrap();
    assert_eq!(reader.read().await, Err("position 3 came after position 1".to_owned()));

    // A reader that had taken it would never learn of what now appears behind it.
    slow.execute("commit").await.unwrap();
    reader.seen = vec![first, third];
    assert_eq!(reader.compare().await, Err("position 2 of the log is not what was read".to_owned()));
}

#[tokio::test]
async fn a_rolled_back_append_leaves_no_hole() {
    let database = Database::new().await;
    let mut connection = database.connect().await;
    let mut reader = Reader::new(&database, "events").await;
    for (name, end) in [("a", "commit"), ("b", "rollback"), ("c", "commit")] {
        connection.execute("begin").await.unwrap();
        Group::default().unit(new_id()).event(name, 0).append(&mut connection).await.unwrap();
        insert_stock(&mut connection, name, 2).await.unwrap();
        connection.execute(end).await.unwrap();
    }
    assert_eq!(reader.read().await, Ok(4));
    assert_eq!(reader.compare().await, Ok(()));
}

#[tokio::test]
async fn a_writer_that_idles_with_the_log_in_its_hands_is_cut_off_and_the_next_append_succeeds() {
    let database = Database::new().await;
    let (mut idler, mut connection) = (database.connect().await, database.connect().await);
    let idler_pid = pid(&mut idler).await;
    idler.execute("begin").await.unwrap();
    insert_stock(&mut idler, "idler", 1).await.unwrap();
    // Both have 5 s: with a second's start, it is the idler whose time is up.
    let idles = "select state = 'idle in transaction' and clock_timestamp() - state_change > interval '1 second'
                   from pg_stat_activity where pid = $1";
    until("the writer has idled for a second", async || {
        let idles = sqlx::query_scalar::<_, bool>(idles).bind(idler_pid);
        idles.fetch_one(&mut connection).await.unwrap().then_some(())
    })
    .await;

    let group = Group::default().unit(new_id()).event("next", 0);
    let appended = timeout(PATIENCE, group.append(&mut connection)).await.expect("the log is free again").unwrap();
    assert_eq!(appended[0].place(), ("appended", Some(1), Some(1)));
    assert_eq!(sqlstate(idler.execute("commit").await), "25P03");
    assert_eq!(names(&mut connection).await, ["next"]);
}

#[tokio::test]
async fn an_append_gives_up_a_lock_that_somebody_keeps_and_has_written_nothing() {
    let database = Database::new().await;
    let (mut ours, mut stock) = (database.connect().await, database.connect().await);
    let mut keeper = database.connect().await;
    keeper.execute("begin").await.unwrap();
    keeper.execute("select from event_log_lock for update").await.unwrap();

    let group = Group::default().unit(new_id()).event("a", 0);
    let both = async { tokio::join!(group.append(&mut ours), insert_stock(&mut stock, "b", 1)) };
    let (appended, inserted) = timeout(PATIENCE, both).await.expect("they give up");
    assert_eq!((sqlstate(appended), sqlstate(inserted)), ("55P03".to_owned(), "55P03".to_owned()));
    keeper.execute("rollback").await.unwrap();
    assert_eq!(group.append(&mut ours).await.unwrap()[0].place(), ("appended", Some(1), Some(1)));
}

#[tokio::test]
async fn the_bounds_of_whoever_holds_the_log_end_with_its_transaction() {
    let mut connection = Database::new().await.connect().await;
    let bounds =
        "select current_setting('lock_timeout') || ' ' || current_setting('idle_in_transaction_session_timeout')";
    let bounds = async |connection: &mut PgConnection| {
        sqlx::query_scalar::<_, String>(bounds).fetch_one(connection).await.unwrap()
    };
    let before = bounds(&mut connection).await;
    let mut transaction = connection.begin().await.unwrap();
    Group::default().unit(new_id()).event("a", 0).append(&mut *transaction).await.unwrap();
    assert_eq!(bounds(&mut transaction).await, "5s 5s");
    transaction.commit().await.unwrap();
    Group::default().unit(new_id()).event("b", 0).append(&mut connection).await.unwrap();
    assert_eq!(bounds(&mut connection).await, before);
}

/// Reads a log as a projection does: what is behind the last position, over and over.
struct Reader {
    connection: PgConnection,
    table: &'static str,
    /// Whose event was at each position, from 1.
    seen: Vec<Uuid>,
}

impl Reader {
    async fn new(database: &Database, table: &'static str) -> Self {
        Self { connection: database.connect().await, table, seen: Vec::new() }
    }

    /// Reads on, and tells how much was new; or that it was not the next position.
    async fn read(&mut self) -> Result<usize, String> {
        let last = self.seen.len();
        for (position, command_id) in self.rows(last).await {
            let before = self.seen.len();
            if usize::try_from(position) != Ok(before + 1) {
                return Err(format!("position {position} came after position {before}"));
            }
            self.seen.push(command_id);
        }
        Ok(self.seen.len() - last)
    }

    /// Whether the log holds what was read, all of it and nothing else.
    async fn compare(&mut self) -> Result<(), String> {
        let log = self.rows(0).await;
        let seen = (1_i64..).zip(&self.seen);
        for ((position, command_id), seen) in log.iter().zip(seen.map(Some).chain(std::iter::repeat(None))) {
            if seen != Some((*position, command_id)) {
                return Err(format!("position {position} of the log is not what was read"));
            }
        }
        if log.len() == self.seen.len() { Ok(()) } else { Err("more was read than the log holds".to_owned()) }
    }

    async fn rows(&mut self, last: usize) -> Vec<(i64, Uuid)> {
        let table = self.table;
        let select = format!("select position, command_id from {table} where position > $1 order by position");
        let last = i64::try_from(last).expect("a test's log is small");
        sqlx::query_as(&select).bind(last).fetch_all(&mut self.connection).await.expect("the log can be read")
    }
}

async fn pid(connection: &mut PgConnection) -> i32 {
    sqlx::query_scalar("select pg_backend_pid()").fetch_one(connection).await.expect("the backend's id")
}
