//! The time of a line.

use std::{fmt, time::SystemTime};

use tracing_subscriber::fmt::{format::Writer, time::FormatTime};

use crate::moment;

/// As every other moment is written, to the microsecond: `2024-01-15T10:30:00.000000Z`.
pub(super) struct LineTime;

impl FormatTime for LineTime {
    #[expect(clippy::disallowed_methods, reason = "no test says when a line is told")]
    fn format_time(&self, line: &mut Writer<'_>) -> fmt::Result {
        moment::write_since_1970(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(), line)
    }
}
