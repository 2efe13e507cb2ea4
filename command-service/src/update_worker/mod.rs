//! The update worker: tells of each change in the log, and counts. Fed after the commit through a bounded queue, restarted
//! when it crashes; it never slows or fails a write.

mod notifier;
mod worker;

mod health;

pub use health::WorkerCheck;
pub use notifier::UpdateNotifier;
pub use worker::{Handle, Stats, UpdateWorker};

use shared::{moment::Moment, name::ConfigName, value::ConfigJson};

/// Most updates that wait for the worker. What comes on top is counted and not told.
pub const QUEUE_UPDATES: usize = 16_384;

/// Most bytes of values that wait for the worker; as above.
pub const QUEUE_BYTES: usize = 16 * 1024 * 1024;

/// A change that was committed.
#[derive(Clone, Debug)]
pub struct Update {
    /// Of which configuration.
    pub name: ConfigName,
    /// Before; `None` when there was none.
    pub old_value: Option<ConfigJson>,
    /// After; `None` when it was deleted.
    pub new_value: Option<ConfigJson>,
    /// When.
    pub recorded_at: Moment,
}

impl Update {
    /// What it weighs in the queue, in bytes.
    fn bytes(&self) -> usize {
        [&self.old_value, &self.new_value].into_iter().flatten().map(|value| value.json().len()).sum()
    }
}
