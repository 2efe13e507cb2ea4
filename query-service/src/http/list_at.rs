//! `GET /v1/config?at=…`: every configuration as it was at a position or a moment, from the log.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use shared::{
    http::{
        parameters::{Parameters, invalid},
        problem::Problem,
    },
    telemetry::Chain,
    value::ConfigJson,
};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{
    Reads,
    error::ReadError,
    link,
    place::{Asked, bounded, caching, stamp_place},
    query::excluding,
    reads::MIN_POSITION,
};
use crate::past::{self, Page, Place, Wanted};

/// The place in the log.
pub(super) const AT: &str = "at";
const PREFIX: &str = "prefix";
const LIMIT: &str = "limit";
const AFTER: &str = "after";
const FIELDS: &str = "fields";
const COUNT: &str = "count";

/// All that are known when a place is given.
pub(super) const PARAMETERS: [&str; 7] = [AT, PREFIX, LIMIT, AFTER, FIELDS, COUNT, MIN_POSITION];

/// Most entries on a page, and of a list without a limit in what is read at once.
pub(super) const PAGE_ENTRIES: u16 = 1_000;

/// Most payloads and metadata on a page, but for its last entry, in bytes; 16 MiB.
pub(super) const PAGE_BYTES: usize = 16 * 1024 * 1024;

/// Most of them that a list without a limit reads at once; 1 MiB.
const PIECE_BYTES: usize = 1024 * 1024;

/// Longest that a list without a limit may take to be read and sent; it is cut off then.
const SENDING_LIMIT: Duration = Duration::from_secs(300);

/// What is told of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Values,
    Names,
    Count,
}

#[derive(Serialize)]
struct Item<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a ConfigJson>,
}

/// What the request asks for.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    at: Asked,
    prefix: String,
    after: Option<String>,
    limit: Option<u16>,
    form: Form,
}

pub(super) async fn handle(
    reads: &Arc<Reads>,
    uri: &Uri,
    headers: &HeaderMap,
    parameters: &Parameters,
) -> Result<Response, Problem> {
    let question = question(parameters)?;
    let view = reads.view(headers, parameters).await?;
    let place = match reads.place(question.at).await {
        Ok(place) => place,
        Err(error) => return view.stamp(Err(error)),
    };
    let answer = match question.limit {
        Some(limit) => page(reads, place, &question, limit, uri.path()).await,
        None => whole(reads, place, question).await,
    };
    let mut response = view.stamp(answer)?;
    response.headers_mut().insert(header::CACHE_CONTROL, caching(&place));
    stamp_place(&mut response, &place);
    Ok(response)
}

fn question(parameters: &Parameters) -> Result<Question, Problem> {
    let form = match (parameters.get(COUNT), parameters.get(FIELDS)) {
        (None | Some("false"), None) => Form::Values,
        (None | Some("false"), Some("name")) => Form::Names,
        (Some("true"), None) => Form::Count,
        (Some("true"), Some(_)) => return Err(excluding(COUNT, FIELDS)),
        (None | Some("false"), Some(_)) => return Err(invalid(FIELDS, "`name`, for names without values")),
        (Some(_), _) => return Err(invalid(COUNT, "true or false")),
    };
    if let Some(other) = [LIMIT, AFTER].into_iter().find(|other| parameters.get(other).is_some())
        && form == Form::Count
    {
        return Err(excluding(COUNT, other));
    }
    Ok(Question {
        at: Asked::parse(AT, parameters.get(AT).unwrap_or_default())?,
        prefix: parameters.get(PREFIX).unwrap_or_default().to_owned(),
        after: parameters.get(AFTER).map(str::to_owned),
        limit: parameters.get(LIMIT).map(limit).transpose()?,
        form,
    })
}

/// A number of entries.
pub(super) fn limit(text: &str) -> Result<u16, Problem> {
    let limit = text.parse().ok().filter(|limit| (1..=PAGE_ENTRIES).contains(limit));
    limit.ok_or_else(|| invalid(LIMIT, "a number from 1 to 1000"))
}

/// One page, and where the next one begins.
async fn page(reads: &Reads, place: Place, question: &Question, limit: u16, path: &str) -> Result<Response, ReadError> {
    let (prefix, values) = (question.prefix.as_str(), question.form == Form::Values);
    let wanted = Wanted { prefix, after: question.after.as_deref(), limit, bytes: PAGE_BYTES, values };
    let page = bounded(past::state_at(reads.log().await?, place.position, &wanted)).await?;
    let mut response = json(whole_page(&page));
    if let Some(next) = &page.next {
        let (at, limit) = (place.token().to_string(), limit.to_string());
        let fields = if values { None } else { Some("name") };
        let prefix = Some(prefix).filter(|prefix| !prefix.is_empty());
        let more = [(PREFIX, prefix), (FIELDS, fields), (LIMIT, Some(&*limit)), (AFTER, Some(next))];
        link::next(&mut response, path, &[[(AT, Some(&*at))].as_slice(), &more].concat());
    }
    Ok(response)
}

/// The whole list, in pieces: what does not fit into the first is read from the log as it is sent.
async fn whole(reads: &Arc<Reads>, place: Place, question: Question) -> Result<Response, ReadError> {
    let until = Instant::now() + SENDING_LIMIT;
    let mut writer =
        Writer { reads: Arc::clone(reads), place, question, count: 0, begun: false, done: false, until, sending: None };
    let first = writer.chunk().await?;
    if writer.done {
        return Ok(json(first.into()));
    }
    writer.sending = Some(Arc::clone(&reads.long_lists).try_acquire_owned().map_err(|_| ReadError::TooManyLists)?);
    let rest = stream::unfold(Some(writer), async |writer| {
        let mut writer = writer.filter(|writer| !writer.done)?;
        match writer.rest().await {
            Ok(chunk) => Some((Ok(chunk), Some(writer))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(json(Body::from_stream(stream::once(async { Ok(first) }).chain(rest))))
}

fn json(body: Body) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

/// The list could not be read or sent to its end; the connection is cut, so that what arrived is not taken for all.
#[derive(Debug, thiserror::Error)]
enum CutOff {
    #[error("it was not read to its end within {} s", SENDING_LIMIT.as_secs())]
    Slow,
    #[error("the log could not be read on")]
    Unread,
}

/// Writes a list piece by piece.
struct Writer {
    reads: Arc<Reads>,
    place: Place,
    /// Of what is left.
    question: Question,
    count: u64,
    begun: bool,
    done: bool,
    until: Instant,
    /// Its place among the long lists under way.
    sending: Option<OwnedSemaphorePermit>,
}

impl Writer {
    /// The next piece, which may be empty; `done` is set with the last one.
    async fn chunk(&mut self) -> Result<Bytes, ReadError> {
        let mut chunk = Vec::with_capacity(1024);
        let (prefix, after) = (self.question.prefix.as_str(), self.question.after.as_deref());
        let values = self.question.form == Form::Values;
        let wanted = Wanted { prefix, after, limit: PAGE_ENTRIES, bytes: PIECE_BYTES, values };
        let page = bounded(past::state_at(self.reads.log().await?, self.place.position, &wanted)).await?;
        self.done = page.next.is_none();
        self.write(&page, &mut chunk);
        self.question.after = page.next;
        Ok(chunk.into())
    }

    fn write(&mut self, page: &Page, chunk: &mut Vec<u8>) {
        let first = !std::mem::replace(&mut self.begun, true);
        if self.question.form == Form::Count {
            self.count += page.changes.len() as u64;
            if first {
                chunk.extend_from_slice(b"{\"count\":");
            }
            if self.done {
                chunk.extend_from_slice(format!("{}}}", self.count).as_bytes());
            }
            return;
        }
        write(page, chunk, first);
        if self.done {
            chunk.push(b']');
        }
    }

    /// The next piece of a list whose beginning was sent.
    async fn rest(&mut self) -> Result<Bytes, CutOff> {
        loop {
            if Instant::now() > self.until {
                return Err(CutOff::Slow);
            }
            let chunk = self.chunk().await.map_err(|error| {
                tracing::warn!("A list of the past was cut off: {}", Chain(&error));
                CutOff::Unread
            })?;
            if self.done || !chunk.is_empty() {
                return Ok(chunk);
            }
        }
    }
}

/// A page that is all of an answer.
pub(super) fn whole_page(page: &Page) -> Body {
    let mut body = Vec::with_capacity(1024);
    write(page, &mut body, true);
    body.push(b']');
    body.into()
}

/// Entries of a list, which begins with them or not.
fn write(page: &Page, body: &mut Vec<u8>, begins: bool) {
    if begins {
        body.push(b'[');
    }
    for (index, change) in page.changes.iter().enumerate() {
        if index > 0 || !begins {
            body.push(b',');
        }
        let item = Item { name: &change.name, value: change.is.value() };
        serde_json::to_writer(&mut *body, &item).expect("texts and values are JSON");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(query: &str) -> Result<Question, Problem> {
        question(&Parameters::of(&format!("/v1/config?{query}").parse().unwrap(), &PARAMETERS).unwrap())
    }

    #[test]
    fn what_is_asked_for_is_understood() {
        let asked = ask("at=42&prefix=a%2F&after=a%2Fb&limit=7&fields=name").unwrap();
        let at = Asked::Token("42".parse().unwrap());
        let (prefix, after) = ("a/".to_owned(), Some("a/b".to_owned()));
        assert_eq!(asked, Question { at, prefix, after, limit: Some(7), form: Form::Names });
        assert_eq!(ask("at=42&count=true").unwrap().form, Form::Count);
        assert_eq!(ask("at=42&count=false").unwrap().form, Form::Values);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        for (query, right) in [
            ("at=yesterday", "a time with a zone"),
            ("at=", "a position"),
            ("at=-1", "a position"),
            ("at=1&limit=0", "from 1 to 1000"),
            ("at=1&limit=1001", "from 1 to 1000"),
            ("at=1&limit=x", "from 1 to 1000"),
            ("at=1&fields=value", "`name`"),
            ("at=1&count=yes", "true or false"),
            ("at=1&count=true&limit=3", "`count` and `limit` exclude"),
            ("at=1&count=true&after=a", "`count` and `after` exclude"),
            ("at=1&count=true&fields=name", "`count` and `fields` exclude"),
        ] {
            let refused = ask(query).unwrap_err();
            let code = if right.contains("exclude") { "excluding-parameters" } else { "invalid-parameter" };
            assert_eq!(refused.code(), code, "{query}");
            assert!(format!("{refused:?}").contains(right), "{query}: {refused:?}");
        }
    }
}
