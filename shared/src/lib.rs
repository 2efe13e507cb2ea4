//! What both services must agree on, so that a change written by one is read the same by the other.
//!
//! ```text
//! name, value ─► event ─► position        what is stored, and where in the log
//! handover                                what a process wrote itself, on its way to its own projection
//! schema ─► database ─► backoff           where it is stored
//! settings ─► telemetry, redaction        how a process is set up and what it tells
//! clock, ids, metrics                     what is passed in, so that tests can say what it is
//! http ─► service ─► tasks, shutdown, file_limit      how it is served and stopped
//! ```

pub mod backoff;
pub mod clock;
pub mod database;
mod digits;
pub mod event;
pub mod file_limit;
pub mod handover;
pub mod http;
pub mod ids;
pub mod metrics;
pub mod moment;
pub mod name;
pub mod position;
pub mod redaction;
pub mod schema;
pub mod service;
pub mod settings;
pub mod shutdown;
pub mod tasks;
pub mod telemetry;
pub mod value;

/// Of every program. A request's memory is allocated by one thread and freed by another all the time, which costs glibc's
/// allocator a fifth of a write's CPU time (docs/PERFORMANCE.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a panic said.
#[must_use]
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)")
}

/// A cause whose type matters to nobody but the log.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
