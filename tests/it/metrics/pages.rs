//! The page as such.

use std::{io::Write as _, process::Stdio};

use end_to_end::{CommandService, Database, Page, QueryService, Standalone, until};
use reqwest::Method;
use serde_json::json;
use tokio::net::TcpStream;

#[tokio::test]
async fn it_is_prometheus_text_that_no_cache_keeps_and_nobody_compresses() {
    let database = Database::new().await;
    let service = Standalone::start(&database).await;
    let headers = [("accept-encoding", "gzip, zstd"), ("accept", "application/openmetrics-text")];
    let page = service.client.send(Method::GET, "/metrics", &headers, None).await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), "text/plain; version=0.0.4");
    assert_eq!((page.header("cache-control"), page.header("content-encoding")), ("no-store", ""));
    assert!(page.body.ends_with('\n'));
    let head = service.client.send(Method::HEAD, "/metrics", &[], None).await;
    assert_eq!((head.status.as_u16(), head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-type"), "text/plain; version=0.0.4");
    let wrong = service.client.send(Method::POST, "/metrics", &[], None).await;
    assert_eq!((wrong.status.as_u16(), wrong.header("allow")), (405, "GET,HEAD"));
    let after = Page::of(&service.client).await;
    let counted = |method, status| {
        let labels =
            [("http_route", "/metrics"), ("http_request_method", method), ("http_response_status_code", status)];
        after.value("http_server_request_duration_seconds_count", &labels)
    };
    assert_eq!([counted("GET", "200"), counted("HEAD", "200"), counted("POST", "405")], [1.0, 1.0, 1.0]);
    assert_eq!(after.value("http_server_active_requests", &[]), 1.0, "the one for this page");
}

#[tokio::test]
async fn promtool_finds_nothing_to_complain_of() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let both = Standalone::start(&database).await;
    for client in [&command.client, &query.client, &both.client] {
        client.get("/metrics").await;
        let page = Page::of(client).await.text;
        let check = std::process::Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut check = check.expect("promtool, of Debian's package prometheus: ./dev test installs it");
        check.stdin.take().expect("piped").write_all(page.as_bytes()).expect("it reads");
        let checked = check.wait_with_output().expect("it ends");
        let told = [checked.stdout, checked.stderr].concat();
        assert!(checked.status.success() && told.is_empty(), "{}", String::from_utf8_lossy(&told));
    }
}

#[tokio::test]
async fn whatever_clients_send_there_are_no_more_series() {
    let database = Database::new().await;
    let service = Standalone::start(&database).await;
    let client = &service.client;
    let round = async |suffix: &str, method: &str| {
        client.put(&format!("name{suffix}"), "value").await;
        client.value(&format!("name{suffix}")).await;
        client.value(&format!("absent{suffix}")).await;
        client.get(&format!("/v1/config/name{suffix}/history")).await;
        client.get(&format!("/nowhere{suffix}")).await;
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        client.send(method.clone(), "/v1/config/a", &[], None).await;
        client.send(method, &format!("/nowhere{suffix}"), &[], None).await;
    };
    round("", "ODD").await;
    Page::of(client).await;
    let before = Page::of(client).await.series();
    for n in 0..40 {
        round(&format!("-{n}"), &format!("ODD{n}")).await;
    }
    let after = Page::of(client).await;
    assert_eq!(after.series(), before);
    let methods = after.label_values("http_server_request_duration_seconds_count", "http_request_method");
    assert_eq!(methods.into_iter().collect::<Vec<_>>(), ["GET", "PUT", "_OTHER"]);
    let labels = [("http_route", "-"), ("http_request_method", "GET"), ("http_response_status_code", "404")];
    assert_eq!(after.value("http_server_request_duration_seconds_count", &labels), 41.0);
}

#[tokio::test]
async fn connections_and_requests_whose_clients_go_are_counted() {
    let database = Database::new().await;
    let service = CommandService::start(&database).await;
    let log = end_to_end::HeldLog::take(&database).await;
    let gone = TcpStream::connect(service.client.base().strip_prefix("http://").unwrap()).await.unwrap();
    let body = json!({ "value": 1 }).to_string();
    let request = format!("PUT /v1/config/a HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    gone.writable().await.unwrap();
    assert_eq!(gone.try_write(request.as_bytes()).unwrap(), request.len());
    let values = async |name: &'static str| Page::of(&service.client).await.value(name, &[]);
    until("it is under way", async || (values("config_writes_in_progress").await == 1.0).then_some(())).await;
    let page = Page::of(&service.client).await;
    assert_eq!(page.value("config_http_connections", &[]), 2.0);
    assert_eq!(page.value("http_server_active_requests", &[("http_request_method", "PUT")]), 1.0);
    drop(gone);
    until("it is abandoned", async || (values("config_http_requests_abandoned_total").await == 1.0).then_some(()))
        .await;
    assert_eq!(Page::of(&service.client).await.value("config_http_connections", &[]), 1.0);
    log.release().await;
    // It is carried out all the same.
    let changed = [("command", "set"), ("outcome", "changed")];
    until("it is written", async || {
        let page = Page::of(&service.client).await;
        (page.value("config_commands_total", &changed) == 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn it_says_which_program_this_is_and_what_it_may_use() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    let both = Standalone::start(&database).await;
    for (client, service) in
        [(&command.client, "command-service"), (&query.client, "query-service"), (&both.client, "config-api")]
    {
        let page = Page::of(client).await;
        let labels = [("service", service), ("version", env!("CARGO_PKG_VERSION"))];
        assert_eq!(page.value("config_build_info", &labels), 1.0);
        let value = |name| page.value(name, &[]);
        assert!(value("config_memory_limit_bytes") > value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") > 0.0 && value("process_open_fds") <= value("process_max_fds"));
        assert!(value("config_uptime_seconds") > 0.0);
    }
}
