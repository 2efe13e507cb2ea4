//! What the query service tells of watchers.

use end_to_end::{CommandService, Database, Page, QueryService, services::Running, until};

async fn until_is(query: &Running, name: &str, expected: f64) -> Page {
    until(&format!("{name} is {expected}"), async || {
        let page = Page::of(&query.client).await;
        (page.value(name, &[]) == expected).then_some(page)
    })
    .await
}

#[tokio::test]
async fn watchers_deliveries_and_long_polls_are_counted() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let (mut all, mut some) = (query.client.watch("", None).await, query.client.watch("prefix=a", None).await);
    let page = until_is(&query, "config_watchers", 2.0).await;
    assert_eq!(page.value("config_watchers_limit", &[]), 20_000.0);
    command.client.put("a", 1).await;
    command.client.put("b", 1).await;
    all.expect("change").await;
    all.expect("change").await;
    some.expect("change").await;
    let page = Page::of(&query.client).await;
    assert_eq!(page.value("config_watch_deliveries_total", &[]), 3.0);
    assert_eq!(page.value("config_watch_delivery_delay_seconds_count", &[]), 3.0);
    assert!(page.value("config_watch_delivery_delay_seconds_sum", &[]) < 15.0);
    let active = page.value("http_server_active_requests", &[]);
    assert_eq!(active, 1.0, "a stream's answer has begun");

    let first = all.last_id.clone().unwrap();
    drop((all, some));
    until_is(&query, "config_watchers", 0.0).await;
    let mut late = query.client.watch("from=1", None).await;
    late.expect("change").await;
    let page = Page::of(&query.client).await;
    assert_eq!(page.value("config_watch_deliveries_total", &[]), 4.0);
    assert_eq!(page.value("config_watch_delivery_delay_seconds_count", &[]), 3.0, "it was not there at the time");
    assert_eq!(late.last_id.as_deref(), Some(first.as_str()));

    let headers = [("if-none-match", "\"1\""), ("prefer", "wait=60")];
    let poll = query.client.send(reqwest::Method::GET, "/v1/config/a", &headers, None);
    let change = async {
        until_is(&query, "config_long_polls", 1.0).await;
        command.client.put("a", 2).await;
    };
    let (answer, ()) = tokio::join!(poll, change);
    assert_eq!(answer.short(), (200, "2"));
    until_is(&query, "config_long_polls", 0.0).await;
}

#[tokio::test]
async fn what_is_read_from_the_log_is_delivered_too() {
    let database = Database::new().await;
    let command = CommandService::start(&database).await;
    for n in 1..=3 {
        command.client.put("a", n).await;
    }
    let query = QueryService::start(&database).await;
    let mut late = query.client.watch("from=1", None).await;
    for n in 2..=3 {
        assert_eq!(late.expect("change").await.changes(), [format!("a@{n}")]);
    }
    let page = Page::of(&query.client).await;
    assert_eq!(page.value("config_watch_deliveries_total", &[]), 2.0);
    assert_eq!(page.value("config_watch_delivery_delay_seconds_count", &[]), 0.0, "it was not there at the time");
}

#[tokio::test]
async fn a_slow_watcher_that_is_cut_and_one_too_many_are_counted() {
    let database = Database::new().await;
    let command = CommandService::start(&database).await;
    let mut config = QueryService::config(&database.url);
    config.watching.ring_bytes = 1 << 20;
    config.watching.watchers = 1;
    let query = QueryService::start_with(config).await;
    query.until_ready().await;
    let mut slow = query.client.watch("", None).await;
    assert_eq!(query.client.watch("", None).await.status, 503);
    assert_eq!(Page::of(&query.client).await.value("config_watchers_turned_away_total", &[]), 1.0);
    let value = "x".repeat(1000 * 1024);
    for version in 1..=30 {
        command.client.put("large", format!("{version}{value}")).await;
    }
    let written = command.client.put("end", 1).await;
    query.client.value_after("end", &written).await;
    loop {
        let event = slow.next().await.expect("it is told before the end");
        if event.event == "reset" {
            break;
        }
    }
    let page = Page::of(&query.client).await;
    assert_eq!(page.value("config_watchers_cut_total", &[("cause", "slow")]), 1.0);
    assert_eq!(page.value("config_watchers_cut_total", &[]), 1.0);
    assert_eq!(page.value("config_watch_resets_total", &[("cause", "slow")]), 1.0);
    until_is(&query, "config_watchers", 0.0).await;
}

#[tokio::test]
async fn consumers_that_follow_the_log_are_counted() {
    let database = Database::new().await;
    let query = QueryService::start(&database).await;
    let following = reqwest::get(format!("{}/v1/events?follow=true", query.client.base())).await.unwrap();
    let page = until_is(&query, "config_event_followers", 1.0).await;
    assert_eq!(page.value("config_event_followers_limit", &[]), 64.0);
    drop(following);
    until_is(&query, "config_event_followers", 0.0).await;
}
