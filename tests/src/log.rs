//! The log lines of one test. Its runtime has one thread, so the thread's own log is the test's.

use std::{
    io,
    sync::{Arc, Mutex},
};

use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

/// Collects what is logged on this thread for as long as it lives.
pub struct LogLines {
    written: Written,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl LogLines {
    /// From now on. Start the services after it.
    #[must_use]
    pub fn collect() -> Self {
        let written = Written::default();
        let guard = tracing::subscriber::set_default(shared::telemetry::text_log(written.clone()));
        Self { written, _guard: guard }
    }

    /// The lines so far, without their times: `[info] message`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let bytes = self.written.0.lock().expect("no writer panicked").clone();
        let text = String::from_utf8(bytes).expect("logs are UTF-8");
        text.lines().filter_map(|line| line.split_once(' ')).map(|(_, line)| line.to_owned()).collect()
    }

    /// Whether a line begins so.
    #[must_use]
    pub fn has(&self, beginning: &str) -> bool {
        self.lines().iter().any(|line| line.starts_with(beginning))
    }

    /// How many lines begin so.
    #[must_use]
    pub fn count(&self, beginning: &str) -> usize {
        self.lines().iter().filter(|line| line.starts_with(beginning)).count()
    }
}

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no writer panicked").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Written {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
