//! `GET /v1/config`: every configuration, by name; one consistent state, whatever is written while it is sent.
//!
//! ```text
//! asked ─► selection (which entries; their tag) ─► writer (piece by piece)
//!  └► poll     └► page_token (where the next page begins, in the same state)
//! ```

mod asked;
mod page_token;
mod poll;
mod selection;
mod writer;

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use shared::{
    http::{
        CONFIG_POSITION,
        conditional::{self, Tags},
        prefer::Wait,
        problem::Problem,
    },
    name::ConfigName,
    position::PositionToken,
};

use self::{
    asked::{Asked, Begin, Question, Told},
    page_token::PageToken,
    selection::{Selection, Tag},
    writer::{Fields, Writer},
};
use super::{
    Reads,
    error::ReadError,
    get::heeded,
    list_at::{self, PAGE_BYTES, PAGE_ENTRIES},
    place::bounded,
    reads::View,
    value::{REVALIDATE, known_versions},
};
use crate::{
    past::{self, Page, Wanted},
    projection::Snapshot,
};

/// What is listed, not written yet.
struct Listed {
    /// The state that it is of.
    of: PositionToken,
    tag: u64,
    /// Where the next page begins.
    next: Option<ConfigName>,
    content: Content,
}

enum Content {
    Entries(Selection, Fields),
    Count(usize),
    /// Read from the log, because the state is not kept any more.
    Past(Page),
}

pub(super) async fn handle(State(reads): State<Arc<Reads>>, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    let asked = match Question::of(&uri)? {
        Question::Now(asked) => asked,
        Question::Past(parameters) => return list_at::handle(&reads, &uri, &headers, &parameters).await,
    };
    let (known, wait) = (known_versions(&headers)?, Wait::of(&headers)?);
    let view = reads.view(&headers, &asked.freshness).await?;
    // Only who says what he has can be told that it changed; and the state of a further page never does.
    let wait = known.as_ref().zip(wait).filter(|_| !matches!(asked.begin, Begin::Page(_)));
    let (view, listed) = match wait {
        Some((known, wait)) => poll::until_changed(&reads, &asked, known, wait, view).await?,
        None => {
            let listed = find(&reads, &view, &asked).await;
            (view, listed)
        }
    };
    let answer = match listed {
        Ok(listed) => answer(&reads, &view, &asked, known.as_ref(), uri.path(), listed),
        Err(error) => view.stamp(Err(error)),
    };
    match wait {
        Some((_, wait)) => Ok(heeded(answer, wait)),
        None => answer,
    }
}

impl Listed {
    /// Whether the client has it.
    fn is_known(&self, known: &Tags) -> bool {
        match known {
            Tags::Any => true,
            Tags::Versions(tags) => tags.contains(&self.tag),
        }
    }
}

async fn find(reads: &Reads, view: &View, asked: &Asked) -> Result<Listed, ReadError> {
    match &asked.begin {
        Begin::First => Ok(of_state(&view.snapshot, asked, None).await),
        Begin::After(name) => Ok(of_state(&view.snapshot, asked, Some(name.clone())).await),
        Begin::Page(page) => match reads.state_at(view, page.of).await? {
            Some(snapshot) => Ok(of_state(&snapshot, asked, Some(page.last.clone())).await),
            None => of_log(reads, asked, page).await,
        },
    }
}

async fn of_state(snapshot: &Arc<Snapshot>, asked: &Asked, after: Option<ConfigName>) -> Listed {
    let (of, prefix, limit) = (snapshot.token(), asked.prefix.clone(), asked.limit.map(usize::from));
    let selection = Selection { snapshot: Arc::clone(snapshot), prefix, after, limit };
    let scanned = selection.scan().await;
    let content = match asked.told {
        Told::Entries(fields) => Content::Entries(selection, fields),
        Told::Count => Content::Count(scanned.entries),
    };
    Listed { of, tag: scanned.tag, next: scanned.next, content }
}

/// What was at a position stays what it is: the log tells the page that memory would have told, up to its bytes.
async fn of_log(reads: &Reads, asked: &Asked, page: &PageToken) -> Result<Listed, ReadError> {
    let (limit, values) = (asked.limit.unwrap_or(PAGE_ENTRIES), asked.told == Told::Entries(Fields::NameAndValue));
    let wanted = Wanted { prefix: &asked.prefix, after: Some(&page.last), limit, bytes: PAGE_BYTES, values };
    let found = bounded(past::state_at(reads.log().await?, page.of.position, &wanted)).await?;
    let mut tag = Tag::default();
    found.changes.iter().for_each(|change| tag.add(&change.name, change.is.version));
    let next = found.next.as_deref().map(ConfigName::stored);
    Ok(Listed { of: page.of, tag: tag.finish(), next, content: Content::Past(found) })
}

fn answer(
    reads: &Reads,
    view: &View,
    asked: &Asked,
    known: Option<&Tags>,
    path: &str,
    listed: Listed,
) -> Result<Response, Problem> {
    let is_known = known.is_some_and(|known| listed.is_known(known));
    let Listed { of, tag, next, content } = listed;
    if let (false, Some(_), Content::Entries(selection, _)) = (is_known, &next, &content) {
        reads.pinned.keep(&selection.snapshot);
    }
    let told = if is_known { Ok(StatusCode::NOT_MODIFIED.into_response()) } else { write(reads, content) };
    let mut response = view.stamp(told)?;
    if let Some(last) = next {
        asked.link_next(&mut response, path, of, last);
    }
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, REVALIDATE);
    headers.insert(CONFIG_POSITION, of.into());
    // Weak: it is the content's, whatever encoding it is sent in.
    headers.insert(header::ETAG, conditional::weak_tag(tag));
    Ok(response)
}

fn write(reads: &Reads, content: Content) -> Result<Response, ReadError> {
    let place = || Arc::clone(&reads.long_lists).try_acquire_owned().map_err(|_| ReadError::TooManyLists);
    let body = match content {
        Content::Entries(selection, fields) => Writer::new(selection, fields).body(place)?,
        Content::Count(count) => Body::from(format!("{{\"count\":{count}}}")),
        Content::Past(page) => list_at::whole_page(&page),
    };
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response())
}

#[cfg(test)]
mod tests;
