//! What becomes of groups that failed: they are repeated until their outcome is known, or their units' time is up.

use std::{sync::Arc, time::Duration};

use shared::{backoff::Backoff, telemetry::Chain};
use tokio::time::Instant;

use super::{
    committer::Committer,
    failure::{Failed, Failure, Kind},
    queue::{AppendError, Waiting},
};

impl Committer {
    /// Appends groups that failed until their outcome is known, or their units' time is up, one after the other. Answers everybody.
    pub(super) async fn settle(&mut self, failed: Vec<Failed>) {
        let away = failed.first().is_some_and(|(_, first)| matches!(first.kind, Kind::Lost | Kind::Away));
        let mut open = vec![];
        for (place, (group, failure)) in failed.into_iter().enumerate() {
            // What went down with the first waits until that is settled, and is repeated at once then.
            let went_down_with_it = place > 0 && away && matches!(failure.kind, Kind::Lost | Kind::Away);
            let perhaps_written = went_down_with_it && failure.kind == Kind::Lost;
            open.push((group, perhaps_written, (!went_down_with_it).then_some(failure)));
        }
        open.reverse();
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        while let Some((group, mut perhaps_written, failed)) = open.pop() {
            let (mut group, failure) = match failed {
                Some(failure) => (group, failure),
                None => {
                    let Some(group) = self.still_wanted(group, perhaps_written) else { continue };
                    let Some(failed) = self.attempt(group).await else { continue };
                    failed
                }
            };
            perhaps_written |= failure.kind == Kind::Lost;
            match failure.kind {
                Kind::Lost | Kind::Away => self.tell_and_wait(&failure, group.len(), &mut backoff).await,
                // A lock that the attempt before may still hold, waiting for a standby, says as little as a lost connection.
                Kind::NotNow if perhaps_written => self.tell_and_wait(&failure, group.len(), &mut backoff).await,
                Kind::NotNow => {
                    tracing::error!(error = %Chain(&failure.error), units = group.len(), "An append was given up: the log's lock is held, or somebody cancelled it");
                    self.refuse(group, &AppendError::Unavailable);
                    continue;
                }
                // One unit spoils the group: halve it until that one stands alone. Order between units does not matter.
                Kind::Refused if group.len() > 1 => {
                    let second_half = group.split_off(group.len() / 2);
                    open.push((second_half, perhaps_written, None));
                }
                // An attempt before was cut off, and may yet be carried out: this refusal does not speak for it.
                Kind::Refused if perhaps_written => {
                    self.refuse(group, &AppendError::Unknown);
                    continue;
                }
                Kind::Refused => {
                    self.refuse(group, &AppendError::Refused(Arc::new(failure.error)));
                    continue;
                }
            }
            open.push((group, perhaps_written, None));
        }
    }

    async fn tell_and_wait(&mut self, failure: &Failure, units: usize, backoff: &mut Backoff) {
        if self.outage.failed() {
            tracing::warn!(error = %Chain(&failure.error), units, "An append did not get through; trying again");
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }

    /// The units whose time is not up; the others are answered.
    fn still_wanted(&self, group: Vec<Waiting>, perhaps_written: bool) -> Option<Vec<Waiting>> {
        let now = Instant::now();
        let (wanted, late): (Vec<_>, Vec<_>) = group.into_iter().partition(|waiting| waiting.until > now);
        self.refuse(late, if perhaps_written { &AppendError::Unknown } else { &AppendError::Unavailable });
        (!wanted.is_empty()).then_some(wanted)
    }
}
