//! Settings of the command service.

use std::{net::SocketAddr, time::Duration};

use clap::{Args, Parser, Subcommand};
use shared::{
    clock::Clock,
    database,
    handover::Giver,
    http::healthcheck::HealthcheckArgs,
    ids::Ids,
    metrics::Metrics,
    position::Applied,
    redaction::Redaction,
    settings::{
        DEFAULT_KEY_LIFETIME, LimitArgs, ListenArgs, LogArgs, PasswordArgs, SourceArgs, StartArgs, UsageError, usage,
    },
    value::DEFAULT_MAX_VALUE_BYTES,
};
use sqlx::postgres::PgConnectOptions;

/// Where the command service serves when nothing else is said.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:4001";

/// How long a write waits for the projection that it is to be visible in.
pub const VISIBILITY_WAIT: Duration = Duration::from_secs(2);

/// Takes changes of configurations and appends them to the event log.
#[derive(Debug, Parser)]
#[command(name = "command-service", version)]
pub struct Cli {
    /// What to do; nothing named: serve.
    #[command(subcommand)]
    pub task: Option<Task>,
    /// Where settings come from.
    #[command(flatten)]
    pub source: SourceArgs,
    /// How to serve.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// Tasks beside serving.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Bring the database's schema to this release's version, and grant what the group roles need
    Migrate {
        /// Database to migrate, as a role that owns it [default: the database URL];
        /// example: postgres://owner:password@localhost:5432/config_api
        #[arg(long, env = "MIGRATE_DATABASE_URL", hide_env_values = true, value_name = "URL")]
        migrate_database_url: Option<String>,
        /// Create the cluster's group roles config_api_writer and config_api_reader first
        #[arg(long)]
        create_roles: bool,
    },
    /// Ask the service that runs with these settings whether it can serve; exit code 0 or 1
    Healthcheck(HealthcheckArgs),
}

/// Settings of serving.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// The event log's database; example: postgres://user:password@localhost:5432/config_api
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL", global = true)]
    pub database_url: Option<String>,
    /// Its password.
    #[command(flatten)]
    pub password: PasswordArgs,
    /// How to begin.
    #[command(flatten)]
    pub start: StartArgs,
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

impl ServeArgs {
    /// The database's URL, with its password; `another` than that of serving if there is one.
    ///
    /// # Errors
    /// When there is none, or its password cannot be had.
    pub fn url(&self, another: Option<&str>) -> Result<String, UsageError> {
        let url = another.or(self.database_url.as_deref()).ok_or_else(|| usage(database::NoDatabase))?;
        self.password.complete(url)
    }
}

/// What the app is built from.
#[derive(Clone, Debug)]
pub struct Config {
    /// The event log's database.
    pub database: PgConnectOptions,
    /// How long to wait for it at start.
    pub database_wait: Duration,
    /// Largest value, in bytes of its JSON text.
    pub max_value_bytes: usize,
    /// How long answers are kept under their idempotency keys.
    pub key_lifetime: Duration,
    /// Whose values stay out of the log.
    pub redaction: Redaction,
    /// Follows the projection in which a write is to be visible before it is answered: the standalone's own.
    pub visible_in: Option<Applied>,
    /// That projection's tail, to which what was appended is handed.
    pub hands_to: Option<Giver>,
    /// The time.
    pub clock: Clock,
    /// Identities.
    pub ids: Ids,
    /// Where it registers what it tells of itself; of one service of its kind.
    pub metrics: Metrics,
}

impl Config {
    /// From parsed settings; also the address to serve on.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub fn from_args(args: &ServeArgs) -> Result<(Self, SocketAddr), UsageError> {
        let url = args.url(None)?;
        let config = Self {
            database_wait: args.start.database_wait(),
            max_value_bytes: args.limits.max_value_bytes,
            key_lifetime: args.limits.key_lifetime(),
            redaction: args.log.redaction().map_err(usage)?,
            ..Self::new(database::connect_options(&url, "command-service").map_err(usage)?)
        };
        Ok((config, args.listen.address().map_err(usage)?))
    }

    /// The defaults, over this log.
    #[must_use]
    pub fn new(database: PgConnectOptions) -> Self {
        Self {
            database,
            database_wait: database::STARTUP_WAIT,
            max_value_bytes: DEFAULT_MAX_VALUE_BYTES,
            key_lifetime: DEFAULT_KEY_LIFETIME,
            redaction: Redaction::by_default(),
            visible_in: None,
            hands_to: None,
            clock: Clock::system(),
            ids: Ids::time_ordered(),
            metrics: Metrics::of("command-service"),
        }
    }
}
