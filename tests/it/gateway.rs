//! The gateway: Debian's nginx with the deployments' own file, in front of real services.

use end_to_end::{
    Answer, Client, CommandService, Database, Gateway, QueryService, services::Running, until, wait::PATIENCE,
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
    task::JoinSet,
};

const JSON: (&str, &str) = ("accept", "application/json");

/// A command service and two query services behind a gateway.
struct System {
    gateway: Gateway,
    command: Running,
    queries: [Running; 2],
}

impl System {
    async fn start() -> Self {
        let database = Database::new().await;
        let command = CommandService::start(&database).await;
        let queries = [QueryService::start(&database).await, QueryService::start(&database).await];
        let gateway = Gateway::start(&command.client, &[&queries[0].client, &queries[1].client]).await;
        Self { gateway, command, queries }
    }

    fn client(&self) -> &Client {
        &self.gateway.client
    }
}

/// The cookie that an answer sets, as a client sends it back.
fn cookie(answer: &Answer) -> String {
    let set = answer.header("set-cookie");
    assert!(set.ends_with("; Path=/; Max-Age=60; HttpOnly; SameSite=Lax"), "{answer:?}");
    set.split(';').next().expect("a first part").to_owned()
}

async fn get_with(client: &Client, path: &str, headers: &[(&str, &str)]) -> Answer {
    client.send(Method::GET, path, headers, None).await
}

#[tokio::test]
async fn each_request_finds_the_service_that_answers_it() {
    let system = System::start().await;
    let client = system.client();
    let put = client.put("a", 1).await;
    let seen = cookie(&put);
    assert_eq!(seen, format!("config_position={}", put.header("config-position")));
    let seen = [("cookie", seen.as_str())];
    for (path, body) in [
        ("/v1/config/a", "1"),
        ("/config/a", "1"),
        ("/v1/config", r#"[{"name":"a","value":1}]"#),
        ("/config", r#"[{"name":"a","value":1}]"#),
        ("/v1/config?count=true", r#"{"count":1}"#),
        ("/v1/config/a/versions/1", "1"),
        ("/v1/live", "OK"),
    ] {
        assert_eq!(get_with(client, path, &seen).await.short(), (200, body), "{path}");
    }
    for path in ["/v1/config/a/history", "/v1/events", "/v1/projection", "/v1/worker/stats", "/v1/ready"] {
        assert_eq!(get_with(client, path, &seen).await.status, 200, "{path}");
    }
    let head = client.send(Method::HEAD, "/v1/config/a", &seen, None).await;
    assert_eq!((head.status.as_u16(), head.header("etag")), (200, "\"1\""));

    let send = async |method, path: &str, body: Value| {
        client.send(method, path, &[("content-type", "application/json")], Some(body.to_string())).await
    };
    assert_eq!(send(Method::PUT, "/config/b", json!({"value": 2})).await.short(), (200, "OK"));
    assert_eq!(send(Method::PUT, "/v1/config/a", json!({"value": 3})).await.short(), (200, "OK"));
    assert_eq!(send(Method::POST, "/v1/config/a/rollback", json!({"version": 1})).await.short(), (200, "OK"));
    let operations = json!({"operations": [{"op": "set", "name": "c", "value": 4}]});
    let batch = send(Method::POST, "/v1/batch", operations).await;
    assert_eq!(batch.short(), (200, "OK"));
    cookie(&batch);
    let deleted = client.send(Method::DELETE, "/config/b", &[], None).await;
    assert_eq!(deleted.short(), (200, "OK"));
    let all = get_with(client, "/v1/config", &[("cookie", &cookie(&deleted))]).await;
    assert_eq!(all.body, r#"[{"name":"a","value":1},{"name":"c","value":4}]"#);
    assert_eq!(client.get("/v1/nothing").await.status, 404);
    assert_eq!(send(Method::PUT, "/v1/nothing", json!({})).await.status, 404);
}

#[tokio::test]
async fn what_each_process_has_for_itself_is_not_at_the_gateway() {
    let system = System::start().await;
    for (method, path) in [
        (Method::GET, "/metrics"),
        (Method::GET, "/v1/log-filter"),
        (Method::PUT, "/v1/log-filter"),
        (Method::POST, "/v1/projection/rebuild"),
    ] {
        let refused = system.client().send(method, path, &[JSON], None).await;
        assert_eq!(refused.status, 404, "{path}");
        assert_eq!(refused.header("content-type"), "application/problem+json");
        assert_eq!(refused.json()["type"], "urn:config-api:problem:not-at-the-gateway");
    }
    // Its own places are not for clients.
    for path in ["/way/write", "/problem/bad-gateway/plain", "/command-health"] {
        assert_eq!(system.client().get(path).await.status, 404, "{path}");
    }
}

/// One replica is as slow as a replica may be. Without the cookie somebody reads the past.
#[tokio::test]
async fn who_keeps_the_cookie_reads_its_own_writes_on_every_replica() {
    let database = Database::new().await;
    let command = CommandService::start(&database).await;
    let mut slow = QueryService::config(&database.url);
    (slow.listening, slow.poll_interval) = (query_service::Listening::Off, std::time::Duration::from_millis(300));
    let queries = [QueryService::start(&database).await, QueryService::start_with(slow).await];
    queries[1].until_ready().await;
    let gateway = Gateway::start(&command.client, &[&queries[0].client, &queries[1].client]).await;
    let client = &gateway.client;
    let mut past_without = 0;
    for n in 1..=10 {
        let put = client.put("a", n).await;
        for _ in 0..2 {
            past_without += u32::from(client.value("a").await.body != n.to_string());
        }
        for _ in 0..4 {
            let read = get_with(client, "/v1/config/a", &[("cookie", &cookie(&put))]).await;
            assert_eq!(read.short(), (200, n.to_string().as_str()));
        }
    }
    assert!(past_without > 0, "else the cookie is not what helps");
    let put = client.put("a", "last").await;
    let position = put.header("config-position");
    for _ in 0..4 {
        let read = get_with(client, "/v1/config/a", &[("config-min-position", position)]).await;
        assert_eq!(read.short(), (200, "last"), "the client's own header is passed on");
    }
    // Its own position counts alone: two different ones would be refused.
    let old = [("cookie", "config_position=1")];
    assert_eq!(get_with(client, &format!("/v1/config/a?min_position={position}"), &old).await.short(), (200, "last"));
    let both = [("cookie", "config_position=1"), ("config-min-position", position)];
    assert_eq!(get_with(client, "/v1/config/a", &both).await.short(), (200, "last"));
    for broken in ["config_position=x", "config_position=", "config_position=1.zz", "other=1"] {
        assert_eq!(get_with(client, "/v1/config/a", &[("cookie", broken)]).await.status, 200, "{broken}");
    }
    // What was refused rests on an event as well.
    let gone = client.delete("never").await;
    assert_eq!(gone.status, 404);
}

#[tokio::test]
async fn a_name_arrives_as_it_was_sent() {
    let system = System::start().await;
    for name in ["team/app/db.url", "a/../b", "a//b", "50%", "a?b#c", "é +&=", "/v1/batch", "x/rollback", "%2F"] {
        let put = system.client().put(name, name).await;
        assert_eq!(system.client().value_after(name, &put).await.short(), (200, name));
    }
    let last = system.command.client.put("last", 1).await;
    let seen = [("config-min-position", last.header("config-position"))];
    let list = get_with(system.client(), "/v1/config?fields=name", &seen).await.json();
    let listed: Vec<_> = list.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!(
        listed,
        ["%2F", "/v1/batch", "50%", "a/../b", "a//b", "a?b#c", "last", "team/app/db.url", "x/rollback", "é +&="]
    );
    // A service decides what a path with a real slash is; it is not made into another.
    for path in ["/v1/config/a//b", "/v1//config/a", "/v1/x/../config/last"] {
        let direct = system.queries[0].client.raw(&request(path)).await;
        let through = system.client().raw(&request(path)).await;
        assert!(direct.starts_with("HTTP/1.1 404"), "{direct}");
        assert!(through.starts_with("HTTP/1.1 404"), "{path}: {through}");
    }
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n")
}

#[tokio::test]
async fn each_event_of_a_watch_comes_at_once() {
    let system = System::start().await;
    let mut watcher = system.client().watch("prefix=a", None).await;
    assert_eq!(watcher.headers["x-accel-buffering"], "no", "for a proxy before this one");
    assert_eq!(watcher.next().await.unwrap().event, "bookmark");
    for n in 1..=3 {
        let name = format!("a{n}");
        system.client().put(&name, n).await;
        // The next change is only made when this one has come.
        assert_eq!(watcher.expect("change").await.changes(), [format!("{name}@1")]);
    }
    let mut again = system.client().watch("prefix=a", Some("1")).await;
    assert_eq!(again.expect("change").await.changes(), ["a2@1"]);
}

#[tokio::test]
async fn a_long_poll_waits_through_the_gateway() {
    let system = System::start().await;
    let put = system.client().put("a", 1).await;
    let seen = cookie(&put);
    let headers = [("cookie", seen.as_str()), ("if-none-match", "\"1\""), ("prefer", "wait=30")];
    let waits = get_with(system.client(), "/v1/config/a", &headers);
    let changes = async {
        until("somebody waits", async || {
            for query in &system.queries {
                if query.client.get("/v1/projection").await.json()["watchers"] == 1 {
                    return Some(());
                }
            }
            None
        })
        .await;
        system.client().put("a", 2).await;
    };
    let (changed, ()) = tokio::join!(waits, changes);
    assert_eq!(changed.short(), (200, "2"));
}

#[tokio::test]
async fn a_body_may_be_as_large_as_the_services_take() {
    let system = System::start().await;
    let client = system.client();
    let largest = "x".repeat(1024 * 1024 - 2);
    assert_eq!(client.put("a", largest.as_str()).await.short(), (200, "OK"));
    // The service's own word: the gateway leaves room beside the value.
    let by_the_service = client.put_with("a", &json!({ "value": format!("{largest}x") }).to_string(), &[JSON]).await;
    assert_eq!(by_the_service.status, 413);
    assert!(!by_the_service.body.contains("gateway"), "{by_the_service:?}");
    let body = json!({ "value": "x".repeat(1200 * 1024) }).to_string();
    let plain = client.put_with("a", &body, &[]).await;
    assert_eq!(
        plain.short(),
        (413, "The body is larger than the gateway takes: a value and 64 KiB, or a batch of 9 MiB.")
    );
    let problem = client.put_with("a", &body, &[JSON]).await;
    assert_eq!((problem.status.as_u16(), problem.header("content-type")), (413, "application/problem+json"));
    assert_eq!(problem.json()["type"], "urn:config-api:problem:too-large");
    assert_eq!(problem.json()["request_id"], problem.header("x-request-id"));

    let value = "y".repeat(1000 * 1024);
    let operations: Vec<_> = (0..8).map(|n| json!({"op": "set", "name": format!("b{n}"), "value": value})).collect();
    let batch = json!({ "operations": operations }).to_string();
    let headers = [("content-type", "application/json")];
    let sent = client.send(Method::POST, "/v1/batch", &headers, Some(batch.clone())).await;
    assert_eq!(sent.short(), (200, "OK"));
    let too_large = format!("{batch}{}", " ".repeat(2 * 1024 * 1024));
    assert_eq!(client.send(Method::POST, "/v1/batch", &headers, Some(too_large)).await.status, 413);
}

#[tokio::test]
async fn reads_go_on_when_a_replica_is_gone_and_writes_fail_when_theirs_is() {
    let System { gateway, command, queries: [first, second] } = System::start().await;
    let client = &gateway.client;
    let put = client.put("a", 1).await;
    for query in [&first, &second] {
        assert_eq!(query.client.value_after("a", &put).await.status, 200);
    }
    assert_eq!(client.get("/v1/health").await.json()["status"], "ok");
    first.stop().await.unwrap();
    for _ in 0..20 {
        assert_eq!(client.value("a").await.short(), (200, "1"));
    }
    assert_eq!(client.get("/v1/health").await.status, 200, "a replica is left");

    command.stop().await.unwrap();
    assert_eq!(client.value("a").await.short(), (200, "1"));
    let told = client.put_with("a", r#"{"value":2}"#, &[("x-request-id", "mine")]).await;
    assert_eq!(told.status, 502);
    assert_eq!(
        told.body,
        "The service did not answer. It may or may not have been carried out: repeat it with its Idempotency-Key, or read the \
         value before writing again. (request id mine)"
    );
    assert_eq!(told.header("x-request-id"), "mine");
    let health = client.get_json("/v1/health").await;
    assert_eq!(
        (health.status.as_u16(), health.header("content-type")),
        (502, "application/problem+json"),
        "the whole is not well"
    );
    assert_eq!(client.send(Method::HEAD, "/health", &[], None).await.status, 502);
    assert_eq!(client.get("/v1/ready").await.status, 200, "it can serve reads");

    second.stop().await.unwrap();
    let problem = client.get_json("/v1/config/a").await;
    assert_eq!((problem.status.as_u16(), problem.header("content-type")), (502, "application/problem+json"));
    let body = problem.json();
    assert_eq!((&body["type"], &body["status"]), (&json!("urn:config-api:problem:bad-gateway"), &json!(502)));
    assert_eq!(body["detail"], "The service did not answer. Nothing was changed; repeat it.");
    assert_eq!(body["request_id"], problem.header("x-request-id"));
    let any = client.send(Method::GET, "/v1/config/a", &[("accept", "application/json, text/plain, */*")], None).await;
    assert!(
        any.body.starts_with("The service did not answer. Nothing was changed"),
        "plain as the services have it: {any:?}"
    );
    assert_eq!(client.get("/v1/live").await.short(), (200, "OK"), "the gateway itself");
}

#[tokio::test]
async fn the_health_of_the_whole_is_that_of_both() {
    let cluster = end_to_end::cluster::own().await;
    let database = Database::in_cluster(&cluster).await;
    let command = CommandService::start(&database).await;
    let query = QueryService::start(&database).await;
    let gateway = Gateway::start(&command.client, &[&query.client]).await;
    for path in ["/v1/health", "/health"] {
        let well = gateway.client.get(path).await;
        assert_eq!(well.status, 200);
        assert_eq!(well.json()["checks"]["projection"], "ok");
    }
    cluster.stop(embedded_postgres::StopMode::Fast).await.unwrap();
    let unwell = gateway.client.get("/v1/health").await;
    assert_eq!(unwell.status, 503);
    assert_eq!(unwell.json()["status"], "unavailable");
    assert_ne!(unwell.json()["checks"]["eventstore"], "ok");
}

#[tokio::test]
async fn a_replica_that_cannot_answer_yet_is_passed_over() {
    let database = Database::new().await;
    let command = CommandService::start(&database).await;
    let ready = QueryService::start(&database).await;
    // It waits for a log that never comes.
    let replaying = QueryService::start_with(QueryService::config("postgres://nobody@127.0.0.1:1/none")).await;
    assert_eq!(replaying.client.value("a").await.status, 503);
    let gateway = Gateway::start(&command.client, &[&replaying.client, &ready.client]).await;
    let put = gateway.client.put("a", 1).await;
    for _ in 0..10 {
        let read = get_with(&gateway.client, "/v1/config/a", &[("cookie", &cookie(&put))]).await;
        assert_eq!(read.short(), (200, "1"));
    }
}

/// It takes a request and hangs up, or never answers.
struct Broken {
    client: Client,
    requests: mpsc::Receiver<String>,
    _serving: JoinSet<()>,
}

impl Broken {
    async fn start(hangs_up: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let client = Client::new(&format!("http://{}", listener.local_addr().expect("its address")));
        let (sender, requests) = mpsc::channel(100);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut kept = vec![];
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = vec![0; 64 * 1024];
                let read = stream.read(&mut bytes).await.expect("a request");
                let request = String::from_utf8(bytes[..read].to_vec()).expect("UTF-8");
                sender.send(request).await.expect("the test waits for it");
                if hangs_up {
                    stream.shutdown().await.expect("it is connected");
                } else {
                    kept.push(stream);
                }
            }
        });
        Self { client, requests, _serving: serving }
    }

    async fn next(&mut self) -> String {
        tokio::time::timeout(PATIENCE, self.requests.recv()).await.expect("a request in time").expect("it serves")
    }
}

#[tokio::test]
async fn a_write_is_never_sent_twice() {
    let mut broken = Broken::start(true).await;
    // Two of them, so that there would be somebody to repeat it to.
    let other = broken.client.base().replace("http://", "server ");
    let gateway = Gateway::start_with(&broken.client, &[&broken.client], |file| {
        let two = format!("{other} max_fails=0; {other} max_fails=0;");
        let (before, after) = file.split_once("upstream command_services {").unwrap();
        format!("{before}upstream command_services {{ {two}{after}")
    })
    .await;
    let writes = [
        (Method::PUT, "/v1/config/a"),
        (Method::DELETE, "/v1/config/a"),
        (Method::POST, "/v1/config/a/rollback"),
        (Method::POST, "/v1/batch"),
    ];
    for (method, path) in writes {
        let answer = gateway.client.send(method.clone(), path, &[], Some("{}".to_owned())).await;
        assert_eq!(answer.status, 502);
        assert!(answer.body.contains("may or may not have been carried out"), "{answer:?}");
        let sent = broken.next().await;
        assert!(sent.starts_with(&format!("{method} {path} HTTP/1.1\r\n")), "{sent}");
        assert!(broken.requests.try_recv().is_err(), "{method} {path} was sent twice");
    }
    // A read is.
    let two = Gateway::start(&broken.client, &[&broken.client, &broken.client]).await;
    assert_eq!(two.client.get("/v1/config/a").await.status, 502);
    for _ in 0..2 {
        assert!(broken.next().await.starts_with("GET /v1/config/a "));
    }
}

#[tokio::test]
async fn a_service_that_does_not_answer_in_time_is_a_504() {
    let mut silent = Broken::start(false).await;
    let gateway = Gateway::start_with(&silent.client, &[&silent.client], |file| {
        let shorter = file.replace("proxy_read_timeout 40s", "proxy_read_timeout 1s");
        assert_ne!(file, shorter);
        shorter
    })
    .await;
    let answer = gateway.client.put_with("a", r#"{"value":1}"#, &[JSON]).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (504, "application/problem+json"));
    let body = answer.json();
    assert_eq!(body["type"], "urn:config-api:problem:gateway-timeout");
    assert!(body["detail"].as_str().unwrap().contains("may or may not have been carried out"), "{body}");
    assert!(silent.next().await.starts_with("PUT /v1/config/a "));
    assert!(silent.requests.try_recv().is_err());
}

#[tokio::test]
async fn a_request_keeps_its_id_and_its_trace_and_is_told_from_whom_it_is() {
    let system = System::start().await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [("x-request-id", "ticket-7"), ("traceparent", traceparent)];
    let put = system.client().put_with("a", r#"{"value":1}"#, &headers).await;
    assert_eq!(put.header("x-request-id"), "ticket-7");
    let history = get_with(system.client(), "/v1/config/a/history", &[("cookie", &cookie(&put))]).await.json();
    assert_eq!(history[0]["metadata"]["request_id"], "ticket-7");
    let kept = history[0]["metadata"]["traceparent"].as_str().unwrap();
    assert!(kept.contains("0af7651916cd43dd8448eb211c80319c"), "{history}");
    let without = system.client().get("/v1/config/a").await;
    assert_eq!(without.header("x-request-id").len(), 32, "one of the gateway's own");
    let line = until("it is in the gateway's log", async || {
        let lines = system.gateway.log();
        lines.iter().find_map(|line| {
            let line: Value = serde_json::from_str(line).expect("each line is JSON");
            (line["request_id"] == "ticket-7").then_some(line)
        })
    })
    .await;
    assert_eq!((&line["method"], &line["path"], &line["status"]), (&json!("PUT"), &json!("/v1/config/a"), &json!(200)));

    let mut broken = Broken::start(true).await;
    let gateway = Gateway::start(&broken.client, &[&broken.client]).await;
    let forwarded = [("x-forwarded-for", "192.0.2.1"), ("host", "config.example")];
    gateway.client.send(Method::DELETE, "/v1/config/a", &forwarded, None).await;
    let sent = broken.next().await.to_lowercase();
    for line in [
        "x-forwarded-for: 192.0.2.1, 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: config.example",
        "host: config.example",
    ] {
        assert!(sent.contains(&format!("\r\n{line}\r\n")), "{line}: {sent}");
    }
}
