//! What a configuration was: the state to which a rollback goes.

use shared::{
    database,
    event::{AGGREGATE_TYPE, ConfigValueEvent},
    moment::Moment,
    name::ConfigName,
    value::ConfigJson,
};
use sqlx::{PgPool, Postgres, pool::PoolConnection};

use super::{error::StoreError, load};

/// A point in a configuration's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// A version, from 1 on.
    Version(u64),
    /// A moment.
    At(Moment),
}

/// A version that was.
#[derive(Clone, Debug)]
pub struct Former {
    /// Its number.
    pub version: u64,
    /// Its value; `None` when it was deleted then.
    pub value: Option<ConfigJson>,
}

const AT: &str = "select version_at($1, $2, $3)";

const VERSION: &str = "
select e.event_type, e.event_version, e.payload::text
  from events e
 where e.aggregate_type = $1 and e.aggregate_id = $2 and e.sequence = $3";

/// The version at that point; `None` when there was none.
///
/// # Errors
/// When the log cannot be read.
pub(super) async fn former(log: &PgPool, name: &ConfigName, past: Past) -> Result<Option<Former>, StoreError> {
    let mut log = on_a_primary(log).await.map_err(StoreError::load)?;
    let version = match past {
        Past::Version(version) => i64::try_from(version).unwrap_or(i64::MAX),
        Past::At(moment) => {
            let at = sqlx::query_scalar(AT).bind(AGGREGATE_TYPE).bind(name.as_str()).bind(moment.0);
            at.fetch_one(&mut *log).await.map_err(StoreError::load)?
        }
    };
    let event = sqlx::query_as(VERSION).bind(AGGREGATE_TYPE).bind(name.as_str()).bind(version);
    let event: Option<(String, String, String)> = event.fetch_optional(&mut *log).await.map_err(StoreError::load)?;
    let Some((event_type, event_version, payload)) = event else { return Ok(None) };
    let value = ConfigValueEvent::from_stored(&event_type, &event_version, &payload)?.value().cloned();
    Ok(Some(Former { version: u64::try_from(version).unwrap_or(0), value }))
}

/// A connection to a server that takes writes: another may not know what was written last.
///
/// # Errors
/// When there is none.
pub(super) async fn on_a_primary(log: &PgPool) -> Result<PoolConnection<Postgres>, sqlx::Error> {
    let mut connection = log.acquire().await?;
    if database::is_writable(&mut connection).await? {
        return Ok(connection);
    }
    connection.close_on_drop();
    Err(load::read_only())
}
