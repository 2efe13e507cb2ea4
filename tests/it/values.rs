//! Values and names arrive as they were sent.

use end_to_end::{Client, Database, Standalone};
use serde_json::json;

#[tokio::test]
async fn any_value_reads_back_byte_for_byte() {
    let standalone = Standalone::start(&Database::new().await).await;
    let client = &standalone.client;
    let texts = [
        "",
        " ",
        "multi\nline\r\n\ttext",
        "größe 名前 🦀 \u{202e}",
        "\"quoted\" \\ back",
        "</script>",
        &"é".repeat(524_287),
    ];
    for text in texts {
        client.put("text", text).await;
        let answer = client.value("text").await;
        assert!(answer.short() == (200, text), "{} bytes", text.len());
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    }
    for raw in [
        "null",
        "true",
        "-0",
        "1.10",
        "12345678901234567890123",
        "1e400",
        "[]",
        "{\"b\": 1, \"a\":[ 2 ]}",
        "{\"a\":1,\"a\":2}",
    ] {
        assert_eq!(client.put_with("json", &format!("{{ \"value\" : {raw} }}"), &[]).await.short(), (200, "OK"));
        let answer = client.value("json").await;
        assert_eq!(answer.short(), (200, raw));
        assert_eq!(answer.header("content-type"), "application/json");
        let unchanged =
            client.put_with("json", &format!("{{\"value\":{raw}}}"), &[("accept", "application/json")]).await;
        assert_eq!(unchanged.json()["changed"], false, "{raw}");
    }
}

#[tokio::test]
async fn any_name_can_be_addressed() {
    let standalone = Standalone::start(&Database::new().await).await;
    let client = &standalone.client;
    let names = [
        "a b",
        "team/app/db.url",
        "größe",
        "名前🦀",
        "a%2Fb",
        "a+b?c#d&e=f",
        "...",
        "\"quoted\"",
        "'; drop table events; --",
        &"x".repeat(256),
    ];
    for name in names {
        client.put(name, name).await;
        assert_eq!(client.value(name).await.short(), (200, name));
        let path = format!("/v1/config/{}/history", Client::encode(name));
        assert_eq!(client.get(&path).await.json()[0]["data"]["config_name"], name);
    }
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    let list = client.get("/v1/config").await.json();
    let listed: Vec<_> = list.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!(listed, sorted);
}

#[tokio::test]
async fn a_value_may_have_one_mebibyte_and_not_a_byte_more() {
    let standalone = Standalone::start(&Database::new().await).await;
    let client = &standalone.client;
    let largest = "x".repeat(1024 * 1024 - 2);
    client.put("a", largest.clone()).await;
    assert!(client.value("a").await.short() == (200, largest.as_str()));
    let body = json!({ "value": format!("{largest}x") }).to_string();
    let refused = client.put_with("a", &body, &[]).await;
    assert_eq!(refused.short(), (413, "The value has 1048577 bytes of JSON; the limit is 1048576 bytes."));
    let body = json!({ "value": "x".repeat(2 * 1024 * 1024) }).to_string();
    assert_eq!(client.put_with("a", &body, &[]).await.status, 413);
    assert!(client.value("a").await.short() == (200, largest.as_str()));
}

#[tokio::test]
async fn a_name_with_many_versions_goes_on() {
    let database = Database::new().await;
    let standalone = Standalone::start(&database).await;
    for n in 0..130 {
        standalone.client.put("a", n).await;
    }
    let answer = standalone.client.put_with("a", r#"{"value":129}"#, &[("accept", "application/json")]).await.json();
    assert_eq!((&answer["version"], &answer["changed"]), (&json!(130), &json!(false)));
    standalone.client.delete("a").await;
    assert_eq!(standalone.client.delete("a").await.short(), (410, "Gone"));
}
