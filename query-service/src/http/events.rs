//! `GET /v1/events`: the log itself, for other consumers: a line of JSON for each event, by pages, or without an end.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use shared::{
    http::{
        parameters::{Parameters, invalid},
        problem::Problem,
    },
    position::{Position, PositionToken},
    telemetry::Chain,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Reads,
    error::ReadError,
    link,
    place::{Asked, bounded, stamp_place},
    reads::{CONSISTENCY, MIN_POSITION},
    value::{DO_NOT_KEEP, REVALIDATE},
};
use crate::past::{self, Cursor, Place};

const FROM: &str = "from";
const LIMIT: &str = "limit";
const FOLLOW: &str = "follow";

/// Most events on a page, and how many when nothing is said.
const MAX_PAGE_EVENTS: u16 = 10_000;
const DEFAULT_PAGE_EVENTS: u16 = 1_000;

/// Longest that a page may take to be read and sent; it is cut off then.
const SENDING_LIMIT: Duration = Duration::from_secs(300);

/// Most consumers that follow the log at once. Each reads it for itself, and may hold a piece of it in memory.
pub(super) const MAX_FOLLOWERS: usize = 64;

/// After this long without an event a follower is sent an empty line, and the log is looked at again whatever was hinted at.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// The last line of a follower whose place in the log is no more.
const REWRITTEN: &[u8] = br#"{"type":"urn:config-api:problem:position-diverged","status":409,"detail":"The event log was rewritten by a failover or a restore: the last event that you were sent is not in it any more. Begin again from 0, or from a place before it."}
"#;

const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// Who follows the log; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Followers {
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Default for Followers {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_FOLLOWERS)), stop: CancellationToken::new() }
    }
}

impl Followers {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        MAX_FOLLOWERS - self.places.available_permits()
    }

    /// Ends what does not end by itself, when it is cancelled.
    pub(crate) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }
}

/// What the request asks for.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    from: Asked,
    limit: u16,
    follow: bool,
}

pub(super) async fn handle(State(reads): State<Arc<Reads>>, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    let parameters = Parameters::of(&uri, &[FROM, LIMIT, FOLLOW, MIN_POSITION, CONSISTENCY])?;
    let question = question(&parameters)?;
    let view = reads.view(&headers, &parameters).await?;
    let answer = async {
        let from = reads.place(question.from).await?;
        if question.follow { follow(&reads, from).await } else { page(&reads, from, question.limit, uri.path()).await }
    };
    let (mut response, place) = match answer.await {
        Ok((response, place)) => (view.stamp(Ok(response))?, place),
        Err(error) => return view.stamp(Err(error)),
    };
    stamp_place(&mut response, &place);
    Ok(response)
}

fn question(parameters: &Parameters) -> Result<Question, Problem> {
    let follow = match parameters.get(FOLLOW) {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(invalid(FOLLOW, "true or false")),
    };
    let limit = match parameters.get(LIMIT).map(str::parse) {
        None => DEFAULT_PAGE_EVENTS,
        Some(_) if follow => return Err(invalid(LIMIT, "left out with `follow`, which has no end")),
        Some(Ok(limit @ 1..=MAX_PAGE_EVENTS)) => limit,
        Some(_) => return Err(invalid(LIMIT, "a number from 1 to 10000")),
    };
    let from = parameters.get(FROM).map_or(Ok(Asked::Token(PositionToken::ZERO)), |text| Asked::parse(FROM, text))?;
    Ok(Question { from, limit, follow })
}

/// The events behind `from`, as far as the log has them: where it ends is told before it is sent.
async fn page(reads: &Arc<Reads>, from: Place, limit: u16, path: &str) -> Result<(Response, Place), ReadError> {
    let newest = reads.newest_place().await?;
    let end = Position(from.position.0 + u64::from(limit));
    let last = if end < newest.position {
        bounded(past::at_position(reads.log().await?, end)).await?.unwrap_or(newest)
    } else {
        newest
    };
    let left = last.position.0.saturating_sub(from.position.0);
    let mut writer = Writer::new(reads, from, left, None);
    let first = writer.read().await?;
    let body = if writer.left == 0 {
        Body::from(first)
    } else {
        let place = Arc::clone(&reads.long_lists).try_acquire_owned().map_err(|_| ReadError::TooManyLists)?;
        writer.into_body(first, place)
    };
    let caching = if end <= newest.position { REVALIDATE } else { DO_NOT_KEEP };
    let mut response = ([(header::CONTENT_TYPE, NDJSON), (header::CACHE_CONTROL, caching)], body).into_response();
    if end < newest.position {
        let (from, limit) = (last.token().to_string(), limit.to_string());
        link::next(&mut response, path, &[(FROM, Some(&*from)), (LIMIT, Some(&*limit))]);
    }
    Ok((response, last))
}

/// The events behind `from`, and those to come, until the client or the service goes.
async fn follow(reads: &Arc<Reads>, from: Place) -> Result<(Response, Place), ReadError> {
    let place = Arc::clone(&reads.followers.places).try_acquire_owned().map_err(|_| ReadError::TooManyFollowers)?;
    let news = News { applied: reads.changes(), stop: reads.followers.stop() };
    let mut writer = Writer::new(reads, from, u64::MAX, Some(news));
    let first = writer.read().await?;
    let body = writer.into_body(first, place);
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    let headers = [(header::CONTENT_TYPE, NDJSON), (header::CACHE_CONTROL, DO_NOT_KEEP), unbuffered];
    Ok(((headers, body).into_response(), from))
}

/// The events could not be read or sent on; the connection is cut, and the client goes on from the last one that it has.
#[derive(Debug, thiserror::Error)]
enum CutOff {
    #[error("it was not read to its end within {} s", SENDING_LIMIT.as_secs())]
    Slow,
    #[error("the log could not be read on")]
    Unread,
}

/// Writes events piece by piece.
struct Writer {
    reads: Arc<Reads>,
    cursor: Cursor,
    /// Events that are still to be sent.
    left: u64,
    drained: bool,
    done: bool,
    until: Instant,
    /// Where it is told that there are more; `None` for a page.
    news: Option<News>,
}

impl Writer {
    fn new(reads: &Arc<Reads>, from: Place, left: u64, news: Option<News>) -> Self {
        let cursor = Cursor::new(from.position, from.event.map(|(command_id, _)| command_id));
        let until = Instant::now() + SENDING_LIMIT;
        Self { reads: Arc::clone(reads), cursor, left, drained: false, done: false, until, news }
    }

    /// What was read before the answer began, then the rest. `place` is held until the client has it, or is gone.
    fn into_body(self, first: Bytes, place: OwnedSemaphorePermit) -> Body {
        let first = Some(first).filter(|first| !first.is_empty());
        Body::from_stream(stream::unfold((self, first, place), async |(mut writer, first, place)| {
            let piece = match first {
                Some(first) => Ok(first),
                None => writer.piece().await.transpose()?,
            };
            writer.done |= piece.is_err();
            Some((piece, (writer, None, place)))
        }))
    }

    /// The next piece; for a follower, perhaps after a wait.
    async fn piece(&mut self) -> Result<Option<Bytes>, CutOff> {
        while !self.done && self.left > 0 {
            if self.drained {
                let Some(news) = &mut self.news else { return Ok(None) };
                self.drained = false;
                match news.behind(self.cursor.position).await {
                    Wake::Events => {}
                    Wake::Heartbeat => return Ok(Some(Bytes::from_static(b"\n"))),
                    Wake::Stop => return Ok(None),
                }
            }
            if self.news.is_none() && Instant::now() > self.until {
                return Err(CutOff::Slow);
            }
            let lines = self.read().await.map_err(|error| {
                tracing::warn!("A reader of the event log was cut off: {}", Chain(&error));
                CutOff::Unread
            })?;
            if !lines.is_empty() {
                return Ok(Some(lines));
            }
        }
        Ok(None)
    }

    async fn read(&mut self) -> Result<Bytes, ReadError> {
        let log = self.reads.log().await?;
        let lines = bounded(past::read_on(log, &mut self.cursor, self.left)).await?;
        self.left = self.left.saturating_sub(lines.events);
        self.drained = lines.drained;
        if lines.rewritten {
            self.done = true;
            return Ok(Bytes::from_static(REWRITTEN));
        }
        Ok(lines.text.into())
    }
}

/// Tells a follower when to look at the log.
struct News {
    /// How far the projection is: it hears of an event as soon as anybody here does.
    applied: watch::Receiver<Position>,
    stop: CancellationToken,
}

#[derive(Debug, PartialEq, Eq)]
enum Wake {
    Events,
    /// Nothing was heard of, which says little: the projection may be halted, or away from the log.
    Heartbeat,
    Stop,
}

impl News {
    async fn behind(&mut self, position: Position) -> Wake {
        let news = timeout(HEARTBEAT_INTERVAL, self.applied.wait_for(|applied| *applied > position));
        tokio::select! {
            () = self.stop.cancelled() => Wake::Stop,
            news = news => if matches!(news, Ok(Ok(_))) { Wake::Events } else { Wake::Heartbeat },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(query: &str) -> Result<Question, Problem> {
        let known = [FROM, LIMIT, FOLLOW];
        question(&Parameters::of(&format!("/v1/events?{query}").parse().unwrap(), &known).unwrap())
    }

    #[test]
    fn it_begins_at_the_beginning_and_has_limits() {
        let from = Asked::Token(PositionToken::ZERO);
        assert_eq!(ask("").unwrap(), Question { from, limit: 1_000, follow: false });
        assert_eq!(ask("follow=true&from=7").unwrap().from, Asked::Token("7".parse().unwrap()));
        for query in ["limit=0", "limit=10001", "limit=x", "follow=yes", "follow=true&limit=3", "from=-1", "from=x"] {
            assert_eq!(ask(query).unwrap_err().code(), "invalid-parameter", "{query}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_wakes_for_events_for_a_heartbeat_and_for_the_stop() {
        let (position, stop) = (watch::Sender::new(Position(3)), CancellationToken::new());
        let mut news = News { applied: position.subscribe(), stop: stop.clone() };
        assert_eq!(news.behind(Position(2)).await, Wake::Events, "it was told before it asked");
        let began = Instant::now();
        assert_eq!(news.behind(Position(3)).await, Wake::Heartbeat);
        assert_eq!(began.elapsed(), HEARTBEAT_INTERVAL);
        let later = async {
            tokio::task::yield_now().await;
            position.send_replace(Position(4));
        };
        assert_eq!(tokio::join!(news.behind(Position(3)), later).0, Wake::Events);
        stop.cancel();
        assert_eq!(news.behind(Position(4)).await, Wake::Stop);
    }

    #[test]
    fn the_last_word_to_a_follower_is_one_line_of_json() {
        let line = std::str::from_utf8(REWRITTEN).unwrap();
        assert_eq!((line.lines().count(), line.ends_with('\n')), (1, true));
        assert_eq!(serde_json::from_str::<serde_json::Value>(line).unwrap()["status"], 409);
    }
}
