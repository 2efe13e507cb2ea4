//! Two command services on one log, and clients that are after the same names.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use end_to_end::{Client, CommandService, Database, services::Running, wait::PATIENCE};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tokio::{task::JoinSet, time::timeout};

use super::{
    Write, batch, delete,
    linearizable::{Call, Operation, Outcome, is_linearizable},
    put, refused,
};
use crate::append::group::log;

/// Clients at once; every other one speaks to the other service.
const CLIENTS: u64 = 12;

async fn two_services(database: &Database) -> [Running; 2] {
    [CommandService::start(database).await, CommandService::start(database).await]
}

fn client_of(services: &[Running; 2], client: u64) -> Client {
    services[usize::from(client % 2 == 1)].client.clone()
}

/// What the clients return; a client that never comes through is a failure.
async fn ended<T: Send + 'static>(clients: JoinSet<T>) -> Vec<T> {
    timeout(PATIENCE, clients.join_all()).await.expect("all clients come through")
}

/// The counter's value is its version, so that who was refused knows the value as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_counter_that_many_increment_by_compare_and_set_counts_each_of_them() {
    const INCREMENTS: u64 = 10;
    let database = Database::new().await;
    let services = two_services(&database).await;
    let mut counting = JoinSet::new();
    for client in (0..CLIENTS).map(|client| client_of(&services, client)) {
        counting.spawn(async move {
            let (mut counter, mut done) = (0, vec![]);
            while done.len() < usize::try_from(INCREMENTS).unwrap() {
                let condition = match counter {
                    0 => ("if-none-match", "*".to_owned()),
                    version => ("if-match", format!("\"{version}\"")),
                };
                let answer = put("counter", counter + 1).with(condition.0, &condition.1).send(&client).await;
                if answer.status == 200 {
                    counter = answer.json()["version"].as_u64().unwrap();
                    done.push(counter);
                } else {
                    let (status, current) = refused(&answer);
                    assert_eq!(status, 412, "{answer:?}");
                    assert_ne!(current, Some(counter), "it is what was asked for");
                    counter = current.unwrap();
                }
            }
            done
        });
    }
    let mut versions = ended(counting).await.concat();
    versions.sort_unstable();
    let expected: Vec<_> = (1..=CLIENTS * INCREMENTS).collect();
    assert_eq!(versions, expected, "each success is a version that nobody else got");
    let values: Vec<String> = sqlx::query_scalar("select payload::text from events order by position")
        .fetch_all(&mut database.connect().await)
        .await
        .unwrap();
    assert_eq!(values, expected.iter().map(|n| json!({ "value": n }).to_string()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_answers_about_a_hot_name_are_right_in_one_order() {
    const STEPS: u64 = 30;
    const NAMES: [&str; 3] = ["a", "b", "c"];
    let database = Database::new().await;
    let services = two_services(&database).await;
    let clock = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (service, clock) = (client_of(&services, client), Arc::clone(&clock));
        let tick = move || clock.fetch_add(1, Ordering::SeqCst);
        clients.spawn(async move {
            let mut known: HashMap<&str, u64> = HashMap::new();
            let mut calls = vec![];
            for step in 0..STEPS {
                let name = NAMES[usize::try_from((client + step) % 3).unwrap()];
                let operation = match (client * 7 + step * 3 + step / 5) % 7 {
                    0 | 1 => Operation::Set,
                    2 => Operation::SetIfAbsent,
                    3 => Operation::Delete,
                    _ => Operation::SetIfVersion(known.get(name).copied().unwrap_or(1)),
                };
                let write = request(name, operation, &format!("{client} {step}"));
                let asked = tick();
                let answer = write.send(&service).await;
                let told = tick();
                let outcome = match answer.status.as_u16() {
                    200 => Outcome::Wrote(answer.json()["version"].as_u64().unwrap()),
                    404 => Outcome::NeverSet,
                    410 => Outcome::Gone,
                    _ => Outcome::Refused(refused(&answer).1.unwrap_or_else(|| panic!("{answer:?}"))),
                };
                if let Outcome::Wrote(version) | Outcome::Refused(version) = outcome {
                    known.insert(name, version);
                }
                calls.push((name, Call { asked, told, operation, outcome }));
            }
            calls
        });
    }
    let calls = ended(clients).await.concat();
    let log = log(&mut database.connect().await).await;
    for name in NAMES {
        let calls: Vec<_> = calls.iter().filter(|(of, _)| *of == name).map(|(_, call)| *call).collect();
        let wrote = calls.iter().filter(|call| matches!(call.outcome, Outcome::Wrote(_))).count();
        assert_eq!(log.iter().filter(|event| event.name == name).count(), wrote);
        assert!(is_linearizable(&calls), "{name}: {calls:#?}");
    }
}

fn request(name: &str, operation: Operation, value: &str) -> Write {
    match operation {
        Operation::Set => put(name, value),
        Operation::SetIfAbsent => put(name, value).with("if-none-match", "*"),
        Operation::SetIfVersion(version) => put(name, value).with("if-match", &format!("\"{version}\"")),
        Operation::Delete => delete(name),
    }
}

/// Batches in opposite orders: nobody may wait for somebody who waits for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn batches_that_write_the_same_names_in_opposite_orders_all_come_through_whole() {
    const BATCHES: u64 = 20;
    let database = Database::new().await;
    let services = two_services(&database).await;
    let mut writing = JoinSet::new();
    for client in 0..CLIENTS {
        let service = client_of(&services, client);
        writing.spawn(async move {
            for n in 0..BATCHES {
                let mut names = ["a", "b", "c", "d"];
                if client / 2 % 2 == 0 {
                    names.reverse();
                }
                let value = format!("{client} {n}");
                let set = |name: &&str| json!({"op": "set", "name": name, "value": value});
                let answer = batch(names.iter().map(set).collect()).send(&service).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                let told = answer.json();
                let versions = told["operations"].as_array().unwrap().iter().map(|one| &one["version"]);
                assert!(versions.clone().all(|version| *version == told["operations"][0]["version"]), "{told}");
            }
        });
    }
    ended(writing).await;
    let log = log(&mut database.connect().await).await;
    assert_eq!(log.len(), usize::try_from(CLIENTS * BATCHES * 4).unwrap());
    for (unit, version) in log.chunks(4).zip(1..) {
        assert!(
            unit.iter().all(|event| (event.command_id, event.sequence) == (unit[0].command_id, version)),
            "{unit:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transfers_between_two_accounts_lose_and_make_no_money() {
    const TRANSFERS: usize = 30;
    const ACCOUNTS: [&str; 2] = ["left", "right"];
    let database = Database::new().await;
    let services = two_services(&database).await;
    for account in ACCOUNTS {
        services[0].client.put(account, 1000).await;
    }
    let mut transferring = JoinSet::new();
    for client in 0..CLIENTS / 2 {
        let (service, mut connection) = (client_of(&services, client), database.connect().await);
        transferring.spawn(async move {
            let mut order = ACCOUNTS;
            if client / 2 % 2 == 0 {
                order.reverse();
            }
            let mut done = 0;
            while done < TRANSFERS {
                let balances = balances(&mut connection).await;
                let change = |(account, by): (&str, i64)| {
                    let (value, version) = balances[account];
                    json!({"op": "set", "name": account, "value": value + by, "if_version": version})
                };
                let operations: Value = order.into_iter().zip([-3, 3]).map(change).collect();
                let answer = batch(operations).send(&service).await;
                done += usize::from(answer.status == 200);
                assert!([200, 412].contains(&answer.status.as_u16()), "{answer:?}");
            }
        });
    }
    ended(transferring).await;
    let balances = balances(&mut database.connect().await).await;
    let transfers = i64::try_from(TRANSFERS).unwrap() * i64::try_from(CLIENTS / 2).unwrap();
    assert_eq!(balances["left"].0 + balances["right"].0, 2000);
    // Four clients have one order, and two the other.
    let from_right = 4 * i64::try_from(TRANSFERS).unwrap();
    assert_eq!(balances["left"], (1000 + 3 * (2 * from_right - transfers), transfers + 1));
    assert_eq!(balances["right"].1, transfers + 1);
}

/// Value and version of each account, of one moment.
async fn balances(connection: &mut PgConnection) -> HashMap<String, (i64, i64)> {
    let rows: Vec<(String, i64, i64)> = sqlx::query_as(
        "select distinct on (aggregate_id) aggregate_id, (payload->>'value')::bigint, sequence
           from events order by aggregate_id, sequence desc",
    )
    .fetch_all(connection)
    .await
    .expect("it answers");
    rows.into_iter().map(|(account, value, version)| (account, (value, version))).collect()
}
