//! Outages of the database: how long to wait, and what to say. Retries are many; each outage is told once.

use std::time::{Duration, Instant};

use shared::{backoff::Backoff, telemetry::Chain};

use super::link::LinkError;

/// First and longest wait before the log is tried again.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// The outage under way, if any.
#[derive(Debug)]
pub(super) struct Outages {
    backoff: Backoff,
    /// The log is being followed.
    in_contact: bool,
    since: Option<Instant>,
    said_failed: bool,
}

impl Default for Outages {
    fn default() -> Self {
        let backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
        Self { backoff, in_contact: false, since: None, said_failed: false }
    }
}

impl Outages {
    /// The log cannot be followed, or no longer; tells how long to wait before it is tried again.
    pub(super) fn lost(&mut self, error: &LinkError, has_state: bool) -> Duration {
        let cause = error.short_cause();
        let chain = Chain(error);
        self.since.get_or_insert_with(Instant::now);
        if std::mem::take(&mut self.in_contact) {
            tracing::warn!(error = %chain, "Lost the connection to EventStore: {cause}; reconnecting");
        } else if std::mem::replace(&mut self.said_failed, true) {
            tracing::debug!(error = %chain, "EventStore is still out of reach: {cause}");
        } else {
            tracing::error!(error = %chain, "Failed to subscribe to EventStore: {cause}");
            if !has_state {
                tracing::warn!("Starting with empty state due to event read failure");
                tracing::warn!("Starting without event subscription - real-time updates disabled");
            }
        }
        self.backoff.next_wait()
    }

    /// The log was read.
    pub(super) fn contact(&mut self) {
        if std::mem::replace(&mut self.in_contact, true) {
            return;
        }
        self.backoff.reset();
        self.said_failed = false;
        if let Some(since) = self.since.take() {
            let away_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!("Reconnected to EventStore after {away_ms} ms");
        }
    }
}
