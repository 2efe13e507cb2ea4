//! `GET /v1/config/{name}/at/{timestamp}`: the value that a configuration had at a moment, from the log.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, Uri},
    response::Response,
};
use chrono::{DateTime, Utc};
use shared::{
    event::AGGREGATE_TYPE,
    http::{parameters::Parameters, path::NameAnd, problem::Problem},
    moment::Moment,
};
use sqlx::postgres::PgRow;
use tokio::time::timeout;

use super::{
    Reads,
    error::ReadError,
    place::LOG_LIMIT,
    reads::{CONSISTENCY, MIN_POSITION},
    value::{self, DO_NOT_KEEP, REVALIDATE},
    versions,
};

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
    let found = timeout(LOG_LIMIT, find(&reads, &name, moment)).await;
    let found = found.unwrap_or(Err(ReadError::LogOutOfReach(None)));
    view.stamp(found.and_then(|(row, cache)| {
        let row = row.as_ref().ok_or(ReadError::NotFound)?;
        versions::tell(row, &name, &headers, known.as_ref(), cache)?.ok_or(ReadError::NotFound)
    }))
}

/// The version that the name had then, and whether it may be kept. Two statements: of one that joins them, the plan may read every
/// version of the name.
async fn find(reads: &Reads, name: &str, moment: Moment) -> Result<(Option<PgRow>, HeaderValue), ReadError> {
    let mut log = reads.log().await?;
    let found = sqlx::query_as::<_, (i64, Option<DateTime<Utc>>)>(
        "select version_at($1, $2, $3), (select recorded_at from events order by position desc limit 1)",
    );
    let found = found.bind(AGGREGATE_TYPE).bind(name).bind(moment.0).fetch_one(&mut *log).await?;
    let (version, newest) = found;
    // A moment that is not over for the log: the next event may still change the answer.
    let cache = if newest.is_none_or(|newest| moment.0 > newest) { DO_NOT_KEEP } else { REVALIDATE };
    let row = versions::read(&mut log, name, version).await?;
    log.ended();
    Ok((row, cache))
}
