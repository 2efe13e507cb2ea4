//! A moment as the log records it: UTC, to the microsecond, written with six decimals everywhere.

use std::{fmt, str::FromStr};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};

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
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
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
    use super::*;

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
