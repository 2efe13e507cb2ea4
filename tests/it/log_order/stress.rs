//! Many writers that stall, roll back, are cancelled and lose their connections, while readers read.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use end_to_end::Database;
use shared::database::{self, Meaning, meaning};
use sqlx::{Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Reader;
use crate::append::group::{Group, insert_stock, new_id, sqlstate};

const WRITERS: usize = 8;
const READERS: usize = 2;

/// How long it goes on.
const STRESS: Duration = Duration::from_secs(4);

/// What a writer does in its turns, one after the other and again. A group outside of a transaction commits by itself.
const TURNS: [&[Step]; 7] = [
    &[Step::Group],
    &[Step::Begin, Step::Stock, Step::Stock, Step::Commit],
    &[Step::Group],
    &[Step::Begin, Step::Group, Step::Stall, Step::Commit],
    &[Step::Begin, Step::Stock, Step::Group, Step::Rollback],
    &[Step::Begin, Step::Stock, Step::Group, Step::Commit],
    &[Step::Begin, Step::Group, Step::Stall, Step::Stock, Step::Rollback],
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Begin,
    Group,
    Stock,
    /// While it holds the log.
    Stall,
    Commit,
    Rollback,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Acknowledged,
    Failed,
    Unknown,
}

/// What one writer did.
#[derive(Debug, Default)]
struct Record {
    /// Of each command, how many events it has and what its writer was told.
    commands: HashMap<Uuid, (usize, Fate)>,
    rolled_back: usize,
    cancelled: usize,
    disconnected: usize,
}

#[tokio::test]
async fn readers_see_every_acknowledged_event_once_and_in_order_whatever_happens_to_the_writers() {
    let database = Database::new().await;
    let options = database::connect_options(&database.url, "writer").unwrap();
    let (written, deadline) = (CancellationToken::new(), Instant::now() + STRESS);
    let (mut writers, mut readers) = (JoinSet::new(), JoinSet::new());
    for writer in 0..WRITERS {
        writers.spawn(write(options.clone(), writer, deadline));
    }
    for _ in 0..READERS {
        readers.spawn(read(Reader::new(&database, "events").await, written.clone()));
    }
    torment(&mut database.connect().await, deadline).await;

    let mut all = Record::default();
    for record in writers.join_all().await {
        all.commands.extend(record.commands);
        all.rolled_back += record.rolled_back;
        all.cancelled += record.cancelled;
        all.disconnected += record.disconnected;
    }
    written.cancel();
    for mut reader in readers.join_all().await {
        assert_eq!(reader.compare().await, Ok(()));
        check(&reader.seen, &all.commands);
    }
    let acknowledged = all.commands.values().filter(|(_, fate)| *fate == Fate::Acknowledged).count();
    let Record { rolled_back, cancelled, disconnected, .. } = all;
    // Each kind of fault was there, or nothing was shown.
    let faults = [rolled_back, cancelled, disconnected];
    assert!(acknowledged > 100 && faults.iter().all(|fault| *fault > 0), "{acknowledged} beside {faults:?}");
}

/// Every command is in the log as its writer was told.
fn check(log: &[Uuid], commands: &HashMap<Uuid, (usize, Fate)>) {
    let mut found = HashMap::<_, usize>::new();
    for command_id in log {
        *found.entry(command_id).or_default() += 1;
    }
    for (command_id, (events, fate)) in commands {
        let found = found.remove(command_id).unwrap_or(0);
        let right = match fate {
            Fate::Acknowledged => found == *events,
            Fate::Failed => found == 0,
            Fate::Unknown => found == 0 || found == *events,
        };
        assert!(right, "{found} of {events} events are in the log, and their writer was told: {fate:?}");
    }
    assert!(found.is_empty(), "commands that nobody gave: {found:?}");
}

/// Reads on until everything is written, and then to the end. Fails at once when something is out of order.
async fn read(mut reader: Reader, written: CancellationToken) -> Reader {
    let mut news = 0;
    loop {
        let last = written.is_cancelled();
        match reader.read().await {
            Ok(0) if last => break,
            Ok(new) => news += usize::from(new > 0),
            Err(violation) => panic!("{violation}"),
        }
    }
    assert!(news > 10, "the reader read along with the writers, {news} times");
    reader
}

/// Cancels statements and ends sessions of the writers, mostly of the one that holds the log or is about to.
async fn torment(connection: &mut PgConnection, deadline: Instant) {
    const VICTIM: &str = "
    select pid from pg_stat_activity
     where datname = current_database() and application_name = 'writer' and state <> 'idle'
     order by wait_event_type is not distinct from 'Lock', random() limit 1";
    for turn in 0.. {
        if Instant::now() >= deadline {
            return;
        }
        let victim: Option<i32> =
            sqlx::query_scalar(VICTIM).fetch_optional(&mut *connection).await.expect("a victim or none");
        let fault = if turn % 4 == 0 { "select pg_terminate_backend($1)" } else { "select pg_cancel_backend($1)" };
        sqlx::query(fault).bind(victim).execute(&mut *connection).await.expect("the fault is done");
        connection.execute("select pg_sleep(0.005)").await.expect("a pause");
    }
}

async fn write(options: PgConnectOptions, writer: usize, deadline: Instant) -> Record {
    let (mut record, mut connection) = (Record::default(), None);
    for (turn, steps) in TURNS.iter().cycle().enumerate().skip(writer) {
        if Instant::now() >= deadline {
            break;
        }
        let mut session = match connection.take() {
            Some(session) => session,
            // Its session may be ended before it is used.
            None => match PgConnection::connect_with(&options).await {
                Ok(session) => session,
                Err(_) => continue,
            },
        };
        let mut commands = HashMap::new();
        let (fate, usable) = match take(steps, &mut session, &format!("{writer} {turn}"), &mut commands).await {
            Ok(Step::Rollback) => {
                record.rolled_back += 1;
                (Fate::Failed, true)
            }
            Ok(_) => (Fate::Acknowledged, true),
            Err((step, error)) if meaning(&error) == Meaning::ConnectionLost => {
                record.disconnected += 1;
                let commits = step == Step::Commit || steps.len() == 1;
                (if commits { Fate::Unknown } else { Fate::Failed }, false)
            }
            Err((_, error)) => {
                assert_eq!(sqlstate(Err::<(), _>(error)), "57014", "only what the tormentor does may fail");
                record.cancelled += 1;
                (Fate::Failed, session.execute("rollback").await.is_ok())
            }
        };
        record.commands.extend(commands.into_iter().map(|(command_id, events)| (command_id, (events, fate))));
        connection = usable.then_some(session);
    }
    record
}

/// Takes the steps, and notes the commands and how many events they have. The last step, or the one that failed.
async fn take(
    steps: &[Step],
    session: &mut PgConnection,
    name: &str,
    commands: &mut HashMap<Uuid, usize>,
) -> Result<Step, (Step, sqlx::Error)> {
    for (index, step) in steps.iter().enumerate() {
        let name = |event: u8| format!("{name} {index} {event}");
        let failed = |error| (*step, error);
        match step {
            Step::Begin => session.execute("begin").await.map(drop).map_err(failed)?,
            Step::Stall => session.execute("select pg_sleep(0.01)").await.map(drop).map_err(failed)?,
            Step::Commit => session.execute("commit").await.map(drop).map_err(failed)?,
            Step::Rollback => session.execute("rollback").await.map(drop).map_err(failed)?,
            Step::Stock => {
                let command_id = insert_stock(&mut *session, &name(0), 1).await.map_err(failed)?;
                commands.insert(command_id, 1);
            }
            Step::Group => {
                let group = Group::default().unit(new_id()).event(&name(0), 0).unit(new_id());
                let group = group.event(&name(1), 0).event(&name(2), 0);
                commands.extend(group.command_ids.iter().copied().zip([1, 2]));
                let outcomes = group.append(&mut *session).await.map_err(failed)?;
                assert!(outcomes.iter().all(|unit| unit.outcome == "appended"), "{outcomes:?}");
            }
        }
    }
    Ok(*steps.last().expect("a turn has steps"))
}
