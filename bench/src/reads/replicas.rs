//! Many query services on one Postgres: what each costs it, idle and under writes.

use std::{path::Path, time::Duration};

use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{
    log::Log,
    stage::{Programs, Stage},
    writer::{self, Putter},
};
use crate::{BoxError, ours::http::Connection, report::tell, server, template::Numbers};

/// What so many cost.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) replicas: usize,
    pub(crate) writes_per_s: u64,
    /// CPU of Postgres in parts of one, all of its processes.
    pub(crate) postgres_cpu: f64,
    /// What is more than without query services, for each of them.
    pub(crate) postgres_cpu_each: Option<f64>,
    /// CPU of all query services, in parts of one, for each.
    pub(crate) query_cpu_each: Option<f64>,
    /// Its connections, other than the command service's.
    pub(crate) connections: usize,
    /// What its processes have in memory for themselves alone, beyond what it was without query services, for each.
    pub(crate) postgres_bytes_each: Option<f64>,
}

/// What it was without query services.
struct Alone {
    cpu: f64,
    bytes: u64,
    connections: usize,
}

/// Measures Postgres with none, one and all of them, at each rate.
pub(crate) async fn run(
    programs: &Programs,
    directory: &Path,
    log: &Log,
    postgres: u32,
    (replicas, rates, lasts): (usize, &[u64], Duration),
) -> Result<Vec<Measured>, BoxError> {
    let mut stage = Stage::start(programs, directory, &log.url, 0, &[]).await?;
    let (mut all, mut alone, numbers) = (Vec::new(), Vec::new(), Numbers::default());
    for count in [0, 1, replicas] {
        while stage.queries.len() < count {
            stage.add_query(programs, directory, &log.url, &[]).await?;
        }
        for (index, rate) in std::iter::once(&0).chain(rates).enumerate() {
            tell(&format!("{count} query services, {rate} writes/s…"));
            let measured = one(&stage, postgres, &numbers, (*rate, lasts), alone.get(index)).await?;
            if count == 0 {
                let (cpu, connections) = (measured.0.postgres_cpu, measured.0.connections);
                alone.push(Alone { cpu, bytes: measured.1, connections });
            }
            all.push(measured.0);
        }
    }
    stage.stop().await?;
    Ok(all)
}

async fn one(
    stage: &Stage,
    postgres: u32,
    numbers: &Numbers,
    (rate, lasts): (u64, Duration),
    alone: Option<&Alone>,
) -> Result<(Measured, u64), BoxError> {
    let count = stage.queries.len();
    let unknown = "the system does not tell how much CPU time a process used";
    let queries = || -> Result<Duration, BoxError> {
        stage.queries.iter().map(|query| Ok(query.cpu()?.server)).sum::<Result<Duration, BoxError>>()
    };
    let postgres_cpu = || server::cpu_with_children(postgres).ok_or(unknown);
    let (before, queries_before, began) = (postgres_cpu()?, queries()?, Instant::now());
    if rate == 0 {
        sleep(lasts).await;
    } else {
        let writers = async || Ok(Putter(Connection::open(stage.command.port).await?));
        writer::run(writers, numbers, (rate, lasts), None).await?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let cpu = postgres_cpu()?.saturating_sub(before).as_secs_f64() / seconds;
    let query_cpu = queries()?.saturating_sub(queries_before).as_secs_f64() / seconds;
    let (connections, bytes) = server::private_memory_below(postgres);
    let each = |more: f64| (count > 0).then(|| more / count as f64);
    let measured = Measured {
        replicas: count,
        writes_per_s: rate,
        postgres_cpu: cpu,
        postgres_cpu_each: alone.and_then(|alone| each(cpu - alone.cpu)),
        query_cpu_each: each(query_cpu),
        connections: alone.map_or(connections, |alone| connections.saturating_sub(alone.connections)),
        postgres_bytes_each: alone.and_then(|alone| each(bytes.saturating_sub(alone.bytes) as f64)),
    };
    Ok((measured, bytes))
}
