//! How long to wait before trying again: doubling, capped, and jittered so that many clients do not come back at once.

use std::{ops::Range, time::Duration};

/// Waits between attempts. The n-th is a random time between half and the whole of `first × 2ⁿ`, at most `cap`.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    attempts: u32,
}

impl Backoff {
    /// Starts at `first` and never waits longer than `cap`.
    #[must_use]
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, attempts: 0 }
    }

    /// How long to wait now; the next answer is longer.
    #[must_use]
    pub fn next_wait(&mut self) -> Duration {
        let whole = self.first.saturating_mul(1 << self.attempts.min(16)).min(self.cap);
        self.attempts = self.attempts.saturating_add(1);
        between(&(whole / 2..whole))
    }

    /// An attempt succeeded: start over.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// A random time between these.
#[must_use]
pub fn between(bounds: &Range<Duration>) -> Duration {
    #[expect(clippy::disallowed_methods, reason = "this is the randomness that others take from here")]
    let share = rand::random::<f64>();
    bounds.start + bounds.end.saturating_sub(bounds.start).mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_its_cap_within_its_jitter() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(1000));
        for whole in [100, 200, 400, 800, 1000, 1000] {
            let wait = backoff.next_wait();
            assert!(wait >= Duration::from_millis(whole / 2) && wait <= Duration::from_millis(whole), "{wait:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
    }

    #[test]
    fn never_overflows() {
        let mut backoff =
            Backoff { attempts: u32::MAX, ..Backoff::new(Duration::from_secs(1), Duration::from_secs(5)) };
        assert!(backoff.next_wait() <= Duration::from_secs(5));
    }
}
