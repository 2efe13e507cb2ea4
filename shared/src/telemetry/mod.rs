//! Logs and traces. Logs are text by default, in the old system's form `[level] message`, so that an operator's `grep` keeps
//! working; JSON for machines. Traces go to an OpenTelemetry collector, where one is named.

mod filter;
mod lines;

mod export;
mod propagation;
mod trace_settings;
mod traces;

pub mod spans;

use std::{
    fmt::{self, Write as _},
    io::{self, Write as _},
    process::ExitCode,
    sync::OnceLock,
};

use clap::ValueEnum;
pub use export::TraceCounts;
pub use filter::{DEFAULT_FILTER, Filter, Fixed, InvalidFilter, filter, set_filter};
use lines::Lines;
pub use propagation::{MAX_TRACESTATE_BYTES, carry, of_headers as trace_of_headers};
use serde_json::{Map, Value};
use traces::Traces;
pub use traces::{DEFAULT_READS_RATIO, NoTraces, TraceArgs, trace_counts};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    Layer,
    field::RecordFields,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    util::{SubscriberInitExt, TryInitError},
};

use crate::{
    BoxError,
    settings::{UsageError, usage},
};

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `2024-01-01T10:00:00.000000Z [info] message field=value`
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum NoLog {
    /// It was before.
    #[error("the log was set up twice")]
    SetUpTwice(#[source] TryInitError),
    /// The system gave no thread for it.
    #[error("the log has no thread to write it")]
    NoThread(#[source] io::Error),
}

/// The process's log and traces. All that was told, and all spans that have ended, are out when it is dropped: also when the
/// start of the process failed. Drop it behind the runtime, outside of it.
#[derive(Debug)]
#[must_use = "its end is the log's"]
pub struct Log(());

impl Drop for Log {
    fn drop(&mut self) {
        traces::shut_down();
        flush();
    }
}

/// Where the lines of the process go, once its log is set up.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Returns when all that was told before is out: before the process ends by itself.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush();
    }
}

/// Sets log and traces up for the process: once, in `main`, outside of a runtime.
///
/// # Errors
/// When it was done before, the system has no thread for it, or a variable about traces cannot be used.
pub fn init(form: LogFormat, wanted: &Filter, trace: TraceArgs) -> Result<Log, BoxError> {
    let traces = Traces::from_environment(trace).map_err(|error| match error {
        NoTraces::Variable(_) => usage(error).into(),
        NoTraces::Exporter(_) => BoxError::from(error),
    })?;
    let out = Lines::to_standard_output().map_err(NoLog::NoThread)?;
    // A terminal that was closed takes no line. The library would complain on standard error, which is closed as well, and
    // that panics: in whichever task had something to tell, such as the one that stops the process on SIGHUP.
    let lines = tracing_subscriber::fmt::layer().with_writer(out.clone()).log_internal_errors(false);
    let lines = match form {
        LogFormat::Text => lines.event_format(TextLine).fmt_fields(TextFields).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).fmt_fields(JsonFields).boxed(),
    };
    let layer = filter::Wanted::new(wanted, traces.is_some());
    let log = tracing_subscriber::registry().with(layer.clone()).with(lines);
    match traces {
        None => log.try_init(),
        Some(traces) => {
            // What a library can add by itself is not ours to tell a collector; log lines may hold values.
            let spans = tracing_opentelemetry::layer().with_tracer(traces.tracer.clone()).with_location(false);
            let spans = spans.with_threads(false).with_level(false).with_target(false).with_tracked_inactivity(false);
            let spans = spans.with_context_activation(false).with_filter(filter::Traced);
            let set_up = log.with(spans).try_init();
            traces.begin();
            set_up
        }
    }
    .map_err(NoLog::SetUpTwice)?;
    filter::can_change(layer, wanted);
    let _only_once = LINES.set(out);
    Ok(Log(()))
}

/// A log in the text form that ends in `writer`: for tests that read it.
pub fn text_log<W>(writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'writer> tracing_subscriber::fmt::MakeWriter<'writer> + Send + Sync + 'static,
{
    tracing_subscriber::fmt().event_format(TextLine).fmt_fields(TextFields).with_writer(writer).finish()
}

/// One event on one line: time, level, message, its fields, the fields of its spans.
struct TextLine;

impl<S, N> FormatEvent<S, N> for TextLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        SystemTime.format_time(&mut line)?;
        write!(line, " [{}] ", level(*event.metadata().level()))?;
        context.field_format().format_fields(line.by_ref(), event)?;
        for span in context.event_scope().into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>()
                && !fields.is_empty()
            {
                write!(line, " {fields}")?;
            }
        }
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
struct TextFields;

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
        if is_for_traces(name) {
            return;
        }
        let mut line = OneLine(self.line.by_ref());
        let separator = if std::mem::take(&mut self.first) { "" } else { " " };
        let written = match name {
            "message" => write!(line, "{separator}{value}"),
            _ => write!(line, "{separator}{name}={value}"),
        };
        self.result = self.result.and(written);
    }
}

/// Fields of a span that speak to the traces and not to the log.
fn is_for_traces(field: &str) -> bool {
    field.starts_with("otel.")
}

/// A span's fields as a JSON object.
struct JsonFields;

impl<'writer> FormatFields<'writer> for JsonFields {
    fn format_fields<R: RecordFields>(&self, line: Writer<'writer>, fields: R) -> fmt::Result {
        write_object(line, Map::new(), fields)
    }

    fn add_fields(&self, current: &'writer mut FormattedFields<Self>, fields: &span::Record<'_>) -> fmt::Result {
        let known = serde_json::from_str(&std::mem::take(&mut current.fields)).unwrap_or_default();
        write_object(current.as_writer(), known, fields)
    }
}

fn write_object<R: RecordFields>(mut line: Writer<'_>, known: Map<String, Value>, fields: R) -> fmt::Result {
    let mut visitor = JsonVisitor(known);
    fields.record(&mut visitor);
    write!(line, "{}", Value::Object(visitor.0))
}

struct JsonVisitor(Map<String, Value>);

impl JsonVisitor {
    fn keep(&mut self, field: &Field, value: impl Into<Value>) {
        if !is_for_traces(field.name()) {
            self.0.insert(field.name().to_owned(), value.into());
        }
    }
}

impl Visit for JsonVisitor {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.keep(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.keep(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.keep(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.keep(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.keep(field, format!("{value:?}"));
    }
}

/// Writes text so that it stays on its line: an error's text, or a field that a client sent, may hold a newline, which would
/// forge one.
pub(crate) struct OneLine<W>(pub(crate) W);

impl<W: fmt::Write> fmt::Write for OneLine<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // In most text there is nothing to look for: control characters are below blank, DEL, or begin with 0xC2.
        if text.bytes().all(|byte| byte >= b' ' && byte != 0x7F && byte != 0xC2) {
            return self.0.write_str(text);
        }
        let mut rest = text;
        while let Some((place, control)) = rest.char_indices().find(|(_, character)| character.is_control()) {
            self.0.write_str(&rest[..place])?;
            write!(self.0, "{}", control.escape_default())?;
            rest = &rest[place + control.len_utf8()..];
        }
        self.0.write_str(rest)
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

/// Displays an error and its causes: `cannot append: connection reset by peer`. Some libraries repeat the cause in the
/// error's own text; it is told once.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = self.0.to_string();
        f.write_str(&told)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !told.ends_with(&text) {
                write!(f, ": {text}")?;
                told = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}

/// Exit code of a process that was told wrongly, as shells have it.
const EXIT_USAGE: u8 = 2;

/// The end of a process that failed: one line on standard error, whatever the log's form or level.
pub fn fail(program: &str, error: &(dyn std::error::Error + 'static)) -> ExitCode {
    // Not by the log, which may not be there yet; nor by a macro that panics when nobody can read it.
    let _unread = writeln!(io::stderr(), "{program}: {}", Chain(error));
    if error.is::<UsageError>() { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;
        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_text_line_is_the_old_systems_with_fields_behind_it() {
        let lines = Lines::default();
        tracing::subscriber::with_default(text_log(lines.clone()), || {
            let request = tracing::info_span!("request", request_id = "r1");
            request.in_scope(|| tracing::info!(bytes = 3, "PUT /config/a - Setting value: {}", "\"b\""));
            tracing::warn!("two\nlines");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let without_time: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(
            without_time,
            ["[info] PUT /config/a - Setting value: \"b\" bytes=3 request_id=r1", "[warning] two\\nlines"]
        );
    }
}
