//! How new a read is: all that the log has, or all that the client has seen, on any replica.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use end_to_end::{CommandService, Database, Proxy, QueryService, until};
use tokio::task::JoinSet;

use super::{get, items, lagging, position};

/// Every read of the present or the past.
const READS: [&str; 12] = [
    "/v1/config/a",
    "/config/a",
    "/v1/config",
    "/config",
    "/v1/config?limit=1",
    "/v1/config?prefix=a&count=true",
    "/v1/config/a/history",
    "/v1/config/a/at/2124-01-15T10:30:00Z",
    "/v1/config/a/versions/1",
    "/v1/diff?from=0",
    "/v1/events",
    "/v1/events?follow=true",
];

/// The path with one query parameter more.
fn with(path: &str, parameter: &str) -> String {
    format!("{path}{}{parameter}", if path.contains('?') { '&' } else { '?' })
}

#[tokio::test]
async fn each_read_waits_for_the_position_that_it_is_asked_for_and_then_says_where_the_replica_is() {
    let database = Database::new().await;
    let command = CommandService::start(&database).await;
    command.client.put("a", 1).await;
    let mut config = QueryService::config(&database.url);
    config.min_position_wait = Duration::from_millis(100);
    let query = QueryService::start_with(config).await;
    query.until_ready().await;
    for path in READS.into_iter().chain(["/v1/config?at=1", "/v1/config?at=1&limit=1"]) {
        let by_query = query.client.get_json(&with(path, "min_position=2")).await;
        let headers = [("config-min-position", "2"), ("accept", "application/json")];
        for refused in [by_query, get(&query.client, path, &headers).await] {
            assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (503, "1"), "{path}: {refused:?}");
            assert_eq!(refused.json()["type"], "urn:config-api:problem:replica-behind", "{path}");
            assert_eq!(position(&refused), 1, "{path}");
        }
    }
}

#[tokio::test]
async fn a_strong_read_has_every_write_that_was_answered_before_it_was_asked() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, lagging(&database.url).await);
    let mut behind = 0;
    for n in 1..=8_u8 {
        command.client.put("a", n.to_string()).await;
        behind += usize::from(query.client.value("a").await.body != n.to_string());
        let version = format!("/v1/config/a/versions/{n}");
        let paths = [
            "/v1/config/a",
            "/v1/config",
            "/v1/config?limit=1",
            "/v1/config/a/history?limit=1",
            &version,
            "/v1/config/a/at/2124-01-15T10:30:00Z",
            "/v1/diff?from=0",
            "/v1/events",
        ];
        let path = paths[usize::from(n) % paths.len()];
        let strong = query.client.get(&with(path, "consistency=strong")).await;
        assert_eq!((strong.status.as_u16(), position(&strong)), (200, i64::from(n)), "{strong:?}");
        assert!(strong.body.contains(&n.to_string()), "{strong:?}");
    }
    assert!(behind > 0, "the replica was never behind: nothing was tried");
    assert_eq!(query.client.get("/v1/config/a?consistency=default").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn strong_reads_at_once_all_have_what_was_answered_before_each() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let mut readers = JoinSet::new();
    for reader in 0..16 {
        let (command, query, name) = (command.client.clone(), query.client.clone(), format!("n{}", reader % 4));
        readers.spawn(async move {
            for _ in 0..20 {
                let written = command.put_with(&name, &format!("{{\"value\":\"{reader} \"}}"), &[]).await;
                assert_eq!(written.status, 200, "{written:?}");
                let read = query.get(&format!("/v1/config/{name}?consistency=strong")).await;
                assert_eq!(read.status, 200, "{read:?}");
                assert!(position(&read) >= position(&written), "{read:?} after {written:?}");
            }
        });
    }
    readers.join_all().await;
}

#[tokio::test]
async fn without_the_log_a_strong_read_is_refused_in_time_and_the_default_one_answered() {
    let database = Database::new().await;
    let proxy = Proxy::to(&database).await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&proxy.database).await);
    let written = command.client.put("a", "1").await;
    query.client.value_after("a", &written).await;
    let strong = async || query.client.get("/v1/config/a?consistency=strong").await;
    assert_eq!(strong().await.short(), (200, "1"));

    proxy.lose_answers();
    let began = Instant::now();
    let silent = strong().await;
    assert_eq!(silent.status, 503, "{silent:?}");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    proxy.down().await;
    let refused = get(&query.client, "/v1/config?consistency=strong", &[("accept", "application/json")]).await;
    assert_eq!(refused.json()["type"], "urn:config-api:problem:log-out-of-reach", "{refused:?}");
    assert!(!refused.header("retry-after").is_empty() && !refused.header("config-position").is_empty());
    assert_eq!(query.client.value("a").await.short(), (200, "1"), "from memory");

    proxy.up();
    until("it is well again", async || (strong().await.short() == (200, "1")).then_some(())).await;
}

/// A failover to an asynchronous standby, which the replica has not noticed yet: it looks once a second, without a lock on which
/// it would wait.
#[tokio::test]
async fn a_strong_read_has_nothing_that_the_log_has_lost() {
    let database = Database::new().await;
    let command = CommandService::start(&database).await;
    let config = query_service::Config {
        listening: query_service::Listening::Off,
        poll_interval: Duration::from_secs(1),
        ..QueryService::config(&database.url)
    };
    let query = QueryService::start_with(config).await;
    query.until_ready().await;
    let mut admin = database.connect().await;
    sqlx::query("set session_replication_role = replica").execute(&mut admin).await.unwrap();
    command.client.put("kept", 1).await;
    command.client.put("phantom", 1).await;
    assert_eq!(query.client.get("/v1/config/phantom?consistency=strong").await.status, 200);
    sqlx::query("delete from events where position = 2").execute(&mut admin).await.unwrap();
    let strong = query.client.get("/v1/config/phantom?consistency=strong").await;
    assert_eq!((strong.status.as_u16(), position(&strong)), (404, 1), "{strong:?}");
}

/// What stands there of a standby is its word that it is one.
#[tokio::test]
async fn a_standby_cannot_promise_a_strong_read_and_says_so() {
    let database = Database::new().await;
    database
        .execute(
            "create function public.pg_is_in_recovery() returns boolean language sql as 'select true';
             do $$ begin
                 execute format('alter database %I set search_path = public, pg_catalog', current_database());
             end $$",
        )
        .await;
    let query = QueryService::start(&database).await;
    for path in READS {
        let refused = query.client.get_json(&with(path, "consistency=strong")).await;
        let expected = (503, "urn:config-api:problem:log-is-standby".into());
        assert_eq!((refused.status.as_u16(), refused.json()["type"].clone()), expected, "{path}");
    }
    assert_eq!(query.client.get("/v1/config").await.short(), (200, "[]"));
}

/// Most times that the client reads.
const MOST_ROUNDS: usize = 1_000;

/// Each counter only grows. A client that goes from replica to replica with the last position that it has seen never sees one
/// shrink; one that does not send it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_that_sends_its_last_position_to_any_replica_never_reads_backwards() {
    let database = Database::new().await;
    let command = CommandService::start(&database).await;
    let replicas = [QueryService::start(&database).await, lagging(&database.url).await];
    let done = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..3 {
        let (client, done) = (command.client.clone(), Arc::clone(&done));
        writers.spawn(async move {
            for n in 1_u64.. {
                client.put(&format!("counter{writer}"), n).await;
                if done.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
    }
    let (mut seen, mut token, mut backwards_without) = ([0; 3], String::from("0"), 0);
    for n in 0.. {
        let enough = n >= 40 && seen.iter().all(|count| *count >= 20) && backwards_without > 0;
        if enough || n == MOST_ROUNDS {
            break;
        }
        let (this, other) = (&replicas[n % 2].client, &replicas[(n + 1) % 2].client);
        let list = match n % 4 {
            0 | 1 => get(this, "/v1/config", &[("config-min-position", &token)]).await,
            _ => get(this, &format!("/v1/config?min_position={token}"), &[]).await,
        };
        let now = counters(&items(&list));
        assert!((0..3).all(|counter| now[counter] >= seen[counter]), "{now:?} after {seen:?}");
        token = list.header("config-position").to_owned();
        seen = now;
        let without = counters(&items(&get(other, "/v1/config", &[]).await));
        backwards_without += usize::from((0..3).any(|counter| without[counter] < seen[counter]));
        let one = get(other, "/v1/config/counter0", &[("config-min-position", &token)]).await;
        if seen[0] > 0 {
            assert!(one.body.parse::<u64>().unwrap() >= seen[0], "{one:?} after {seen:?}");
        }
    }
    done.store(true, Ordering::Relaxed);
    writers.join_all().await;
    assert!(backwards_without > 0, "the replicas were never apart: nothing was tried");
}

fn counters(items: &[(String, serde_json::Value)]) -> [u64; 3] {
    let mut counters = [0; 3];
    for (name, value) in items {
        let index: usize = name.strip_prefix("counter").and_then(|digit| digit.parse().ok()).expect("a counter");
        counters[index] = value.as_u64().expect("a number");
    }
    counters
}
