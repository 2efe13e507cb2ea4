//! How long operations took.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest that is told apart; what takes longer counts as this.
const LONGEST: Duration = Duration::from_secs(120);

/// Quantiles of the curve in the report.
const CURVE: [f64; 12] = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 1.0];

/// Durations of operations; three digits of each are kept.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

/// What the report says of them, in microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Summary {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    /// (quantile, microseconds).
    pub(crate) curve: Vec<(f64, f64)>,
}

impl Default for Latencies {
    fn default() -> Self {
        let longest = u64::try_from(LONGEST.as_nanos()).expect("two minutes");
        Self(Histogram::new_with_bounds(1_000, longest, 3).expect("a microsecond is less than two minutes"))
    }
}

impl Latencies {
    /// Adds one.
    pub(crate) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds those of another round.
    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// Nothing when nothing was recorded.
    pub(crate) fn summary(&self) -> Option<Summary> {
        let at = |quantile| micros(self.0.value_at_quantile(quantile));
        (!self.0.is_empty()).then(|| Summary {
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: micros(self.0.max()),
            curve: CURVE.into_iter().map(|quantile| (quantile, at(quantile))).collect(),
        })
    }
}

fn micros(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_two_rounds_are_those_of_all_their_operations() {
        assert!(Latencies::default().summary().is_none());
        let mut merged = Latencies::default();
        for round in [1..=50, 51..=100] {
            let mut latencies = Latencies::default();
            round.for_each(|ms| latencies.record(Duration::from_millis(ms)));
            merged.add(&latencies);
        }
        let summary = merged.summary().unwrap();
        assert!((summary.p50_us - 50_000.0).abs() < 100.0, "{summary:?}");
        assert!((summary.max_us - 100_000.0).abs() < 200.0, "{summary:?}");
    }
}
