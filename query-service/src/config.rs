//! What the service is told: flags and environment, and what becomes of them.

use std::time::Duration;

use clap::{Parser, Subcommand, builder::BoolishValueParser};
use shared::{
    clock::Clock,
    database,
    http::healthcheck::HealthcheckArgs,
    metrics::Metrics,
    redaction::Redaction,
    settings::{ListenArgs, LogArgs, PasswordArgs, SourceArgs, UsageError, usage},
};
use sqlx::postgres::PgConnectOptions;

/// Where the query service serves when nothing else is said.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:4002";

/// How often the log is read when nothing hints at news, in milliseconds.
pub const DEFAULT_POLL_INTERVAL_MS: u64 = 500;

/// Longest that a read waits for the position that it asks for.
pub const DEFAULT_MIN_POSITION_WAIT: Duration = Duration::from_secs(2);

/// Most watchers and long polls of a process, both together.
pub const MAX_WATCHERS: usize = 20_000;

/// Messages that are remembered for watchers that come back or fell behind, in bytes; 32 MiB.
pub const RING_BYTES: usize = 32 * 1024 * 1024;

/// How often a watcher that nothing is sent to is told how far it is; a quarter more or less, so that not all are at once.
/// Shorter than proxies' idle limits, which are a minute mostly.
pub const BOOKMARK_INTERVAL: Duration = Duration::from_secs(15);

/// `application_name` of the service's sessions, as `pg_stat_activity` shows it.
const APPLICATION: &str = "query-service";

/// Serves the configurations that the event log holds, and their history.
#[derive(Clone, Debug, Parser)]
#[command(name = "query-service", version)]
pub struct Args {
    /// What to do; nothing named: serve.
    #[command(subcommand)]
    pub task: Option<Task>,

    /// Where settings come from.
    #[command(flatten)]
    pub source: SourceArgs,

    /// Where to serve.
    #[command(flatten)]
    pub listen: ListenArgs,

    /// What to tell.
    #[command(flatten)]
    pub log: LogArgs,

    /// The event log; example: postgres://user:password@host:5432/config_api
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,

    /// Its password.
    #[command(flatten)]
    pub password: PasswordArgs,

    /// How often the log is read when nothing hints at news, in milliseconds, 10 to 1000; example: 100
    #[arg(long, env = "POLL_INTERVAL_MS", default_value_t = DEFAULT_POLL_INTERVAL_MS, value_name = "MILLISECONDS",
          value_parser = clap::value_parser!(u64).range(10..=1000))]
    pub poll_interval_ms: u64,

    /// Only poll, where notifications are not delivered: behind a transaction pooler; example: true
    #[arg(long, env = "NO_LISTEN", value_parser = BoolishValueParser::new())]
    pub no_listen: bool,
}

/// Tasks beside serving.
#[derive(Clone, Debug, Subcommand)]
pub enum Task {
    /// Ask the service that runs with these settings whether it can serve; exit code 0 or 1
    Healthcheck(HealthcheckArgs),
}

impl Args {
    /// The settings of the service itself.
    ///
    /// # Errors
    /// The first that cannot be understood.
    pub fn config(&self) -> Result<Config, UsageError> {
        let url = self.database_url.as_deref().ok_or_else(|| usage(database::NoDatabase))?;
        let url = self.password.complete(url)?;
        let mut config = Config::new(database::connect_options(&url, APPLICATION).map_err(usage)?);
        config.poll_interval = Duration::from_millis(self.poll_interval_ms);
        config.listening = if self.no_listen { Listening::Off } else { Listening::On };
        config.redaction = self.log.redaction().map_err(usage)?;
        Ok(config)
    }
}

/// The limits of watching.
#[derive(Clone, Copy, Debug)]
pub struct Watching {
    /// Most watchers and long polls, both together.
    pub watchers: usize,
    /// Messages that are remembered, in bytes.
    pub ring_bytes: usize,
    /// How often a watcher that nothing is sent to is told how far it is.
    pub bookmark_interval: Duration,
}

impl Default for Watching {
    fn default() -> Self {
        Self { watchers: MAX_WATCHERS, ring_bytes: RING_BYTES, bookmark_interval: BOOKMARK_INTERVAL }
    }
}

/// Whether the tail asks Postgres to be told of appends. It polls in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listening {
    /// It does. A standby refuses it, which is noticed.
    On,
    /// Not where it is silently useless: behind a transaction pooler.
    Off,
    /// Not where only this process is expected to append, and hands over what it does: it would be woken for what it knows.
    NotNeeded,
}

/// What the service needs to be built.
#[derive(Clone, Debug)]
pub struct Config {
    /// The event log.
    pub database: PgConnectOptions,
    /// How often the log is read when nothing hints at news: 10 ms to 1 s, so that a dead link is noticed within 5 s.
    pub poll_interval: Duration,
    /// Whether to `LISTEN`.
    pub listening: Listening,
    /// Longest that a read waits for the position that it asks for.
    pub min_position_wait: Duration,
    /// Watchers and long polls.
    pub watching: Watching,
    /// Whose values stay out of the log.
    pub redaction: Redaction,
    /// The time.
    pub clock: Clock,
    /// Where it registers what it tells of itself; of one service of its kind.
    pub metrics: Metrics,
}

impl Config {
    /// The defaults, over this log.
    #[must_use]
    pub fn new(database: PgConnectOptions) -> Self {
        Self {
            database,
            poll_interval: Duration::from_millis(DEFAULT_POLL_INTERVAL_MS),
            listening: Listening::On,
            min_position_wait: DEFAULT_MIN_POSITION_WAIT,
            watching: Watching::default(),
            redaction: Redaction::by_default(),
            clock: Clock::system(),
            metrics: Metrics::of("query-service"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Result<Args, clap::Error> {
        let args = ["query-service", "--listen", DEFAULT_LISTEN, "--database-url", "postgres://localhost/x"];
        Args::try_parse_from(args.iter().chain(more))
    }

    #[test]
    fn the_defaults_are_those_of_a_config_without_flags() {
        let (args, plain) = (parse(&[]).unwrap().config().unwrap(), Config::new(PgConnectOptions::new()));
        assert_eq!(args.poll_interval, plain.poll_interval);
        assert_eq!(args.listening, plain.listening);
        assert_eq!(args.min_position_wait, Duration::from_secs(2));
    }

    #[test]
    fn a_poll_interval_that_would_hide_a_dead_link_is_refused() {
        assert!(parse(&["--poll-interval-ms", "5000"]).is_err());
        assert!(parse(&["--poll-interval-ms", "0"]).is_err());
        assert_eq!(parse(&["--poll-interval-ms", "50"]).unwrap().config().unwrap().poll_interval.as_millis(), 50);
    }
}
