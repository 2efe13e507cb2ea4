//! Places that are none, or that are not reached: each fault has its own answer, with what would be right.

use end_to_end::{CommandService, Database, QueryService};

#[tokio::test]
async fn each_fault_of_a_question_about_the_past_is_named_with_its_remedy() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    command.client.put("a", 1).await;
    let second = command.client.put("a", 2).await;
    query.client.value_after("a", &second).await;
    let long = format!("/v1/diff?from=0&prefix={}", "a".repeat(257));
    for (path, status, code, sentence) in [
        ("/v1/config?at=2024-01-15T10:30:00", 400, "invalid-parameter", "a time with a zone"),
        ("/v1/config?at=-1", 400, "invalid-parameter", "`at` must be a position"),
        ("/v1/config?at=", 400, "invalid-parameter", "`at` must be a position"),
        ("/v1/config?at=2.00000000", 409, "position-diverged", "another event stands at position 2.00000000"),
        ("/v1/config?at=1&limit=0", 400, "invalid-parameter", "a number from 1 to 1000"),
        ("/v1/config?at=1&count=true&limit=1", 400, "excluding-parameters", "exclude each other"),
        ("/v1/config?at=1&until=2", 400, "unknown-parameter", "known: at, prefix, limit"),
        ("/v1/diff", 400, "invalid-parameter", "`from` must be given"),
        ("/v1/diff?from=yesterday", 400, "invalid-parameter", "`from` must be a position"),
        ("/v1/diff?from=0&to=2024-01-15", 400, "invalid-parameter", "`to` must be a position"),
        ("/v1/diff?from=2&to=1", 400, "from-behind-to", "exchange them"),
        ("/v1/diff?from=2024-01-15T10:30:00Z&to=2024-01-15T10:29:00Z", 400, "from-behind-to", "exchange them"),
        ("/v1/diff?from=2.00000000", 409, "position-diverged", "another event"),
        ("/v1/diff?from=0&prefix=%00", 400, "invalid-parameter", "without control characters"),
        ("/v1/diff?from=0&after=%00", 400, "invalid-parameter", "up to 256 bytes"),
        (long.as_str(), 400, "invalid-parameter", "up to 256 bytes"),
        ("/v1/diff?from=0&limit=1001", 400, "invalid-parameter", "a number from 1 to 1000"),
        ("/v1/config/a/versions/0", 400, "invalid-version", "a number from 1 on"),
        ("/v1/config/a/versions/-1", 400, "invalid-version", "a number from 1 on"),
        ("/v1/config/a/versions/latest", 400, "invalid-version", "a number from 1 on"),
        ("/v1/config/a/versions/3", 404, "not-found", "no such version"),
        ("/v1/config/a/history?order=newest", 400, "invalid-parameter", "`desc`, newest first"),
        ("/v1/config/a/history?after=-1", 400, "invalid-parameter", "a version, from 0 on"),
        ("/v1/config/a/at/2024-01-15T10:30:00", 400, "invalid-timestamp", "Use ISO8601"),
        ("/v1/events?limit=0", 400, "invalid-parameter", "a number from 1 to 10000"),
        ("/v1/events?follow=1", 400, "invalid-parameter", "true or false"),
        ("/v1/events?follow=true&limit=5", 400, "excluding-parameters", "`limit` and `follow`"),
        ("/v1/events?from=-1", 400, "invalid-parameter", "`from` must be a position"),
        ("/v1/events?from=2.00000000", 409, "position-diverged", "another event"),
    ] {
        let answer = query.client.get_json(path).await;
        let problem = answer.json();
        assert_eq!(
            (answer.status.as_u16(), &problem["type"]),
            (status, &format!("urn:config-api:problem:{code}").into()),
            "{path}"
        );
        assert!(problem["detail"].as_str().unwrap().contains(sentence), "{path}: {problem}");
    }
}

#[tokio::test]
async fn a_position_that_is_not_reached_is_waited_for_and_then_told() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    command.client.put("a", 1).await;
    let waiting = query.client.get("/v1/config?at=2");
    let (list, written) = tokio::join!(waiting, command.client.put("a", 2));
    assert_eq!(list.short(), (200, r#"[{"name":"a","value":2}]"#), "written meanwhile");
    for path in [
        "/v1/config?at=3",
        "/v1/diff?from=0&to=3",
        "/v1/diff?from=3",
        "/v1/events?from=3",
        "/v1/events?from=3&follow=true",
    ] {
        let refused = query.client.get_json(path).await;
        assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (503, "1"), "{path}: {refused:?}");
        assert_eq!(refused.json()["position"], 2, "{path}");
        assert_eq!(refused.header("config-position"), written.header("config-position"));
    }
}
