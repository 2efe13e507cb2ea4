//! `writes`: two throw-away servers, all workloads, the report; and the end of both servers, however it went.

use std::path::Path;

use embedded_postgres::{Cluster, StopMode};
use tempfile::TempDir;

use crate::{
    BoxError, etcd,
    machine::Machine,
    ours, plot,
    report::{self, Report, Settings, Versions, tell},
    rounds::Course,
    server::{self, Server},
    settings::{Service, Writes},
    stop::asked_to_stop,
    template::Numbers,
    workload::{Kind, Workload},
};

/// What has been started so far.
#[derive(Debug, Default)]
struct Servers {
    ours: Option<Server>,
    postgres: Option<Cluster>,
    etcd: Option<Server>,
}

/// Measures, reports, and leaves nothing behind.
pub(crate) async fn run(settings: Writes) -> Result<(), BoxError> {
    let directory = TempDir::with_prefix_in("config-api-bench-", &settings.dir).map_err(|error| {
        format!("nothing can be made in {}: {error}; name another by --dir", settings.dir.display())
    })?;
    let mut servers = Servers::default();
    let outcome = tokio::select! {
        outcome = measure(&settings, directory.path(), &mut servers) => outcome,
        signal = asked_to_stop() => Err(signal),
    };
    for server in [servers.ours, servers.etcd].into_iter().flatten() {
        if let Err(error) = server.stop().await {
            tell(&format!("bench: {error}"));
        }
    }
    if let Some(postgres) = servers.postgres {
        postgres.stop(StopMode::Fast).await?;
    }
    directory.close()?;
    let report = outcome?;
    report::print(&report);
    if let Some(file) = &settings.json {
        report::write(&report, file)?;
    }
    if let Some(directory) = &settings.plots {
        plot::write(&report, directory)?;
    }
    Ok(())
}

async fn measure(settings: &Writes, directory: &Path, servers: &mut Servers) -> Result<Report, BoxError> {
    let machine = Machine::look(directory)?;
    let program = ours::program(settings.service.program(), settings.program.as_ref())?;
    let etcd_program = if settings.no_etcd { None } else { etcd::program(settings.etcd.as_ref()) };
    if etcd_program.is_none() && !settings.no_etcd {
        tell(etcd::INSTALL);
    }
    tell("starting…");
    let (ours, postgres) = ours::start(settings.service, &program, directory).await?;
    servers.postgres = postgres;
    let ours = servers.ours.insert(ours);
    let port = ours::ready(ours).await?;
    let etcd = match &etcd_program {
        Some(program) => {
            let (server, port) = etcd::start(program, directory)?;
            let server = servers.etcd.insert(server);
            etcd::ready(server, port).await?;
            Some((&*server, port))
        }
        None => None,
    };
    let (config_api, postgres) = ours::versions(&program, ours).await;
    let etcd_version = match &etcd_program {
        Some(program) => Some(server::version(program).await),
        None => None,
    };
    let mut report = Report::new(
        machine,
        Versions { config_api, postgres, etcd: etcd_version },
        Settings {
            service: settings.service.program(),
            seconds: settings.measured().as_secs(),
            warm_up_seconds: settings.warm_up().as_secs(),
            rounds: settings.rounds.get(),
            etcd_connections: settings.etcd_connections,
        },
    );
    report::print_head(&report);
    let course = Course {
        ours: (ours, port),
        etcd,
        etcd_connections: settings.etcd_connections,
        numbers: Numbers::default(),
        warm_up: settings.warm_up(),
        measured: settings.measured(),
        rounds: settings.rounds.get(),
    };
    let mut workloads = Workload::chosen(&settings.workloads, &settings.clients);
    if settings.service == Service::CommandService {
        workloads.retain(|workload| workload.kind != Kind::CompareAndSet);
    }
    for (index, workload) in workloads.iter().enumerate() {
        tell(&format!("{} of {}: {}…", index + 1, workloads.len(), workload.name));
        report.workloads.push(course.run(workload).await?);
    }
    Ok(report)
}
