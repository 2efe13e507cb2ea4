//! The command service: takes changes over HTTP, lets the aggregate decide, and appends its events to the log.
//!
//! ```text
//! http ─► command ─► domain (ConfigValue) ─► store ─► [ events ] Postgres
//!              └───► update_worker (logs, counts)
//! ```

pub mod http;

pub mod command;

pub mod domain;

pub mod store;

pub mod update_worker;

pub mod app;
pub mod config;
pub mod metrics;

pub use app::App;
pub use config::Config;
