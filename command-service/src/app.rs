//! The app: its parts put together.

use std::sync::Arc;

use shared::{
    database::{self, Access},
    http::health::{Check, DatabaseCheck, EventStoreCheck, Health},
    metrics::{Metrics, float},
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
    metrics::{self, AppendMetrics, LoadMetrics, WriteMetrics},
    store::{self, AppendCheck, Committer, CommitterHandle, CommitterOptions, ConfigEventStore, Loader},
    update_worker::{self, UpdateNotifier, UpdateWorker, WorkerCheck},
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
        let metrics = WriteMetrics::new(&config.metrics);
        let (committer, committer_handle) = Committer::new(
            config.database.clone(),
            CommitterOptions { key_lifetime: config.key_lifetime, ..CommitterOptions::default() },
            AppendMetrics::new(&config.metrics),
            config.hands_to.clone(),
        );
        tasks.spawn("committer", |stop| committer.run(stop));

        let (loader, loader_handle) = Loader::new(config.database.clone(), LoadMetrics::new(&config.metrics));
        for lane in loader.lanes() {
            tasks.spawn("loader", |stop| lane.run(stop));
        }
        let pool = database::pool(config.database.clone(), POOL_CONNECTIONS);
        let keys = pool.clone();
        tasks.spawn("idempotency keys", |stop| store::sweep(keys, stop));

        for (name, pool) in [("writes", &pool), ("command-health", &health_pool)] {
            config.metrics.event_store().pool(name, pool);
        }
        tell(&config.metrics, &committer_handle, &worker_handle);
        let store = ConfigEventStore::new(loader_handle, committer_handle.clone(), pool.clone(), metrics.cache.clone());
        let notifier = UpdateNotifier::new(worker_handle.clone());
        let bus = CommandBus::new(store, notifier, tracked.clone(), config.ids, metrics.clone());

        let checks: Vec<Arc<dyn Check>> = vec![
            Arc::new(AppendCheck {
                log: EventStoreCheck { pool: health_pool.clone(), access: Access::Append },
                committer: committer_handle.clone(),
            }),
            Arc::new(DatabaseCheck { pool: health_pool.clone(), needed_to_serve: true }),
            Arc::new(WorkerCheck(worker_handle.clone())),
        ];
        let state = WriteState::new(bus, worker_handle, &config, metrics.turned_away);
        let health = Health::new(checks, config.clock);
        Ok(Self {
            service: Service {
                routes: router::routes(state),
                health,
                metrics: config.metrics,
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

/// What is there as state already is told as it is when somebody asks.
fn tell(metrics: &Metrics, committer: &CommitterHandle, worker: &update_worker::Handle) {
    let (committer, worker) = (committer.clone(), worker.clone());
    let queue =
        [&metrics::QUEUE_UNITS, &metrics::QUEUE_LIMIT_UNITS, &metrics::QUEUE_BYTES, &metrics::QUEUE_LIMIT_BYTES];
    metrics.read(&queue, move |told| {
        let [(units, most_units), (bytes, most_bytes)] = committer.depth();
        for (definition, value) in queue.into_iter().zip([units, most_units, bytes, most_bytes]) {
            told.value(definition, float(value as u64));
        }
    });
    let told_of_worker = [
        &metrics::WORKER_UP,
        &metrics::WORKER_QUEUE,
        &metrics::WORKER_MESSAGES,
        &metrics::WORKER_RESTARTS,
        &metrics::WORKER_LOST,
    ];
    metrics.read(&told_of_worker, move |told| {
        let stats = worker.stats();
        told.value(&metrics::WORKER_UP, f64::from(u8::from(worker.well().is_ok())));
        told.value(&metrics::WORKER_QUEUE, float(worker.queued() as u64));
        told.value(&metrics::WORKER_MESSAGES, float(stats.message_count));
        told.value(&metrics::WORKER_RESTARTS, float(stats.restarts));
        told.value(&metrics::WORKER_LOST, float(stats.dropped + stats.restarts));
    });
}
