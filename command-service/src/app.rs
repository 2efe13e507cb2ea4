//! The app: its parts put together.

use std::{sync::Arc, time::Duration};

use cqrs_es::CqrsFramework;
use shared::{
    backoff::Backoff,
    database::{self, Meaning, meaning},
    http::health::{Check, DatabaseCheck, EventStoreCheck, Health},
    schema::{self, SchemaError},
    service::{ServeError, Service},
    tasks::CriticalTasks,
    telemetry::Chain,
};
use sqlx::{Connection, PgConnection};
use tokio::{net::TcpListener, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    command::CommandBus,
    config::Config,
    http::router::{self, WriteState},
    store::{Committer, CommitterOptions, ConfigEventStore},
    update_worker::{UpdateNotifier, UpdateWorker},
};

/// Connections for loading aggregates; the committer has one of its own.
const POOL_CONNECTIONS: u32 = 8;

/// Why the app could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// It never came up.
    #[error("the database did not answer within {} s; check DATABASE_URL, and that Postgres runs", .waited.as_secs())]
    Database {
        /// How long it was waited for.
        waited: Duration,
        /// The last attempt's failure.
        source: sqlx::Error,
    },
    /// It is not at our version, or refuses us.
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

/// The command service, ready to serve.
#[derive(Debug)]
pub struct App {
    service: Service,
}

impl App {
    /// Waits for the database, checks its schema, and puts the parts together.
    ///
    /// # Errors
    /// When the database does not come up in time, or is not at this release's version.
    pub async fn build(config: Config) -> Result<Self, BuildError> {
        wait_for_schema(&config).await?;
        let pool = database::pool(config.database.clone(), POOL_CONNECTIONS);
        let tracked = TaskTracker::new();
        let mut tasks = CriticalTasks::default();

        let (worker, worker_handle) = UpdateWorker::new(config.redaction.clone(), config.clock);
        tasks.spawn("update worker", |stop| worker.run(stop));
        let (committer, committer_handle) = Committer::new(config.database.clone(), CommitterOptions::default());
        tasks.spawn("committer", |stop| committer.run(stop));

        let store = ConfigEventStore::new(pool.clone(), committer_handle, tracked.clone());
        let notifier = UpdateNotifier::new(worker_handle.clone());
        let framework = CqrsFramework::new(store, vec![Box::new(notifier)], ());
        let bus = CommandBus::new(framework, tracked.clone(), config.ids);

        let checks: Vec<Arc<dyn Check>> = vec![
            Arc::new(EventStoreCheck { pool: pool.clone(), needed_to_serve: true }),
            Arc::new(DatabaseCheck { pool: pool.clone(), needed_to_serve: true }),
        ];
        let state = WriteState::new(bus, worker_handle, &config);
        let health = Health::new(checks, config.clock);
        Ok(Self {
            service: Service {
                routes: router::routes(state),
                health,
                tasks,
                tracked: vec![tracked],
                pools: vec![pool],
            },
        })
    }

    /// What is served; the standalone merges it with the query service's.
    #[must_use]
    pub fn into_service(self) -> Service {
        self.service
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// When a task that must not die did.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
        self.service.serve(listener, shutdown).await
    }
}

/// A database that is not up yet is waited for; one that refuses us is not.
async fn wait_for_schema(config: &Config) -> Result<(), BuildError> {
    let until = Instant::now() + config.database_wait;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let mut told = false;
    loop {
        let checked = async {
            let mut connection = PgConnection::connect_with(&config.database).await?;
            schema::check(&mut connection).await
        };
        let error = match checked.await {
            Ok(()) => return Ok(()),
            Err(SchemaError::Database(error)) if meaning(&error) == Meaning::ConnectionLost => error,
            Err(refused) => return Err(refused.into()),
        };
        if Instant::now() >= until {
            return Err(BuildError::Database { waited: config.database_wait, source: error });
        }
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(error = %Chain(&error), limit_s = config.database_wait.as_secs(), "Waiting for the database");
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}
