//! The app: its parts put together.

use std::sync::Arc;

use shared::{
    database::{self, Access},
    http::health::{Check, DatabaseCheck, EventStoreCheck, Health},
    schema::{self, SchemaError},
    service::{ServeError, Service},
    tasks::CriticalTasks,
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    command::CommandBus,
    config::Config,
    http::router::{self, WriteState},
    store::{self, Committer, CommitterOptions, ConfigEventStore, Loader},
    update_worker::{UpdateNotifier, UpdateWorker},
};

/// Connections for what was, for answers that are told again, and for expired keys. The committer and the loader have their
/// own.
const POOL_CONNECTIONS: u32 = 4;

/// Connections for health, which must not queue behind loads, nor be choosy about its server.
const HEALTH_CONNECTIONS: u32 = 1;

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
    pub async fn build(config: Config) -> Result<Self, SchemaError> {
        schema::check_at(&config.database, Access::Append, config.database_wait).await?;
        let health_pool = database::pool(config.database.clone(), HEALTH_CONNECTIONS);
        let tracked = TaskTracker::new();
        let mut tasks = CriticalTasks::default();

        let (worker, worker_handle) = UpdateWorker::new(config.redaction.clone(), config.clock);
        tasks.spawn("update worker", |stop| worker.run(stop));
        let (committer, committer_handle) = Committer::new(
            config.database.clone(),
            CommitterOptions { key_lifetime: config.key_lifetime, ..CommitterOptions::default() },
        );
        tasks.spawn("committer", |stop| committer.run(stop));

        let (loader, loader_handle) = Loader::new(config.database.clone());
        for lane in loader.lanes() {
            tasks.spawn("loader", |stop| lane.run(stop));
        }
        let pool = database::pool(config.database.clone(), POOL_CONNECTIONS);
        let keys = pool.clone();
        tasks.spawn("idempotency keys", |stop| store::sweep(keys, stop));

        let store = ConfigEventStore::new(loader_handle, committer_handle, pool.clone());
        let notifier = UpdateNotifier::new(worker_handle.clone());
        let bus = CommandBus::new(store, notifier, tracked.clone(), config.ids);

        let checks: Vec<Arc<dyn Check>> = vec![
            Arc::new(EventStoreCheck { pool: health_pool.clone(), access: Access::Append }),
            Arc::new(DatabaseCheck { pool: health_pool.clone(), needed_to_serve: true }),
        ];
        let state = WriteState::new(bus, worker_handle, &config);
        let health = Health::new(checks, config.clock);
        Ok(Self {
            service: Service {
                routes: router::routes(state),
                health,
                tasks,
                tracked: vec![tracked],
                pools: vec![pool, health_pool],
                farewells: vec![],
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
