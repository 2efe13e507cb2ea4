//! The only place that asks the system what time it is. The log's own times come from the database.

use std::time::SystemTime;

use chrono::{DateTime, Utc};

use crate::moment::Moment;

/// Tells the time; passed to whoever needs it. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    now: fn() -> Moment,
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the clock that is passed in")]
        fn now() -> Moment {
            Moment(DateTime::<Utc>::from(SystemTime::now()))
        }
        Self { now }
    }

    /// A clock that a test says the time of.
    #[must_use]
    pub fn told_by(now: fn() -> Moment) -> Self {
        Self { now }
    }

    /// The present moment.
    #[must_use]
    pub fn now(self) -> Moment {
        (self.now)()
    }
}
