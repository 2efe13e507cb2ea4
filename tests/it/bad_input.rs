//! Each fault of a request has its own 4xx, a sentence that names it, and leaves nothing behind.

use end_to_end::{Database, Standalone};
use reqwest::Method;

const JSON: (&str, &str) = ("content-type", "application/json");
const AS_JSON: (&str, &str) = ("accept", "application/json");

/// Method, path, headers, body; status, problem code, a part of the sentence.
type Case<'a> = (Method, &'a str, &'a [(&'a str, &'a str)], Option<&'a str>, u16, &'a str, &'a str);

#[tokio::test]
async fn each_fault_is_named_with_its_remedy_and_nothing_is_written() {
    let database = Database::new().await;
    let standalone = Standalone::start(&database).await;
    let long_name = format!("/v1/config/{}", "x".repeat(257));
    let long_prefix = format!("/v1/config?prefix={}", "x".repeat(257));
    let long_reason = format!(r#"{{"value":1,"reason":"{}"}}"#, "x".repeat(1025));
    let deep = format!(r#"{{"value":{}{}}}"#, "[".repeat(129), "]".repeat(129));
    let put = |path, body, status, code, sentence| (Method::PUT, path, &[JSON][..], Some(body), status, code, sentence);
    let get = |path, status, code, sentence| (Method::GET, path, &[][..], None, status, code, sentence);
    let cases: &[Case<'_>] = &[
        (
            Method::PUT,
            "/v1/config/a",
            &[JSON],
            None,
            400,
            "missing-body",
            "The body is missing; send {\"value\": \"my_value\"}",
        ),
        put("/v1/config/a", " ", 400, "missing-body", "The body is missing"),
        put("/v1/config/a", "{", 400, "malformed-json", "EOF"),
        put("/v1/config/a", "{\"value\":1}x", 400, "malformed-json", "trailing"),
        put("/v1/config/a", "{\"value\":01}", 400, "malformed-json", "invalid number"),
        put("/v1/config/a", "[1]", 400, "invalid-body", "object"),
        put("/v1/config/a", "\"x\"", 400, "invalid-body", "object"),
        put("/v1/config/a", "{}", 400, "invalid-body", "missing field `value`"),
        put("/v1/config/a", r#"{"value":1,"vale":2}"#, 400, "invalid-body", "unknown field `vale`"),
        put("/v1/config/a", r#"{"value":1,"value":2}"#, 400, "invalid-body", "duplicate field"),
        put("/v1/config/a", r#"{"value":1,"reason":7}"#, 400, "invalid-body", "expected a string"),
        put("/v1/config/a", &long_reason, 413, "too-large", "the limit is 1024 bytes"),
        put("/v1/config/a", r#"{"value":1,"reason":"\u0000"}"#, 422, "invalid-reason", "NUL"),
        put("/v1/config/a", r#"{"value":"a\u0000"}"#, 422, "invalid-value", "NUL"),
        put("/v1/config/a", r#"{"value":"\ud800"}"#, 422, "invalid-value", "surrogate"),
        put("/v1/config/a", &deep, 422, "invalid-value", "deeper than 128"),
        (
            Method::PUT,
            "/v1/config/a",
            &[("content-type", "text/plain")],
            Some("{\"value\":1}"),
            415,
            "unsupported-media-type",
            "Content-Type: application/json",
        ),
        (
            Method::PUT,
            "/v1/config/a",
            &[("content-type", "application/x-www-form-urlencoded")],
            Some("{\"value\":1}"),
            415,
            "unsupported-media-type",
            "JSON",
        ),
        put("/v1/config/", "{\"value\":1}", 400, "invalid-name", "empty"),
        put("/v1/config/%20", "{\"value\":1}", 400, "invalid-name", "blank"),
        put("/v1/config/a%20", "{\"value\":1}", 400, "invalid-name", "blank"),
        put("/v1/config/a%0Ab", "{\"value\":1}", 400, "invalid-name", "U+000A"),
        put("/v1/config/%00", "{\"value\":1}", 400, "invalid-name", "U+0000"),
        put("/v1/config/%FF", "{\"value\":1}", 400, "invalid-name", "UTF-8"),
        put("/v1/config/a%2", "{\"value\":1}", 400, "invalid-name", "%25"),
        put("/v1/config/a%ZZ", "{\"value\":1}", 400, "invalid-name", "%25"),
        put("/v1/config/a?verison=3", "{\"value\":1}", 400, "unknown-parameter", "verison"),
        put(&long_name, "{\"value\":1}", 400, "invalid-name", "the limit is 256 bytes"),
        put("/v1/config/a/b", "{\"value\":1}", 404, "unknown-route", "%2F"),
        (
            Method::PUT,
            "/v1/config/a",
            &[JSON, ("if-match", "3")],
            Some("{\"value\":1}"),
            400,
            "malformed-entity-tag",
            "double quotes",
        ),
        (
            Method::PUT,
            "/v1/config/a",
            &[JSON, ("if-match", "W/\"3\"")],
            Some("{\"value\":1}"),
            400,
            "malformed-entity-tag",
            "weak",
        ),
        (
            Method::PUT,
            "/v1/config/a",
            &[JSON, ("if-none-match", "\"3\"")],
            Some("{\"value\":1}"),
            400,
            "malformed-entity-tag",
            "only `*`",
        ),
        (
            Method::PUT,
            "/v1/config/a",
            &[JSON, ("if-match", "\"1\""), ("if-none-match", "*")],
            Some("{\"value\":1}"),
            400,
            "malformed-entity-tag",
            "exclude",
        ),
        (Method::DELETE, "/v1/config/", &[], None, 400, "invalid-name", "empty"),
        (Method::POST, "/v1/config/a", &[], None, 405, "method-not-allowed", "Allow"),
        (Method::PATCH, "/config", &[], None, 405, "method-not-allowed", "Allow"),
        (Method::DELETE, "/v1/config/a?verison=3", &[], None, 400, "unknown-parameter", "verison"),
        get("/v1/config/100%", 400, "invalid-name", "%25"),
        get("/v1/worker/stats?x=1", 400, "unknown-parameter", "x"),
        get("/v2/config/a", 404, "unknown-route", "/v1/config"),
        get("/", 404, "unknown-route", "/v1/config"),
        get("/v1/config/", 400, "invalid-name", "empty"),
        get("/v1/config/a?x=1", 400, "unknown-parameter", "x"),
        get("/v1/config?prefxi=a", 400, "unknown-parameter", "prefxi"),
        get("/v1/config?prefix=%0A", 400, "invalid-parameter", "`prefix` must be up to 256 bytes"),
        get(&long_prefix, 400, "invalid-parameter", "`prefix` must be up to 256 bytes"),
        get("/v1/config?after=%00", 400, "invalid-parameter", "`after` must be up to 256 bytes"),
        get("/v1/config?limit=0", 400, "invalid-parameter", "`limit` must be a number from 1 to 1000"),
        get("/v1/config?limit=1001", 400, "invalid-parameter", "`limit` must be a number from 1 to 1000"),
        get("/v1/config?fields=value", 400, "invalid-parameter", "`fields` must be `name`"),
        get("/v1/config?count=yes", 400, "invalid-parameter", "`count` must be `true`"),
        get("/v1/config?count=true&limit=5", 400, "excluding-parameters", "`count` and `limit` exclude each other"),
        get("/v1/config?page=1.9f3a01bc.00000000.a&after=a", 400, "excluding-parameters", "`page` and `after`"),
        get("/v1/config?page=1.9f3a01bc.00000000.a&min_position=1", 400, "excluding-parameters", "`min_position`"),
        get("/v1/config?page=1.9f3a01bc.00000000.a", 400, "invalid-page", "begin again without `page`"),
        get("/v1/config?page=1", 400, "invalid-page", "Follow the link"),
        get("/v1/config?consistency=weak", 400, "invalid-parameter", "`consistency` must be `strong` or `default`"),
        get("/v1/config/a/history?consistency=", 400, "invalid-parameter", "`consistency` must be"),
        get("/v1/config?min_position=0.9f3a01bc", 400, "invalid-position", "42.9f3a01bc"),
        (Method::GET, "/v1/config", &[("if-none-match", "x")], None, 400, "malformed-entity-tag", "double quotes"),
        get("/v1/config/a/history?limit=0", 400, "invalid-parameter", "1"),
        get("/v1/config/a/history?limit=1001", 400, "invalid-parameter", "1000"),
        get("/v1/config/a/history?before=x", 400, "invalid-parameter", "before"),
        get("/v1/config/a/at/2024-01-15", 400, "invalid-timestamp", "ISO8601"),
        get("/v1/config/a/at/2024-01-15T10:30:00", 400, "invalid-timestamp", "ISO8601"),
        (Method::GET, "/v1/config/a", &[("if-none-match", "x")], None, 400, "malformed-entity-tag", "double quotes"),
        (Method::GET, "/v1/config/a", &[("config-min-position", "1.x")], None, 400, "invalid-position", "42.9f3a01bc"),
        get("/v1/config/a?min_position=-1", 400, "invalid-position", "42.9f3a01bc"),
    ];
    for (method, path, headers, body, status, code, sentence) in cases {
        let body = body.map(str::to_owned);
        let plain = standalone.client.send(method.clone(), path, headers, body.clone()).await;
        assert_eq!(plain.status.as_u16(), *status, "{method} {path} {headers:?} {body:?}: {plain:?}");
        assert!(plain.body.contains(sentence), "{sentence:?} is not in {:?}", plain.body);
        assert!(plain.header("content-type").starts_with("text/plain"), "{plain:?}");
        let json = standalone.client.send(method.clone(), path, &[headers, &[AS_JSON][..]].concat(), body).await;
        assert_eq!(json.header("content-type"), "application/problem+json");
        let problem = json.json();
        assert_eq!(problem["type"], format!("urn:config-api:problem:{code}"), "{method} {path}: {problem}");
        assert_eq!(problem["status"], *status);
        assert_eq!(problem["request_id"], json.header("x-request-id"));
        assert!(problem["detail"].as_str().unwrap().contains(sentence));
        if *status == 405 {
            assert!(!json.header("allow").is_empty());
        }
    }
    let events: i64 =
        sqlx::query_scalar("select count(*) from events").fetch_one(&mut database.connect().await).await.unwrap();
    assert_eq!(events, 0);
}

/// What HTTP libraries resolve before they send must be refused when it arrives all the same.
#[tokio::test]
async fn dot_segments_are_no_names() {
    let standalone = Standalone::start(&Database::new().await).await;
    for segment in [".", "..", "%2E", "%2e%2E"] {
        let answer = standalone
            .client
            .raw(&format!("GET /v1/config/{segment} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
            .await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{segment}: {answer}");
        assert!(answer.contains("cannot be names"), "{segment}: {answer}");
    }
}

#[tokio::test]
async fn a_server_error_says_nothing_internal_and_its_id_is_in_the_log() {
    let log = end_to_end::LogLines::collect();
    let database = Database::new().await;
    let standalone = Standalone::start(&database).await;
    database.execute("alter table events rename to gone").await;
    let answer = standalone.client.put_with("a", r#"{"value":1}"#, &[JSON, ("x-request-id", "find-me")]).await;
    assert!(answer.status.is_server_error(), "{answer:?}");
    assert!(
        answer.body.contains("find-me") && !answer.body.contains("events") && !answer.body.contains("sql"),
        "{answer:?}"
    );
    let told = log.lines().into_iter().find(|line| line.starts_with("[error] PUT /config/a - Failed to store value: "));
    assert!(told.as_ref().is_some_and(|line| line.contains("find-me") && line.contains("does not exist")), "{told:?}");
}
