//! The projection: the log's events, folded into the state that readers see.
//!
//! ```text
//! event ─► fold ─► snapshot ─► published ─► readers
//! ```
//!
//! `event`, `fold` and `snapshot` are pure: no database, no runtime, no clock.

mod event;
mod fold;

mod snapshot;

mod published;

pub(crate) use event::{Authorship, Recorded};
pub(crate) use fold::{Fault, Fold};
pub(crate) use published::{Published, free_aside};
pub(crate) use snapshot::{Entry, Snapshot, Standing};
