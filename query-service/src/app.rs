//! The service put together: its tail, its routes, its health.

use std::{sync::Arc, time::Duration};

use shared::{
    database::{self, Access},
    handover::Giver,
    http::health::{Check, DatabaseCheck, EventStoreCheck, Health},
    position::Applied,
    service::{Farewell, ServeError, Service},
    tasks::CriticalTasks,
};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    http::{self, Head, Reads, Watches},
    metrics::{TailMetrics, WatchMetrics},
    projection::Published,
    tail::{self, Options, ProjectionCheck, Status, Tail},
    watch::{Hub, LogReader},
};

/// Connections for history, past moments and old position tokens. Reads of the present need none.
const LOG_CONNECTIONS: u32 = 4;

/// Settings of every session: look-ups by index whatever the statistics say, for there may be none yet, or those of an empty log.
const BY_INDEX: [(&str, &str); 4] =
    [("enable_seqscan", "off"), ("enable_bitmapscan", "off"), ("enable_sort", "off"), ("jit", "off")];

/// Connections for what watchers missed that is older than what the process remembers.
const MISSED_CONNECTIONS: u32 = 4;

/// Connections for health, which must not queue behind history.
const HEALTH_CONNECTIONS: u32 = 1;

/// Bounds of [`Config::poll_interval`].
const POLL_INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(1);

/// Settings that cannot work together.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Shorter is a load, longer hides a dead link.
    #[error("the poll interval is {} ms; it must be 10 to 1000 ms", .0.as_millis())]
    PollInterval(Duration),
}

/// Built, following the log already, not yet serving.
#[derive(Debug)]
pub struct App {
    projection: Arc<Published>,
    handover: Giver,
    service: Service,
}

impl App {
    /// Builds the service and starts to follow the log. The database need not be there yet.
    ///
    /// # Errors
    /// When a setting is out of its bounds.
    #[expect(clippy::unused_async, reason = "must be called on a runtime, where its tail starts")]
    pub async fn build(mut config: Config) -> Result<Self, BuildError> {
        if !POLL_INTERVALS.contains(&config.poll_interval) {
            return Err(BuildError::PollInterval(config.poll_interval));
        }
        config.database = config.database.options(BY_INDEX);
        let (projection, status) = (Arc::new(Published::nothing_yet()), Arc::new(Status::new()));
        let health_pool = database::pool(config.database.clone(), HEALTH_CONNECTIONS);
        let health = health(&config, &health_pool, &projection, &status);
        let options = Options {
            database: config.database.clone(),
            poll_interval: config.poll_interval,
            listening: config.listening,
            clock: config.clock,
            metrics: TailMetrics::new(&config.metrics, config.clock),
        };
        let watch_metrics = WatchMetrics::new(&config.metrics, config.clock);
        let hub = Arc::new(Hub::new(config.watching.watchers, config.watching.ring_bytes, watch_metrics));
        let handover = Giver::default();
        let (projected, watched) = (Arc::clone(&projection), Arc::clone(&hub));
        let tail = Tail::new(options, projected, watched, Arc::clone(&status), handover.taker());
        let mut tasks = CriticalTasks::default();
        tasks.spawn("tail", |stop| tail.run(stop));
        let log = database::pool(config.database.clone(), LOG_CONNECTIONS);
        let missed = database::pool(config.database.clone(), MISSED_CONNECTIONS);
        for (name, pool) in [("history", &log), ("watch", &missed), ("query-health", &health_pool)] {
            config.metrics.event_store().pool(name, pool);
        }
        tail::tell(&config.metrics, &projection, &status);
        hub.tell(&config.metrics);
        let watches = Watches {
            hub: Arc::clone(&hub),
            log: LogReader::new(missed.clone()),
            bookmark_interval: config.watching.bookmark_interval,
        };
        let (reads, release) = Reads::new(
            Arc::clone(&projection),
            status,
            log.clone(),
            Head::of(config.database, config.metrics.event_store().connection("head")),
            config.min_position_wait,
            config.redaction,
            watches,
        );
        reads.tell(&config.metrics);
        tasks.spawn("pinned pages", |stop| release.run(stop));
        let stop = reads.stop();
        let service = Service {
            routes: http::routes(reads),
            health,
            metrics: config.metrics,
            tasks,
            tracked: vec![],
            pools: vec![health_pool, log, missed],
            farewells: vec![Farewell::new(move || stop.cancel()), Farewell::new(move || hub.stop())],
        };
        Ok(Self { projection, handover, service })
    }

    /// How far the projection is: the standalone answers a write when its own projection has it.
    #[must_use]
    pub fn applied(&self) -> Applied {
        self.projection.applied()
    }

    /// Where whoever appends in the same process hands over what it appended.
    #[must_use]
    pub fn handover(&self) -> Giver {
        self.handover.clone()
    }

    /// For whoever serves it together with others.
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

fn health(config: &Config, pool: &PgPool, projection: &Arc<Published>, status: &Arc<Status>) -> Health {
    let checks: Vec<Arc<dyn Check>> = vec![
        Arc::new(DatabaseCheck { pool: pool.clone(), needed_to_serve: false }),
        Arc::new(EventStoreCheck { pool: pool.clone(), access: Access::Read }),
        Arc::new(ProjectionCheck { projection: Arc::clone(projection), status: Arc::clone(status) }),
    ];
    Health::new(checks, config.clock)
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgConnectOptions;

    use super::*;

    /// Not only as a flag: whoever embeds the service may say what he likes.
    #[tokio::test]
    async fn a_poll_interval_out_of_its_bounds_is_refused() {
        for (millis, allowed) in [(9, false), (10, true), (1_000, true), (1_001, false)] {
            let mut config = Config::new(PgConnectOptions::new().host("127.0.0.1").port(1));
            config.poll_interval = Duration::from_millis(millis);
            assert_eq!(App::build(config).await.is_ok(), allowed, "{millis} ms");
        }
    }
}
