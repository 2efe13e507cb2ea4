//! Processes that are killed.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

use end_to_end::{Database, QueryService, Standalone, process::Process, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use reqwest::Method;
use serde_json::json;

/// Writers at once, each on a name of its own.
const WRITERS: u64 = 16;

#[tokio::test]
async fn after_kill_9_every_acknowledged_write_is_there_once() {
    let database = Database::new().await;
    let process = Process::start("command-service", &["--database-url", &database.url]).await;
    let client = process.client.clone();
    // Each writer counts up until the service is gone, and returns the last number that was acknowledged.
    let writers = (0..WRITERS).map(async |writer| {
        let (path, mut acknowledged) = (format!("/v1/config/w{writer}"), 0_u64);
        loop {
            let body = json!({ "value": acknowledged + 1 }).to_string();
            match client.try_send(Method::PUT, &path, &[("content-type", "application/json")], Some(body)).await {
                Some(answer) if answer.status.is_success() => acknowledged += 1,
                _ => return (format!("w{writer}"), acknowledged),
            }
        }
    });
    let mut connection = database.connect().await;
    let killed = async {
        until("there is load", async || {
            let count: i64 =
                sqlx::query_scalar("select count(*) from events").fetch_one(&mut connection).await.unwrap();
            (count > 500).then_some(())
        })
        .await;
        process.kill().await;
    };
    let (acknowledged, ()) = tokio::join!(futures_util::future::join_all(writers), killed);
    let acknowledged: HashMap<_, _> = acknowledged.into_iter().collect();

    let rows: Vec<(String, i64, String)> =
        sqlx::query_as("select aggregate_id, sequence, payload::text from events order by position")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    let mut written: HashMap<String, u64> = HashMap::new();
    for (name, sequence, payload) in rows {
        let last = written.entry(name).or_default();
        *last += 1;
        assert_eq!(u64::try_from(sequence), Ok(*last));
        assert_eq!(payload, format!("{{\"value\":{last}}}"), "each number once and in order");
    }
    for (name, acknowledged) in &acknowledged {
        let written = written[name];
        assert!(
            (*acknowledged..=acknowledged + 1).contains(&written),
            "{name}: {acknowledged} acknowledged, {written} written"
        );
    }
    assert!(acknowledged.values().sum::<u64>() > 100);

    // The next one goes on from there.
    let next = Process::start("command-service", &["--database-url", &database.url]).await;
    next.client.put("w0", "after").await;
    let query = QueryService::start(&database).await;
    assert_eq!(query.client.value("w0").await.short(), (200, "after"));
    next.kill().await;
}

/// Acknowledged writes after which a round's kill comes at the latest.
const LATEST: u64 = 300;

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Standalone,
    Postgres,
    Both,
}

/// `config-api` with a Postgres of its own, on one data directory, twenty times: killed under load, and started again.
#[tokio::test]
async fn after_kill_9_of_the_standalone_its_postgres_or_both_the_next_start_has_every_acknowledged_write() {
    let data = tempfile::Builder::new().prefix("config-api-tests-").tempdir().unwrap();
    let arguments = ["--data-dir", data.path().to_str().unwrap()];
    let mut numbers = [0_u64; 8];
    let mut killed = None;
    for round in 0..20_u64 {
        let service = Process::start("config-api", &arguments).await;
        service.client.until_ready().await;
        if let Some(Victim::Postgres | Victim::Both) = killed {
            let recovered = |line: &String| line.contains("Postgres was not shut down properly and recovers now");
            assert!(service.log().iter().any(recovered), "it says so: {:#?}", service.log());
        }
        for (writer, number) in numbers.iter_mut().enumerate() {
            let value = service.client.value(&format!("w{writer}")).await;
            let there = if value.status == 404 { 0 } else { value.body.parse().unwrap() };
            assert!(
                (*number..=*number + 1).contains(&there),
                "{killed:?}, writer {writer}: {number} acknowledged, {there} is there"
            );
            *number = there;
        }
        let postmaster = std::fs::read_to_string(data.path().join("postgres/postmaster.pid")).unwrap();
        let postmaster = Pid::from_raw(postmaster.lines().next().unwrap().parse().unwrap());
        let victim = [Victim::Standalone, Victim::Postgres, Victim::Both][usize::try_from(round % 3).unwrap()];
        let acknowledged = AtomicU64::new(0);
        let writers = numbers.iter_mut().enumerate().map(async |(writer, number)| {
            let path = format!("/v1/config/w{writer}");
            loop {
                let body = json!({ "value": *number + 1 }).to_string();
                match service.client.try_send(Method::PUT, &path, &[], Some(body)).await {
                    Some(answer) if answer.status.is_success() => *number += 1,
                    _ => return,
                }
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        });
        // Somewhere in a group, a commit, an answer: another moment in each round and each run. A failure shows them.
        let moment = 1 + RandomState::new().hash_one(round) % LATEST;
        eprintln!("round {round}: kills {victim:?} once {moment} writes were acknowledged");
        let kills = async {
            until("there is load", async || (acknowledged.load(Ordering::Relaxed) >= moment).then_some(())).await;
            let victims = match victim {
                Victim::Standalone => vec![service.pid()],
                Victim::Postgres => vec![postmaster],
                Victim::Both if round % 2 == 0 => vec![service.pid(), postmaster],
                Victim::Both => vec![postmaster, service.pid()],
            };
            for pid in victims {
                kill(pid, Signal::SIGKILL).expect("it runs");
            }
        };
        tokio::join!(futures_util::future::join_all(writers), kills);
        let (status, log) = service.ended().await;
        if matches!(victim, Victim::Postgres) {
            assert_eq!(status.code(), Some(1), "without its log it ends, and says so: {log:#?}");
        }
        killed = Some(victim);
    }
    let last = Process::start("config-api", &arguments).await;
    last.client.until_ready().await;
    let history = last.client.get("/v1/config/w0/history?limit=1000").await.json();
    let told: Vec<_> =
        history.as_array().unwrap().iter().map(|version| version["data"]["value"].as_u64().unwrap()).collect();
    assert!(told.iter().copied().eq(1..=told.len() as u64), "each number once and in order: {told:?}");
    let (acknowledged, there) = (numbers[0], told.len() as u64);
    assert!((acknowledged..=acknowledged + 1).contains(&there), "{acknowledged} acknowledged, {there} are there");
    last.terminate();
    assert_eq!(last.ended().await.0.code(), Some(0));
}

#[tokio::test]
async fn after_a_restart_of_everything_all_values_are_there() {
    let database = Database::new().await;
    let first = Standalone::start(&database).await;
    for n in 0..50 {
        first.client.put(&format!("n{n}"), n).await;
    }
    first.client.delete("n7").await;
    let before = first.client.get("/v1/config").await.body;
    first.stop().await.unwrap();
    let second = Standalone::start(&database).await;
    assert_eq!(second.client.get("/v1/config").await.body, before);
    second.client.put("n7", "again").await;
    assert_eq!(second.client.value("n7").await.short(), (200, "again"));
    let history = second.client.get("/v1/config/n7/history").await.json();
    assert_eq!(history.as_array().unwrap().len(), 3);
}

/// The client hangs up before its command has even been decided; it is carried out, and told, all the same.
#[tokio::test]
async fn a_client_that_goes_away_changes_nothing() {
    let database = Database::new().await;
    let standalone = Standalone::start(&database).await;
    // Nobody can read the log, so that the command is still loading when its client leaves.
    let mut holder = database.connect().await;
    let mut holding = sqlx::Connection::begin(&mut holder).await.unwrap();
    sqlx::query("lock table events in access exclusive mode").execute(&mut *holding).await.unwrap();
    let mut watcher = database.connect().await;
    {
        let write = standalone.client.put("a", "1");
        let waiting = until("the command waits for its load", async || {
            let waiting: i64 = sqlx::query_scalar(
                "select count(*) from pg_stat_activity
                  where datname = current_database() and wait_event_type = 'Lock' and query like '%wanted (name, index)%'",
            )
            .fetch_one(&mut watcher)
            .await
            .unwrap();
            (waiting > 0).then_some(())
        });
        tokio::select! {
            answer = write => panic!("answered although nothing could be loaded: {answer:?}"),
            () = waiting => {}
        }
    }
    holding.rollback().await.unwrap();
    until("the value is there", async || (standalone.client.value("a").await.short() == (200, "1")).then_some(()))
        .await;
    until("the worker told it", async || {
        (standalone.client.get("/v1/worker/stats").await.json()["message_count"] == 1).then_some(())
    })
    .await;
}
