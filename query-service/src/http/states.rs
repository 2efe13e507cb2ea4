//! States for the tests of this folder.

use std::{sync::Arc, time::Duration};

use shared::{event::AGGREGATE_TYPE, metrics::Metrics, position::Position, redaction::Redaction};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use uuid::Uuid;

use super::{Head, Reads, Watches};
use crate::{
    config::MAX_WATCHERS,
    metrics,
    projection::{Fold, Published, Recorded, Snapshot},
    tail::Status,
    watch::{Hub, LogReader},
};

/// Reads whose log is out of reach.
pub(super) fn reads(projection: &Arc<Published>) -> Reads {
    let options: PgConnectOptions = "postgres://nobody@127.0.0.1:1/nothing".parse().expect("a URL");
    let log = PgPoolOptions::new().connect_lazy_with(options.clone());
    let hub = Arc::new(Hub::new(MAX_WATCHERS, 1_000_000, metrics::tests::of_watches()));
    let watches = Watches { hub, log: LogReader::new(log.clone()), bookmark_interval: Duration::from_secs(1) };
    let (status, wait) = (Arc::new(Status::new()), Duration::from_secs(2));
    let head = Head::of(options, Metrics::of("query-service").event_store().connection("head"));
    Reads::new(Arc::clone(projection), status, log, head, wait, Redaction::by_default(), watches).0
}

/// Which command wrote the event at a position.
pub(super) fn command_id(position: u64) -> Uuid {
    Uuid::from_u128(u128::from(position))
}

/// An event that gives a name a value, or deletes it. Each name is at the version that is its event's position.
pub(super) fn apply(fold: &mut Fold, name: &str, json: Option<&str>) {
    let position = fold.position().next();
    let event = Recorded {
        position,
        aggregate_type: AGGREGATE_TYPE,
        aggregate_id: name,
        sequence: position.0,
        event_type: if json.is_some() { "ConfigValueSet" } else { "ConfigValueDeleted" },
        event_version: "1.0",
        payload: &json.map_or("{}".to_owned(), |json| format!("{{\"value\":{json}}}")),
        metadata: "{}",
        recorded_at: "2024-01-15T10:30:00Z".parse().expect("a moment"),
        command_id: command_id(position.0),
    };
    fold.apply(&event).expect("it is the next");
}

/// An event of something else.
pub(super) fn apply_foreign(fold: &mut Fold) {
    let Position(position) = fold.position().next();
    let event = Recorded {
        position: Position(position),
        aggregate_type: "Account",
        aggregate_id: "x",
        sequence: 1,
        event_type: "Opened",
        event_version: "7",
        payload: "[]",
        metadata: "{}",
        recorded_at: "2024-01-15T10:30:00Z".parse().expect("a moment"),
        command_id: command_id(position),
    };
    fold.apply(&event).expect("it is the next");
}

/// The state after `events` events, which is empty.
pub(super) fn state(events: u64) -> Snapshot {
    let mut fold = Fold::default();
    for _ in 0..events {
        apply(&mut fold, "a", None);
    }
    fold.snapshot()
}

/// The state in which these names have these values.
pub(super) fn state_of(values: &[(&str, &str)]) -> Snapshot {
    let mut fold = Fold::default();
    for (name, json) in values {
        apply(&mut fold, name, Some(json));
    }
    fold.snapshot()
}
