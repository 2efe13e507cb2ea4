//! Loading aggregates: the last event of each name, in one statement for any number of names. It says everything: an event of
//! a configuration replaces the state before it (`ConfigValue::apply`), so a fold of all of them ends with what it leaves.
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
    position::Position,
};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{
    error::StoreError,
    loaded::{LastEvent, LoadedConfig},
};
use crate::domain::ConfigValue;

/// A name's last event; of a name that was never written only the first two are there.
#[derive(sqlx::FromRow)]
pub(super) struct Row {
    /// Of the name in the request, from 1 on.
    index: i64,
    /// The server takes no writes.
    read_only: bool,
    sequence: Option<i64>,
    event_type: Option<String>,
    event_version: Option<String>,
    payload: Option<String>,
    position: Option<i64>,
    recorded_at: Option<DateTime<Utc>>,
    command_id: Option<Uuid>,
}

#[cfg(test)]
impl Row {
    /// A deletion, or an event of another type.
    pub(super) fn sample(event_type: &str, sequence: i64) -> Self {
        Self {
            index: 1,
            read_only: false,
            sequence: Some(sequence),
            event_type: Some(event_type.to_owned()),
            event_version: Some("1.0".to_owned()),
            payload: Some("{}".to_owned()),
            position: Some(sequence),
            recorded_at: Some(DateTime::UNIX_EPOCH),
            command_id: Some(Uuid::nil()),
        }
    }
}

const LOAD: &str = "
select wanted.index, current_setting('transaction_read_only') = 'on' as read_only, last.*
  from unnest($2::text[]) with ordinality as wanted (name, index)
  left join lateral (
    select e.sequence, e.event_type, e.event_version, e.payload::text, e.position, e.recorded_at, e.command_id
      from events e
     where e.aggregate_type = $1 and e.aggregate_id = wanted.name
     order by e.sequence desc
     limit 1
  ) as last on true";

/// The last event of each name, in the order of the names.
///
/// # Errors
/// When the database does not answer, or refuses; and when the server takes no writes: what a standby or a demoted primary
/// knows may be old, and "no" is not to be said on it.
pub(super) async fn rows(
    connection: &mut PgConnection,
    names: &[&ConfigName],
) -> Result<Vec<Option<Row>>, sqlx::Error> {
    let wanted: Vec<_> = names.iter().map(|name| name.as_str()).collect();
    let mut found: Vec<Option<Row>> = names.iter().map(|_| None).collect();
    let mut rows = sqlx::query_as::<_, Row>(LOAD).bind(AGGREGATE_TYPE).bind(wanted).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        if row.read_only {
            return Err(read_only());
        }
        let index = usize::try_from(row.index).ok().and_then(|index| index.checked_sub(1));
        if let Some(of_name) = index.and_then(|index| found.get_mut(index)) {
            *of_name = Some(row);
        }
    }
    Ok(found)
}

/// As a connection that was lost: another server may have its address a moment later.
pub(super) fn read_only() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the server is read-only"))
}

/// The configuration's state, and where in the log it stands. A name that was never written is at version 0.
///
/// # Errors
/// When this release does not understand what is stored.
pub(super) fn fold(name: ConfigName, last: Option<Row>) -> Result<LoadedConfig, StoreError> {
    let mut state = ConfigValue::default();
    let mut at = None;
    if let Some(Row {
        sequence: Some(sequence),
        event_type: Some(event_type),
        event_version: Some(event_version),
        payload: Some(payload),
        position: Some(position),
        recorded_at: Some(recorded_at),
        command_id: Some(command_id),
        ..
    }) = last
    {
        state.apply(ConfigValueEvent::from_stored(&event_type, &event_version, &payload)?);
        state.set_version(u64::try_from(sequence).unwrap_or(0));
        let (position, recorded_at) = (Position::from_column(position), Moment(recorded_at));
        at = Some(LastEvent { position, command_id, recorded_at, lineage: None });
    }
    Ok(LoadedConfig::new(name, state, at))
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
