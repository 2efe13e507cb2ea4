//! What a reader finds in the trace of a change.

use std::collections::BTreeSet;

use end_to_end::{Collector, Database};

use super::{CLIENTS_SPAN, CLIENTS_TRACE, sampled_parent, traced};

#[tokio::test]
async fn one_trace_holds_a_put_its_decision_its_append_and_its_processing_on_each_replica() {
    let (database, collector) = (Database::new().await, Collector::start().await);
    let command = traced("command-service", &database, &collector).await;
    let replicas =
        [traced("query-service", &database, &collector).await, traced("query-service", &database, &collector).await];
    let (name, parent) = sampled_parent();
    let headers = [(name, parent.as_str()), ("user-agent", "a test")];
    let written = command.client.put_with("a/b", r#"{"value":"canary-7f3a"}"#, &headers).await;
    assert_eq!(written.short(), (200, "OK"));

    let server = collector.one(CLIENTS_TRACE, "PUT /v1/config/{name}").await;
    let decide = collector.one(CLIENTS_TRACE, "decide ConfigValue").await;
    let append = collector.one(CLIENTS_TRACE, "append config.events").await;
    let insert = collector.one(CLIENTS_TRACE, "INSERT events").await;
    let process = collector.wait_for(CLIENTS_TRACE, "process config.events", 2).await;

    assert_eq!((server.kind, server.parent.as_str(), server.status), ("server", CLIENTS_SPAN, "unset"));
    for (attribute, value) in [
        ("http.request.method", "PUT"),
        ("http.route", "/v1/config/{name}"),
        ("http.response.status_code", "200"),
        ("url.path", "/v1/config/a%2Fb"),
        ("url.scheme", "http"),
        ("server.address", "127.0.0.1"),
        ("user_agent.original", "a test"),
    ] {
        assert_eq!(server.attribute(attribute), value, "{attribute}: {server:#?}");
    }
    assert_eq!((decide.kind, &decide.parent), ("internal", &server.id));
    assert_eq!(decide.attribute("config.name"), "a/b");
    assert_eq!((decide.attribute("config.version"), decide.attribute("config.outcome")), ("0", "set"));
    assert_eq!((append.kind, &append.parent), ("producer", &server.id));
    assert_eq!((append.attribute("config.outcome"), append.attribute("config.position")), ("appended", "1"));
    assert_eq!(append.attribute("messaging.destination.name"), "config.events");
    assert!(decide.end <= append.start, "first it is decided: {decide:#?} {append:#?}");
    assert_eq!((insert.kind, &insert.parent, &insert.links), ("client", &append.id, &vec![append.place()]));
    for (attribute, value) in [
        ("db.system.name", "postgresql"),
        ("db.operation.name", "INSERT"),
        ("db.collection.name", "events"),
        ("config.units", "1"),
    ] {
        assert_eq!(insert.attribute(attribute), value, "{attribute}: {insert:#?}");
    }
    for process in &process {
        assert_eq!((process.kind, &process.parent, &process.links), ("consumer", &append.id, &vec![append.place()]));
        assert_eq!((process.attribute("config.name"), process.attribute("config.position")), ("a/b", "1"));
        assert_eq!(process.events.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["visible"]);
    }
    let processes: BTreeSet<_> = [&server, &process[0], &process[1]].map(|span| span.instance()).into();
    assert_eq!(processes.len(), 3, "three processes: {processes:?}");
    assert_eq!((server.service(), process[0].service()), ("command-service", "query-service"));

    assert_eq!(written.header("traceresponse"), format!("00-{CLIENTS_TRACE}-{}-01", server.id));
    let metadata = &replicas[0].client.get("/v1/config/a%2Fb/history").await.json()[0]["metadata"];
    assert_eq!(metadata["traceparent"], format!("00-{CLIENTS_TRACE}-{}-01", append.id));
    assert!(collector.has_bytes(b"a/b") && !collector.has_bytes(b"canary-7f3a"), "a name, never a value");
}
