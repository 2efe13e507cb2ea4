//! A write is answered when the next read shows it, where one process serves both; but not never. Elsewhere its answer names
//! the place that a read is to wait for, also when it was refused.

use end_to_end::{CommandService, Database, LogLines, Standalone, until};
use serde_json::json;

use super::{batch, delete, put, rollback, written};

#[tokio::test]
async fn a_write_is_answered_though_its_projection_is_stuck() {
    let log = LogLines::collect();
    let database = Database::new().await;
    let standalone = Standalone::start(&database).await;
    database.append_unknown_event().await;
    until("the projection has met it", async || {
        let health = standalone.client.get("/v1/health").await.json();
        health["checks"]["projection"].as_str().is_some_and(|said| said.starts_with("halted")).then_some(())
    })
    .await;
    assert_eq!(written(&put("b", 1).send(&standalone.client).await), (200, 1, true));
    assert_eq!(log.count("[warning] A write was answered before the projection applied it"), 1);
}

/// Whoever reads from there on finds what the refusal speaks of.
#[tokio::test]
async fn a_refusal_names_the_place_that_it_rests_on_and_not_the_end_of_the_log() {
    let database = Database::new().await;
    // One that remembers what it is asked for, and one that does not.
    let services = [CommandService::start(&database).await, CommandService::start(&database).await];
    let client = &services[0].client;
    let there = client.put("there", 1).await;
    client.put("gone", 1).await;
    let gone = client.delete("gone").await;
    client.put("other", 1).await;
    let place = |answer: &end_to_end::Answer| answer.header("config-position").to_owned();
    let several = json!([
        {"op": "set", "name": "never", "value": 1}, {"op": "check", "name": "there", "if_version": 1},
        {"op": "delete", "name": "gone"}
    ]);
    for (write, status, rests_on) in [
        (put("there", 2).with("if-match", "\"7\""), 412, place(&there)),
        (put("gone", 2).with("if-match", "\"1\""), 412, place(&gone)),
        (delete("gone"), 410, place(&gone)),
        (delete("never"), 404, "0".to_owned()),
        (rollback("there", json!({ "version": 7 })), 404, place(&there)),
        (batch(several), 412, place(&gone)),
    ] {
        for service in &services {
            let refused = write.send(&service.client).await;
            assert_eq!(
                (refused.status.as_u16(), place(&refused)),
                (status, rests_on.clone()),
                "{write:?}: {refused:?}"
            );
            let position = refused.json()["position"].to_string();
            assert_eq!(rests_on.split('.').next(), Some(position.as_str()), "{write:?}: {refused:?}");
        }
    }
}
