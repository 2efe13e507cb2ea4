//! Health does not lie: each check is seen to fail when its part is broken, and nothing else is.

use embedded_postgres::StopMode;
use end_to_end::{Client, CommandService, Database, Proxy, QueryService, Standalone, cluster, until};
use serde_json::Value;
use sqlx::{Connection, Executor, PgConnection};

/// What the check says now.
async fn says(client: &Client, check: &str) -> String {
    let answer = client.get("/v1/health").await;
    let health = answer.json();
    let all_ok = health["checks"].as_object().expect("checks").values().all(|said| said == "ok");
    assert_eq!(answer.status, if all_ok { 200 } else { 503 }, "{health}");
    assert_eq!(health["status"], if all_ok { "ok" } else { "unavailable" });
    health["checks"][check].as_str().unwrap_or_else(|| panic!("no check {check} in {health}")).to_owned()
}

async fn until_it_says(client: &Client, check: &str, beginning: &str) {
    until(&format!("{check} says {beginning}"), async || {
        says(client, check).await.starts_with(beginning).then_some(())
    })
    .await;
}

async fn ready(client: &Client) -> u16 {
    client.get("/v1/ready").await.status.as_u16()
}

#[tokio::test]
async fn each_process_has_its_checks() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let both = Standalone::start(&database).await;
    for (client, checks) in [
        (&command.client, &["database", "eventstore", "worker"][..]),
        (&query.client, &["database", "eventstore", "projection"]),
        (&both.client, &["database", "eventstore", "projection", "worker"]),
    ] {
        let health = client.get("/v1/health").await.json();
        let Value::Object(told) = &health["checks"] else { panic!("{health}") };
        assert_eq!(told.keys().collect::<Vec<_>>(), checks);
        assert!(told.values().all(|said| said == "ok"), "{health}");
    }
}

#[tokio::test]
async fn database_and_eventstore_fail_while_postgres_is_stopped() {
    let cluster = cluster::own().await;
    let database = Database::in_cluster(&cluster).await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    cluster.stop(StopMode::Fast).await.unwrap();
    for client in [&command.client, &query.client] {
        until_it_says(client, "database", "no answer within 2 s").await;
        until_it_says(client, "eventstore", "no answer within 2 s").await;
    }
    assert_eq!(says(&command.client, "worker").await, "ok");
    assert_eq!((ready(&command.client).await, ready(&query.client).await), (503, 200));
    until_it_says(&query.client, "projection", "no contact with the event log for ").await;
    cluster.start_again().await.unwrap();
    for client in [&command.client, &query.client] {
        for check in ["database", "eventstore"] {
            until_it_says(client, check, "ok").await;
        }
    }
    until_it_says(&query.client, "projection", "ok").await;
    assert_eq!(ready(&command.client).await, 200);
    command.stop().await.unwrap();
    query.stop().await.unwrap();
}

/// No answer, and no word that the link is dead.
#[tokio::test]
async fn they_fail_in_time_on_a_dead_link() {
    let database = Database::new().await;
    let proxy = Proxy::to(&database).await;
    let (command, query) = (CommandService::start(&proxy.database).await, QueryService::start(&proxy.database).await);
    proxy.lose_answers();
    for client in [&command.client, &query.client] {
        for check in ["database", "eventstore"] {
            assert_eq!(says(client, check).await, "no answer within 2 s");
        }
    }
    until_it_says(&query.client, "projection", "no contact with the event log for ").await;
    proxy.down().await;
    proxy.up();
    for (client, check) in
        [(&command.client, "database"), (&command.client, "eventstore"), (&query.client, "projection")]
    {
        until_it_says(client, check, "ok").await;
    }
}

#[tokio::test]
async fn eventstore_alone_fails_when_the_log_is_not_there_or_takes_no_writes() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    database.execute("alter table events rename to gone").await;
    for client in [&command.client, &query.client] {
        until_it_says(client, "eventstore", "the event log cannot be read").await;
        assert_eq!(says(client, "database").await, "ok");
    }
    assert_eq!(ready(&command.client).await, 503);
    database.execute("alter table gone rename to events").await;
    for client in [&command.client, &query.client] {
        until_it_says(client, "eventstore", "ok").await;
    }
    let mut admin = database.connect().await;
    read_only(&mut admin, "on").await;
    until_it_says(&command.client, "eventstore", "the event log's server is read-only").await;
    assert_eq!(says(&command.client, "database").await, "ok");
    assert_eq!(ready(&command.client).await, 503);
    assert_eq!(says(&query.client, "eventstore").await, "ok", "it can be read");
    read_only(&mut admin, "off").await;
    until_it_says(&command.client, "eventstore", "ok").await;
}

/// As a demotion does it, without one: for sessions to come, and all others are ended.
async fn read_only(admin: &mut PgConnection, on: &str) {
    admin.execute("begin; set transaction read write").await.expect("it may");
    let name: String = sqlx::query_scalar("select current_database()").fetch_one(&mut *admin).await.expect("its name");
    let set = format!("alter database {name} set default_transaction_read_only = {on}");
    admin.execute(set.as_str()).await.expect("it is set");
    admin.execute("commit").await.expect("it is kept");
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                where datname = current_database() and pid <> pg_backend_pid()";
    admin.execute(end).await.expect("they are ended");
}

/// Other connections work, the committer finds no way: writes wait, and their time runs out.
#[tokio::test]
async fn eventstore_fails_when_writes_do_not_come_through_though_the_log_can_be_read() {
    let database = Database::new().await;
    let service = CommandService::start(&database).await;
    service.client.put("a", 1).await;
    assert_eq!(says(&service.client, "eventstore").await, "ok");
    let mut admin = database.connect().await;
    let name: String = sqlx::query_scalar("select current_database()").fetch_one(&mut admin).await.unwrap();
    // Of the database that one is in, it is not allowed.
    let elsewhere = database.url.replace(&name, "postgres");
    let allow = async |allowed: bool| {
        let allow = format!("alter database {name} allow_connections {allowed}");
        PgConnection::connect(&elsewhere).await.unwrap().execute(allow.as_str()).await.unwrap();
    };
    allow(false).await;
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                where datname = current_database() and pid <> pg_backend_pid() and query like '%append_events%'";
    let ended: i64 = sqlx::query_scalar(end).fetch_one(&mut admin).await.unwrap();
    assert_eq!(ended, 1, "the committer's");
    let writing = service.client.put("a", 2);
    let mends = async {
        until_it_says(&service.client, "eventstore", "writes have not come through to the event log for 1").await;
        assert_eq!(says(&service.client, "database").await, "ok");
        assert_eq!(ready(&service.client).await, 503);
        allow(true).await;
    };
    tokio::join!(writing, mends);
    until_it_says(&service.client, "eventstore", "ok").await;
    assert_eq!(ready(&service.client).await, 200);
}

#[tokio::test]
async fn projection_alone_fails_when_an_event_cannot_be_read() {
    let database = Database::new().await;
    let query = QueryService::start(&database).await;
    database.append_unknown_event().await;
    until_it_says(&query.client, "projection", "halted: the event at position 1 cannot be read by this release").await;
    assert_eq!(says(&query.client, "database").await, "ok");
    assert_eq!(says(&query.client, "eventstore").await, "ok");
    assert_eq!(ready(&query.client).await, 200, "what was before it is served");
}
