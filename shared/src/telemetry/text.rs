//! The log as text, in the old system's form: `[level] message`, then ` name=value` for each field, and the request's.

use std::fmt::{self, Write as _};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer, time::FormatTime},
    registry::LookupSpan,
};

use super::{Chain, OneLine, request, time::LineTime};

/// One event on one line: time, level, message, its fields, the request that it was told in.
pub(super) struct TextLine;

impl<S, N> FormatEvent<S, N> for TextLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        LineTime.format_time(&mut line)?;
        write!(line, " [{}] ", level(*event.metadata().level()))?;
        context.field_format().format_fields(line.by_ref(), event)?;
        request::of_line(|request_id, trace_id| {
            write!(line, " request_id={request_id}")?;
            trace_id.map_or(Ok(()), |trace_id| write!(line, " trace_id={trace_id}"))
        })
        .unwrap_or(Ok(()))?;
        writeln!(line)
    }
}

/// The old system's names of levels.
fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// The message as it is, then ` name=value` for each field, separated by one blank.
pub(super) struct TextFields;

impl<'writer> FormatFields<'writer> for TextFields {
    fn format_fields<R: RecordFields>(&self, line: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = TextVisitor { line, first: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct TextVisitor<'writer> {
    line: Writer<'writer>,
    first: bool,
    result: fmt::Result,
}

impl TextVisitor<'_> {
    fn write(&mut self, name: &str, value: fmt::Arguments<'_>) {
        let mut line = OneLine(self.line.by_ref());
        let separator = if std::mem::take(&mut self.first) { "" } else { " " };
        let written = match name {
            "message" => write!(line, "{separator}{value}"),
            _ => write!(line, "{separator}{name}={value}"),
        };
        self.result = self.result.and(written);
    }
}

impl Visit for TextVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.write(field.name(), format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.write(field.name(), format_args!("{}", Chain(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write(field.name(), format_args!("{value:?}"));
    }
}
