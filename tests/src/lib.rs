//! The harness of the end-to-end tests: one private Postgres per run, a database per test, services on port 0, a client,
//! waits on conditions with a time-out. No sleeps, no retries.

pub mod client;
pub mod cluster;
pub mod database;
pub mod gateway;
pub mod held;
pub mod log;
pub mod metrics;
pub mod otlp;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod services;
pub mod wait;
pub mod watcher;

pub use client::{Answer, Client};
pub use database::Database;
pub use gateway::Gateway;
pub use held::HeldLog;
pub use log::LogLines;
pub use metrics::Page;
pub use otlp::Collector;
pub use prometheus::Prometheus;
pub use proxy::Proxy;
pub use services::{CommandService, QueryService, Standalone};
pub use wait::until;
pub use watcher::{Event, Watcher};
