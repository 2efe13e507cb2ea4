//! `GET /v1/config/{name}/versions/{n}`: the value that a version of a configuration gave, from the log. It never changes.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, Uri},
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
use sqlx::{PgConnection, Row, postgres::PgRow};
use tokio::time::timeout;

use super::{
    Reads,
    error::ReadError,
    place::{LOG_LIMIT, stamp_memento},
    reads::{CONSISTENCY, MIN_POSITION},
    value::{self, Told},
};
use crate::projection::Authorship;

/// A year: events are never changed.
const KEEP: HeaderValue = HeaderValue::from_static("max-age=31536000, immutable");

pub(super) async fn handle(
    State(reads): State<Arc<Reads>>,
    NameAnd(name, version): NameAnd,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let version = number(&version)?;
    let parameters = Parameters::of(&uri, &[MIN_POSITION, CONSISTENCY])?;
    let known = value::known_versions(&headers)?;
    let view = reads.view(&headers, &parameters).await?;
    let row = async { read(&mut *reads.log().await?, &name, version).await };
    let row = timeout(LOG_LIMIT, row).await.unwrap_or(Err(ReadError::LogOutOfReach(None)));
    view.stamp(row.and_then(|row| {
        let row = row.as_ref().ok_or(ReadError::NoSuchVersion)?;
        tell(row, &name, &headers, known.as_ref(), KEEP)?.ok_or(ReadError::NoSuchVersion)
    }))
}

/// A version: from 1 on, as far as the log can count.
fn number(text: &str) -> Result<i64, Problem> {
    let digits = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|text| text.parse().ok()).filter(|number| *number >= 1);
    number.ok_or_else(|| {
        let detail = "A version is a number from 1 on, as the ETag and the history give it: /versions/3.";
        Problem::bad_request("invalid-version", detail)
    })
}

/// The event of a version, if there is one.
pub(super) async fn read(log: &mut PgConnection, name: &str, version: i64) -> Result<Option<PgRow>, ReadError> {
    let row = sqlx::query(
        "select event_type, event_version, payload::text, metadata::text, recorded_at, position, sequence
           from events
          where aggregate_type = $1 and aggregate_id = $2 and sequence = $3",
    );
    Ok(row.bind(AGGREGATE_TYPE).bind(name).bind(version).fetch_optional(log).await?)
}

/// The value that it gave, since when; `None` for a deletion.
pub(super) fn tell(
    row: &PgRow,
    name: &ConfigName,
    headers: &HeaderMap,
    known: Option<&Tags>,
    cache: HeaderValue,
) -> Result<Option<Response>, ReadError> {
    let event = ConfigValueEvent::from_stored(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)?;
    let Some(value) = event.value() else { return Ok(None) };
    let author = Authorship::of(row.try_get(3)?);
    let told = Told {
        name,
        value: value.borrowed(),
        version: u64::try_from(row.try_get::<i64, _>(6)?).unwrap_or(0),
        position: Position::from_column(row.try_get(5)?),
        recorded_at: Moment(row.try_get::<DateTime<Utc>, _>(4)?),
        actor: &author.actor,
        reason: author.reason.as_deref(),
    };
    let mut response = value::tell(&told, headers, known, cache);
    stamp_memento(response.headers_mut(), told.recorded_at);
    Ok(Some(response))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_a_number_from_1_on() {
        assert_eq!((number("1").unwrap(), number("9223372036854775807").unwrap()), (1, i64::MAX));
        for text in ["", "0", "-1", "+1", "1.0", "x", "9223372036854775808", "\"3\""] {
            assert_eq!(number(text).unwrap_err().code(), "invalid-version", "{text}");
        }
    }
}
