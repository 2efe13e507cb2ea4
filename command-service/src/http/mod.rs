//! HTTP: from a request to a command, and from its receipt to an answer.
//!
//! ```text
//! router ─► put, delete, rollback, batch ─► write (command, visibility, answer)
//!              ├─► idempotency                └─► error ─► problem
//! ```

pub mod router;

mod put;

mod delete;

mod rollback;

pub mod batch;

mod worker_stats;

mod idempotency;
pub mod write;

mod error;
