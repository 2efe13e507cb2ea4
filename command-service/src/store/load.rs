//! Loading an aggregate: its snapshot and the events behind it, in one statement.
//!
//! Not through `postgres-es`, whose way through `serde_json::Value` changes numbers: the same value would look changed.

use chrono::{DateTime, Utc};
use cqrs_es::{Aggregate, EventEnvelope};
use futures_util::TryStreamExt;
use shared::{
    event::{AGGREGATE_TYPE, ConfigValueEvent},
    moment::Moment,
    name::ConfigName,
    position::{Position, PositionToken},
};
use sqlx::PgPool;
use uuid::Uuid;

use super::event_store::{LoadedConfig, StoreError};
use crate::domain::ConfigValue;

/// A snapshot (without an event type) or an event. The event that the snapshot ends with is read again, for its position;
/// applying it twice changes nothing.
#[derive(sqlx::FromRow)]
struct LoadRow {
    sequence: i64,
    event_type: Option<String>,
    event_version: Option<String>,
    payload: String,
    position: Option<i64>,
    recorded_at: Option<DateTime<Utc>>,
    command_id: Option<Uuid>,
}

const LOAD: &str = "
select s.last_sequence as sequence, null as event_type, null as event_version, s.payload::text as payload,
       null::bigint as position, null::timestamptz as recorded_at, null::uuid as command_id
  from snapshots s
 where s.aggregate_type = $1 and s.aggregate_id = $2
 union all
select e.sequence, e.event_type, e.event_version, e.payload::text, e.position, e.recorded_at, e.command_id
  from events e
 where e.aggregate_type = $1 and e.aggregate_id = $2
   and e.sequence >= coalesce((select s.last_sequence from snapshots s where s.aggregate_type = $1 and s.aggregate_id = $2), 0)
 order by sequence, event_type nulls first";

/// Loads the configuration's state, and where in the log it stands. A name that was never written is at version 0.
pub(super) async fn load(pool: &PgPool, name: &ConfigName) -> Result<LoadedConfig, StoreError> {
    let mut state = ConfigValue::default();
    let (mut token, mut recorded_at) = (PositionToken::ZERO, Moment(DateTime::<Utc>::UNIX_EPOCH));
    let mut rows = sqlx::query_as::<_, LoadRow>(LOAD).bind(AGGREGATE_TYPE).bind(name.as_str()).fetch(pool);
    while let Some(row) = rows.try_next().await.map_err(StoreError::Load)? {
        let Some(event_type) = row.event_type else {
            state = serde_json::from_str(&row.payload).map_err(StoreError::Snapshot)?;
            continue;
        };
        state.apply(ConfigValueEvent::from_stored(&event_type, &row.event_version.unwrap_or_default(), &row.payload)?);
        state.set_version(u64::try_from(row.sequence).unwrap_or(0));
        if let (Some(position), Some(command_id), Some(at)) = (row.position, row.command_id, row.recorded_at) {
            token = PositionToken::new(Position::from_column(position), command_id);
            recorded_at = Moment(at);
        }
    }
    Ok(LoadedConfig::new(name.clone(), state, token, recorded_at))
}

/// All events of a name, oldest first: the framework's own interface asks for it, and tools that build on it.
pub(super) async fn load_events(pool: &PgPool, name: &str) -> Result<Vec<EventEnvelope<ConfigValue>>, StoreError> {
    let rows: Vec<(i64, String, String, String, String)> =
        sqlx::query_as(EVENTS).bind(AGGREGATE_TYPE).bind(name).fetch_all(pool).await.map_err(StoreError::Load)?;
    let envelope = |(sequence, event_type, event_version, payload, metadata): (i64, String, String, String, String)| {
        Ok(EventEnvelope {
            aggregate_id: name.to_owned(),
            sequence: usize::try_from(sequence).unwrap_or(0),
            payload: ConfigValueEvent::from_stored(&event_type, &event_version, &payload)?,
            metadata: serde_json::from_str(&metadata).unwrap_or_default(),
        })
    };
    rows.into_iter().map(envelope).collect()
}

const EVENTS: &str = "
select e.sequence, e.event_type, e.event_version, e.payload::text, e.metadata::text
  from events e
 where e.aggregate_type = $1 and e.aggregate_id = $2
 order by e.sequence";
