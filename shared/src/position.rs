//! Places in the log: a position, and the token in which clients hold one.

use std::{fmt, str::FromStr};

use axum::http::HeaderValue;
use serde::Serialize;
use tokio::sync::watch;
use uuid::Uuid;

use crate::digits::Digits;

/// A place in the one global order; 0 is before the first event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Position(pub u64);

impl Position {
    /// Before the first event.
    pub const ZERO: Self = Self(0);

    /// From a `bigint` column, which the schema keeps positive.
    #[must_use]
    pub fn from_column(value: i64) -> Self {
        Self(u64::try_from(value).unwrap_or(0))
    }

    /// For a `bigint` parameter. A position beyond its range is one that no event will ever have.
    #[must_use]
    pub fn to_parameter(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// The one behind it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Tells the event at a position from another that has taken its place after a failover or a restore: the last four bytes
/// of its `command_id`, which are random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u32);

impl Fingerprint {
    /// Of the event that this command wrote.
    #[must_use]
    pub fn of(command_id: Uuid) -> Self {
        let [.., a, b, c, d] = *command_id.as_bytes();
        Self(u32::from_be_bytes([a, b, c, d]))
    }
}

/// What clients hold: `42.9f3a01bc`, or a bare `42`, which skips the check. Opaque to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PositionToken {
    /// The place.
    pub position: Position,
    /// Which event the client saw there; `None` in a bare position and before the first event.
    pub fingerprint: Option<Fingerprint>,
}

impl PositionToken {
    /// Before the first event.
    pub const ZERO: Self = Self { position: Position::ZERO, fingerprint: None };

    /// The place of an event that this command wrote.
    #[must_use]
    pub fn new(position: Position, command_id: Uuid) -> Self {
        Self { position, fingerprint: Some(Fingerprint::of(command_id)) }
    }
}

impl fmt::Display for PositionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fingerprint {
            Some(Fingerprint(bits)) => write!(f, "{}.{bits:08x}", self.position),
            None => self.position.fmt(f),
        }
    }
}

impl From<PositionToken> for HeaderValue {
    fn from(token: PositionToken) -> Self {
        let text = Digits::<29>::new();
        let text = token
            .fingerprint
            .map_or(text.clone(), |Fingerprint(bits)| text.hexadecimal(&bits.to_be_bytes()).before(b'.'));
        Self::from_bytes(text.decimal(token.position.0).as_bytes()).expect("digits are a header's value")
    }
}

/// The text is no position token.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no position; send a Config-Position as you received it (such as 42.9f3a01bc), or a bare number")]
pub struct InvalidToken;

impl FromStr for PositionToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (position, fingerprint) = match text.split_once('.') {
            Some((position, hex)) => {
                let plain = hex.len() == 8 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
                let bits = u32::from_str_radix(hex, 16).ok().filter(|_| plain).ok_or(InvalidToken)?;
                (position, Some(Fingerprint(bits)))
            }
            None => (text, None),
        };
        let position = Some(position).filter(|text| digits(text)).and_then(|text| text.parse().ok());
        let position = Position(position.ok_or(InvalidToken)?);
        // Before the first event there is none that a client could have seen.
        let of_no_event = position == Position::ZERO && fingerprint.is_some();
        if of_no_event { Err(InvalidToken) } else { Ok(Self { position, fingerprint }) }
    }
}

/// Follows how far a projection has applied the log; cheap to clone. After a rebuild of a rewritten log it may step back.
#[derive(Clone, Debug)]
pub struct Applied(watch::Receiver<Position>);

impl Applied {
    /// Of the projection that reports through the other end.
    #[must_use]
    pub fn new(receiver: watch::Receiver<Position>) -> Self {
        Self(receiver)
    }

    /// How far it is now.
    #[must_use]
    pub fn now(&self) -> Position {
        *self.0.borrow()
    }

    /// Resolves when the projection has applied `position`; never when it ends before. The caller bounds the wait.
    pub async fn reaches(&mut self, position: Position) {
        if self.0.wait_for(|applied| *applied >= position).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_fingerprint_is_the_last_eight_digits_of_the_command_id() {
        let command_id = Uuid::from_u128(0x0192_3456_789a_7bcd_8ef0_1234_9f3a_01bc);
        assert_eq!(PositionToken::new(Position(42), command_id).to_string(), "42.9f3a01bc");
        assert_eq!(PositionToken::ZERO.to_string(), "0");
    }

    #[test]
    fn refuses_what_is_no_token() {
        for text in [
            "",
            "x",
            "-1",
            "+1",
            "1.",
            ".9f3a01bc",
            "1.9f3a01b",
            "1.9f3a01bcd",
            "1.+f3a01bc",
            "1.2.3",
            "0.9f3a01bc",
            " 1",
            "99999999999999999999999",
        ] {
            assert_eq!(text.parse::<PositionToken>(), Err(InvalidToken), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_token_reads_back_as_it_was(position in 1..u64::MAX, id: u128, bare: bool) {
            let mut token = PositionToken::new(Position(position), Uuid::from_u128(id));
            if bare {
                token.fingerprint = None;
            }
            prop_assert_eq!(token.to_string().parse(), Ok(token));
            prop_assert_eq!(HeaderValue::from(token), token.to_string());
        }
    }
}
