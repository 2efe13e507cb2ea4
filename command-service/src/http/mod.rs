//! HTTP: from a request to a command, and from its receipt to an answer.

mod delete;
mod error;
mod put;
pub mod router;
mod worker_stats;
mod write;
