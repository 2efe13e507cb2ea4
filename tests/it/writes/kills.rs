//! A command service that is killed under load, and clients that repeat what they heard no answer to, with the same key.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use end_to_end::{Database, HeldLog, process::Process, until};
use futures_util::future::join_all;
use serde_json::json;
use sqlx::PgConnection;

use super::{Write, is_replayed, put, written};
use crate::append::group::log;

/// Each counts up on a name of its own, with a key for each number.
const WRITERS: u64 = 16;

const ROUNDS: u64 = 5;

#[tokio::test]
async fn after_kill_9_each_write_that_is_repeated_with_its_key_is_there_once_and_its_answer_is_true() {
    let database = Database::new().await;
    let mut connection = database.connect().await;
    // Of each writer: the number whose answer it waits for.
    let mut numbers = vec![1_u64; usize::try_from(WRITERS).unwrap()];
    for round in 0..ROUNDS {
        let process = Process::start("command-service", &["--database-url", &database.url]).await;
        // In every other round it is killed while it waits for the log's lock: what it sent is written after its death.
        let held = round % 2 == 1;
        let acknowledged = AtomicU64::new(0);
        let client = process.client.clone();
        let writers = numbers.iter_mut().enumerate().map(async |(writer, number)| {
            while let Some(answer) = count(writer, *number).try_send(&client).await {
                assert_eq!((written(&answer), is_replayed(&answer)), ((200, *number, true), false), "{answer:?}");
                *number += 1;
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        });
        // A moment that no two rounds share.
        let moment = 50 + round * 37;
        let killed = async {
            until("there is load", async || (acknowledged.load(Ordering::Relaxed) >= moment).then_some(())).await;
            if held {
                let mut log = HeldLog::take(&database).await;
                log.until_waiting(1).await;
                process.kill().await;
                log.release().await;
            } else {
                process.kill().await;
            }
        };
        tokio::join!(join_all(writers), killed);
        until_no_service_is_connected(&mut connection).await;
        let last = last_numbers(&mut connection).await;

        let next = Process::start("command-service", &["--database-url", &database.url]).await;
        let repeat = numbers.iter_mut().enumerate().map(async |(writer, number)| {
            let answer = count(writer, *number).send(&next.client).await;
            let was_written = last.get(&name(writer)) == Some(number);
            assert_eq!((written(&answer), is_replayed(&answer)), ((200, *number, true), was_written), "{answer:?}");
            let again = count(writer, *number).send(&next.client).await;
            assert!(is_replayed(&again) && again.body == answer.body, "{again:?} after {answer:?}");
            *number += 1;
            (answer.json()["position"].as_i64().unwrap(), (name(writer), was_written))
        });
        let repeated: HashMap<_, _> = join_all(repeat).await.into_iter().collect();
        assert_eq!(repeated.len(), numbers.len(), "each at a position of its own");
        let written_before_the_answer = repeated.values().filter(|(_, was_written)| *was_written).count();
        assert!(!held || written_before_the_answer > 0, "what waited for the lock was written");
        let last = last_numbers(&mut connection).await;
        let log = log(&mut connection).await;
        for event in log.iter().filter(|event| u64::try_from(event.sequence).ok() == last.get(&event.name).copied()) {
            assert_eq!(repeated.get(&event.position).map(|(name, _)| name), Some(&event.name), "its position is true");
        }
        next.kill().await;
    }

    let rows: Vec<(String, i64, String)> =
        sqlx::query_as("select aggregate_id, sequence, payload::text from events order by position")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    let mut counted: HashMap<String, i64> = HashMap::new();
    for (name, sequence, payload) in rows {
        let last = counted.entry(name).or_default();
        *last += 1;
        assert_eq!((sequence, payload), (*last, json!({ "value": *last }).to_string()), "each number once, in order");
    }
    let expected: HashMap<_, _> =
        numbers.iter().enumerate().map(|(writer, next)| (name(writer), i64::try_from(*next).unwrap() - 1)).collect();
    assert_eq!(counted, expected);
}

fn name(writer: usize) -> String {
    format!("w{writer}")
}

fn count(writer: usize, number: u64) -> Write {
    put(&name(writer), number).keyed(&format!("{writer}-{number}"))
}

/// What a killed service has sent may still be carried out.
async fn until_no_service_is_connected(connection: &mut PgConnection) {
    until("the killed service's sessions have ended", async || {
        let sessions: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
              where datname = current_database() and application_name = 'command-service'",
        )
        .fetch_one(&mut *connection)
        .await
        .expect("it answers");
        (sessions == 0).then_some(())
    })
    .await;
}

async fn last_numbers(connection: &mut PgConnection) -> HashMap<String, u64> {
    let last: Vec<(String, i64)> =
        sqlx::query_as("select aggregate_id, max(sequence) from events group by aggregate_id")
            .fetch_all(connection)
            .await
            .expect("it answers");
    last.into_iter().map(|(name, sequence)| (name, u64::try_from(sequence).expect("a version"))).collect()
}
