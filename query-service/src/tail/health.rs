//! The check `projection` of health and readiness.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use shared::{http::health::Check, position::Position};

use super::status::{Report, Status};
use crate::projection::Published;

/// Longest silence of the log that is no fault, in milliseconds: a restart of Postgres takes a second or two.
const MAX_SILENCE_MS: u64 = 5_000;

/// Longest that it may be behind what is known of the log, in milliseconds.
const MAX_LAG_MS: u64 = 10_000;

/// Whether the projection is at the log's end.
pub(crate) struct ProjectionCheck {
    pub(crate) projection: Arc<Published>,
    pub(crate) status: Arc<Status>,
}

impl Check for ProjectionCheck {
    fn name(&self) -> &'static str {
        "projection"
    }

    fn needed_to_serve(&self) -> bool {
        true
    }

    fn check(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { self.look() })
    }

    /// From the first catch-up on there is a state to serve, whatever becomes of the database.
    fn ready(&self) -> BoxFuture<'_, Result<(), String>> {
        let ready =
            self.projection.current().map(drop).ok_or_else(|| {
                self.look().err().unwrap_or_else(|| "the event log was not read to its end yet".to_owned())
            });
        Box::pin(async { ready })
    }
}

impl ProjectionCheck {
    fn look(&self) -> Result<(), String> {
        let report = self.status.report();
        let position = self.projection.current().map_or(Position::ZERO, |snapshot| snapshot.position());
        let lag = Lag { position, ms: self.status.lag_ms(&report, position) };
        well(&report, self.status.last_contact_ms(), &lag)
    }
}

/// Where readers are, and for how long that has not been the log's end.
struct Lag {
    position: Position,
    ms: u64,
}

fn well(report: &Report, silence_ms: u64, lag: &Lag) -> Result<(), String> {
    if silence_ms > MAX_SILENCE_MS {
        return Err(format!("no contact with the event log for {} s", silence_ms / 1000));
    }
    if let Some(halted) = &report.halted {
        return Err(format!("halted: {halted}"));
    }
    if let Some(position) = report.replaying {
        if !report.connected {
            return Err("the event log could not be read yet".to_owned());
        }
        return Err(format!("replaying the event log: at position {position} of {}", report.head));
    }
    if lag.ms > MAX_LAG_MS {
        let seconds = lag.ms / 1000;
        return Err(format!("behind the event log for {seconds} s: at position {} of {}", lag.position, report.head));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well(report: &Report, silence_ms: u64) -> Result<(), String> {
        super::well(report, silence_ms, &Lag { position: Position(7), ms: MAX_LAG_MS })
    }

    #[test]
    fn names_what_is_wrong() {
        let live = Report { connected: true, head: Position(9), ..Report::default() };
        assert_eq!(well(&live, 100), Ok(()));
        assert_eq!(well(&Report { connected: false, ..live.clone() }, 4_000), Ok(()), "a short restart of Postgres");
        assert_eq!(well(&live, 6_500), Err("no contact with the event log for 6 s".to_owned()));
        let behind = super::well(&live, 100, &Lag { position: Position(7), ms: 12_900 });
        assert_eq!(behind, Err("behind the event log for 12 s: at position 7 of 9".to_owned()));
        let replaying = Report { replaying: Some(Position(3)), ..live.clone() };
        assert_eq!(well(&replaying, 0), Err("replaying the event log: at position 3 of 9".to_owned()));
        let never = Report { connected: false, ..replaying.clone() };
        assert_eq!(well(&never, 0), Err("the event log could not be read yet".to_owned()));
        let halted = Report { halted: Some("a hole".to_owned()), ..live };
        assert_eq!(well(&halted, 0), Err("halted: a hole".to_owned()));
    }
}
