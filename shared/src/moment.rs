//! A moment as the log records it: UTC, to the microsecond, written with six decimals everywhere.

use std::{
    cell::RefCell,
    fmt::{self, Write},
    str::FromStr,
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};

use crate::digits::Digits;

/// A point in time in UTC. Text form: `2024-01-15T10:30:00.000000Z`, which sorts as the moments do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub DateTime<Utc>);

impl Moment {
    /// Milliseconds from `earlier` to this moment; 0 when that one is later.
    #[must_use]
    pub fn millis_since(self, earlier: Moment) -> u64 {
        u64::try_from((self.0 - earlier.0).num_milliseconds()).unwrap_or(0)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (u64::try_from(self.0.timestamp()), self.0.timestamp_subsec_nanos()) {
            (Ok(seconds), nanos @ 0..1_000_000_000) => write_since_1970(Duration::new(seconds, nanos), f),
            // Before 1970, and leap seconds.
            _ => f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Micros, true)),
        }
    }
}

/// A second, in seconds since 1970, and its text without fraction and zone.
struct Second {
    number: u64,
    text: String,
}

impl Second {
    fn new(number: u64) -> Self {
        let moment = i64::try_from(number).ok().and_then(|number| DateTime::from_timestamp(number, 0));
        let mut text = moment.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true);
        text.truncate(text.len() - 1);
        Self { number, text }
    }
}

thread_local! {
    /// A date is worked out once for all moments of a second that a thread writes: it costs several times as much as the rest.
    static LAST: RefCell<Second> = const { RefCell::new(Second { number: u64::MAX, text: String::new() }) };
}

/// The text form of the moment so long after the beginning of 1970; nanoseconds are left out.
pub(crate) fn write_since_1970(since_1970: Duration, text: &mut impl Write) -> fmt::Result {
    LAST.with_borrow_mut(|last| {
        if last.number != since_1970.as_secs() {
            *last = Second::new(since_1970.as_secs());
        }
    });
    LAST.with_borrow(|last| text.write_str(&last.text))?;
    let fraction = Digits::<8>::new().before(b'Z').padded(u64::from(since_1970.subsec_micros()), 6).before(b'.');
    text.write_str(fraction.as_str())
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The text is not an ISO 8601 date and time with a zone.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
// The old system's sentence: its clients match on it.
#[error("Invalid timestamp format. Use ISO8601 (e.g., 2024-01-15T10:30:00Z)")]
pub struct InvalidMoment;

impl FromStr for Moment {
    type Err = InvalidMoment;

    /// Accepts RFC 3339: a `T`, or a blank as the old system did, between date and time; and `Z` or an offset. A time without a zone names no moment.
    fn from_str(text: &str) -> Result<Self, InvalidMoment> {
        DateTime::parse_from_rfc3339(text).map(|moment| Moment(moment.to_utc())).map_err(|_| InvalidMoment)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_written_as_chrono_writes_it(
            around in prop::collection::vec(-62_000_000_000_i64..300_000_000_000, 1..3),
            moments in prop::collection::vec((any::<prop::sample::Index>(), -1_i64..2, 0_u32..2_000_000_000), 1..20),
        ) {
            for (index, off, nanos) in moments {
                // Often of a second that the moment before was of, too.
                let seconds = index.get(&around) + off;
                // chrono has a leap second's fraction only where there may be one.
                let Some(moment) = DateTime::from_timestamp(seconds, nanos) else { continue };
                prop_assert_eq!(Moment(moment).to_string(), moment.to_rfc3339_opts(SecondsFormat::Micros, true));
            }
        }
    }

    #[test]
    fn is_written_with_six_decimals_in_utc() {
        let written = |text: &str| text.parse::<Moment>().unwrap().to_string();
        assert_eq!(written("2024-01-15T10:30:00Z"), "2024-01-15T10:30:00.000000Z");
        assert_eq!(written("2024-01-15 10:30:00Z"), "2024-01-15T10:30:00.000000Z");
        assert_eq!(written("2024-01-15T10:30:00.5+02:00"), "2024-01-15T08:30:00.500000Z");
    }

    #[test]
    fn refuses_what_names_no_moment() {
        for text in ["", "yesterday", "2024-01-15", "2024-01-15T10:30:00", "2024-13-01T00:00:00Z", "1705314600"] {
            assert_eq!(text.parse::<Moment>(), Err(InvalidMoment), "{text:?}");
        }
    }
}
