//! `GET /v1/watch`: changes as they happen, as server-sent events.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Uri, header},
    response::{IntoResponse, Response},
};
use shared::{
    http::{
        CONFIG_POSITION,
        parameters::{Parameters, invalid},
        problem::Problem,
    },
    name::ConfigName,
    position::PositionToken,
};

use super::{
    Reads,
    error::ReadError,
    query::{beginning, excluding},
    reads::{MIN_POSITION, View},
    value::DO_NOT_KEEP,
};
use crate::watch::{Filter, Initial, Reset, Stream};

const PREFIX: &str = "prefix";
const NAME: &str = "name";
const FROM: &str = "from";
const INITIAL: &str = "initial";

/// Most names that one request may watch.
const MAX_NAMES: usize = 100;

const LAST_EVENT_ID: &str = "last-event-id";

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    filter: Filter,
    start: Start,
}

/// From where on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Now,
    /// Behind this position.
    Behind(PositionToken),
    /// The present state first.
    Initial,
}

pub(super) async fn handle(State(reads): State<Arc<Reads>>, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    let parameters = Parameters::with_repeated(&uri, &[PREFIX, NAME, FROM, INITIAL, MIN_POSITION], NAME)?;
    let Asked { filter, start } = asked(&parameters, &headers)?;
    // Registered first: should the log be rewritten from here on, the watcher is told.
    let registered = reads.watches.hub.watch(filter).map_err(|refused| reads.stamped(refused.into()));
    let (subscription, here) = registered?;
    let stream =
        |start| Stream::behind(start, subscription, reads.watches.log.clone(), reads.watches.bookmark_interval);
    let view = reads.view(&headers, &parameters).await?;
    let (start, stream) = match start {
        Start::Behind(token) => match reads.having(token).await {
            Ok(_) => (token, stream(token)),
            Err(ReadError::Diverged { here, .. }) => {
                return answer(&view, here, Body::from(Stream::over(Reset::Rewritten, &reads.watches.hub)));
            }
            Err(error) => return Err(reads.stamped(error)),
        },
        Start::Now => (here, stream(here)),
        Start::Initial => {
            let snapshot = Arc::clone(&view.snapshot);
            let start = snapshot.token();
            let stream = stream(start);
            let mut initial = Initial::of(snapshot, Arc::clone(stream.filter()));
            if initial.is_long() {
                let place = Arc::clone(&reads.long_lists).try_acquire_owned();
                initial.hold(place.map_err(|_| reads.stamped(ReadError::TooManyLists))?);
            }
            (start, stream.with_initial(initial))
        }
    };
    answer(&view, start, Body::from_stream(stream.frames()))
}

fn asked(parameters: &Parameters, headers: &HeaderMap) -> Result<Asked, Problem> {
    let names: Result<Vec<_>, _> = parameters.all(NAME).map(ConfigName::parse).collect();
    let (names, prefix) = (names?, beginning(PREFIX, parameters)?);
    if names.len() > MAX_NAMES {
        return Err(invalid(
            NAME,
            &format!("given {MAX_NAMES} times at most; watch a prefix, or with several requests"),
        ));
    }
    let initial = match parameters.get(INITIAL) {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(invalid(INITIAL, "true or false")),
    };
    if initial && parameters.get(FROM).is_some() {
        return Err(excluding(FROM, INITIAL));
    }
    let parse =
        |origin, text: &str| text.parse().map_err(|source| Problem::from(ReadError::InvalidToken { origin, source }));
    // A client that comes back sends the same URL, and what it saw last. An empty one is that of a client that forgot it.
    let last = headers.get(LAST_EVENT_ID).map(|last| last.to_str().unwrap_or("-")).filter(|last| !last.is_empty());
    let start = match (last, parameters.get(FROM)) {
        (Some(last), _) => Start::Behind(parse("The header Last-Event-ID", last)?),
        (None, Some(from)) => Start::Behind(parse("The query parameter `from`", from)?),
        (None, None) if initial => Start::Initial,
        (None, None) => Start::Now,
    };
    Ok(Asked { filter: Filter::new(names, prefix), start })
}

/// No cache keeps it, no proxy holds it back, and its connection ends with it.
fn answer(view: &View, start: PositionToken, body: Body) -> Result<Response, Problem> {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, DO_NOT_KEEP),
        (header::CONNECTION, HeaderValue::from_static("close")),
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    let mut answer = view.stamp(Ok((headers, body).into_response()))?;
    answer.headers_mut().insert(CONFIG_POSITION, start.into());
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::{
        super::states::{reads, state},
        *,
    };
    use crate::{config::MAX_WATCHERS, projection::Published};

    /// Whole answers, without sockets: few systems let a process have so many of them.
    #[tokio::test]
    async fn as_many_watch_as_a_process_takes_and_one_more_is_told_to_come_back() {
        let projection = Arc::new(Published::nothing_yet());
        projection.advance(state(1));
        let reads = Arc::new(reads(&projection));
        reads.watches.hub.begin(state(1).token());
        let watch = async || handle(State(Arc::clone(&reads)), Uri::from_static("/v1/watch"), HeaderMap::new()).await;
        let mut watchers = Vec::with_capacity(MAX_WATCHERS);
        for _ in 0..MAX_WATCHERS {
            watchers.push(watch().await.expect("there is room"));
        }
        assert_eq!((watchers.len(), reads.watches.hub.watchers()), (20_000, 20_000));
        assert_eq!(watch().await.unwrap_err().code(), "too-many-watchers");
        watchers.pop();
        assert!(watch().await.is_ok(), "a place is free again");
    }

    fn ask(query: &str, last_event_id: Option<&str>) -> Result<Asked, Problem> {
        let mut headers = HeaderMap::new();
        if let Some(last) = last_event_id {
            headers.insert(LAST_EVENT_ID, last.parse().unwrap());
        }
        let uri = format!("/v1/watch?{query}").parse().unwrap();
        asked(&Parameters::with_repeated(&uri, &[PREFIX, NAME, FROM, INITIAL], NAME).unwrap(), &headers)
    }

    #[test]
    fn begins_where_the_client_says() {
        let token: PositionToken = "42.9f3a01bc".parse().unwrap();
        let start = |query, last| ask(query, last).unwrap().start;
        assert_eq!(start("", None), Start::Now);
        assert_eq!(start("initial=false", Some("")), Start::Now);
        assert_eq!(start("initial=true", None), Start::Initial);
        assert_eq!(start("from=42.9f3a01bc", None), Start::Behind(token));
        assert_eq!(start("from=7", Some("42.9f3a01bc")), Start::Behind(token), "it comes back");
        assert_eq!(start("initial=true", Some("42.9f3a01bc")), Start::Behind(token), "it comes back");
    }

    #[test]
    fn refuses_with_what_would_be_right() {
        let names = vec!["name=a"; MAX_NAMES + 1].join("&");
        let prefix = format!("prefix={}", "a".repeat(257));
        for (query, last, code, hint) in [
            (names.as_str(), None, "invalid-parameter", "100 times at most"),
            (prefix.as_str(), None, "invalid-parameter", "up to 256 bytes"),
            ("prefix=a%00", None, "invalid-parameter", "without control characters"),
            ("initial=yes", None, "invalid-parameter", "true or false"),
            ("initial=true&from=1", None, "excluding-parameters", "`from` and `initial`"),
            ("from=x", None, "invalid-position", "such as 42.9f3a01bc"),
            ("", Some("x"), "invalid-position", "Last-Event-ID is no position"),
            ("name=", None, "invalid-name", "The name is empty"),
        ] {
            let problem = ask(query, last).unwrap_err();
            assert_eq!(problem.code(), code, "{query}");
            assert!(format!("{problem:?}").contains(hint), "{problem:?}");
        }
        assert!(ask(&names[7..], None).is_ok());
    }
}
