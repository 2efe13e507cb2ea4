//! `GET /v1/config/{name}/at/{timestamp}`: the value that a configuration had at a moment, from the log.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, Uri},
    response::Response,
};
use chrono::{DateTime, Utc};
use shared::{
    event::{AGGREGATE_TYPE, ConfigValueEvent},
    http::{conditional::Tags, parameters::Parameters, path::NameAnd, problem::Problem},
    moment::Moment,
    name::ConfigName,
    position::Position,
};
use sqlx::{Row, postgres::PgRow};
use tokio::time::timeout;

use super::{
    Reads,
    error::ReadError,
    place::{LOG_LIMIT, stamp_memento},
    reads::{CONSISTENCY, MIN_POSITION},
    value::{self, DO_NOT_KEEP, REVALIDATE, Told},
};
use crate::projection::Authorship;

pub(super) async fn handle(
    State(reads): State<Arc<Reads>>,
    NameAnd(name, timestamp): NameAnd,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let moment: Moment = timestamp.parse().map_err(ReadError::from)?;
    let parameters = Parameters::of(&uri, &[MIN_POSITION, CONSISTENCY])?;
    let known = value::known_versions(&headers)?;
    let view = reads.view(&headers, &parameters).await?;
    let row = timeout(LOG_LIMIT, read(&reads, &name, moment)).await;
    let row = row.unwrap_or(Err(ReadError::LogOutOfReach(None)));
    view.stamp(row.and_then(|row| answer(&row, &name, moment, &headers, known.as_ref())))
}

/// `offset 0` has the search done once, not once per condition. One row, always: the last position's time, and of the version
/// that the name had then its columns or nulls.
async fn read(reads: &Reads, name: &str, moment: Moment) -> Result<PgRow, ReadError> {
    let mut log = reads.log().await?;
    let row = sqlx::query(
        "select newest.recorded_at, e.sequence, e.event_type, e.event_version, e.payload::text, e.metadata::text,
                e.recorded_at, e.position
           from (select (select recorded_at from events order by position desc limit 1) as recorded_at,
                        version_at($1, $2, $3) as version
                 offset 0) newest
           left join events e
             on e.aggregate_type = $1 and e.aggregate_id = $2 and e.sequence = newest.version and newest.version > 0",
    );
    Ok(row.bind(AGGREGATE_TYPE).bind(name).bind(moment.0).fetch_one(&mut *log).await?)
}

fn answer(
    row: &PgRow,
    name: &ConfigName,
    moment: Moment,
    headers: &HeaderMap,
    known: Option<&Tags>,
) -> Result<Response, ReadError> {
    let newest: Option<DateTime<Utc>> = row.try_get(0)?;
    let Some(version) = row.try_get::<Option<i64>, _>(1)? else { return Err(ReadError::NotFound) };
    let event = ConfigValueEvent::from_stored(row.try_get(2)?, row.try_get(3)?, row.try_get(4)?)?;
    let Some(value) = event.value() else { return Err(ReadError::NotFound) };
    let author = Authorship::of(row.try_get(5)?);
    let told = Told {
        name,
        value: value.borrowed(),
        version: u64::try_from(version).unwrap_or(0),
        position: Position::from_column(row.try_get(7)?),
        recorded_at: Moment(row.try_get(6)?),
        actor: &author.actor,
        reason: author.reason.as_deref(),
    };
    // A moment that is not over for the log: the next event may still change the answer.
    let cache = if newest.is_none_or(|newest| moment.0 > newest) { DO_NOT_KEEP } else { REVALIDATE };
    let mut response = value::tell(&told, headers, known, cache);
    stamp_memento(response.headers_mut(), told.recorded_at);
    Ok(response)
}
