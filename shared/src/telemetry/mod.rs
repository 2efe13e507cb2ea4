//! Logs and traces. Logs are text by default, in the old system's form `[level] message`, so that an operator's `grep` keeps
//! working; JSON for machines. Traces go to an OpenTelemetry collector, where one is named.

mod filter;
mod lines;

mod json;
mod text;
mod time;

mod export;
mod propagation;
mod sampler;
mod trace_settings;
mod traces;

pub mod request;
pub mod spans;

use std::{
    fmt::{self, Write},
    io::{self, Write as _},
    process::ExitCode,
    sync::OnceLock,
};

use clap::ValueEnum;
pub use export::TraceCounts;
pub use filter::{DEFAULT_FILTER, Filter, Fixed, InvalidFilter, filter, set_filter};
use lines::Lines;
pub use propagation::{MAX_TRACESTATE_BYTES, carry, of_headers as trace_of_headers};
use traces::Traces;
pub use traces::{DEFAULT_READS_RATIO, NoTraces, TraceArgs, trace_counts};
use tracing::Subscriber;
use tracing_subscriber::{
    Layer,
    layer::SubscriberExt,
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
        NoTraces::Collector(_) | NoTraces::NoThread(_) => BoxError::from(error),
    })?;
    let out = Lines::to_standard_output().map_err(NoLog::NoThread)?;
    // A terminal that was closed takes no line. The library would complain on standard error, which is closed as well, and
    // that panics: in whichever task had something to tell, such as the one that stops the process on SIGHUP.
    let lines = tracing_subscriber::fmt::layer().with_writer(out.clone()).log_internal_errors(false);
    let lines = match form {
        LogFormat::Text => lines.event_format(text::TextLine).fmt_fields(text::TextFields).boxed(),
        LogFormat::Json => lines.event_format(json::JsonLine).boxed(),
    };
    let layer = filter::Wanted::new(wanted);
    tracing_subscriber::registry().with(layer.clone()).with(lines).try_init().map_err(NoLog::SetUpTwice)?;
    if let Some(traces) = traces {
        traces.begin();
    }
    filter::can_change(layer, wanted);
    let _only_once = LINES.set(out);
    Ok(Log(()))
}

/// A log in the text form that ends in `writer`: for tests that read it.
pub fn text_log<W>(writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'writer> tracing_subscriber::fmt::MakeWriter<'writer> + Send + Sync + 'static,
{
    tracing_subscriber::fmt().event_format(text::TextLine).fmt_fields(text::TextFields).with_writer(writer).finish()
}

/// Writes text so that it stays on its line: an error's text, or a field that a client sent, may hold a newline, which would
/// forge one.
pub(crate) struct OneLine<W>(pub(crate) W);

impl<W: Write> Write for OneLine<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if !perhaps_controls(text) {
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

/// In most text there is nothing to look for: control characters are below blank, DEL, or begin with 0xC2. All bytes are looked at,
/// without a way out at the first, so that the compiler takes sixteen at a time.
fn perhaps_controls(text: &str) -> bool {
    text.bytes().fold(0, |found, byte| found | u8::from(byte < b' ') | u8::from(byte == 0x7F) | u8::from(byte == 0xC2))
        != 0
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

    use axum::{body::Body, extract::Request, http::HeaderValue};
    use tracing_subscriber::fmt::MakeWriter;

    use super::{request::RequestScope, *};

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
    fn controls_are_escaped_and_nothing_else() {
        let on_one_line = |text: &str| {
            let mut line = String::new();
            OneLine(&mut line).write_str(text).unwrap();
            line
        };
        for text in ["", "a name of more than sixteen bytes", "größe", "1\u{a0}°", "名前 🦀"] {
            assert_eq!(on_one_line(text), text);
        }
        for (control, escaped) in [("\n", "\\n"), ("\u{1b}", "\\u{1b}"), ("\u{7f}", "\\u{7f}"), ("\u{85}", "\\u{85}")] {
            for before in ["", "a name of more than sixteen bytes", "é"] {
                assert_eq!(on_one_line(&format!("{before}{control}é")), format!("{before}{escaped}é"));
            }
        }
    }

    #[tokio::test]
    async fn a_text_line_is_the_old_systems_with_fields_behind_it() {
        let lines = Lines::default();
        let _here = tracing::subscriber::set_default(text_log(lines.clone()));
        let request = RequestScope::begin(&Request::new(Body::empty()), HeaderValue::from_static("r1"), None);
        request.run(async { tracing::info!(bytes = 3, "PUT /config/a - Setting value: {}", "\"b\"") }).await;
        tracing::warn!("two\nlines");
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let without_time: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(
            without_time,
            ["[info] PUT /config/a - Setting value: \"b\" bytes=3 request_id=r1", "[warning] two\\nlines"]
        );
    }
}
