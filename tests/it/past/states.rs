//! `GET /v1/config?at=…`: the state at a position is the fold of the log up to it.

use end_to_end::{Client, CommandService, Database, QueryService};
use serde_json::{Value, json};

use super::{
    history::{Dice, History},
    joined, pages,
};

#[tokio::test]
async fn the_state_at_any_position_is_the_fold_of_the_log_up_to_it() {
    for seed in 1..=4 {
        let (database, history) = (Database::new().await, History::random(seed, 120));
        history.write(&database).await;
        let query = QueryService::start(&database).await;
        let mut dice = Dice::new(seed + 1000);
        let end = usize::try_from(history.end()).unwrap();
        let positions =
            [0, 1, history.end()].into_iter().chain((0..8).map(|_| i64::try_from(dice.throw(end)).unwrap()));
        for position in positions {
            for prefix in ["", "a", "a/b", "é", "x"] {
                check(&query.client, &history, position, prefix).await;
            }
        }
    }
}

async fn check(client: &Client, history: &History, position: i64, prefix: &str) {
    let (token, expected) = (history.token(position), history.state(position, prefix));
    let encoded = Client::encode(prefix);
    let list = async |more: &str| pages(client, &format!("/v1/config?at={token}&prefix={encoded}{more}")).await;

    let whole = list("").await;
    assert_eq!((joined(&whole, None), whole.len()), (expected.clone(), 1), "at {position}, {prefix:?}");
    assert_eq!(whole[0].header("config-position"), token);
    let bare = client.get(&format!("/v1/config?at={position}&prefix={encoded}")).await;
    assert_eq!(bare.json(), json!(expected));
    for limit in [1, 2, 1000] {
        let pages = list(&format!("&limit={limit}")).await;
        assert_eq!(joined(&pages, None), expected, "at {position}, {prefix:?}, pages of {limit}");
        assert_eq!(pages.len(), expected.len().div_ceil(limit).max(1), "no page more than there are entries for");
        assert!(pages.iter().all(|page| page.header("config-position") == token), "all of one state");
    }
    let names: Vec<Value> = expected.iter().map(|entry| json!({ "name": entry["name"] })).collect();
    assert_eq!(joined(&list("&fields=name").await, None), names);
    assert_eq!(joined(&list("&fields=name&limit=2").await, None), names);
    assert_eq!(list("&count=true").await[0].json(), json!({ "count": expected.len() }));
}

#[tokio::test]
async fn a_moment_names_the_state_behind_the_last_command_that_was_recorded_until_then() {
    let (database, history) = (Database::new().await, History::random(7, 60));
    history.write(&database).await;
    let query = QueryService::start(&database).await;
    let at = async |moment: &str| query.client.get(&format!("/v1/config?at={}", Client::encode(moment))).await;

    for event in &history.events {
        let same_command = history.events.iter().filter(|other| other.command_id == event.command_id);
        let last = same_command.map(|other| other.position).max().unwrap();
        let answer = at(&event.moment()).await;
        assert_eq!(answer.json(), json!(history.state(last, "")), "{event:?}");
        assert_eq!(answer.header("config-position"), history.token(last));
        let date = event.recorded_at.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        assert_eq!((answer.header("memento-datetime"), answer.header("cache-control")), (date.as_str(), "no-cache"));
    }
    let before = at("2024-01-15T10:29:59.999999Z").await;
    assert_eq!((before.short(), before.header("config-position")), ((200, "[]"), "0"));
    assert_eq!(before.header("memento-datetime"), "");

    // The newest event may still be followed by one of this moment.
    let later = at("2124-01-15T10:30:00Z").await;
    assert_eq!((later.json(), later.header("cache-control")), (json!(history.state(history.end(), "")), "no-store"));
}

/// What is written while pages are read changes nothing in them, nor does the replica that they are read from.
#[tokio::test]
async fn pages_of_a_past_state_fit_together_whatever_is_written_meanwhile_and_whoever_answers() {
    let (database, history) = (Database::new().await, History::random(11, 80));
    history.write(&database).await;
    let command = CommandService::start(&database).await;
    let replicas = [QueryService::start(&database).await, QueryService::start(&database).await];
    let (at, mut entries) = (history.token(50), vec![]);
    let mut next = Some(format!("/v1/config?at={at}&limit=1"));
    let mut written = 0;
    while let Some(path) = next {
        let page = replicas[written % 2].client.get(&path).await;
        entries.extend(page.json().as_array().unwrap().clone());
        command.client.put(["a", "a/b", "new"][written % 3], written).await;
        written += 1;
        next = super::following(&page);
    }
    assert_eq!(entries, history.state(50, ""));
    assert!(written > 3, "{written}");
}

/// More than one statement reads, and more than one buffer holds.
#[tokio::test]
async fn a_long_list_of_the_past_is_sent_in_pieces_that_fit_together() {
    let database = Database::new().await;
    database
        .execute(
            "insert into events
             select 'ConfigValue', 'name-' || lpad((i % 2500)::text, 4, '0'), i / 2500 + 1,
                    case when i % 7 = 0 and i < 2500 then 'ConfigValueDeleted' else 'ConfigValueSet' end, '1.0',
                    case when i % 7 = 0 and i < 2500 then '{}'
                         else '{\"value\":\"' || i || repeat('x', 1000) || '\"}' end::json,
                    '{}', i + 1, '2024-01-15T10:30:00Z'::timestamptz + i * interval '1 s', gen_random_uuid(), 0
               from generate_series(0, 4999) i",
        )
        .await;
    let query = QueryService::start(&database).await;
    let list = query.client.get("/v1/config?at=2500").await.json();
    let expected = (0..2500).filter(|i| i % 7 != 0);
    let expected =
        expected.map(|i| json!({"name": format!("name-{i:04}"), "value": format!("{i}{}", "x".repeat(1000))}));
    assert!(list.as_array().unwrap().iter().eq(&expected.collect::<Vec<_>>()));
    let count = query.client.get("/v1/config?at=2500&count=true").await;
    assert_eq!(count.short(), (200, r#"{"count":2142}"#));
}
