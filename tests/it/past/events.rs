//! `GET /v1/events`: the log itself: every event once, in order, by pages and for followers, through cuts and faults.

use std::time::Duration;

use end_to_end::{Client, CommandService, Database, QueryService, until, wait::PATIENCE};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tokio::time::{Instant, timeout};

use super::{following, history::History, pages};

#[tokio::test]
async fn pages_of_the_log_have_every_event_once_as_it_is_stored() {
    let (database, history) = (Database::new().await, History::random(31, 100));
    history.write(&database).await;
    let query = QueryService::start(&database).await;
    let expected: Vec<_> = history.events.iter().map(line).collect();
    for limit in [1, 7, 1000] {
        let pages = pages(&query.client, &format!("/v1/events?limit={limit}")).await;
        let told: Vec<Value> = pages.iter().flat_map(|page| lines(&page.body)).collect();
        assert_eq!(told, expected, "pages of {limit}");
        assert_eq!(pages.len(), expected.len().div_ceil(limit));
        assert!(pages.iter().all(|page| page.header("content-type") == "application/x-ndjson"));
        assert_eq!(pages.last().unwrap().header("config-position"), history.token(history.end()));
    }
    let behind = query.client.get(&format!("/v1/events?from={}&limit=2", history.token(40))).await;
    assert_eq!(lines(&behind.body), expected[40..42]);
    assert_eq!(behind.header("config-position"), history.token(42));
    assert_eq!(following(&behind).unwrap(), format!("/v1/events?from={}&limit=2", history.token(42)));
    let end = query.client.get(&format!("/v1/events?from={}", history.token(history.end()))).await;
    assert_eq!((end.short(), end.header("cache-control"), following(&end)), ((200, ""), "no-store", None));
}

#[tokio::test]
async fn each_event_is_on_one_line_also_when_its_value_is_not_and_when_nobody_here_knows_it() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    command.client.put_with("a", "{\"value\":{\r\n\"n\": 1.10,\n\"s\":\"x\\ny\"}}", &[]).await;
    database
        .execute(
            "insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
             values ('Other', 'b', 1, 'Happened', '7', '{\"x\":\n[1]}', '{}'),
                    ('ConfigValue', 'c', 1, 'ConfigValueRenamed', '1.0', '{\"to\":\"d\"}', '{}')",
        )
        .await;
    let page = query.client.get("/v1/events").await;
    assert_eq!(page.body.lines().count(), 3, "{page:?}");
    assert!(page.body.contains("\"n\": 1.10"), "numbers keep their digits");
    let told = lines(&page.body);
    assert_eq!(told[0]["value"], json!({"n": 1.10, "s": "x\ny"}));
    assert_eq!((&told[1]["aggregate_type"], &told[1]["payload"]), (&json!("Other"), &json!({"x": [1]})));
    assert_eq!((&told[2]["event_type"], &told[2]["payload"]), (&json!("ConfigValueRenamed"), &json!({"to": "d"})));
}

/// Values that fill a piece each, between small ones.
#[tokio::test]
async fn large_events_are_read_in_pieces_that_fit_together() {
    let database = Database::new().await;
    database
        .execute(
            "insert into events
             select 'ConfigValue', 'a', i, 'ConfigValueSet', '1.0',
                    ('{\"value\":\"' || repeat('x', case when i % 50 < 3 then 700000 else 10 end) || i || '\"}')::json, '{}',
                    i, '2024-01-15T10:30:00Z'::timestamptz + i * interval '1 s', gen_random_uuid(), 0
               from generate_series(1, 200) i",
        )
        .await;
    let query = QueryService::start(&database).await;
    let told = lines(&query.client.get("/v1/events").await.body);
    let positions: Vec<_> = told.iter().map(|line| line["position"].as_u64().unwrap()).collect();
    assert_eq!(positions, (1..=200).collect::<Vec<_>>());
    assert!(told.iter().all(|line| line["value"].as_str().unwrap().ends_with(&line["position"].to_string())));
}

/// It is cut again and again, with its connection to the log, and goes on from the last position that it has seen.
#[tokio::test]
async fn a_follower_that_goes_on_where_it_was_has_every_event_once_in_order_through_faults() {
    const EVENTS: usize = 300;
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let mut admin = database.connect().await;
    let write = async {
        for n in 0..EVENTS {
            command.client.put(&format!("name-{}", n % 7), n).await;
        }
    };
    let follow = async {
        let (mut seen, mut from, mut cuts) = (vec![], "0".to_owned(), 0);
        while seen.len() < EVENTS {
            let Some(mut follower) = Follower::begin(&query.client, &from).await else { continue };
            let until = seen.len() + 40;
            while let Some(line) = follower.event().await {
                from = line["position"].to_string();
                seen.push(line);
                if seen.len() == until {
                    cut(&mut admin).await;
                }
                if seen.len() >= EVENTS || seen.len() > until + 20 {
                    break;
                }
            }
            cuts += 1;
        }
        (seen, cuts)
    };
    let ((), (seen, cuts)) = timeout(PATIENCE, async { tokio::join!(write, follow) }).await.expect("it gets all");
    let positions: Vec<_> = seen.iter().map(|line| line["position"].as_u64().unwrap()).collect();
    assert_eq!(positions, (1..=300).collect::<Vec<_>>());
    assert!(seen.iter().enumerate().all(|(n, line)| line["value"] == n), "as they were written");
    assert!(cuts > 3, "{cuts}");
}

/// Ends every connection of the query service to the database, as an administrator does.
async fn cut(admin: &mut PgConnection) {
    let killed = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                   where datname = current_database() and pid <> pg_backend_pid() and application_name = 'tests query'";
    let _count: i64 = sqlx::query_scalar(killed).fetch_one(admin).await.expect("it answers");
}

#[tokio::test]
async fn a_follower_hears_of_an_event_at_once_and_of_nothing_as_well() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let mut follower = Follower::begin(&query.client, "0").await.expect("it follows");
    for n in 0..5 {
        let began = Instant::now();
        command.client.put("a", n).await;
        assert_eq!(follower.event().await.unwrap()["value"], n);
        assert!(began.elapsed() < Duration::from_secs(4), "not by its heartbeat");
    }
    assert_eq!(follower.line().await.unwrap(), "", "a heartbeat");
    command.client.put("a", 5).await;
    assert_eq!(follower.event().await.unwrap()["value"], 5);
}

#[tokio::test]
async fn followers_end_when_the_service_stops() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    command.client.put("a", 1).await;
    let mut follower = Follower::begin(&query.client, "0").await.expect("it follows");
    assert_eq!(follower.event().await.unwrap()["position"], 1);
    let began = Instant::now();
    let (stopped, line) = tokio::join!(query.stop(), follower.line());
    stopped.unwrap();
    assert_eq!(line, None, "its answer ends in order");
    assert!(began.elapsed() < Duration::from_secs(10), "nothing waits for the shutdown's limit");
}

/// Far more than the network takes in at once.
#[tokio::test]
async fn a_follower_that_is_catching_up_ends_when_the_service_stops() {
    const EVENTS: u64 = 6_000;
    let database = Database::new().await;
    database
        .execute(
            "insert into events
             select 'ConfigValue', 'a', i, 'ConfigValueSet', '1.0', ('{\"value\":\"' || repeat('x', 10000) || '\"}')::json,
                    '{}', i, '2024-01-15T10:30:00Z'::timestamptz + i * interval '1 s', gen_random_uuid(), 0
               from generate_series(1, 6000) i",
        )
        .await;
    let query = QueryService::start(&database).await;
    let mut follower = Follower::begin(&query.client, "0").await.expect("it follows");
    assert_eq!(follower.event().await.unwrap()["position"], 1);
    let rest = async {
        let mut last = 1;
        while let Some(line) = follower.event().await {
            last = line["position"].as_u64().unwrap();
        }
        last
    };
    let began = Instant::now();
    let (stopped, last) = tokio::join!(query.stop(), rest);
    stopped.unwrap();
    assert!(last < EVENTS, "it was sent all of the log first");
    assert!(began.elapsed() < Duration::from_secs(10), "the shutdown's limit ended it");
}

#[tokio::test]
async fn there_is_a_limit_to_followers_and_a_place_is_free_again_when_one_goes() {
    let database = Database::new().await;
    let query = QueryService::start(&database).await;
    let mut followers = vec![];
    for _ in 0..64 {
        followers.push(Follower::begin(&query.client, "0").await.expect("it follows"));
    }
    let refused = timeout(PATIENCE, query.client.get_json("/v1/events?follow=true")).await.expect("it does not follow");
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (503, "1"), "{refused:?}");
    assert_eq!(refused.json()["type"], "urn:config-api:problem:too-many-followers");
    followers.pop();
    until("a place is free", async || Follower::begin(&query.client, "0").await).await;
}

/// What a failover to an asynchronous standby does.
#[tokio::test]
async fn a_follower_of_a_log_that_was_rewritten_is_told_and_sent_nothing_of_another_past() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    command.client.put("kept", 1).await;
    let phantom = command.client.put("phantom", 1).await.header("config-position").to_owned();
    let mut follower = Follower::begin(&query.client, "0").await.expect("it follows");
    for position in 1..=2 {
        assert_eq!(follower.event().await.unwrap()["position"], position);
    }
    database.rewrite_from(2, &[("real", "2"), ("real", "3")]).await;
    let last = follower.event().await.unwrap();
    assert_eq!(last["type"], "urn:config-api:problem:position-diverged", "{last}");
    assert_eq!(follower.line().await, None);
    for follow in ["", "&follow=true"] {
        let refused = query.client.get_json(&format!("/v1/events?from={phantom}{follow}")).await;
        assert_eq!(refused.status, 409, "{refused:?}");
    }
}

/// What a line must say of an event.
fn line(event: &super::history::Event) -> Value {
    let mut line = json!({
        "position": event.position, "aggregate_type": "ConfigValue", "name": event.name, "version": event.version,
        "event_type": event.event_type(), "event_version": "1.0", "metadata": event.metadata(),
        "recorded_at": event.moment(), "command_id": event.command_id, "part": event.part,
    });
    if let Some(value) = &event.value {
        line["value"] = value.clone();
    }
    line
}

fn lines(body: &str) -> Vec<Value> {
    body.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// Reads `/v1/events?follow=true`.
struct Follower {
    answer: reqwest::Response,
    read: Vec<u8>,
}

impl Follower {
    /// `None` when it is refused, or not answered.
    async fn begin(client: &Client, from: &str) -> Option<Self> {
        let answer = reqwest::get(format!("{}/v1/events?follow=true&from={from}", client.base())).await.ok()?;
        answer.status().is_success().then_some(Self { answer, read: vec![] })
    }

    /// The next line; `None` when the answer ended, or was cut off.
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            let chunk = timeout(PATIENCE, self.answer.chunk()).await.expect("a heartbeat at least");
            self.read.extend_from_slice(&chunk.ok()??);
        }
    }

    /// The next line that is no heartbeat.
    async fn event(&mut self) -> Option<Value> {
        loop {
            let line = self.line().await?;
            if !line.is_empty() {
                return Some(serde_json::from_str(&line).expect("a line of JSON"));
            }
        }
    }
}
