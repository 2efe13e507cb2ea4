//! The event store behind the framework: loads by one statement, commits through the committer.
//!
//! ```text
//! load ─► (aggregate decides) ─► committer ─► append_events()      snapshot: every 64 events, off the path
//! ```

mod append;
mod committer;
mod event_store;
mod load;
mod receipt;
mod snapshot;

pub use append::{NewEvent, Unit};
pub use committer::{AppendError, Appended, Committer, Handle as CommitterHandle, Options as CommitterOptions};
pub use event_store::{ConfigEventStore, LoadedConfig, StoreError};
pub use receipt::{CommandScope, Receipt};
