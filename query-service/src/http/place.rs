//! A place in the log as a client names it: a position token, or a time. And how answers about the past say of when they are.

use std::time::Duration;

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue},
    response::Response,
};
use shared::{
    http::{CONFIG_POSITION, parameters::invalid, problem::Problem},
    moment::Moment,
    position::PositionToken,
};
use tokio::time::timeout;

use super::{
    Reads,
    error::ReadError,
    value::{DO_NOT_KEEP, REVALIDATE},
};
use crate::past::{self, PastError, Place};

/// Longest that the log may take for what an answer needs of it at once.
pub(super) const LOG_LIMIT: Duration = Duration::from_secs(10);

/// RFC 7089: when the state that is told came to be.
const MEMENTO_DATETIME: HeaderName = HeaderName::from_static("memento-datetime");

/// What a parameter must be that names a place.
const EXPECTED: &str = "a position (such as 42.9f3a01bc, or a bare number), or a time with a zone (such as \
                        2024-01-15T10:30:00Z; a + is written %2B)";

/// A place that may or may not be in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Token(PositionToken),
    Moment(Moment),
}

impl Asked {
    /// Reads the value of a query parameter.
    pub(super) fn parse(parameter: &str, text: &str) -> Result<Self, Problem> {
        let token = text.parse().map(Self::Token);
        token.or_else(|_| text.parse().map(Self::Moment)).map_err(|_| invalid(parameter, EXPECTED))
    }
}

impl Reads {
    /// Finds it in the log. A position that the replica has not applied yet is waited for, like any other.
    pub(super) async fn place(&self, asked: Asked) -> Result<Place, ReadError> {
        let wanted = match asked {
            Asked::Moment(moment) => return bounded(past::at_moment(self.log().await?, moment)).await,
            Asked::Token(token) => token,
        };
        let here = self.having(wanted).await?.token();
        let place = bounded(past::at_position(self.log().await?, wanted.position)).await?;
        let same = |place: &Place| wanted.fingerprint.is_none() || place.token() == wanted;
        place.filter(same).ok_or(ReadError::Diverged { wanted, here })
    }

    /// The end of the log.
    pub(super) async fn newest_place(&self) -> Result<Place, ReadError> {
        bounded(past::newest(self.log().await?)).await
    }
}

/// Bounds one look into the past.
pub(super) async fn bounded<T>(look: impl Future<Output = Result<T, PastError>>) -> Result<T, ReadError> {
    Ok(timeout(LOG_LIMIT, look).await.map_err(|_| ReadError::LogOutOfReach(None))??)
}

/// Whether an answer may be kept that is about this place.
pub(super) fn caching(place: &Place) -> HeaderValue {
    if place.open { DO_NOT_KEEP } else { REVALIDATE }
}

/// An answer from a past state speaks of its place, whatever the replica has applied since.
pub(super) fn stamp_place(response: &mut Response, place: &Place) {
    response.headers_mut().insert(CONFIG_POSITION, place.token().into());
    if let Some(recorded_at) = place.recorded_at() {
        stamp_memento(response.headers_mut(), recorded_at);
    }
}

/// Says since when what is told was so.
pub(super) fn stamp_memento(headers: &mut HeaderMap, since: Moment) {
    let date = since.0.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    if let Ok(date) = HeaderValue::from_str(&date) {
        headers.insert(MEMENTO_DATETIME, date);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_position_or_a_time_with_a_zone() {
        assert_eq!(Asked::parse("at", "42.9f3a01bc").unwrap(), Asked::Token("42.9f3a01bc".parse().unwrap()));
        assert_eq!(Asked::parse("at", "0").unwrap(), Asked::Token(PositionToken::ZERO));
        let moment = "2024-01-15T08:30:00Z".parse().unwrap();
        for text in ["2024-01-15T08:30:00Z", "2024-01-15T10:30:00+02:00", "2024-01-15 08:30:00Z"] {
            assert_eq!(Asked::parse("at", text).unwrap(), Asked::Moment(moment), "{text}");
        }
        // The last one is what a + becomes that was not percent-encoded.
        for text in ["", "-1", "x", "2024-01-15", "2024-01-15T10:30:00", "42.9f3a01b", "2024-01-15T10:30:00 02:00"] {
            let refused = format!("{:?}", Asked::parse("at", text).unwrap_err());
            assert!(refused.contains("time with a zone") && refused.contains("%2B"), "{text}: {refused}");
        }
    }

    #[test]
    fn a_memento_is_dated_as_http_dates_are() {
        let mut headers = HeaderMap::new();
        stamp_memento(&mut headers, "2024-01-05T10:30:09.999999Z".parse().unwrap());
        assert_eq!(headers["memento-datetime"], "Fri, 05 Jan 2024 10:30:09 GMT");
    }
}
