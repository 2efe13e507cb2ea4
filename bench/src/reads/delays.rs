//! How long after its acknowledgement a write is visible at a replica and delivered to a watcher; etcd's watch beside it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::task::JoinSet;

use super::{
    stage::Stage,
    writer::{self, Moments, PREFIX, Putter, Written},
};
use crate::{
    BoxError, etcd,
    latency::{Latencies, Summary},
    load::Fault,
    ours::{http::Connection, watch::Watch},
    report::tell,
    template::{Numbers, number_in},
};

/// Longest that is waited for what was written last.
const LAST_CHANGES: Duration = Duration::from_secs(10);

/// What is measured, and how long.
#[derive(Debug)]
pub(crate) struct Course<'a> {
    /// With two query services: the first has the watcher, the second is read.
    pub(crate) stage: &'a Stage,
    pub(crate) etcd: Option<u16>,
    pub(crate) numbers: Numbers,
    pub(crate) measured: Duration,
    pub(crate) rounds: u32,
}

/// What became of a rate. Delays are from the acknowledgement on; what came before it took no time.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) writes_per_s: u64,
    pub(crate) writes: usize,
    /// Of a write, from the moment that it was due.
    pub(crate) acknowledged: Summary,
    /// A round trip of a reader included.
    pub(crate) visible: Summary,
    pub(crate) delivered: Summary,
    /// Nothing when there is no etcd.
    pub(crate) etcd_delivered: Option<Summary>,
    pub(crate) etcd_acknowledged: Option<Summary>,
}

#[derive(Debug, Default)]
struct Sums {
    acknowledged: Latencies,
    visible: Latencies,
    delivered: Latencies,
}

impl Course<'_> {
    /// Measures all rounds of a rate.
    pub(crate) async fn run(&self, writes_per_s: u64) -> Result<Measured, BoxError> {
        let (mut ours, mut others, mut writes) = (Sums::default(), Sums::default(), 0);
        for round in 0..self.rounds {
            tell(&format!("{writes_per_s} writes/s: round {} of {}…", round + 1, self.rounds));
            for second in [false, true] {
                if second == (round % 2 == 1) {
                    writes += self.round_of_ours(writes_per_s, &mut ours).await?;
                } else if let Some(port) = self.etcd {
                    self.round_of_etcd(port, writes_per_s, &mut others).await?;
                }
            }
        }
        let of = |latencies: &Latencies| latencies.summary().ok_or("nothing was written");
        Ok(Measured {
            writes_per_s,
            writes,
            acknowledged: of(&ours.acknowledged)?,
            visible: of(&ours.visible)?,
            delivered: of(&ours.delivered)?,
            etcd_delivered: others.delivered.summary(),
            etcd_acknowledged: others.acknowledged.summary(),
        })
    }

    async fn round_of_ours(&self, rate: u64, sums: &mut Sums) -> Result<usize, BoxError> {
        let [first, second] = &self.stage.queries[..] else { return Err("two query services".into()) };
        let mut watch = Watch::open(first.port, &format!("prefix={PREFIX}")).await?;
        let all = rate * self.measured.as_secs();
        let delivered = collect(all, async || Ok(numbers_in(&watch.change().await?)));
        let writers = async || Ok(Putter(Connection::open(self.stage.command.port).await?));
        let written = writer::run(writers, &self.numbers, (rate, self.measured), Some(second.port));
        let (written, delivered) = tokio::try_join!(written, delivered)?;
        add(sums, &written, &delivered)
    }

    async fn round_of_etcd(&self, port: u16, rate: u64, sums: &mut Sums) -> Result<usize, BoxError> {
        let mut drivers = JoinSet::new();
        let mut watch = etcd::Watch::open(port, PREFIX, &mut drivers).await?;
        let all = rate * self.measured.as_secs();
        let delivered = collect(all, async || watch.changes().await);
        let writers = async || etcd::Putter::open(port, &mut drivers).await;
        let written = writer::run(writers, &self.numbers, (rate, self.measured), None);
        let (written, delivered) = tokio::try_join!(written, delivered)?;
        add(sums, &written, &delivered)
    }
}

/// When each of so many values came.
async fn collect(all: u64, mut changes: impl AsyncFnMut() -> Result<Vec<u64>, Fault>) -> Result<Moments, BoxError> {
    let mut moments = HashMap::new();
    while (moments.len() as u64) < all {
        let numbers = match tokio::time::timeout(LAST_CHANGES, changes()).await {
            Ok(numbers) => numbers?,
            Err(_) => return Err(format!("only {} of {all} changes were delivered", moments.len()).into()),
        };
        let now = Instant::now();
        for number in numbers {
            if moments.insert(number, now).is_some() {
                return Err(format!("{number} was delivered twice").into());
            }
        }
    }
    Ok(moments)
}

fn add(sums: &mut Sums, written: &Written, delivered: &Moments) -> Result<usize, BoxError> {
    for (number, acknowledged) in &written.acknowledged {
        let delivered = delivered.get(number).ok_or_else(|| format!("{number} was never delivered"))?;
        sums.delivered.record(delivered.saturating_duration_since(*acknowledged));
    }
    written.took.iter().for_each(|took| sums.acknowledged.record(*took));
    written.visible.iter().for_each(|visible| sums.visible.record(*visible));
    Ok(written.acknowledged.len())
}

/// The numbers of the values in a message.
fn numbers_in(message: &[u8]) -> Vec<u64> {
    const VALUE: &[u8] = b"\"value\":";
    let places = message.windows(VALUE.len()).enumerate().filter(|(_, window)| *window == VALUE);
    places.filter_map(|(place, _)| number_in(&message[place + VALUE.len()..])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_values_of_a_message_are_read() {
        let message = br#"data: {"changes":[{"name":"a","version":1,"value":"0000000000000007"},{"name":"b","value":"0000000000000008"}]}"#;
        assert_eq!(numbers_in(message), [7, 8]);
        assert!(numbers_in(b"data: {\"position\":3}").is_empty());
    }
}
