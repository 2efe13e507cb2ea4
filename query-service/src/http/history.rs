//! `GET /v1/config/{name}/history`: every version of a configuration, from the log.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, Uri, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use serde::Serialize;
use serde_json::value::RawValue;
use shared::{
    event::{AGGREGATE_TYPE, ConfigValueEvent},
    http::{
        parameters::{Parameters, invalid},
        path::NameInPath,
        problem::Problem,
    },
    moment::Moment,
    position::Position,
    value::ConfigJson,
};
use sqlx::{Postgres, Row, pool::PoolConnection, postgres::PgRow};
use tokio::time::timeout;

use super::{Reads, error::ReadError, reads::MIN_POSITION, value::REVALIDATE};

const LIMIT: &str = "limit";
const BEFORE: &str = "before";

/// Most versions on a page.
const PAGE_VERSIONS: u16 = 1_000;

/// Most payload and metadata on a page, in bytes; 16 MiB. A page has one version at least.
const PAGE_BYTES: usize = 16 * 1024 * 1024;

/// Longest that the log may take for a page.
const LOG_LIMIT: Duration = Duration::from_secs(10);

/// What is asked for: the newest `limit` versions below `before`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    limit: u16,
    before: i64,
}

/// A version, as the old system told it.
#[derive(Debug, Serialize)]
struct Told<'a> {
    event_type: &'static str,
    data: Data<'a>,
    metadata: &'a RawValue,
    created_at: Moment,
    stream_version: i64,
    position: Position,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Data<'a> {
    Set { config_name: &'a str, value: &'a ConfigJson, old_value: Option<&'a ConfigJson>, timestamp: Moment },
    Deleted { config_name: &'a str, deleted_value: Option<&'a ConfigJson>, timestamp: Moment },
}

/// A version as it is stored.
#[derive(Debug)]
struct Version {
    sequence: i64,
    event: ConfigValueEvent,
    metadata: Box<RawValue>,
    recorded_at: Moment,
    position: Position,
}

/// Newest first. `beyond` tells the value before the oldest of them, and that there is an older page.
#[derive(Debug, Default)]
struct Page {
    versions: Vec<Version>,
    beyond: Option<Version>,
}

pub(super) async fn handle(
    State(reads): State<Arc<Reads>>,
    NameInPath(name): NameInPath,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let parameters = Parameters::of(&uri, &[LIMIT, BEFORE, MIN_POSITION])?;
    let asked = asked(&parameters)?;
    let view = reads.view(&headers, &parameters).await?;
    let page = timeout(LOG_LIMIT, read(&reads, &name, asked)).await;
    let page = page.unwrap_or(Err(ReadError::LogOutOfReach(None)));
    view.stamp(page.map(|page| answer(&page, &name, asked, uri.path())))
}

fn asked(parameters: &Parameters) -> Result<Asked, Problem> {
    let limit = match parameters.get(LIMIT).map(str::parse) {
        None => PAGE_VERSIONS,
        Some(Ok(limit @ 1..=PAGE_VERSIONS)) => limit,
        Some(_) => return Err(invalid(LIMIT, "a number from 1 to 1000")),
    };
    let before = match parameters.get(BEFORE).map(str::parse) {
        None => i64::MAX,
        Some(Ok(before @ 1..)) => before,
        Some(_) => return Err(invalid(BEFORE, "a version, from 1 on")),
    };
    Ok(Asked { limit, before })
}

fn answer(page: &Page, name: &str, asked: Asked, path: &str) -> Response {
    let told = page.tell(name);
    let body = serde_json::to_vec(&told).expect("texts and values are JSON");
    let json = HeaderValue::from_static("application/json");
    let mut response = ([(header::CONTENT_TYPE, json), (header::CACHE_CONTROL, REVALIDATE)], body).into_response();
    let next = page.versions.last().filter(|_| page.beyond.is_some());
    let link = next.map(|oldest| format!("<{path}?limit={}&before={}>; rel=\"next\"", asked.limit, oldest.sequence));
    if let Some(Ok(link)) = link.map(HeaderValue::try_from) {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

impl Page {
    /// Oldest first, each with the value that it replaced.
    fn tell<'a>(&'a self, name: &'a str) -> Vec<Told<'a>> {
        let mut old_value = self.beyond.as_ref().and_then(|version| version.event.value());
        let told = self.versions.iter().rev().map(|version| {
            let (config_name, timestamp) = (name, version.recorded_at);
            let value = version.event.value();
            let data = match value {
                Some(value) => Data::Set { config_name, value, old_value, timestamp },
                None => Data::Deleted { config_name, deleted_value: old_value, timestamp },
            };
            old_value = value;
            Told {
                event_type: version.event.type_name(),
                data,
                metadata: &version.metadata,
                created_at: version.recorded_at,
                stream_version: version.sequence,
                position: version.position,
            }
        });
        told.collect()
    }
}

async fn read(reads: &Reads, name: &str, asked: Asked) -> Result<Page, ReadError> {
    let mut connection = Reading { connection: reads.log().await?, to_its_end: false };
    let mut rows = sqlx::query(
        "select sequence, event_type, event_version, payload::text, metadata::text, recorded_at, position
           from events
          where aggregate_type = $1 and aggregate_id = $2 and sequence < $3
          order by sequence desc
          limit $4",
    )
    .bind(AGGREGATE_TYPE)
    .bind(name)
    .bind(asked.before)
    .bind(i64::from(asked.limit) + 1)
    .fetch(&mut *connection.connection);
    let (mut page, mut bytes) = (Page::default(), 0);
    while let Some(row) = rows.try_next().await? {
        let version = stored(&row)?;
        if page.versions.len() == usize::from(asked.limit) || (bytes > PAGE_BYTES && !page.versions.is_empty()) {
            page.beyond = Some(version);
            break;
        }
        bytes += row.try_get::<&str, _>(3)?.len() + version.metadata.get().len();
        page.versions.push(version);
    }
    drop(rows);
    connection.to_its_end = bytes <= PAGE_BYTES;
    Ok(page)
}

/// A connection that is being read. Dropped before the end, because a page is full or took too long, it is closed: the
/// server is still sending, and the rest is not to be read by whoever comes next.
struct Reading {
    connection: PoolConnection<Postgres>,
    to_its_end: bool,
}

impl Drop for Reading {
    fn drop(&mut self) {
        if !self.to_its_end {
            self.connection.close_on_drop();
        }
    }
}

fn stored(row: &PgRow) -> Result<Version, ReadError> {
    let metadata: String = row.try_get(4)?;
    Ok(Version {
        sequence: row.try_get(0)?,
        event: ConfigValueEvent::from_stored(row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)?,
        metadata: RawValue::from_string(metadata).unwrap_or_else(|_| RawValue::NULL.to_owned()),
        recorded_at: Moment(row.try_get::<DateTime<Utc>, _>(5)?),
        position: Position::from_column(row.try_get(6)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `json` = `None`: a deletion.
    fn version(sequence: i64, json: Option<&str>) -> Version {
        let (event_type, payload) = match json {
            Some(json) => ("ConfigValueSet", format!("{{\"value\":{json}}}")),
            None => ("ConfigValueDeleted", "{}".to_owned()),
        };
        Version {
            sequence,
            event: ConfigValueEvent::from_stored(event_type, "1.0", &payload).unwrap(),
            metadata: RawValue::from_string("{\"actor\":\"ann\"}".to_owned()).unwrap(),
            recorded_at: "2024-01-15T10:30:00Z".parse().unwrap(),
            position: Position(u64::try_from(sequence).unwrap() * 10),
        }
    }

    fn told(page: &Page) -> String {
        serde_json::to_string(&page.tell("a")).unwrap()
    }

    #[test]
    fn each_version_tells_what_it_replaced_oldest_first() {
        let versions =
            vec![version(4, Some("2")), version(3, None), version(2, Some("1.10")), version(1, Some("\"x\""))];
        let told = told(&Page { versions, beyond: None });
        let moment = "2024-01-15T10:30:00.000000Z";
        let event = |event_type, data: &str, sequence| {
            format!(
                r#"{{"event_type":"{event_type}","data":{{"config_name":"a",{data},"timestamp":"{moment}"}},"metadata":{{"actor":"ann"}},"created_at":"{moment}","stream_version":{sequence},"position":{sequence}0}}"#
            )
        };
        let expected = [
            event("ConfigValueSet", r#""value":"x","old_value":null"#, 1),
            event("ConfigValueSet", r#""value":1.10,"old_value":"x""#, 2),
            event("ConfigValueDeleted", r#""deleted_value":1.10"#, 3),
            event("ConfigValueSet", r#""value":2,"old_value":null"#, 4),
        ];
        assert_eq!(told, format!("[{}]", expected.join(",")));
    }

    #[test]
    fn the_oldest_of_a_page_knows_the_value_from_the_page_before() {
        let page = Page { versions: vec![version(3, None)], beyond: Some(version(2, Some("7"))) };
        assert!(told(&page).contains(r#""deleted_value":7"#));
        let page = Page { versions: vec![version(3, Some("1"))], beyond: Some(version(2, None)) };
        assert!(told(&page).contains(r#""old_value":null"#));
        assert_eq!(told(&Page::default()), "[]");
    }

    #[test]
    fn links_to_the_older_page_where_there_is_one() {
        let asked = Asked { limit: 1, before: i64::MAX };
        let link = |page: &Page| {
            let response = answer(page, "a/b", asked, "/v1/config/a%2Fb/history");
            response.headers().get("link").map(|link| link.to_str().unwrap().to_owned())
        };
        let page = Page { versions: vec![version(3, None)], beyond: Some(version(2, Some("7"))) };
        assert_eq!(link(&page).unwrap(), "</v1/config/a%2Fb/history?limit=1&before=3>; rel=\"next\"");
        assert_eq!(link(&Page { versions: vec![version(1, None)], beyond: None }), None);
    }

    #[test]
    fn limits_are_named_when_they_are_broken() {
        let ask =
            |query: &str| asked(&Parameters::of(&format!("/x?{query}").parse().unwrap(), &[LIMIT, BEFORE]).unwrap());
        assert_eq!(ask("").unwrap(), Asked { limit: 1000, before: i64::MAX });
        assert_eq!(ask("limit=1&before=7").unwrap(), Asked { limit: 1, before: 7 });
        for query in ["limit=0", "limit=1001", "limit=x", "limit=-1", "before=0", "before=", "before=1.5"] {
            assert_eq!(ask(query).unwrap_err().code(), "invalid-parameter", "{query}");
        }
    }
}
