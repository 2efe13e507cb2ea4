//! `GET /v1/config/{name}/history`: every version of a configuration, from the log.

use std::sync::Arc;

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
use sqlx::{Row, postgres::PgRow};
use tokio::time::timeout;

use super::{
    Reads,
    error::ReadError,
    link,
    place::LOG_LIMIT,
    reads::{CONSISTENCY, MIN_POSITION},
    value::REVALIDATE,
};

const LIMIT: &str = "limit";
const ORDER: &str = "order";
const AFTER: &str = "after";
const BEFORE: &str = "before";

/// Most versions on a page.
const PAGE_VERSIONS: u16 = 1_000;

/// Most payload and metadata on a page, in bytes; 16 MiB. A page has one version at least.
const PAGE_BYTES: usize = 16 * 1024 * 1024;

/// Of the versions between `after` and `before`, the page at one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    order: Order,
    limit: u16,
    after: i64,
    before: i64,
}

/// Which end, and how the page is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// The newest, told oldest first, as the old system did.
    NewestPage,
    /// The newest, told newest first.
    NewestFirst,
    /// The oldest, told oldest first.
    OldestFirst,
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

/// Oldest first.
#[derive(Debug, Default)]
struct Page {
    versions: Vec<Version>,
    /// The version before the oldest of them, whose value that one replaced.
    replaced: Option<Version>,
    /// There is a further page.
    more: bool,
}

pub(super) async fn handle(
    State(reads): State<Arc<Reads>>,
    NameInPath(name): NameInPath,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let parameters = Parameters::of(&uri, &[LIMIT, ORDER, AFTER, BEFORE, MIN_POSITION, CONSISTENCY])?;
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
    let bound = |parameter, least, without| match parameters.get(parameter).map(str::parse) {
        None => Ok(without),
        Some(Ok(version)) if version >= least => Ok(version),
        Some(_) => Err(invalid(parameter, &format!("a version, from {least} on"))),
    };
    let order = match parameters.get(ORDER) {
        None => Order::NewestPage,
        Some("desc") => Order::NewestFirst,
        Some("asc") => Order::OldestFirst,
        Some(_) => return Err(invalid(ORDER, "`asc`, oldest first, or `desc`, newest first")),
    };
    Ok(Asked { order, limit, after: bound(AFTER, 0, 0)?, before: bound(BEFORE, 1, i64::MAX)? })
}

fn answer(page: &Page, name: &str, asked: Asked, path: &str) -> Response {
    let mut told = page.tell(name);
    if asked.order == Order::NewestFirst {
        told.reverse();
    }
    let body = serde_json::to_vec(&told).expect("texts and values are JSON");
    let json = HeaderValue::from_static("application/json");
    let mut response = ([(header::CONTENT_TYPE, json), (header::CACHE_CONTROL, REVALIDATE)], body).into_response();
    if page.more {
        asked.behind(page).link(&mut response, path);
    }
    response
}

impl Asked {
    /// What is to be asked for the next page.
    fn behind(self, page: &Page) -> Self {
        let sequence = |version: Option<&Version>| version.map(|version| version.sequence);
        match self.order {
            Order::OldestFirst => Self { after: sequence(page.versions.last()).unwrap_or(self.after), ..self },
            _ => Self { before: sequence(page.versions.first()).unwrap_or(self.before), ..self },
        }
    }

    fn link(self, response: &mut Response, path: &str) {
        let order = match self.order {
            Order::NewestPage => None,
            Order::NewestFirst => Some("desc"),
            Order::OldestFirst => Some("asc"),
        };
        let [limit, after, before] = [i64::from(self.limit), self.after, self.before].map(|number| number.to_string());
        let parameters = [
            (ORDER, order),
            (LIMIT, Some(&*limit)),
            (AFTER, Some(&*after).filter(|_| self.after > 0)),
            (BEFORE, Some(&*before).filter(|_| self.before < i64::MAX)),
        ];
        link::next(response, path, &parameters);
    }
}

impl Page {
    /// Each with the value that it replaced.
    fn tell<'a>(&'a self, name: &'a str) -> Vec<Told<'a>> {
        let mut old_value = self.replaced.as_ref().and_then(|version| version.event.value());
        let told = self.versions.iter().map(|version| {
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

const NEWEST: &str = "
    select sequence, event_type, event_version, payload::text, metadata::text, recorded_at, position
      from events
     where aggregate_type = $1 and aggregate_id = $2 and sequence > $3 and sequence < $4
     order by sequence desc
     limit $5";

const OLDEST: &str = "
    select sequence, event_type, event_version, payload::text, metadata::text, recorded_at, position
      from events
     where aggregate_type = $1 and aggregate_id = $2 and sequence > $3 and sequence < $4
     order by sequence
     limit $5";

async fn read(reads: &Reads, name: &str, asked: Asked) -> Result<Page, ReadError> {
    let mut log = reads.log().await?;
    let statement = if asked.order == Order::OldestFirst { OLDEST } else { NEWEST };
    let rows = sqlx::query(statement).bind(AGGREGATE_TYPE).bind(name).bind(asked.after).bind(asked.before);
    let mut rows = rows.bind(i64::from(asked.limit) + 1).fetch(&mut *log);
    let (mut page, mut beyond, mut bytes) = (Page::default(), None, 0);
    while let Some(row) = rows.try_next().await? {
        let version = stored(&row)?;
        if page.versions.len() == usize::from(asked.limit) || (bytes > PAGE_BYTES && !page.versions.is_empty()) {
            (page.more, beyond) = (true, Some(version));
            break;
        }
        bytes += row.try_get::<&str, _>(3)?.len() + version.metadata.get().len();
        page.versions.push(version);
    }
    drop(rows);
    // Before another is asked for: who holds one and waits for the next may wait for himself.
    if bytes <= PAGE_BYTES {
        log.ended();
    } else {
        drop(log);
    }
    if asked.order != Order::OldestFirst {
        page.versions.reverse();
    }
    page.replaced = match beyond.filter(|_| asked.order != Order::OldestFirst) {
        Some(version) => Some(version),
        None => read_replaced(reads, name, page.versions.first()).await?,
    };
    Ok(page)
}

/// The version before the oldest of a page, when the page did not come upon it.
async fn read_replaced(reads: &Reads, name: &str, oldest: Option<&Version>) -> Result<Option<Version>, ReadError> {
    let Some(oldest) = oldest.filter(|oldest| oldest.sequence > 1) else { return Ok(None) };
    let mut log = reads.log().await?;
    let row = sqlx::query(NEWEST).bind(AGGREGATE_TYPE).bind(name).bind(0_i64).bind(oldest.sequence).bind(1_i64);
    let row = row.fetch_optional(&mut *log).await?;
    log.ended();
    row.as_ref().map(stored).transpose()
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
            vec![version(1, Some("\"x\"")), version(2, Some("1.10")), version(3, None), version(4, Some("2"))];
        let told = told(&Page { versions, ..Page::default() });
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
        let page = |only, replaced| Page { versions: vec![only], replaced: Some(replaced), more: true };
        assert!(told(&page(version(3, None), version(2, Some("7")))).contains(r#""deleted_value":7"#));
        assert!(told(&page(version(3, Some("1")), version(2, None))).contains(r#""old_value":null"#));
        assert_eq!(told(&Page::default()), "[]");
    }

    #[test]
    fn who_keeps_it_asks_whether_it_still_holds() {
        let response = answer(&Page::default(), "a", ask("").unwrap(), "/v1/config/a/history");
        assert_eq!(response.headers()["cache-control"], "no-cache", "a further version may come");
    }

    #[test]
    fn links_to_the_next_page_where_there_is_one() {
        let link = |query: &str, page: &Page| {
            let response = answer(page, "a/b", ask(query).unwrap(), "/v1/config/a%2Fb/history");
            response.headers().get("link").map(|link| link.to_str().unwrap().to_owned())
        };
        let versions = || vec![version(3, None), version(4, Some("1"))];
        let page = Page { versions: versions(), replaced: Some(version(2, Some("7"))), more: true };
        for (query, next) in [
            ("limit=2", "limit=2&before=3"),
            ("limit=2&after=1", "limit=2&after=1&before=3"),
            ("limit=2&order=desc", "order=desc&limit=2&before=3"),
            ("limit=2&order=asc&before=9", "order=asc&limit=2&after=4&before=9"),
        ] {
            assert_eq!(link(query, &page).unwrap(), format!("</v1/config/a%2Fb/history?{next}>; rel=\"next\""));
        }
        assert_eq!(link("limit=2", &Page { versions: versions(), replaced: None, more: false }), None);
    }

    fn ask(query: &str) -> Result<Asked, Problem> {
        let known = [LIMIT, ORDER, AFTER, BEFORE];
        asked(&Parameters::of(&format!("/x?{query}").parse().unwrap(), &known).unwrap())
    }

    #[test]
    fn limits_are_named_when_they_are_broken() {
        let all = Asked { order: Order::NewestPage, limit: 1000, after: 0, before: i64::MAX };
        assert_eq!(ask("").unwrap(), all);
        assert_eq!(ask("limit=1&before=7&after=0").unwrap(), Asked { limit: 1, before: 7, ..all });
        assert_eq!(ask("order=asc&after=7").unwrap(), Asked { order: Order::OldestFirst, after: 7, ..all });
        for query in [
            "limit=0",
            "limit=1001",
            "limit=x",
            "limit=-1",
            "before=0",
            "before=",
            "before=1.5",
            "after=-1",
            "after=x",
            "order=newest",
            "order=",
        ] {
            assert_eq!(ask(query).unwrap_err().code(), "invalid-parameter", "{query}");
        }
    }
}
