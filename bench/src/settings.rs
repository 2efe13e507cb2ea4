//! What to run, for how long, and where.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{reads, workload::Family};

/// Config API beside etcd, on one machine, in one run.
#[derive(Debug, Parser)]
#[command(name = "bench", version, flatten_help = true)]
pub(crate) struct Cli {
    /// What to measure.
    #[command(subcommand)]
    pub(crate) task: Task,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Durable writes: a throw-away Config API and, when it is installed, a throw-away etcd, in turns.
    Writes(Writes),
    /// Reads: query services on a throw-away Postgres, beside psql, an empty handler and, when it is installed, etcd.
    Reads(Reads),
    /// The empty handler that `reads` starts beside a query service.
    #[command(hide = true)]
    Empty {
        /// Length of its answer's body.
        body_bytes: usize,
    },
}

/// What of ours is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Service {
    /// Everything in one process, which answers a write when the next read shows it
    ConfigApi,
    /// A command service over a Postgres beside it, as deployments write; it reads nothing, so `cas` is left out
    CommandService,
}

impl Service {
    /// The name of its program.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::ConfigApi => "config-api",
            Self::CommandService => "command-service",
        }
    }
}

/// Settings of `writes`.
#[derive(Args, Debug)]
pub(crate) struct Writes {
    /// What to run, comma-separated
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Family::ALL)]
    pub(crate) workloads: Vec<Family>,

    /// Numbers of clients that `put` is run with, comma-separated
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256], value_parser = clap::value_parser!(u16).range(1..=2000))]
    pub(crate) clients: Vec<u16>,

    /// How long one side is measured in one round
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,

    /// How long it runs before that, unmeasured, in each round; in seconds
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u64).range(0..=3600))]
    warm_up: u64,

    /// How often both sides are measured, in turns
    #[arg(long, default_value = "5")]
    pub(crate) rounds: NonZeroU32,

    /// Most HTTP/2 connections to etcd, which the clients share evenly; 0: one for each client
    #[arg(long, default_value_t = crate::etcd::BEST_CONNECTIONS, value_name = "CONNECTIONS")]
    pub(crate) etcd_connections: u16,

    /// Write every number to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Write plots (SVG) into this directory
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) plots: Option<PathBuf>,

    /// Where both keep their data, in a new directory that is removed at the end: on a disk, not in memory
    #[arg(long, default_value = "/var/tmp", value_name = "DIRECTORY")]
    pub(crate) dir: PathBuf,

    /// What of ours is measured
    #[arg(long, value_enum, default_value_t = Service::ConfigApi)]
    pub(crate) service: Service,

    /// Its program [default: the one beside this program]
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) program: Option<PathBuf>,

    /// The etcd to compare with [default: the one in PATH, if any]
    #[arg(long, env = "ETCD_BIN", value_name = "PROGRAM")]
    pub(crate) etcd: Option<PathBuf>,

    /// Measure Config API alone
    #[arg(long, conflicts_with = "etcd")]
    pub(crate) no_etcd: bool,
}

impl Writes {
    /// How long one side is measured in one round.
    pub(crate) fn measured(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// How long it runs before that.
    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_secs(self.warm_up)
    }
}

/// Settings of `reads`.
#[derive(Args, Debug)]
pub(crate) struct Reads {
    /// What to run, comma-separated
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = reads::Family::ALL)]
    pub(crate) workloads: Vec<reads::Family>,

    /// Events of the log that `replay` reads
    #[arg(long, default_value = "2000000", value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    pub(crate) events: u64,

    /// How many names they are of, comma-separated: a log for each
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 1_000_000], value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) names: Vec<u64>,

    /// Bytes of their values
    #[arg(long, default_value = "64", value_parser = clap::value_parser!(u64).range(16..=1_000_000))]
    pub(crate) value_bytes: u64,

    /// Names of the log that `memory` reads, each written once
    #[arg(long, default_value = "1000000", value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    pub(crate) memory_names: u64,

    /// Bytes of their values, comma-separated: a log for each
    #[arg(long, value_delimiter = ',', default_values_t = [16, 64, 256, 1024], value_parser = clap::value_parser!(u64).range(16..=1_000_000))]
    pub(crate) memory_value_bytes: Vec<u64>,

    /// Numbers of clients that `get` is run with, comma-separated
    #[arg(long, value_delimiter = ',', default_values_t = [64, 256], value_parser = clap::value_parser!(u16).range(1..=2000))]
    pub(crate) clients: Vec<u16>,

    /// Writes a second while `delays` and `replicas` look, comma-separated
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000], value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) rates: Vec<u64>,

    /// How many `watchers` wait; each is an open file of this program and of the service
    #[arg(long, default_value = "10000", value_parser = clap::value_parser!(u64).range(1..=20_000))]
    pub(crate) watchers: u64,

    /// How many query services `replicas` puts on one Postgres
    #[arg(long, default_value = "20", value_parser = clap::value_parser!(u16).range(2..=100))]
    pub(crate) replicas: u16,

    /// How long one side is measured in one round, where that is a matter of time
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,

    /// How often each side is measured, in turns
    #[arg(long, default_value = "5")]
    pub(crate) rounds: NonZeroU32,

    /// Most HTTP/2 connections to etcd, which the clients share evenly; 0: one for each client
    #[arg(long, default_value_t = 0, value_name = "CONNECTIONS")]
    pub(crate) etcd_connections: u16,

    /// Write every number to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Write plots (SVG) into this directory
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) plots: Option<PathBuf>,

    /// Where Postgres and etcd keep their data, in a new directory that is removed at the end: on a disk, not in memory
    #[arg(long, default_value = "/var/tmp", value_name = "DIRECTORY")]
    pub(crate) dir: PathBuf,

    /// The query-service to measure [default: the one beside this program]
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) query_service: Option<PathBuf>,

    /// The command-service that writes meanwhile [default: the one beside this program]
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) command_service: Option<PathBuf>,

    /// The etcd to compare with [default: the one in PATH, if any]
    #[arg(long, env = "ETCD_BIN", value_name = "PROGRAM")]
    pub(crate) etcd: Option<PathBuf>,

    /// Measure Config API without etcd
    #[arg(long, conflicts_with = "etcd")]
    pub(crate) no_etcd: bool,
}

impl Reads {
    /// How long one side is measured in one round.
    pub(crate) fn measured(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_settings_are_consistent_and_their_help_names_every_workload() {
        Cli::command().debug_assert();
        let help = Cli::command().render_help().to_string();
        for family in Family::ALL {
            let name = ValueEnum::to_possible_value(&family).unwrap();
            assert!(help.contains(name.get_name()), "{help}");
        }
    }
}
