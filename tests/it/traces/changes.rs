//! What a reader finds in the trace of a change.

use std::collections::BTreeSet;

use end_to_end::{Collector, Database, HeldLog, otlp::Span};
use futures_util::future::join_all;
use reqwest::Method;

use super::{CLIENTS_SPAN, CLIENTS_TRACE, sampled_parent, trace_of, traced};

const AS_JSON: (&str, &str) = ("accept", "application/json");

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
    let processes: BTreeSet<_> = [&server, &process[0], &process[1]].map(Span::instance).into();
    assert_eq!(processes.len(), 3, "three processes: {processes:?}");
    assert_eq!((server.service(), process[0].service()), ("command-service", "query-service"));

    assert_eq!(written.header("traceresponse"), format!("00-{CLIENTS_TRACE}-{}-01", server.id));
    let metadata = &replicas[0].client.get("/v1/config/a%2Fb/history").await.json()[0]["metadata"];
    assert_eq!(metadata["traceparent"], format!("00-{CLIENTS_TRACE}-{}-01", append.id));
    assert!(collector.has_bytes(b"a/b") && !collector.has_bytes(b"canary-7f3a"), "a name, never a value");
}

#[tokio::test]
async fn a_batch_is_one_decision_one_append_and_one_processing_with_all_its_names() {
    let (database, collector) = (Database::new().await, Collector::start().await);
    let service = traced("config-api", &database, &collector).await;
    let body = r#"{"operations":[{"op":"set","name":"a","value":"canary-1"},{"op":"set","name":"b","value":2},
        {"op":"delete","name":"c","missing_ok":true}]}"#;
    let written = service.client.send(Method::POST, "/v1/batch", &[], Some(body.to_owned())).await;
    assert_eq!(written.short(), (200, "OK"));
    let trace = trace_of(&written);

    let decide = collector.one(&trace, "decide ConfigValue").await;
    assert_eq!((decide.attribute("config.operations"), decide.attribute("config.outcome")), ("3", "changed"));
    let told: Vec<_> = decide
        .events
        .iter()
        .map(|(name, told)| (name.as_str(), &told["config.name"][..], &told["config.outcome"][..]))
        .collect();
    assert_eq!(told, [("decided", "a", "set"), ("decided", "b", "set"), ("decided", "c", "unchanged")]);
    let append = collector.one(&trace, "append config.events").await;
    let insert = collector.one(&trace, "INSERT events").await;
    let process = collector.one(&trace, "process config.events").await;
    assert_eq!(insert.attribute("db.operation.batch.size"), "2");
    for span in [&append, &process] {
        assert_eq!(span.attribute("messaging.batch.message_count"), "2", "{span:#?}");
    }
    assert_eq!((&process.parent, process.links.len()), (&append.id, 1), "one command, one processing: {process:#?}");
    assert!(!collector.has_bytes(b"canary-1"));
}

#[tokio::test]
async fn writes_in_one_statement_are_all_found_from_it_and_it_from_all() {
    let (database, collector) = (Database::new().await, Collector::start().await);
    let service = traced("command-service", &database, &collector).await;
    let mut log = HeldLog::take(&database).await;
    let traces: Vec<_> = (1..=5).map(|n| format!("{n:032x}")).collect();
    let released = async {
        log.until_waiting(1).await;
        let write = async |trace: &String| {
            let parent = format!("00-{trace}-{CLIENTS_SPAN}-01");
            service.client.put_with(&trace[30..], r#"{"value":1}"#, &[("traceparent", &parent)]).await
        };
        let release = async {
            // They have decided, and wait for the statement under way.
            for trace in &traces {
                collector.one(trace, "decide ConfigValue").await;
            }
            log.release().await;
        };
        tokio::join!(join_all(traces.iter().map(write)), release).0
    };
    let (_, written) = tokio::join!(service.client.put("first", "1"), released);
    assert!(written.iter().all(|written| written.status == 200), "{written:?}");

    let mut appends = vec![];
    for trace in &traces {
        appends.push(collector.one(trace, "append config.events").await);
    }
    let with_all = |span: &Span| span.name == "INSERT events" && span.attribute("config.units") == "5";
    let statement = collector.find("one statement for the five", with_all).await;
    assert_eq!(statement.attribute("config.units.linked"), "5");
    let linked: BTreeSet<_> = statement.links.iter().cloned().collect();
    assert_eq!(linked, appends.iter().map(Span::place).collect());
    let (own, others): (Vec<_>, Vec<_>) = appends.iter().partition(|append| append.trace == statement.trace);
    assert_eq!((own.len(), &own[0].id, own[0].links.len()), (1, &statement.parent, 0), "it is in one of the traces");
    for append in others {
        assert_eq!(append.links, [statement.place()], "there is a way back: {append:#?}");
    }
}

#[tokio::test]
async fn a_conflict_shows_as_two_decisions_and_what_came_between() {
    let (database, collector) = (Database::new().await, Collector::start().await);
    let ours = traced("command-service", &database, &collector).await;
    let theirs = traced("command-service", &database, &collector).await;
    ours.client.put("a", "1").await;
    theirs.client.put("a", "2").await;
    // Ours remembers version 1, decides on it, and comes second.
    let written = ours.client.put("a", "3").await;
    let trace = trace_of(&written);
    let mut decisions = collector.wait_for(&trace, "decide ConfigValue", 2).await;
    let mut appends = collector.wait_for(&trace, "append config.events", 2).await;
    decisions.sort_by_key(|span| span.start);
    appends.sort_by_key(|span| span.start);
    let told = |name| decisions.iter().map(|span| span.attribute(name)).collect::<Vec<_>>();
    assert_eq!((told("config.version"), told("config.attempt")), (vec!["1", "2"], vec!["1", "2"]));
    let outcomes: Vec<_> = appends.iter().map(|span| (span.attribute("config.outcome"), span.status)).collect();
    assert_eq!(outcomes, [("conflict", "unset"), ("appended", "unset")]);
    let server = collector.one(&trace, "PUT /v1/config/{name}").await;
    let [(event, cause)] = &server.events[..] else { panic!("one event: {server:#?}") };
    assert_eq!((event.as_str(), cause["config.cause"].as_str()), ("decided anew", "conflict"));

    let refused = ours.client.put_with("a", r#"{"value":"9"}"#, &[("if-match", "\"7\""), AS_JSON]).await;
    assert_eq!(refused.status, 412);
    let trace = trace_of(&refused);
    assert_eq!(refused.json()["trace_id"], trace);
    let server = collector.one(&trace, "PUT /v1/config/{name}").await;
    assert_eq!((server.status, server.attribute("config.problem")), ("unset", "precondition-failed"), "{server:#?}");
    let decisions = collector.wait_for(&trace, "decide ConfigValue", 2).await;
    for decision in &decisions {
        assert_eq!(decision.attribute("config.refusal"), "precondition_failed", "{decision:#?}");
    }
    assert!(!collector.spans().iter().any(|span| span.trace == trace && span.name == "append config.events"));
}

#[tokio::test]
async fn a_rollback_reads_what_was_and_a_deletion_says_so() {
    let (database, collector) = (Database::new().await, Collector::start().await);
    let service = traced("config-api", &database, &collector).await;
    service.client.put("a", "1").await;
    service.client.put("a", "2").await;
    let body = r#"{"version":1}"#.to_owned();
    let back = service.client.send(Method::POST, "/v1/config/a/rollback", &[], Some(body)).await;
    assert_eq!(back.short(), (200, "OK"));
    let trace = trace_of(&back);
    let server = collector.one(&trace, "POST /v1/config/{name}/rollback").await;
    let decide = collector.one(&trace, "decide ConfigValue").await;
    let read = collector.one(&trace, "SELECT events").await;
    assert_eq!((read.kind, &read.parent), ("client", &server.id));
    assert_eq!((decide.attribute("config.rollback.version"), decide.attribute("config.outcome")), ("1", "set"));
    let deleted = service.client.delete("a").await;
    let decide = collector.one(&trace_of(&deleted), "decide ConfigValue").await;
    assert_eq!((decide.attribute("config.outcome"), decide.attribute("config.version")), ("deleted", "3"));
    collector.one(&trace_of(&deleted), "process config.events").await;
}

#[tokio::test]
async fn a_failure_of_ours_is_an_error_with_its_code() {
    let (database, collector) = (Database::new().await, Collector::start().await);
    database.execute("alter table events add constraint poison check (aggregate_id <> 'poison')").await;
    let service = traced("command-service", &database, &collector).await;
    let failed = service.client.put_with("poison", r#"{"value":1}"#, &[]).await;
    assert_eq!(failed.status, 500);
    let trace = trace_of(&failed);
    let server = collector.one(&trace, "PUT /v1/config/{name}").await;
    assert_eq!((server.status, server.attribute("error.type")), ("error", "500"));
    let insert = collector.one(&trace, "INSERT events").await;
    assert_eq!((insert.status, insert.attribute("error.type")), ("error", "23514"));
    let append = collector.one(&trace, "append config.events").await;
    assert_eq!((append.status, append.attribute("error.type")), ("error", "refused"));
}
