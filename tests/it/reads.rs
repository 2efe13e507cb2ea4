//! Reads: how new they are, and lists in pages, while writers write.

mod consistency;
mod heads;
mod lists;

use std::collections::BTreeMap;

use end_to_end::{Answer, Client, QueryService, services::Running};
use reqwest::Method;
use serde_json::Value;
use sqlx::PgConnection;

/// Hears of news late: by its poll alone.
async fn lagging(url: &str) -> Running {
    let poll_interval = std::time::Duration::from_millis(150);
    let config =
        query_service::Config { listening: query_service::Listening::Off, poll_interval, ..QueryService::config(url) };
    let running = QueryService::start_with(config).await;
    running.until_ready().await;
    running
}

async fn get(client: &Client, path: &str, headers: &[(&str, &str)]) -> Answer {
    client.send(Method::GET, path, headers, None).await
}

/// Where in the log an answer is from.
fn position(answer: &Answer) -> i64 {
    let token = answer.header("config-position");
    token.split('.').next().and_then(|position| position.parse().ok()).unwrap_or_else(|| panic!("{answer:?}"))
}

/// Where the next page is.
fn next(answer: &Answer) -> Option<String> {
    let link = Some(answer.header("link")).filter(|link| !link.is_empty())?;
    let link = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
    Some(link.unwrap_or_else(|| panic!("{answer:?}")).to_owned())
}

fn items(answer: &Answer) -> Vec<(String, Value)> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let items = answer.json();
    let item = |item: &Value| (item["name"].as_str().expect("a name").to_owned(), item["value"].clone());
    items.as_array().expect("an array").iter().map(item).collect()
}

/// What the log says was there at a position.
async fn folded(connection: &mut PgConnection, position: i64, prefix: &str) -> Vec<(String, Value)> {
    let events: Vec<(String, Option<String>)> = sqlx::query_as(
        "select aggregate_id, (payload -> 'value')::text from events
          where aggregate_type = 'ConfigValue' and position <= $1 order by position",
    )
    .bind(position)
    .fetch_all(connection)
    .await
    .expect("it answers");
    let mut state = BTreeMap::new();
    for (name, value) in events {
        match value {
            Some(value) => state.insert(name, serde_json::from_str(&value).expect("it is JSON")),
            None => state.remove(&name),
        };
    }
    state.into_iter().filter(|(name, _)| name.starts_with(prefix)).collect()
}
