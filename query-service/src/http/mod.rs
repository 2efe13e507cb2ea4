//! HTTP: from a request to an answer out of the newest snapshot, or to a stream of changes.
//!
//! ```text
//! router (compression: of long answers) ─► endpoint ─► reads (which snapshot may answer; head: what the log has) ─► value (how it is told)
//!              │           └─► pinned (the states that pages are of)
//!              └─► error ─► problem
//! ```

mod router;

mod compression;

mod head;
mod pinned;
mod reads;

mod get;
mod list;

mod list_at;
mod place;
mod query;

mod diff;

mod history;

mod at;
mod versions;

mod events;

mod link;

mod watch;

mod projection;

mod rebuild;

mod value;

mod error;

#[cfg(test)]
mod states;

pub(crate) use head::Head;
pub(crate) use reads::{Reads, Watches};
pub(crate) use router::routes;
