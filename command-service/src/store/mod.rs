//! The event store behind the framework: loads in groups, commits in groups.
//!
//! ```text
//! cache, loader ─► load ─► (aggregate decides) ─► ready ─► queue ─► committer ─► append ─► append_events()
//!                                                   answer (idempotency keys) ─┘
//! ```

mod connection;
mod pipe;
mod tls;

mod cache;
mod load;
mod loaded;
mod loader;
mod past;

mod anchor;
mod answer;
mod append;
mod queue;
mod ready;
mod unit;

mod committer;
mod failure;
mod handing;
mod sent;
mod settle;
mod taken;

mod error;
mod event_store;
mod receipt;
mod trace;

mod keys;
mod outage;

mod health;

pub use anchor::Lineage;
pub use answer::Answer;
pub use append::Appended;
pub use committer::{Committer, Options as CommitterOptions};
pub use error::StoreError;
pub use event_store::ConfigEventStore;
pub use health::AppendCheck;
pub use keys::sweep;
pub use loaded::{Decided, LoadedConfig};
pub use loader::{Handle as LoaderHandle, LANES, Lane, Loader};
pub use past::{Former, Past};
pub use queue::{AppendError, Handle as CommitterHandle};
pub use receipt::{CommandScope, Freshness, Receipt};
pub use unit::{Check, IdempotencyKey, Keyed, NewEvent, Unit};
