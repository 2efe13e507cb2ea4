//! Settings of the standalone.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use shared::{
    http::healthcheck::HealthcheckArgs,
    settings::{Defaults, LimitArgs, ListenArgs, LogArgs, PasswordArgs, SourceArgs, StartArgs, UsageError, usage},
};

/// Where the standalone serves when nothing else is said: at the old system's port.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:4000";

/// Config API in one process: stores and serves configurations, with its own Postgres or a given one.
#[derive(Debug, Parser)]
#[command(name = "config-api", version)]
pub struct Cli {
    /// What to do; nothing named: serve.
    #[command(subcommand)]
    pub task: Option<Task>,
    /// Use this Postgres instead of an own one; example: postgres://user:password@localhost:5432/config_api
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,
    /// Its password.
    #[command(flatten)]
    pub password: PasswordArgs,
    /// Where the own Postgres keeps its data [default: /var/lib/config-api as root, else
    /// $XDG_DATA_HOME/config-api or ~/.local/share/config-api];
    /// example: ./data
    #[arg(long, env = "DATA_DIR", value_name = "DIRECTORY")]
    pub data_dir: Option<PathBuf>,
    /// Where the own Postgres's programs are [default: searched]; example: /usr/lib/postgresql/15/bin
    #[arg(long, env = "POSTGRES_BIN_DIR", value_name = "DIRECTORY")]
    pub postgres_bin_dir: Option<PathBuf>,
    /// How to begin.
    #[command(flatten)]
    pub start: StartArgs,
    /// Where settings come from.
    #[command(flatten)]
    pub source: SourceArgs,
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

/// Tasks beside serving.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Ask the service that runs with these settings whether it can serve; exit code 0 or 1
    Healthcheck(HealthcheckArgs),
}

/// What this binary adds to the defaults.
#[must_use]
pub fn defaults() -> Defaults {
    let data_dir = embedded_postgres::default_data_dir().display().to_string();
    Defaults { given: vec![("listen", DEFAULT_LISTEN.to_owned())], worked_out: vec![("data_dir", data_dir)] }
}

/// Two settings that say different things.
#[derive(Debug, thiserror::Error)]
#[error(
    "a database URL and a data directory were given, by flag, environment or file; leave one out: the data directory is that of an own Postgres"
)]
struct TwoDatabases;

/// Where the log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// In a Postgres that runs already.
    Given {
        /// Its URL.
        url: String,
    },
    /// In one of our own.
    Own {
        /// Where it keeps its data.
        data_dir: PathBuf,
    },
}

impl Cli {
    /// Which database to use.
    ///
    /// # Errors
    /// When two are named, by whatever source, or the password of one cannot be had.
    pub fn database(&self) -> Result<Database, UsageError> {
        match (&self.database_url, &self.data_dir) {
            (Some(_), Some(_)) => Err(usage(TwoDatabases)),
            (Some(url), None) => Ok(Database::Given { url: self.password.complete(url)? }),
            (None, data_dir) => {
                self.password.refuse()?;
                let data_dir = data_dir.clone().unwrap_or_else(embedded_postgres::default_data_dir);
                Ok(Database::Own { data_dir })
            }
        }
    }
}
