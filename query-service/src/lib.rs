//! The query service: follows the event log, and serves what it says from memory.
//!
//! ```text
//! tail ─► projection ─► http
//! ```
//!
//! `tail` reads the log in the order of its positions, `projection` folds it into immutable snapshots, `http` answers from
//! the newest one. Only history and past moments are read from the database.

pub mod tail;

pub mod projection;

mod http;

pub mod app;
pub mod config;

pub use app::App;
pub use config::Config;
