//! Which spans are sent, that none is lost, and that nobody waits for them.

use end_to_end::{
    Collector, Database, LogLines, Proxy,
    process::{Process, run},
    until,
};
use futures_util::{StreamExt, stream};

use super::{CLIENTS_SPAN, CLIENTS_TRACE, sampled_parent, trace_of, traced_with};

const AS_JSON: (&str, &str) = ("accept", "application/json");

#[tokio::test]
async fn whatever_has_ended_is_sent_before_the_process_ends() {
    for program in ["command-service", "config-api"] {
        let (database, collector) = (Database::new().await, Collector::start().await);
        // Nothing is sent before its end but what makes a batch full.
        let service = traced_with(program, &database, &collector, &[("OTEL_BSP_SCHEDULE_DELAY", "3600000")]).await;
        let writes = stream::iter(0..300).map(|n| {
            let client = service.client.clone();
            async move { trace_of(&client.put(&format!("n{n}"), "1").await) }
        });
        let traces: Vec<_> = writes.buffer_unordered(32).collect().await;
        service.terminate();
        let (status, log) = service.ended().await;
        assert_eq!(status.code(), Some(0), "{log:#?}");
        let spans = collector.spans();
        let mut expected = vec!["PUT /v1/config/{name}", "decide ConfigValue", "append config.events"];
        if program == "config-api" {
            expected.push("process config.events");
        }
        for trace in &traces {
            for name in &expected {
                let found = spans.iter().filter(|span| span.trace == *trace && span.name == *name).count();
                assert_eq!(found, 1, "{program}: {name} of {trace}");
            }
        }
    }
}

/// It answers while its database is away; what comes then is not a database that it can follow.
#[tokio::test]
async fn whatever_has_ended_is_sent_before_a_process_fails() {
    let (database, collector) = (Database::empty().await, Collector::start().await);
    let proxy = Proxy::to(&database).await;
    proxy.down().await;
    let [(name, endpoint), _] = collector.variables();
    let variables = [(name, endpoint.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "3600000")];
    let service = Process::start_with("query-service", &["--database-url", &proxy.database.url], &variables).await;
    let (name, parent) = sampled_parent();
    let read = service.client.send(reqwest::Method::GET, "/v1/config/a", &[(name, &parent)], None).await;
    assert_eq!(read.status, 503);
    proxy.up();
    let (status, log) = service.ended().await;
    assert_eq!(status.code(), Some(1), "{log:#?}");
    let server = collector.one(CLIENTS_TRACE, "GET /v1/config/{name}").await;
    assert_eq!((server.status, server.attribute("error.type")), ("error", "503"));
}

#[tokio::test]
async fn exports_are_compressed_where_a_variable_says_so() {
    let (database, collector) = (Database::new().await, Collector::start().await);
    let gzip = [("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")];
    let service = traced_with("command-service", &database, &collector, &gzip).await;
    let trace = trace_of(&service.client.put("a", "1").await);
    assert_eq!(collector.one(&trace, "decide ConfigValue").await.attribute("config.name"), "a");
    assert!(collector.was_compressed());
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_one_line_and_no_write() {
    let database = Database::new().await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "64"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "32"),
    ];
    let service = Process::start_with("command-service", &["--database-url", &database.url], &variables).await;
    let told = || service.log().into_iter().filter(|line| line.contains("Traces are not sent")).collect::<Vec<_>>();
    for n in 0..200 {
        assert_eq!(service.client.put(&format!("n{n}"), "1").await.short(), (200, "OK"));
    }
    let lines = until("it is told", async || Some(told()).filter(|told| !told.is_empty())).await;
    assert!(lines[0].contains("[warning]") && lines[0].contains("lost="), "{lines:?}");
    for n in 0..200 {
        service.client.put(&format!("n{n}"), "2").await;
    }
    service.terminate();
    let (status, log) = service.ended().await;
    assert_eq!(status.code(), Some(0), "{log:#?}");
    let warnings: Vec<_> = log.iter().filter(|line| line.contains("[warning]") || line.contains("[error]")).collect();
    let [once, rest] = warnings[..] else { panic!("one line while it runs, and one at its end: {warnings:#?}") };
    assert!(once.contains("Traces are not sent") && rest.contains("Traces were not all sent"), "{warnings:#?}");
    let number = |name: &str| -> u64 {
        let (_, behind) = rest.split_once(&format!(" {name}=")).expect(name);
        behind.split(' ').next().unwrap().parse().unwrap()
    };
    assert!(number("dropped") > 0 && number("failed") > 0, "{rest}");
}

#[tokio::test]
async fn only_what_is_sampled_is_sent_and_reads_at_a_ratio_of_their_own() {
    let (database, collector) = (Database::new().await, Collector::start().await);
    let off = traced_with("config-api", &database, &collector, &[("OTEL_TRACES_SAMPLER", "always_off")]).await;
    let written = off.client.put("a", "1").await;
    assert!(written.header("traceresponse").ends_with("-00"), "{written:?}");
    off.terminate();
    assert_eq!(off.ended().await.0.code(), Some(0));
    assert_eq!(collector.exports(), 0, "{:#?}", collector.spans());

    let none = traced_with("config-api", &database, &collector, &[("TRACE_READS_RATIO", "0")]).await;
    let (name, parent) = sampled_parent();
    for _ in 0..100 {
        assert_eq!(none.client.value("a").await.header("traceresponse"), "");
    }
    let read = none.client.send(reqwest::Method::GET, "/v1/config/a", &[(name, &parent)], None).await;
    let server = collector.one(CLIENTS_TRACE, "GET /v1/config/{name}").await;
    assert_eq!(server.parent, CLIENTS_SPAN);
    assert_eq!(read.header("traceresponse"), format!("00-{CLIENTS_TRACE}-{}-01", server.id));
    none.terminate();
    assert_eq!(none.ended().await.0.code(), Some(0));
    let reads = collector.spans().into_iter().filter(|span| span.name.starts_with("GET /v1/config")).count();
    assert_eq!(reads, 1);

    let all = traced_with("config-api", &database, &collector, &[("TRACE_READS_RATIO", "1")]).await;
    let trace = trace_of(&all.client.value("a").await);
    collector.one(&trace, "GET /v1/config/{name}").await;
}

#[tokio::test]
async fn a_watch_has_a_span_until_its_answer_begins_and_not_for_hours() {
    let (database, collector) = (Database::new().await, Collector::start().await);
    let service = traced_with("config-api", &database, &collector, &[("TRACE_READS_RATIO", "1")]).await;
    let watcher = service.client.watch("", None).await;
    let trace = watcher.headers["traceresponse"].to_str().unwrap()[3..35].to_owned();
    let span = collector.one(&trace, "GET /v1/watch").await;
    assert_eq!(span.attribute("http.response.status_code"), "200");
    let probes: Vec<_> = collector.spans().into_iter().filter(|span| span.name == "GET /v1/ready").collect();
    assert!(probes.is_empty(), "it was asked before whether it is ready, and nobody wants to know that: {probes:#?}");
    drop(watcher);
}

#[tokio::test]
async fn the_trace_is_on_each_line_of_its_request_in_text_and_in_json_whatever_the_filter() {
    let (database, collector) = (Database::new().await, Collector::start().await);
    let without_spans = "info,shared::telemetry=off";
    for (format, filter) in [("text", "info"), ("json", "info"), ("text", without_spans), ("json", without_spans)] {
        let more = [("LOG_FORMAT", format), ("RUST_LOG", filter)];
        let service = traced_with("command-service", &database, &collector, &more).await;
        let trace = trace_of(&service.client.put("a", format).await);
        collector.one(&trace, "decide ConfigValue").await;
        service.terminate();
        let (_, log) = service.ended().await;
        let lines: Vec<_> = log.iter().filter(|line| line.contains("PUT /config/a - ")).collect();
        assert_eq!(lines.len(), 2, "{log:#?}");
        let field = if format == "text" { format!(" trace_id={trace}") } else { format!(r#""trace_id":"{trace}""#) };
        for line in lines {
            assert!(line.contains(&field) && line.contains("request_id") && !line.contains("otel."), "{line}");
        }
    }
}

#[tokio::test]
async fn without_an_endpoint_the_clients_trace_is_in_lines_answers_and_events() {
    let database = Database::new().await;
    let service = Process::start("config-api", &["--database-url", &database.url]).await;
    service.client.until_ready().await;
    let (name, parent) = sampled_parent();
    let written = service.client.put_with("a", r#"{"value":1}"#, &[(name, &parent)]).await;
    assert_eq!(written.header("traceresponse"), parent);
    let missing = service.client.send(reqwest::Method::GET, "/v1/config/b", &[(name, &parent), AS_JSON], None).await;
    assert_eq!(missing.json()["trace_id"], CLIENTS_TRACE);
    let metadata = &service.client.get("/v1/config/a/history").await.json()[0]["metadata"];
    assert_eq!(metadata["traceparent"], parent);
    let plain = service.client.get_json("/v1/config/b").await;
    assert_eq!((plain.header("traceresponse"), &plain.json()["trace_id"]), ("", &serde_json::Value::Null));
    service.terminate();
    let (_, log) = service.ended().await;
    let stored = log.iter().find(|line| line.contains("Successfully stored")).unwrap();
    assert!(stored.contains(&format!(" trace_id={CLIENTS_TRACE}")), "{stored}");
}

#[tokio::test]
async fn a_variable_that_cannot_be_used_is_one_line_and_exit_code_2() {
    for (name, value, told) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector", "is no URL of a collector"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "is no sampler; known: always_on"),
        ("TRACE_READS_RATIO", "2", "write a number from 0 to 1"),
    ] {
        for program in ["command-service", "query-service", "config-api"] {
            let ended = run(program, &["--database-url", "postgres://x@127.0.0.1:1/x"], &[(name, value)]).await;
            assert_eq!(ended.code, Some(2), "{ended:?}");
            assert!(ended.complaint.contains(told) && ended.complaint.lines().count() == 1, "{ended:?}");
        }
    }
}

#[tokio::test]
async fn a_service_in_this_process_without_traces_makes_no_spans() {
    let log = LogLines::collect();
    let service = end_to_end::Standalone::start(&Database::new().await).await;
    let written = service.client.put("a", "1").await;
    assert_eq!(written.header("traceresponse"), "");
    let line = log.lines().into_iter().find(|line| line.contains("Successfully stored")).unwrap();
    assert!(line.contains("request_id=") && !line.contains("trace_id"), "{line}");
}
