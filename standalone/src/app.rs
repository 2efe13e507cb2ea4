//! Both apps over one database, merged into one service.

use std::time::Duration;

use query_service::Listening;
use shared::{
    BoxError, database,
    http::health::Health,
    metrics::Metrics,
    redaction::Redaction,
    schema,
    service::{ServeError, Service},
    settings::{DEFAULT_KEY_LIFETIME, usage},
    value::DEFAULT_MAX_VALUE_BYTES,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What the standalone is built from.
#[derive(Clone, Debug)]
pub struct Config {
    /// URL of the database; migrated at start.
    pub database_url: String,
    /// Whether nobody else is expected to append to its log. Should somebody do so all the same, it is read by the next poll.
    pub sole_writer: bool,
    /// How long to wait for it at start.
    pub database_wait: Duration,
    /// Largest value, in bytes of its JSON text.
    pub max_value_bytes: usize,
    /// How long answers are kept under their idempotency keys.
    pub key_lifetime: Duration,
    /// Whose values stay out of the log.
    pub redaction: Redaction,
}

impl Config {
    /// The defaults, over this database.
    #[must_use]
    pub fn new(database_url: String) -> Self {
        Self {
            database_url,
            sole_writer: false,
            database_wait: database::STARTUP_WAIT,
            max_value_bytes: DEFAULT_MAX_VALUE_BYTES,
            key_lifetime: DEFAULT_KEY_LIFETIME,
            redaction: Redaction::by_default(),
        }
    }
}

/// The standalone, ready to serve.
#[derive(Debug)]
pub struct App {
    service: Service,
}

impl App {
    /// Migrates the database and builds both services over it.
    ///
    /// # Errors
    /// When the database is out of reach, or its schema cannot be brought to this release's version.
    pub async fn build(config: Config) -> Result<Self, BoxError> {
        let migrating = database::connect_options(&config.database_url, "config-api migrate").map_err(usage)?;
        schema::migrate_at(&migrating, false, config.database_wait).await?;
        let database = |application| database::connect_options(&config.database_url, application);
        let metrics = Metrics::of("config-api");
        let query = query_service::App::build(query_service::Config {
            listening: if config.sole_writer { Listening::NotNeeded } else { Listening::On },
            redaction: config.redaction.clone(),
            metrics: metrics.clone(),
            ..query_service::Config::new(database("config-api query")?)
        })
        .await?;
        let command = command_service::App::build(command_service::Config {
            database_wait: config.database_wait,
            max_value_bytes: config.max_value_bytes,
            key_lifetime: config.key_lifetime,
            redaction: config.redaction.clone(),
            metrics,
            // What a write has done, the next read shows: the old system's promise.
            visible_in: Some(query.applied()),
            hands_to: Some(query.handover()),
            ..command_service::Config::new(database("config-api command")?)
        })
        .await?;
        Ok(Self { service: command.into_service().merge("query service", query.into_service()) })
    }

    /// Whether it answers requests yet: the replay takes its time.
    #[must_use]
    pub fn health(&self) -> Health {
        self.service.health.clone()
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// When a task that must not die did.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
        self.service.serve(listener, shutdown).await
    }
}
