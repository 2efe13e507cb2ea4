//! HTTP: from a request to an answer out of the newest snapshot, or to a stream of changes.
//!
//! ```text
//! router ─► endpoint ─► reads (which snapshot may answer) ─► value (how it is told)
//!              └─► error ─► problem
//! ```

mod router;

mod reads;

mod get;
mod list;

mod list_at;
mod place;

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

pub(crate) use reads::{Reads, Watches};
pub(crate) use router::routes;
