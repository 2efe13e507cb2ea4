//! Settings of the standalone.

use std::path::PathBuf;

use clap::Parser;
use shared::settings::{LimitArgs, ListenArgs, LogArgs};

/// Port of the standalone: the old system's.
pub const DEFAULT_PORT: u16 = 4000;

/// Config API in one process: stores and serves configurations, with its own Postgres or a given one.
#[derive(Debug, Parser)]
#[command(name = "config-api", version)]
pub struct Cli {
    /// Use this Postgres instead of an own one; example: postgres://user:password@localhost:5432/config_api
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,
    /// Where the own Postgres keeps its data [default: /var/lib/config-api as root, else ~/.local/share/config-api]
    #[arg(long, env = "DATA_DIR", value_name = "DIRECTORY", conflicts_with = "database_url")]
    pub data_dir: Option<PathBuf>,
    /// Where the own Postgres's programs are [default: searched]; example: /usr/lib/postgresql/15/bin
    #[arg(long, env = "POSTGRES_BIN_DIR", value_name = "DIRECTORY")]
    pub postgres_bin_dir: Option<PathBuf>,
    /// Where to serve.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// What to accept.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// What to tell.
    #[command(flatten)]
    pub log: LogArgs,
}
