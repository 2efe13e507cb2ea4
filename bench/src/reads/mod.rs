//! `reads`: query services on a throw-away Postgres, all workloads, the report; and the end of all of it, however it went.
//!
//! ```text
//! settings ─► log (Postgres, filled) ─► replay (query service, psql) ─► report
//! ```
//!
//! A workload is a file here, a variant of [`Family`] and a list in the [`Report`].

mod log;
mod replay;
mod report;

use clap::ValueEnum;
use embedded_postgres::{Cluster, Options};
use tempfile::TempDir;

use self::{
    log::Log,
    replay::{Course, Shape},
    report::Report,
};
use crate::{BoxError, machine::Machine, report::tell, server, settings::Reads, stop::asked_to_stop};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Family {
    /// From the start of a query service to its readiness, beside `psql` copying the same rows to nowhere
    Replay,
    /// What a query service with a million names keeps, with values of several sizes
    Memory,
}

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::Replay, Self::Memory];
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

/// Measures, reports, and leaves nothing behind.
pub(crate) async fn run(settings: Reads) -> Result<(), BoxError> {
    let directory = TempDir::with_prefix_in("config-api-bench-", &settings.dir).map_err(|error| {
        format!("nothing can be made in {}: {error}; name another by --dir", settings.dir.display())
    })?;
    let mut postgres = Options::throw_away(directory.path().join("postgres"));
    // As a durable one has it; the fill is to be quick.
    let parameters = [("shared_buffers", "128MB"), ("max_wal_size", "4GB"), ("max_connections", "100")];
    postgres.parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let machine = Machine::look(directory.path())?;
    tell("starting…");
    let cluster = Cluster::start(postgres).await?;
    let outcome = tokio::select! {
        outcome = measure(&settings, machine, directory.path(), &cluster) => outcome,
        signal = asked_to_stop() => Err(signal),
    };
    cluster.remove().await?;
    directory.close()?;
    let report = outcome?;
    report.print();
    if let Some(file) = &settings.json {
        report.write(file)?;
    }
    Ok(())
}

async fn measure(
    settings: &Reads,
    machine: Machine,
    directory: &std::path::Path,
    cluster: &Cluster,
) -> Result<Report, BoxError> {
    let (query_service, psql) = (replay::program(settings.query_service.as_ref())?, log::psql(cluster));
    let version = server::version(&query_service).await;
    let mut report = Report::new(machine, version, cluster.server_version().to_owned(), settings.rounds.get());
    report.print_head();
    let course = Course { query_service, directory: directory.to_owned(), rounds: settings.rounds.get() };
    if settings.workloads.contains(&Family::Replay) {
        for names in &settings.names {
            let shape = Shape { events: settings.events, names: *names, value_bytes: settings.value_bytes };
            let log = Log::fill(cluster, &psql, shape).await?;
            report.replay.push(course.replay(&log, true).await?);
            log.remove().await?;
        }
    }
    if settings.workloads.contains(&Family::Memory) {
        for value_bytes in &settings.memory_value_bytes {
            let shape =
                Shape { events: settings.memory_names, names: settings.memory_names, value_bytes: *value_bytes };
            let log = Log::fill(cluster, &psql, shape).await?;
            report.memory.push(course.replay(&log, false).await?);
            log.remove().await?;
        }
    }
    Ok(report)
}
