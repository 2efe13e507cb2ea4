//! What a workload plays on: a log in a database of its own, a command service, and query services that follow it.

use std::path::{Path, PathBuf};

use crate::{
    BoxError, ours,
    server::{Cpu, Server},
};

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) command_service: PathBuf,
    pub(crate) query_service: PathBuf,
}

/// A service that answers.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) server: Server,
    pub(crate) port: u16,
}

impl Serving {
    /// Starts one on a database; returns when it is ready.
    pub(crate) async fn start(
        name: &'static str,
        program: &Path,
        url: &str,
        log: PathBuf,
        environment: &[(&str, &str)],
    ) -> Result<Self, BoxError> {
        let mut command = ours::clean(program);
        command.args(["--listen", "127.0.0.1:0"]).env("DATABASE_URL", url).envs(environment.iter().copied());
        let mut server = Server::spawn(name, command, log)?;
        let port = ours::ready(&mut server).await?;
        Ok(Self { server, port })
    }

    /// CPU time of its process so far.
    pub(crate) fn cpu(&self) -> Result<Cpu, BoxError> {
        self.server.cpu().ok_or_else(|| "the system does not tell how much CPU time a process used".into())
    }
}

/// Services on one log.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) command: Serving,
    pub(crate) queries: Vec<Serving>,
}

impl Stage {
    /// Starts a command service and so many query services.
    pub(crate) async fn start(
        programs: &Programs,
        directory: &Path,
        url: &str,
        queries: usize,
        environment: &[(&str, &str)],
    ) -> Result<Self, BoxError> {
        let log = directory.join("command-service.log");
        let command = Serving::start("command-service", &programs.command_service, url, log, environment).await?;
        let mut stage = Self { command, queries: Vec::new() };
        for _ in 0..queries {
            stage.add_query(programs, directory, url, environment).await?;
        }
        Ok(stage)
    }

    /// One query service more.
    pub(crate) async fn add_query(
        &mut self,
        programs: &Programs,
        directory: &Path,
        url: &str,
        environment: &[(&str, &str)],
    ) -> Result<(), BoxError> {
        let log = directory.join(format!("query-service-{}.log", self.queries.len()));
        self.queries.push(Serving::start("query-service", &programs.query_service, url, log, environment).await?);
        Ok(())
    }

    /// Stops all of them.
    pub(crate) async fn stop(self) -> Result<(), BoxError> {
        for query in self.queries {
            query.server.stop().await?;
        }
        self.command.server.stop().await
    }
}
