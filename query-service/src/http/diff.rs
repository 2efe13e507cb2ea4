//! `GET /v1/diff?from=…&to=…`: what is another than it was, by name, and who made it so; from the log.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use shared::{
    http::{
        parameters::{Parameters, invalid},
        problem::Problem,
    },
    moment::Moment,
    position::Position,
    value::ConfigJson,
};

use super::{
    Reads,
    error::ReadError,
    link,
    list_at::{self, PAGE_BYTES, PAGE_ENTRIES},
    place::{Asked, bounded, caching, stamp_place},
    reads::{CONSISTENCY, MIN_POSITION},
};
use crate::{
    past::{self, Change, Page, Place, Version, Wanted},
    projection::Authorship,
};

const FROM: &str = "from";
const TO: &str = "to";
const PREFIX: &str = "prefix";
const LIMIT: &str = "limit";
const AFTER: &str = "after";

/// What the request asks for.
#[derive(Debug)]
struct Question<'a> {
    from: Asked,
    /// Now, when it is not given.
    to: Option<Asked>,
    prefix: &'a str,
    after: Option<&'a str>,
    limit: u16,
}

#[derive(Debug, Serialize)]
struct Told<'a> {
    from: Side,
    to: Side,
    changes: Vec<ToldChange<'a>>,
}

#[derive(Debug, Serialize)]
struct Side {
    position: Position,
    /// `None` before the first event.
    recorded_at: Option<Moment>,
}

#[derive(Debug, Serialize)]
struct ToldChange<'a> {
    name: &'a str,
    from: Option<Value<'a>>,
    to: Option<Value<'a>>,
    /// Of the last change.
    actor: String,
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Value<'a> {
    version: u64,
    value: &'a ConfigJson,
}

pub(super) async fn handle(State(reads): State<Arc<Reads>>, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    let parameters = Parameters::of(&uri, &[FROM, TO, PREFIX, LIMIT, AFTER, MIN_POSITION, CONSISTENCY])?;
    let question = question(&parameters)?;
    let view = reads.view(&headers, &parameters).await?;
    let places = match places(&reads, &question).await {
        Ok(places) => places,
        Err(error) => return view.stamp(Err(error)),
    };
    let mut response = view.stamp(answer(&reads, places, &question, uri.path()).await)?;
    stamp_place(&mut response, &places.1);
    Ok(response)
}

fn question(parameters: &Parameters) -> Result<Question<'_>, Problem> {
    let place = |parameter| parameters.get(parameter).map(|text| Asked::parse(parameter, text)).transpose();
    let from = place(FROM)?;
    Ok(Question {
        from: from.ok_or_else(|| invalid(FROM, "given: a position (0 is the beginning), or a time with a zone"))?,
        to: place(TO)?,
        prefix: parameters.get(PREFIX).unwrap_or_default(),
        after: parameters.get(AFTER),
        limit: parameters.get(LIMIT).map_or(Ok(PAGE_ENTRIES), list_at::limit)?,
    })
}

async fn places(reads: &Reads, question: &Question<'_>) -> Result<(Place, Place), ReadError> {
    let from = reads.place(question.from).await?;
    let to = match question.to {
        Some(to) => reads.place(to).await?,
        None => reads.newest_place().await?,
    };
    // Two moments may be in the wrong order though nothing happened between them.
    let backwards = matches!((question.from, question.to), (Asked::Moment(from), Some(Asked::Moment(to))) if from > to);
    if backwards || from.position > to.position {
        return Err(ReadError::FromBehindTo { from: from.position, to: to.position });
    }
    Ok((from, to))
}

async fn answer(
    reads: &Reads,
    (from, to): (Place, Place),
    question: &Question<'_>,
    path: &str,
) -> Result<Response, ReadError> {
    let Question { prefix, after, limit, .. } = *question;
    let wanted = Wanted { prefix, after, limit, bytes: PAGE_BYTES, values: true };
    let page = bounded(past::between(reads.log().await?, from.position, to.position, &wanted)).await?;
    let body = serde_json::to_vec(&tell(&from, &to, &page)).expect("texts and values are JSON");
    let json = HeaderValue::from_static("application/json");
    let mut response = ([(header::CONTENT_TYPE, json), (header::CACHE_CONTROL, caching(&to))], body).into_response();
    if let Some(next) = &page.next {
        let (from, to, limit) = (from.token().to_string(), to.token().to_string(), limit.to_string());
        let prefix = Some(prefix).filter(|prefix| !prefix.is_empty());
        let parameters =
            [(FROM, Some(&*from)), (TO, Some(&*to)), (PREFIX, prefix), (LIMIT, Some(&*limit)), (AFTER, Some(next))];
        link::next(&mut response, path, &parameters);
    }
    Ok(response)
}

fn tell<'a>(from: &Place, to: &Place, page: &'a Page) -> Told<'a> {
    let side = |place: &Place| Side { position: place.position, recorded_at: place.recorded_at() };
    Told { from: side(from), to: side(to), changes: page.changes.iter().map(tell_change).collect() }
}

fn tell_change(change: &Change) -> ToldChange<'_> {
    let author = Authorship::of(&change.metadata);
    ToldChange {
        name: &change.name,
        from: change.was.as_ref().and_then(tell_version),
        to: tell_version(&change.is),
        actor: author.actor.into_owned(),
        reason: author.reason.map(Into::into),
    }
}

fn tell_version(version: &Version) -> Option<Value<'_>> {
    version.value().map(|value| Value { version: version.version, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(query: &str) -> String {
        let known = [FROM, TO, PREFIX, LIMIT, AFTER];
        let parameters = Parameters::of(&format!("/v1/diff?{query}").parse().unwrap(), &known).unwrap();
        format!("{:?}", question(&parameters).unwrap_err())
    }

    #[test]
    fn a_difference_has_a_beginning_and_limits() {
        assert!(refused("").contains("`from` must be given"));
        assert!(refused("from=2024-01-15T10:30:00").contains("`from` must be a position"));
        assert!(refused("from=1&to=-1").contains("`to` must be a position"));
        assert!(refused("from=1&limit=0").contains("from 1 to 1000"));
    }
}
