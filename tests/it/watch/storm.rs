//! Writers, faults and watchers that come back, all at once; what was told is compared with the log afterwards.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use end_to_end::{Client, CommandService, Database, Event, Proxy, QueryService, services::Running, until};
use reqwest::Method;
use serde_json::json;
use sqlx::{PgConnection, Row};

/// Writers at once.
const WRITERS: u64 = 4;

/// Commands of each.
const COMMANDS: u64 = 60;

/// Ends every session of the query service: its tail's, and those that read for watchers.
const KILL: &str = "
select count(pg_terminate_backend(pid)) from pg_stat_activity
 where datname = current_database() and application_name = 'tests query'";

/// A command as the log has it: its last position, and its changes as `name@version`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) position: u64,
    pub(super) changes: Vec<String>,
}

/// What one watcher was told, in its order, over all its connections.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) query: &'static str,
    pub(super) events: Vec<Event>,
    pub(super) connections: usize,
}

/// Who watches in a storm.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watches {
    /// Its filter.
    pub(super) query: &'static str,
    /// Hangs up after so many events, and comes back with the last id.
    pub(super) hangs_up_after: usize,
}

/// What happened.
#[derive(Debug)]
pub(super) struct Storm {
    pub(super) log: Vec<Command>,
    pub(super) told: Vec<Told>,
}

impl Told {
    pub(super) fn changes(&self) -> Vec<Command> {
        let changes = self.events.iter().filter(|event| event.event == "change");
        changes.map(|event| Command { position: event.position(), changes: event.changes() }).collect()
    }
}

impl Storm {
    /// What the log has for a filter: changes by their names, commands without any left out.
    pub(super) fn taken(&self, takes: impl Fn(&str) -> bool) -> Vec<Command> {
        let taken = self.log.iter().map(|command| {
            let changes = command.changes.iter().filter(|change| takes(change.split('@').next().unwrap_or_default()));
            Command { position: command.position, changes: changes.cloned().collect() }
        });
        taken.filter(|command| !command.changes.is_empty()).collect()
    }
}

/// Watches all of it from zero on. `ring_bytes`: how much the process remembers.
pub(super) async fn storm<const N: usize>(watches: [Watches; N], ring_bytes: usize) -> Storm {
    let database = Database::new().await;
    let proxy = Proxy::to(&database).await;
    let command = CommandService::start(&database).await;
    let mut config = super::config(&proxy.database.url);
    config.watching.ring_bytes = ring_bytes;
    config.poll_interval = std::time::Duration::from_millis(20);
    let query = QueryService::start_with(config).await;
    query.until_ready().await;
    let (written, end) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let writes = async {
        let writers = (0..WRITERS).map(|writer| write(&command.client, writer, &written));
        futures_util::future::join_all(writers).await;
        let last: i64 = sqlx::query_scalar("select max(position) from events")
            .fetch_one(&mut database.connect().await)
            .await
            .expect("the log is read");
        end.store(last.try_into().expect("positions are positive"), Relaxed);
    };
    let mut admin = database.connect().await;
    let faults = fail(&mut admin, &proxy, &written);
    let watchers = watches.map(|watches| watch(&query, watches, &end));
    let ((), (), told) = tokio::join!(writes, faults, futures_util::future::join_all(watchers));
    Storm { log: log(&mut database.connect().await).await, told }
}

async fn write(client: &Client, writer: u64, written: &AtomicU64) {
    for n in 0..COMMANDS {
        let name = |key: u64| format!("w{writer}/k{}", key % 7);
        let answer = match n % 4 {
            0 => {
                let operations: Vec<_> =
                    (n..n + 5).map(|key| json!({ "op": "set", "name": name(key), "value": n })).collect();
                let batch = json!({ "operations": operations }).to_string();
                client.send(Method::POST, "/v1/batch", &[], Some(batch)).await
            }
            1 => client.delete(&name(n - 1)).await,
            _ => client.put(&name(n), n).await,
        };
        assert!(answer.status.is_success(), "{answer:?}");
        written.fetch_add(1, Relaxed);
    }
}

/// Each time that some more was written: sessions killed, or the network cut and mended.
async fn fail(admin: &mut PgConnection, proxy: &Proxy, written: &AtomicU64) {
    let all = WRITERS * COMMANDS;
    for fault in 1..=6 {
        until("more is written", async || (written.load(Relaxed) >= fault * all / 8).then_some(())).await;
        if fault % 3 == 0 {
            proxy.down().await;
            proxy.up();
        } else {
            let _killed: i64 = sqlx::query_scalar(KILL).fetch_one(&mut *admin).await.expect("they are killed");
        }
    }
}

/// Reads until a bookmark is at the log's end, and comes back with the last id whenever the stream ends.
async fn watch(query: &Running, watches: Watches, end: &AtomicU64) -> Told {
    let mut told = Told { query: watches.query, events: vec![], connections: 0 };
    let mut last_id = Some("0".to_owned());
    loop {
        let mut watcher = until("it is let in", async || {
            let watcher = query.client.watch(watches.query, last_id.as_deref()).await;
            // The log is out of reach now and then.
            (watcher.status == 200).then_some(watcher)
        })
        .await;
        told.connections += 1;
        for _ in 0..watches.hangs_up_after {
            let Some(event) = watcher.next().await else { break };
            if event.event == "reset" {
                assert_eq!(event.data["reason"], "unavailable", "{event:?}");
                break;
            }
            told.events.push(event.clone());
            if event.event == "bookmark" && event.position() >= end.load(Relaxed) {
                return told;
            }
        }
        last_id = watcher.last_id.or(last_id);
    }
}

async fn log(connection: &mut PgConnection) -> Vec<Command> {
    let rows = sqlx::query("select position, command_id::text, aggregate_id, sequence from events order by position");
    let mut commands = BTreeMap::<_, Vec<_>>::new();
    let mut of: (String, u64) = (String::new(), 0);
    for row in rows.fetch_all(connection).await.expect("the log is read") {
        let position = u64::try_from(row.get::<i64, _>(0)).expect("positions are positive");
        if row.get::<String, _>(1) == of.0 {
            let changes = commands.remove(&of.1).expect("its beginning was read");
            commands.insert(position, changes);
        }
        of = (row.get(1), position);
        let change = format!("{}@{}", row.get::<String, _>(2), row.get::<i64, _>(3));
        commands.entry(position).or_default().push(change);
    }
    commands.into_iter().map(|(position, changes)| Command { position, changes }).collect()
}
