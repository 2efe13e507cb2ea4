//! Loading aggregates: their snapshots and the events behind them, in one statement for any number of names.
//!
//! Not through `postgres-es`, whose way through `serde_json::Value` changes numbers: the same value would look changed.

use std::io;

use chrono::{DateTime, Utc};
use cqrs_es::{Aggregate, EventEnvelope};
use futures_util::TryStreamExt;
use shared::{
    event::{AGGREGATE_TYPE, ConfigValueEvent},
    moment::Moment,
    name::ConfigName,
    position::{Position, PositionToken},
};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::event_store::{LoadedConfig, StoreError};
use crate::domain::ConfigValue;

/// A snapshot (without an event type) or an event. The event that the snapshot ends with is read again, for its position;
/// applying it twice changes nothing.
#[derive(sqlx::FromRow)]
pub(super) struct Row {
    /// Of the name in the request, from 1 on.
    index: i64,
    /// The server takes no writes.
    read_only: bool,
    /// `None` in the one row of a name that was never written.
    sequence: Option<i64>,
    event_type: Option<String>,
    event_version: Option<String>,
    payload: Option<String>,
    position: Option<i64>,
    recorded_at: Option<DateTime<Utc>>,
    command_id: Option<Uuid>,
}

/// No order is asked for, because a sort would need one over all names: each name's few rows are sorted here.
const LOAD: &str = "
select wanted.index, current_setting('transaction_read_only') = 'on' as read_only, found.*
  from unnest($2::text[]) with ordinality as wanted (name, index)
  left join lateral (
    select s.last_sequence as sequence, null as event_type, null as event_version, s.payload::text as payload,
           null::bigint as position, null::timestamptz as recorded_at, null::uuid as command_id
      from snapshots s
     where s.aggregate_type = $1 and s.aggregate_id = wanted.name
     union all
    select e.sequence, e.event_type, e.event_version, e.payload::text, e.position, e.recorded_at, e.command_id
      from events e
     where e.aggregate_type = $1 and e.aggregate_id = wanted.name
       and e.sequence >= coalesce((select s.last_sequence from snapshots s
                                    where s.aggregate_type = $1 and s.aggregate_id = wanted.name), 0)
 ) as found on true";

/// The rows of each name, in the order of the names.
///
/// # Errors
/// When the database does not answer, or refuses; and when the server takes no writes: what a standby or a demoted primary
/// knows may be old, and "no" is not to be said on it.
pub(super) async fn rows(connection: &mut PgConnection, names: &[&ConfigName]) -> Result<Vec<Vec<Row>>, sqlx::Error> {
    let wanted: Vec<_> = names.iter().map(|name| name.as_str()).collect();
    let mut found: Vec<Vec<Row>> = names.iter().map(|_| vec![]).collect();
    let mut rows = sqlx::query_as::<_, Row>(LOAD).bind(AGGREGATE_TYPE).bind(wanted).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        if row.read_only {
            return Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the server is read-only")));
        }
        let index = usize::try_from(row.index).ok().and_then(|index| index.checked_sub(1));
        if let Some(of_name) = index.and_then(|index| found.get_mut(index)) {
            of_name.push(row);
        }
    }
    Ok(found)
}

/// The configuration's state, and where in the log it stands. A name that was never written is at version 0.
///
/// # Errors
/// When this release does not understand what is stored.
pub(super) fn fold(name: ConfigName, mut rows: Vec<Row>) -> Result<LoadedConfig, StoreError> {
    let mut state = ConfigValue::default();
    let (mut token, mut recorded_at) = (PositionToken::ZERO, Moment(DateTime::<Utc>::UNIX_EPOCH));
    rows.sort_unstable_by_key(|row| (row.sequence, row.event_type.is_some()));
    for row in rows {
        let (Some(sequence), Some(payload)) = (row.sequence, row.payload) else { continue };
        let Some(event_type) = row.event_type else {
            state = serde_json::from_str(&payload).map_err(StoreError::Snapshot)?;
            continue;
        };
        state.apply(ConfigValueEvent::from_stored(&event_type, &row.event_version.unwrap_or_default(), &payload)?);
        state.set_version(u64::try_from(sequence).unwrap_or(0));
        if let (Some(position), Some(command_id), Some(at)) = (row.position, row.command_id, row.recorded_at) {
            token = PositionToken::new(Position::from_column(position), command_id);
            recorded_at = Moment(at);
        }
    }
    Ok(LoadedConfig::new(name, state, token, recorded_at))
}

/// All events of a name, oldest first: the framework's own interface asks for it, and tools that build on it.
pub(super) async fn load_events(pool: &PgPool, name: &str) -> Result<Vec<EventEnvelope<ConfigValue>>, StoreError> {
    let rows: Vec<(i64, String, String, String, String)> =
        sqlx::query_as(EVENTS).bind(AGGREGATE_TYPE).bind(name).fetch_all(pool).await.map_err(StoreError::load)?;
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
