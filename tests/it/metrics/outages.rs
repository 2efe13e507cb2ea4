//! What is told while the database is away, and when it is back.

use embedded_postgres::StopMode;
use end_to_end::{CommandService, Database, Page, Proxy, QueryService, cluster, until};

fn up(page: &Page, connection: &str) -> f64 {
    page.value("config_eventstore_up", &[("connection", connection)])
}

fn check(page: &Page, name: &str) -> f64 {
    page.value("config_health_check", &[("check", name)])
}

#[tokio::test]
async fn an_outage_of_postgres_is_told_by_each_part_and_so_is_its_end() {
    let cluster = cluster::own().await;
    let database = Database::in_cluster(&cluster).await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let written = command.client.put("a", 1).await;
    query.client.value_after("a", &written).await;
    let strong = async || query.client.get("/v1/config/a?consistency=strong").await.status.as_u16();
    assert_eq!(strong().await, 200);
    let (of_command, of_query) = (Page::of(&command.client).await, Page::of(&query.client).await);
    assert_eq!(["committer", "loader"].map(|name| up(&of_command, name)), [1.0, 1.0]);
    assert_eq!(["tail", "head"].map(|name| up(&of_query, name)), [1.0, 1.0]);
    assert_eq!(["database", "eventstore", "worker"].map(|name| check(&of_command, name)), [1.0; 3]);
    assert_eq!(["database", "eventstore", "projection"].map(|name| check(&of_query, name)), [1.0; 3]);
    let pool = [("pool", "command-health")];
    assert_eq!(of_command.value("config_eventstore_connections", &pool), 1.0);
    assert_eq!(of_command.value("config_eventstore_connections_limit", &pool), 1.0);

    cluster.stop(StopMode::Immediate).await.unwrap();
    let until_down = async {
        until("the committer and the loader notice", async || {
            let page = Page::of(&command.client).await;
            (up(&page, "committer") == 0.0 && up(&page, "loader") == 0.0).then_some(page)
        })
        .await
    };
    let client = command.client.clone();
    let mut writing = tokio::task::JoinSet::new();
    for name in ["a", "of-no-version-yet"] {
        let client = client.clone();
        writing.spawn(async move { client.put_with(name, r#"{"value":2}"#, &[]).await });
    }
    let away = until_down.await;
    assert_eq!(["database", "eventstore", "worker"].map(|name| check(&away, name)), [0.0, 0.0, 1.0]);
    let errors = away.value("config_eventstore_errors_total", &[("connection", "committer")]);
    assert!(errors >= 1.0);
    assert_eq!(strong().await, 503);
    let away = until("the tail and the head notice", async || {
        let page = Page::of(&query.client).await;
        let lag = page.value("config_projection_lag_seconds", &[]);
        (up(&page, "tail") == 0.0 && up(&page, "head") == 0.0 && lag > 5.0 && check(&page, "projection") == 0.0)
            .then_some(page)
    })
    .await;
    assert_eq!(["database", "eventstore"].map(|name| check(&away, name)), [0.0; 2]);
    assert!(away.value("config_projection_last_contact_seconds", &[]) > 5.0);
    assert_eq!(away.value("config_projection_ready", &[]), 1.0, "what is there is served");
    assert_eq!(away.value("config_projection_position", &[]), 1.0);

    cluster.start_again().await.unwrap();
    while let Some(answer) = writing.join_next().await {
        assert_eq!(answer.unwrap().status, 200, "it waited for the database");
    }
    let back = until("the tail has caught up", async || {
        let page = Page::of(&query.client).await;
        (page.value("config_projection_position", &[]) == 3.0 && check(&page, "projection") == 1.0).then_some(page)
    })
    .await;
    assert_eq!(up(&back, "tail"), 1.0);
    assert_eq!(back.value("config_eventstore_reconnects_total", &[("connection", "tail")]), 1.0);
    assert_eq!(back.value("config_projection_lag_seconds", &[]), 0.0);
    assert_eq!(strong().await, 200);
    assert_eq!(up(&Page::of(&query.client).await, "head"), 1.0);
    let back = Page::of(&command.client).await;
    assert_eq!(["committer", "loader"].map(|name| up(&back, name)), [1.0, 1.0]);
    assert_eq!(back.value("config_eventstore_reconnects_total", &[("connection", "committer")]), 1.0);
    assert_eq!(["database", "eventstore"].map(|name| check(&back, name)), [1.0, 1.0]);
    command.stop().await.unwrap();
    query.stop().await.unwrap();
}

/// Nothing says that the link is dead: what waits for an answer gives it up in time, and the page does not wait for ever.
#[tokio::test]
async fn a_dead_link_is_told_as_silence() {
    let database = Database::new().await;
    let proxy = Proxy::to(&database).await;
    let query = QueryService::start(&proxy.database).await;
    proxy.lose_answers();
    let silent = until("the silence is noticed", async || {
        let page = Page::of(&query.client).await;
        let timeouts = [("connection", "tail"), ("kind", "timeout")];
        (page.value("config_eventstore_errors_total", &timeouts) >= 1.0).then_some(page)
    })
    .await;
    assert_eq!(up(&silent, "tail"), 0.0);
    assert_eq!(["database", "eventstore"].map(|name| check(&silent, name)), [0.0, 0.0]);
    let silence = silent.value("config_projection_last_contact_seconds", &[]);
    assert!(silence > 3.0, "{silence} s: it was waited for an answer");
    proxy.down().await;
    proxy.up();
    until("it is well again", async || {
        let page = Page::of(&query.client).await;
        (up(&page, "tail") == 1.0 && check(&page, "database") == 1.0 && check(&page, "projection") == 1.0).then_some(())
    })
    .await;
}
