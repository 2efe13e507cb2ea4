//! The query service: follows the event log, and serves what it says from memory.
//!
//! ```text
//! tail ─► projection ─► watch ─► http
//!                        past ────┘
//! ```
//!
//! `tail` reads the log in the order of its positions, `projection` folds it into immutable snapshots, `watch` hands each
//! change to whoever waits for it, `http` answers from the newest snapshot. `past` reads what was, straight from the log.

pub mod tail;

pub mod projection;

mod watch;

pub mod past;

mod http;

pub mod app;
pub mod config;
pub mod metrics;

pub use app::App;
pub use config::{Config, Listening};
