//! The past: what was, read straight from the log, in pieces that fit into memory.
//!
//! ```text
//! place (a position, or a moment) ─► changes (name by name) ─► the state at a position, the difference of two
//!                                      └─► events: the log itself, line by line
//! ```
//!
//! The log is only appended to, so what was at a position stays what it is: pages of one state may be read hours apart, by
//! different replicas, and fit together.

mod changes;
mod events;
mod place;
mod reading;

pub(crate) use changes::{Change, Page, Version, Wanted, between, state_at};
pub(crate) use events::{Cursor, read_on};
pub(crate) use place::{Place, at_moment, at_position, newest};
pub(crate) use reading::Reading;

use shared::event::UnknownEvent;

/// The past cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PastError {
    #[error("the event log could not be read")]
    Log(#[from] sqlx::Error),
    #[error("an event in the log cannot be read")]
    Unreadable(#[from] UnknownEvent),
}
