//! The check `eventstore` of health: the log takes writes, and they get through.

use std::time::Duration;

use futures_util::{FutureExt, future::BoxFuture};
use shared::http::health::{Check, EventStoreCheck};

use super::queue::Handle;

/// Longest that an append may take, its repetitions included: more than the 8 s of one attempt.
const MAX_APPENDING: Duration = Duration::from_secs(10);

/// Whether the log can be appended to: as far as another connection sees, and as the committer finds it.
pub struct AppendCheck {
    /// The other connection.
    pub log: EventStoreCheck,
    /// The committer.
    pub committer: Handle,
}

impl Check for AppendCheck {
    fn name(&self) -> &'static str {
        self.log.name()
    }

    fn needed_to_serve(&self) -> bool {
        true
    }

    fn check(&self) -> BoxFuture<'_, Result<(), String>> {
        let appending = self.committer.appending();
        if appending > MAX_APPENDING {
            let seconds = appending.as_secs();
            return async move { Err(format!("writes have not come through to the event log for {seconds} s")) }
                .boxed();
        }
        self.log.check()
    }
}
