//! One workload: both sides in turns, round by round, and the medians of their ratios.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::{
    BoxError, etcd,
    latency::{Latencies, Summary},
    load::{self, Round},
    ours,
    server::{Cpu, Server},
    template::Numbers,
    workload::{Kind, Workload},
};

/// Two servers, and how they are measured.
#[derive(Debug)]
pub(crate) struct Course<'a> {
    pub(crate) ours: (&'a Server, u16),
    pub(crate) etcd: Option<(&'a Server, u16)>,
    pub(crate) etcd_connections: u16,
    pub(crate) numbers: Numbers,
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
    pub(crate) rounds: u32,
}

/// What became of a workload.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) workload: String,
    pub(crate) clients: usize,
    pub(crate) value_bytes: usize,
    pub(crate) events_per_operation: usize,
    /// Nothing when the service does not know the route.
    pub(crate) ours: Option<Side>,
    /// Nothing when there is no etcd.
    pub(crate) etcd: Option<Side>,
    /// Nothing unless both were measured.
    pub(crate) ratio: Option<Ratio>,
}

/// What one side did in all rounds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Side {
    /// Acknowledged operations a second: median, least and most of the rounds.
    pub(crate) operations_per_s: Spread,
    pub(crate) events_per_s: f64,
    /// Of all rounds together.
    pub(crate) latency: Summary,
    /// Attempts that another client came before; compare-and-set only.
    pub(crate) refused: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    /// CPU time for each operation, in microseconds; all rounds together.
    pub(crate) cpu_us: CpuEach,
    pub(crate) rounds: Vec<RoundNumbers>,
}

/// CPU time for each operation, in microseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CpuEach {
    pub(crate) client: f64,
    pub(crate) server: Option<f64>,
    /// Of our Postgres.
    pub(crate) postgres: Option<f64>,
}

/// One side in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RoundNumbers {
    pub(crate) operations_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

/// Ours divided by another's, round by round.
#[derive(Debug, Serialize)]
pub(crate) struct Ratio {
    /// More is better.
    pub(crate) throughput: Spread,
    /// Less is better.
    pub(crate) p50: Spread,
    /// Less is better.
    pub(crate) p99: Spread,
}

/// A median with what it lies between.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Self { median, least, most })
    }
}

impl Course<'_> {
    /// Measures a workload on both sides.
    pub(crate) async fn run(&self, workload: &Workload) -> Result<Measured, BoxError> {
        let there = ours::knows(self.ours.1, workload, &self.numbers).await?;
        let (mut ours, mut etcd) = (Vec::new(), Vec::new());
        for round in 0..self.rounds {
            // Who goes second meets what the first one left to do: so they take turns in that, too.
            for second in [false, true] {
                if second == (round % 2 == 1) {
                    if there {
                        ours.push(self.round_of_ours(workload).await?);
                    }
                } else if let Some(server) = self.etcd {
                    etcd.push(self.round_of_etcd(server, workload).await?);
                }
            }
        }
        Ok(Measured {
            workload: workload.name.clone(),
            clients: workload.clients,
            value_bytes: workload.value_bytes,
            events_per_operation: workload.events(),
            ratio: ratio(&ours, &etcd),
            ours: side(workload.events(), ours),
            etcd: side(workload.events(), etcd),
        })
    }

    async fn round_of_ours(&self, workload: &Workload) -> Result<Round, BoxError> {
        let (server, port) = self.ours;
        if workload.kind == Kind::CompareAndSet {
            ours::reset(port, workload).await?;
        }
        let clients = ours::connect(port, workload, &self.numbers).await?;
        let mut round = load::run(clients, self.warm_up, self.measured, || server.cpu()).await;
        if workload.kind == Kind::CompareAndSet {
            check(&mut round, ours::counter(port, workload).await?);
        }
        Ok(round)
    }

    async fn round_of_etcd(&self, (server, port): (&Server, u16), workload: &Workload) -> Result<Round, BoxError> {
        if workload.kind == Kind::CompareAndSet {
            etcd::reset(port, workload).await?;
        }
        let connected = etcd::connect(port, workload, &self.numbers, self.etcd_connections).await?;
        let mut round = load::run(connected.clients, self.warm_up, self.measured, || server.cpu()).await;
        drop(connected.drivers);
        if workload.kind == Kind::CompareAndSet {
            check(&mut round, etcd::counter(port, workload).await?);
        }
        Ok(round)
    }
}

/// Each acknowledged increment is in the counter, once.
fn check(round: &mut Round, counter: u64) {
    if counter != round.all_operations {
        let error = format!("the counter is {counter} after {} increments", round.all_operations);
        round.errors.insert(error, 1);
    }
}

/// All rounds of a side; nothing when there were none.
pub(crate) fn side(events: usize, rounds: Vec<Round>) -> Option<Side> {
    let operations_per_s = Spread::of(rounds.iter().map(Round::rate).collect())?;
    let (mut latencies, mut errors) = (Latencies::default(), BTreeMap::new());
    let mut all = Round { server_cpu: Some(Cpu::default()), ..Round::default() };
    let numbers = rounds.iter().filter_map(numbers).collect();
    for round in rounds {
        latencies.add(&round.latencies);
        all.operations += round.operations;
        all.refused += round.refused;
        all.client_cpu += round.client_cpu;
        all.server_cpu = all
            .server_cpu
            .zip(round.server_cpu)
            .map(|(all, round)| Cpu { server: all.server + round.server, below: all.below + round.below });
        for (error, times) in round.errors {
            *errors.entry(error).or_default() += times;
        }
    }
    Some(Side {
        operations_per_s,
        events_per_s: operations_per_s.median * events as f64,
        latency: latencies.summary().unwrap_or_default(),
        refused: all.refused,
        errors,
        cpu_us: CpuEach {
            client: all.micros_each(all.client_cpu),
            server: all.server_cpu.map(|cpu| all.micros_each(cpu.server)),
            postgres: all.server_cpu.map(|cpu| all.micros_each(cpu.below)).filter(|micros| *micros > 0.0),
        },
        rounds: numbers,
    })
}

fn numbers(round: &Round) -> Option<RoundNumbers> {
    let latency = round.latencies.summary()?;
    let Summary { p50_us, p99_us, max_us, .. } = latency;
    Some(RoundNumbers { operations_per_s: round.rate(), p50_us, p99_us, max_us })
}

/// Ours by another's; nothing unless both have all rounds.
pub(crate) fn ratio(ours: &[Round], etcd: &[Round]) -> Option<Ratio> {
    let pairs: Option<Vec<_>> = ours.iter().zip(etcd).map(|(ours, etcd)| numbers(ours).zip(numbers(etcd))).collect();
    let pairs = pairs?;
    let of = |number: fn(&RoundNumbers) -> f64| {
        Spread::of(pairs.iter().map(|(ours, etcd)| number(ours) / number(etcd)).collect())
    };
    Some(Ratio {
        throughput: of(|round| round.operations_per_s)?,
        p50: of(|round| round.p50_us)?,
        p99: of(|round| round.p99_us)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_one_or_between_two() {
        assert_eq!(Spread::of(Vec::new()), None);
        assert_eq!(Spread::of(vec![3.0, 1.0, 9.0]), Some(Spread { median: 3.0, least: 1.0, most: 9.0 }));
        assert_eq!(Spread::of(vec![1.0, 2.0]).unwrap().median, 1.5);
    }

    #[test]
    fn ratios_are_those_of_the_rounds_that_belong_together() {
        let round = |operations: u64, micros| {
            let mut latencies = Latencies::default();
            latencies.record(Duration::from_micros(micros));
            Round { elapsed: Duration::from_secs(1), operations, latencies, ..Round::default() }
        };
        let ratio = ratio(&[round(200, 10), round(300, 10)], &[round(100, 20), round(300, 20)]).unwrap();
        assert_eq!((ratio.throughput.least, ratio.throughput.most), (1.0, 2.0));
        assert!((ratio.p99.median - 0.5).abs() < 0.01, "{ratio:?}");
        assert!(super::ratio(&[round(1, 1)], &[]).is_none());
    }
}
