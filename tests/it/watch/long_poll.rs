//! Long polls of one name: `If-None-Match` and `Prefer: wait`.

use std::time::Instant;

use end_to_end::{Answer, Client, CommandService, Database, QueryService, until, wait::PATIENCE};
use reqwest::Method;

async fn poll(client: &Client, name: &str, known: &str, wait: &str) -> Answer {
    let headers = [("if-none-match", known), ("prefer", wait)];
    client.send(Method::GET, &format!("/v1/config/{name}"), &headers, None).await
}

/// One that is answered because of news.
async fn in_time(poll: impl Future<Output = Answer>) -> Answer {
    tokio::time::timeout(PATIENCE, poll).await.expect("it is answered before its wait is over")
}

async fn until_waiting(client: &Client, waiting: u64) {
    until("it waits", async || (client.get("/v1/projection").await.json()["watchers"] == waiting).then_some(())).await;
}

#[tokio::test]
async fn a_long_poll_is_answered_when_the_value_is_another() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let written = command.client.put("a", "one").await;
    query.client.value_after("a", &written).await;
    let waits = in_time(poll(&query.client, "a", "\"1\"", "wait=60"));
    let changes = async {
        until_waiting(&query.client, 1).await;
        command.client.put("b", "of no interest").await;
        command.client.put("a", "two").await;
    };
    let (answer, ()) = tokio::join!(waits, changes);
    assert_eq!(answer.short(), (200, "two"));
    assert_eq!((answer.header("etag"), answer.header("preference-applied")), ("\"2\"", "wait=60"));
    let at_once = poll(&query.client, "a", "\"1\"", "wait=60").await;
    assert_eq!((at_once.short(), at_once.header("preference-applied")), ((200, "two"), "wait=60"));
    let (answer, ()) = tokio::join!(in_time(poll(&query.client, "a", "\"2\"", "wait=60")), async {
        until_waiting(&query.client, 1).await;
        command.client.delete("a").await;
    });
    assert_eq!(answer.short(), (404, "Not Found"), "a deletion is news");
    until_waiting(&query.client, 0).await;
}

#[tokio::test]
async fn a_long_poll_without_news_ends_in_time_as_a_poll_does() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let written = command.client.put("a", 1).await;
    query.client.value_after("a", &written).await;
    let began = Instant::now();
    let (there, absent) =
        tokio::join!(poll(&query.client, "a", "\"1\"", "wait=1"), poll(&query.client, "b", "\"0\"", "wait=1"));
    assert!((1..10).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!((there.short(), there.header("preference-applied")), ((304, ""), "wait=1"));
    assert_eq!((absent.short(), absent.header("preference-applied")), ((404, "Not Found"), "wait=1"));
    let plain = query.client.send(Method::GET, "/v1/config/a", &[("prefer", "wait=60")], None).await;
    assert_eq!((plain.short(), plain.header("preference-applied")), ((200, "1"), ""), "it says nothing that it knows");
}

#[tokio::test]
async fn a_name_that_does_not_exist_yet_can_be_waited_for() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let (answer, ()) = tokio::join!(in_time(poll(&query.client, "new", "\"0\"", "wait=60")), async {
        until_waiting(&query.client, 1).await;
        command.client.put("new", "here").await;
    });
    assert_eq!(answer.short(), (200, "here"));
}

/// Nothing tells of the change but the state that is folded anew.
#[tokio::test]
async fn a_long_poll_is_answered_when_a_rewritten_log_gives_another_value() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    command.client.put("kept", 1).await;
    let written = command.client.put("phantom", 1).await;
    query.client.value_after("phantom", &written).await;
    let polling = in_time(poll(&query.client, "phantom", "\"1\"", "wait=60"));
    let rewrite = async {
        until_waiting(&query.client, 1).await;
        database.rewrite_from(2, &[("real", "2")]).await;
    };
    let (answer, ()) = tokio::join!(polling, rewrite);
    assert_eq!(answer.short(), (404, "Not Found"));
}

#[tokio::test]
async fn a_wait_that_is_none_is_refused() {
    let database = Database::new().await;
    let query = QueryService::start(&database).await;
    for wait in ["wait=0", "wait=61", "wait=x", "wait"] {
        let refused = poll(&query.client, "a", "\"1\"", wait).await;
        assert_eq!(refused.status, 400, "{wait}: {refused:?}");
        assert!(refused.body.contains("from 1 to 60"), "{refused:?}");
    }
}

#[tokio::test]
async fn a_long_poll_does_not_hold_up_a_stop() {
    let database = Database::new().await;
    let query = QueryService::start(&database).await;
    let client = query.client.clone();
    let (answer, ()) = tokio::join!(poll(&client, "a", "\"0\"", "wait=60"), async {
        until_waiting(&client, 1).await;
        query.stop().await.unwrap();
    });
    assert_eq!(answer.status, 404);
}
