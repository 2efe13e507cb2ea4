//! An outage of the database, as the log tells it: when it begins, then more and more rarely, and when it is over.

use std::time::Duration;

use tokio::time::Instant;

/// The outage under way, if any.
#[derive(Debug, Default)]
pub(super) struct Outage {
    since: Option<Instant>,
    failures: u32,
}

impl Outage {
    /// Another attempt failed; whether that is worth a line: the first, second, fourth, eighth …
    pub(super) fn failed(&mut self) -> bool {
        self.since.get_or_insert_with(Instant::now);
        self.failures = self.failures.saturating_add(1);
        self.failures.is_power_of_two()
    }

    /// An attempt succeeded; how long none had, if it was an outage.
    pub(super) fn over(&mut self) -> Option<Duration> {
        self.failures = 0;
        self.since.take().map(|since| since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_outage_is_a_few_lines() {
        let mut outage = Outage::default();
        assert_eq!(outage.over(), None);
        assert_eq!((0..1000).filter(|_| outage.failed()).count(), 10);
        assert!(outage.over().is_some());
        assert!(outage.failed(), "the next one is told");
    }
}
