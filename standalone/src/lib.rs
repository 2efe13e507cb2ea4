//! `config-api`: both services in one process, on one port, with a Postgres of its own or a given one. No logic of its own.
//!
//! ```text
//! embedded Postgres ─► migrate ─► query service ─► command service ─► one server
//! ```

pub mod app;
pub mod banner;
pub mod run;
pub mod settings;

pub use app::App;
