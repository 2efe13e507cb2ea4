//! HTTP: from a request to an answer out of the newest snapshot.
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

mod projection;

mod rebuild;

mod value;

mod error;

pub(crate) use reads::Reads;
pub(crate) use router::routes;
