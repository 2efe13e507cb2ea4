//! A write is answered when the next read shows it, where one process serves both; but not never.

use end_to_end::{Database, LogLines, Standalone, until};

use super::{put, written};

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
