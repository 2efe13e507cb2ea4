//! The projection: the log's events, folded into the state that readers see.
//!
//! ```text
//! event (in batches, of a long replay) ─► fold ─► snapshot (entries, each an entry) ─► published ─► readers
//! ```
//!
//! All but `published` are pure: no database, no runtime, no clock.

mod batch;
mod event;
mod fold;

mod entries;
mod entry;
mod loose;
mod node;
mod snapshot;

mod published;

pub(crate) use batch::Batch;
pub(crate) use entry::Entry;
pub(crate) use event::{Authorship, Recorded};
pub(crate) use fold::{Fault, Fold};
pub(crate) use published::{Published, free_aside};
pub(crate) use snapshot::{Snapshot, Standing};
