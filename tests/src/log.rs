//! The log lines of one test. Its runtime has one thread, so what that thread logs is the test's.

use std::{
    cell::RefCell,
    fmt, io,
    sync::{Arc, Mutex, Once},
};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    fmt::MakeWriter,
    layer::{Context, SubscriberExt},
};

type Written = Arc<Mutex<Vec<u8>>>;

thread_local! {
    static THIS_THREADS: RefCell<Option<Written>> = const { RefCell::new(None) };
    static UNTELLABLE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Collects what is logged on this thread for as long as it lives.
#[derive(Debug)]
pub struct LogLines(Written);

impl LogLines {
    /// From now on. Start the services after it.
    ///
    /// One log for the process that writes to each thread's own lines: with a log per thread, spans that another test's
    /// thread saw first can be taken for disabled.
    #[must_use]
    pub fn collect() -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            tracing::subscriber::set_global_default(shared::telemetry::text_log(ToThread).with(Untellable))
                .expect("the only log of the tests");
        });
        let written = Written::default();
        THIS_THREADS.set(Some(Arc::clone(&written)));
        Self(written)
    }

    /// From now on, whoever tells a line on this thread with this in its message panics, as for a bug.
    pub fn make_untellable(&self, part: &str) {
        UNTELLABLE.set(Some(part.to_owned()));
    }

    /// The lines so far, without their times: `[info] message`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().expect("no writer panicked").clone();
        let text = String::from_utf8(bytes).expect("logs are UTF-8");
        text.lines().filter_map(|line| line.split_once(' ')).map(|(_, line)| line.to_owned()).collect()
    }

    /// Whether a line begins so.
    #[must_use]
    pub fn has(&self, beginning: &str) -> bool {
        self.count(beginning) > 0
    }

    /// How many lines begin so.
    #[must_use]
    pub fn count(&self, beginning: &str) -> usize {
        self.lines().iter().filter(|line| line.starts_with(beginning)).count()
    }
}

impl Drop for LogLines {
    fn drop(&mut self) {
        THIS_THREADS.set(None);
        UNTELLABLE.set(None);
    }
}

/// Panics where it was told to, behind the log: a panic within would leave the line to the next one.
struct Untellable;

impl<S: Subscriber> Layer<S> for Untellable {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        UNTELLABLE.with_borrow(|part| {
            let Some(part) = part else { return };
            let mut message = Message(String::new());
            event.record(&mut message);
            assert!(!message.0.contains(part.as_str()), "this line cannot be told");
        });
    }
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

struct ToThread;

impl io::Write for ToThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        THIS_THREADS.with_borrow(|written| {
            written.as_ref().map_or(Ok(bytes.len()), |written| written.lock().expect("no writer panicked").write(bytes))
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for ToThread {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}
