//! `reads`: query services on a throw-away Postgres, all workloads, the report; and the end of all of it, however it went.
//!
//! ```text
//! settings ─► log (Postgres, filled) ─► replay (query service, psql) ───────────────────► report, plot
//!                                └────► stage (command service, query services, etcd)
//!                                         └► requests, delays, watchers, replicas, telemetry
//! ```
//!
//! A workload is a file here, a variant of [`Family`] and a list in the [`Report`].

mod delays;
mod empty;
mod log;
mod plot;
mod replay;
mod replicas;
mod report;
mod requests;
mod stage;
mod telemetry;
mod watchers;
mod writer;

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use embedded_postgres::{Cluster, Options};
use tempfile::TempDir;
use tokio::process::Command;

pub(crate) use self::empty::serve as empty;
use self::{
    log::Log,
    replay::{Course, Shape},
    report::{Report, Versions},
    requests::Asked,
    stage::{Programs, Serving, Stage},
};
use crate::{
    BoxError, etcd,
    machine::Machine,
    ours,
    report::tell,
    server::{self, Server},
    settings::Reads,
    stop::asked_to_stop,
    template::Numbers,
};

/// Names in the log that requests ask for, each written once.
const STORED: u64 = 10_000;

/// Beginning of them all.
const STORED_PREFIX: &str = "team-";

/// Time that a server gets before it is measured.
const WARM_UP: std::time::Duration = std::time::Duration::from_secs(1);

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Family {
    /// From the start of a query service to its readiness, beside `psql` copying the same rows to nowhere
    Replay,
    /// What a query service with a million names keeps, with values of several sizes
    Memory,
    /// GET of one name, beside an empty handler and etcd's ranges; once for each number of --clients
    Get,
    /// A list of 1,000, beside etcd's ranges
    List,
    /// From the acknowledgement of a write until a replica shows it and a watcher has it, beside etcd's watch
    Delays,
    /// What --watchers that wait cost, and a change to all of them
    Watchers,
    /// What --replicas on one Postgres cost it
    Replicas,
    /// What traces cost writes and reads
    Telemetry,
}

impl Family {
    pub(crate) const ALL: [Self; 8] = [
        Self::Replay,
        Self::Memory,
        Self::Get,
        Self::List,
        Self::Delays,
        Self::Watchers,
        Self::Replicas,
        Self::Telemetry,
    ];
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

/// Measures, reports, and leaves nothing behind.
pub(crate) async fn run(settings: Reads) -> Result<(), BoxError> {
    shared::file_limit::raise();
    let directory = TempDir::with_prefix_in("config-api-bench-", &settings.dir).map_err(|error| {
        format!("nothing can be made in {}: {error}; name another by --dir", settings.dir.display())
    })?;
    let mut postgres = Options::throw_away(directory.path().join("postgres"));
    // As a durable one has it; the fill is to be quick, and each query service has some connections.
    let durable =
        [("fsync", "on"), ("full_page_writes", "on"), ("synchronous_commit", "on"), ("shared_buffers", "128MB")];
    let roomy = [("max_wal_size", "4GB"), ("max_connections", "300")];
    let parameters = durable.into_iter().chain(roomy);
    postgres.parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let machine = Machine::look(directory.path())?;
    tell("starting…");
    let cluster = Cluster::start(postgres).await?;
    let outcome = tokio::select! {
        outcome = Bench::of(&settings, machine, directory.path(), &cluster) => outcome,
        signal = asked_to_stop() => Err(signal),
    };
    cluster.remove().await?;
    directory.close()?;
    let report = outcome?;
    report.print();
    if let Some(file) = &settings.json {
        report.write(file)?;
    }
    if let Some(directory) = &settings.plots {
        plot::write(&report, directory)?;
    }
    Ok(())
}

/// What all workloads use.
struct Bench<'a> {
    settings: &'a Reads,
    directory: &'a Path,
    cluster: &'a Cluster,
    psql: PathBuf,
    programs: Programs,
    etcd: Option<PathBuf>,
}

impl<'a> Bench<'a> {
    async fn of(
        settings: &'a Reads,
        machine: Machine,
        directory: &'a Path,
        cluster: &'a Cluster,
    ) -> Result<Report, BoxError> {
        let programs = Programs {
            query_service: ours::program("query-service", settings.query_service.as_ref())?,
            command_service: ours::program("command-service", settings.command_service.as_ref())?,
        };
        let etcd = if settings.no_etcd { None } else { etcd::program(settings.etcd.as_ref()) };
        let etcd_version = match &etcd {
            Some(program) => Some(server::version(program).await),
            None => None,
        };
        let versions = Versions {
            query_service: server::version(&programs.query_service).await,
            postgres: cluster.server_version().to_owned(),
            etcd: etcd_version,
        };
        let mut report = Report::new(machine, versions, settings.rounds.get());
        report.print_head();
        let bench = Self { settings, directory, cluster, psql: log::psql(cluster), programs, etcd };
        bench.replays(&mut report).await?;
        bench.requests(&mut report).await?;
        bench.staged(&mut report).await?;
        Ok(report)
    }

    fn wants(&self, family: Family) -> bool {
        self.settings.workloads.contains(&family)
    }

    async fn log(&self, shape: Shape) -> Result<Log, BoxError> {
        Log::fill(self.cluster, &self.psql, shape).await
    }

    async fn replays(&self, report: &mut Report) -> Result<(), BoxError> {
        let settings = self.settings;
        let course = Course {
            query_service: self.programs.query_service.clone(),
            directory: self.directory.to_owned(),
            rounds: settings.rounds.get(),
        };
        if self.wants(Family::Replay) {
            for names in &settings.names {
                let shape = Shape { events: settings.events, names: *names, value_bytes: settings.value_bytes };
                let log = self.log(shape).await?;
                report.replay.push(course.replay(&log, true).await?);
                log.remove().await?;
            }
        }
        if self.wants(Family::Memory) {
            for value_bytes in &settings.memory_value_bytes {
                let names = settings.memory_names;
                let log = self.log(Shape { events: names, names, value_bytes: *value_bytes }).await?;
                report.memory.push(course.replay(&log, false).await?);
                log.remove().await?;
            }
        }
        Ok(())
    }

    /// An etcd, if there is one.
    async fn etcd(&self) -> Result<Option<(Server, u16)>, BoxError> {
        let Some(program) = &self.etcd else { return Ok(None) };
        let directory = TempDir::with_prefix_in("etcd-", self.directory)?.keep();
        let (mut server, port) = etcd::start(program, &directory)?;
        etcd::ready(&mut server, port).await?;
        Ok(Some((server, port)))
    }

    async fn requests(&self, report: &mut Report) -> Result<(), BoxError> {
        if !self.wants(Family::Get) && !self.wants(Family::List) {
            return Ok(());
        }
        let settings = self.settings;
        let shape = Shape { events: STORED, names: STORED, value_bytes: settings.value_bytes };
        let log = self.log(shape).await?;
        let file = |name: &str| self.directory.join(name);
        let query_service = &self.programs.query_service;
        let ours = Serving::start("query-service", query_service, &log.url, file("query-service.log"), &[]).await?;
        let empty = self.empty(&log, file("empty.log")).await?;
        let etcd = self.etcd().await?;
        if let Some((_, port)) = &etcd {
            etcd::fill(*port, &log.pairs()).await?;
        }
        let course = requests::Course {
            ours: &ours,
            empty: &empty,
            etcd: etcd.as_ref().map(|(server, port)| (server, *port)),
            etcd_connections: settings.etcd_connections,
            name: Log::name(STORED / 2),
            prefix: STORED_PREFIX.to_owned(),
            warm_up: WARM_UP,
            measured: settings.measured(),
            rounds: settings.rounds.get(),
        };
        if self.wants(Family::Get) {
            for clients in &settings.clients {
                report.requests.push(course.run(Asked::Name, usize::from(*clients)).await?);
            }
        }
        if self.wants(Family::List) {
            report.requests.push(course.run(Asked::List, 16).await?);
        }
        for server in [Some(ours.server), Some(empty.server), etcd.map(|(server, _)| server)].into_iter().flatten() {
            server.stop().await?;
        }
        log.remove().await
    }

    /// The empty handler, which answers as many bytes as the value has.
    async fn empty(&self, log: &Log, output: PathBuf) -> Result<Serving, BoxError> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["empty", &(log.shape.value_bytes - 2).to_string()]);
        let mut server = Server::spawn("the empty handler", command, output)?;
        let port = ours::ready(&mut server).await?;
        Ok(Serving { server, port })
    }

    /// Those that write meanwhile, each on a log of its own.
    async fn staged(&self, report: &mut Report) -> Result<(), BoxError> {
        let (settings, rounds) = (self.settings, self.settings.rounds.get());
        let shape = Shape { events: STORED, names: STORED, value_bytes: settings.value_bytes };
        if self.wants(Family::Delays) {
            let log = self.log(shape).await?;
            let stage = Stage::start(&self.programs, self.directory, &log.url, 2, &[]).await?;
            let etcd = self.etcd().await?;
            let course = delays::Course {
                stage: &stage,
                etcd: etcd.as_ref().map(|(_, port)| *port),
                numbers: Numbers::default(),
                measured: settings.measured(),
                rounds,
            };
            for rate in &settings.rates {
                report.delays.push(course.run(*rate).await?);
            }
            if let Some((server, _)) = etcd {
                server.stop().await?;
            }
            stage.stop().await?;
            log.remove().await?;
        }
        if self.wants(Family::Watchers) {
            let log = self.log(shape).await?;
            let stage = Stage::start(&self.programs, self.directory, &log.url, 1, &[]).await?;
            report.watchers.push(watchers::run(&stage, settings.watchers, settings.measured() * 4, rounds).await?);
            stage.stop().await?;
            log.remove().await?;
        }
        if self.wants(Family::Replicas) {
            let log = self.log(shape).await?;
            let how = (usize::from(settings.replicas), &settings.rates[..], settings.measured() * 2);
            report.replicas = replicas::run(&self.programs, self.directory, &log, self.cluster.pid(), how).await?;
            log.remove().await?;
        }
        if self.wants(Family::Telemetry) {
            let log = self.log(shape).await?;
            let how = (WARM_UP, settings.measured(), rounds);
            report.telemetry = telemetry::run(&self.programs, self.directory, &log.url, how).await?;
            log.remove().await?;
        }
        Ok(())
    }
}
