//! `GET …/versions/{n}`, `…/at/{timestamp}` and `…/history`: each version, found by its number, its moment and its place among the
//! others, is what the log says.

use end_to_end::{Client, CommandService, Database, QueryService};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    history::{Event, History, NAMES},
    joined, pages,
};

#[tokio::test]
async fn each_version_is_found_by_its_number_and_never_changes() {
    let (database, history) = (Database::new().await, History::random(21, 80));
    history.write(&database).await;
    let query = QueryService::start(&database).await;
    for event in &history.events {
        let path = format!("/v1/config/{}/versions/{}", Client::encode(&event.name), event.version);
        let answer = query.client.get(&path).await;
        let Some(value) = &event.value else {
            assert_eq!(answer.short(), (404, "Not Found"), "{event:?}");
            continue;
        };
        assert_eq!(answer.short(), (200, value.to_string().as_str()), "{event:?}");
        let tag = format!("\"{}\"", event.version);
        assert_eq!((answer.header("etag"), answer.header("vary")), (tag.as_str(), "Accept"));
        assert_eq!(answer.header("cache-control"), "max-age=31536000, immutable");
        assert_eq!(answer.header("memento-datetime"), memento(event));
        let told = query.client.get_json(&path).await.json();
        assert_eq!(
            told,
            json!({"name": event.name, "value": value, "version": event.version, "position": event.position,
                   "recorded_at": event.moment(), "actor": "ann", "reason": event.reason})
        );
        let known = query.client.send(Method::GET, &path, &[("if-none-match", &tag)], None).await;
        assert_eq!(known.short(), (304, ""));
    }
    for unknown in ["/v1/config/a/versions/999", "/v1/config/unknown/versions/1"] {
        assert_eq!(query.client.get(unknown).await.short(), (404, "Not Found"));
    }
}

#[tokio::test]
async fn each_version_is_found_at_its_moment_and_until_the_next() {
    let (database, history) = (Database::new().await, History::random(22, 60));
    history.write(&database).await;
    let query = QueryService::start(&database).await;
    for event in &history.events {
        let at = async |moment: String| {
            query.client.get(&format!("/v1/config/{}/at/{moment}", Client::encode(&event.name))).await
        };
        let before = history.events.iter().find(|other| other.name == event.name && other.version == event.version - 1);
        let earlier = event.recorded_at - std::time::Duration::from_micros(1);
        for (said, moment) in [(Some(event), event.recorded_at), (before, earlier)] {
            let answer = at(moment.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()).await;
            let Some((value, said)) = said.and_then(|said| Some((said.value.as_ref()?, said))) else {
                assert_eq!(answer.short(), (404, "Not Found"));
                continue;
            };
            assert_eq!(answer.short(), (200, value.to_string().as_str()));
            assert_eq!(answer.header("memento-datetime"), memento(said), "since when it was so");
            assert_eq!(answer.header("cache-control"), "no-cache", "that moment is over");
        }
    }
}

/// The next event may be recorded before it, and change the answer.
#[tokio::test]
async fn the_value_at_a_moment_that_is_not_over_is_kept_by_nobody() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let written = command.client.put("a", 1).await;
    query.client.value_after("a", &written).await;
    let at = query.client.get("/v1/config/a/at/2099-01-01T00:00:00Z").await;
    assert_eq!((at.short(), at.header("cache-control")), ((200, "1"), "no-store"));
}

#[tokio::test]
async fn a_history_is_paged_from_either_end_and_always_says_what_was_replaced() {
    let (database, history) = (Database::new().await, History::random(23, 120));
    history.write(&database).await;
    let query = QueryService::start(&database).await;
    for name in NAMES {
        let path = format!("/v1/config/{}/history", Client::encode(name));
        let all = told(&history, name);
        let of = |after: usize, before: usize| {
            let version = |event: &&Value| usize::try_from(event["stream_version"].as_u64().unwrap()).unwrap();
            let within = move |event: &&Value| version(event) > after && version(event) < before;
            all.iter().filter(within).cloned().collect::<Vec<_>>()
        };
        let reversed = |mut events: Vec<Value>| {
            events.reverse();
            events
        };
        assert_eq!(query.client.get(&path).await.json(), json!(all));
        for (after, before) in [(0, 999), (2, 999), (0, 6), (3, 9), (5, 6)] {
            for limit in [1, 2, 7] {
                let ask = async |order: &str| {
                    let bounds = format!("?limit={limit}&after={after}&before={before}{order}");
                    pages(&query.client, &format!("{path}{bounds}")).await
                };
                let case = format!("{name}, {after} to {before}, pages of {limit}");
                assert_eq!(joined(&ask("&order=asc").await, None), of(after, before), "{case}");
                assert_eq!(joined(&ask("&order=desc").await, None), reversed(of(after, before)), "{case}");
                let mut pages = ask("").await;
                pages.reverse();
                assert_eq!(joined(&pages, None), of(after, before), "{case}, each page oldest first");
            }
        }
    }
}

/// What a history must say.
fn told(history: &History, name: &str) -> Vec<Value> {
    let mut old_value = Value::Null;
    let told = history.events.iter().filter(|event| event.name == name).map(|event| {
        let mut data = json!({"config_name": name, "timestamp": event.moment()});
        let old_value = std::mem::replace(&mut old_value, event.value.clone().unwrap_or(Value::Null));
        match &event.value {
            Some(value) => (data["value"], data["old_value"]) = (value.clone(), old_value),
            None => data["deleted_value"] = old_value,
        }
        json!({"event_type": event.event_type(), "data": data, "metadata": event.metadata(), "created_at": event.moment(),
               "stream_version": event.version, "position": event.position})
    });
    told.collect()
}

fn memento(event: &Event) -> String {
    event.recorded_at.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
