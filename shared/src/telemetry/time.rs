//! The time of a line. A date is worked out once in a second and thread: for each line it would cost as much as the rest of it.

use std::{
    cell::RefCell,
    fmt::{self, Write},
    time::{Duration, SystemTime},
};

use chrono::{DateTime, SecondsFormat};
use tracing_subscriber::fmt::{format::Writer, time::FormatTime};

use crate::digits::Digits;

/// UTC, to the microsecond: `2024-01-15T10:30:00.000000Z`.
pub(super) struct LineTime;

/// A second, in seconds since 1970, and its text without fraction and zone.
struct Second {
    number: u64,
    text: String,
}

thread_local! {
    static LAST: RefCell<Second> = const { RefCell::new(Second { number: u64::MAX, text: String::new() }) };
}

impl FormatTime for LineTime {
    #[expect(clippy::disallowed_methods, reason = "no test says when a line is told")]
    fn format_time(&self, line: &mut Writer<'_>) -> fmt::Result {
        write(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(), line)
    }
}

fn write(since_1970: Duration, line: &mut impl Write) -> fmt::Result {
    LAST.with_borrow_mut(|last| {
        if last.number != since_1970.as_secs() {
            *last = second(since_1970.as_secs());
        }
        line.write_str(&last.text)
    })?;
    let fraction = Digits::<8>::new().before(b'Z').padded(u64::from(since_1970.subsec_micros()), 6).before(b'.');
    line.write_str(fraction.as_str())
}

fn second(number: u64) -> Second {
    let moment = i64::try_from(number).ok().and_then(|number| DateTime::from_timestamp(number, 0)).unwrap_or_default();
    let mut text = moment.to_rfc3339_opts(SecondsFormat::Secs, true);
    text.truncate(text.len() - 1);
    Second { number, text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::moment::Moment;

    proptest! {
        #[test]
        fn is_written_as_every_other_moment(seconds in prop::collection::vec(0_u64..4_102_444_800, 1..4), micros in 0_u32..1_000_000) {
            for number in seconds {
                let mut text = String::new();
                write(Duration::new(number, micros * 1_000), &mut text).unwrap();
                let moment = DateTime::from_timestamp(i64::try_from(number).unwrap(), micros * 1_000).unwrap();
                prop_assert_eq!(text, Moment(moment).to_string());
            }
        }
    }
}
