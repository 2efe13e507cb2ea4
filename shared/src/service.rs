//! A service that is ready to serve: its routes, its health, its tasks. Each app builds one; the standalone merges two.

use std::{fmt, net::SocketAddr, time::Duration};

use axum::Router;
use futures_util::future::join_all;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    http::{self, health::Health, server},
    metrics::Metrics,
    tasks::{CriticalTasks, TaskDied},
};

/// Longest that requests and commands under way may take, both together, once the service was told to stop.
pub const SHUTDOWN_LIMIT: Duration = Duration::from_secs(20);

/// Longest that the database's connections may take to close.
const POOL_CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// What serving ended with.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket could not be used.
    #[error("cannot serve on the socket")]
    Socket(#[source] std::io::Error),
    /// A task that must not die did.
    #[error(transparent)]
    Task(#[from] TaskDied),
}

/// Built, not yet serving.
#[derive(Debug)]
pub struct Service {
    /// The app's own routes, without health, fallbacks and outer layers.
    pub routes: Router,
    /// What its health is made of.
    pub health: Health,
    /// What it tells of itself. Two services that are merged share them.
    pub metrics: Metrics,
    /// What it cannot be without.
    pub tasks: CriticalTasks,
    /// Work that outlives its request, waited for at shutdown.
    pub tracked: Vec<TaskTracker>,
    /// Closed last.
    pub pools: Vec<PgPool>,
    /// Said first.
    pub farewells: Vec<Farewell>,
}

/// What is done as soon as the service is told to stop: ends answers that would not end by themselves.
pub struct Farewell(Box<dyn FnOnce() + Send>);

impl Farewell {
    /// Done once, at the beginning of the stop.
    pub fn new(say: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(say))
    }
}

impl fmt::Debug for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Farewell")
    }
}

impl Service {
    /// One service of two: the standalone.
    #[must_use]
    pub fn merge(mut self, name: &'static str, other: Self) -> Self {
        self.tasks.absorb(name, other.tasks);
        Self {
            routes: self.routes.merge(other.routes),
            health: self.health.merge(other.health),
            metrics: self.metrics,
            tasks: self.tasks,
            tracked: [self.tracked, other.tracked].concat(),
            pools: [self.pools, other.pools].concat(),
            farewells: self.farewells.into_iter().chain(other.farewells).collect(),
        }
    }

    /// Serves until `shutdown`: then stops accepting, finishes what is under way, and stops its tasks, in this order.
    ///
    /// # Errors
    /// When a task that must not die did; everything else is stopped by then.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
        let Self { routes, health, metrics, mut tasks, tracked, pools, farewells } = self;
        let address: SocketAddr = listener.local_addr().map_err(ServeError::Socket)?;
        tracing::info!("Listening on http://{address}");
        let stop = shutdown.child_token();
        let routes = http::complete(routes, health, &metrics);
        let server = server::run(listener, routes, metrics.http(), stop.clone(), SHUTDOWN_LIMIT);
        let farewell = async {
            stop.cancelled().await;
            farewells.into_iter().for_each(|Farewell(say)| say());
        };
        let server = async { tokio::join!(server, farewell).0 };
        tokio::pin!(server);
        let (until, died) = tokio::select! {
            until = &mut server => (until, None),
            died = tasks.first_death() => {
                stop.cancel();
                (server.await, Some(died))
            }
        };
        let drained = async {
            for tracker in &tracked {
                tracker.close();
                tracker.wait().await;
            }
        };
        if tokio::time::timeout_at(until, drained).await.is_err() {
            tracing::warn!(limit_s = SHUTDOWN_LIMIT.as_secs(), "Commands under way did not end in time");
        }
        tasks.stop().await;
        // Bounded, like a statement that may still run on one of them.
        let closed = join_all(pools.iter().map(PgPool::close));
        if tokio::time::timeout(POOL_CLOSE_LIMIT, closed).await.is_err() {
            tracing::warn!(limit_s = POOL_CLOSE_LIMIT.as_secs(), "Connections to the database did not close in time");
        }
        tracing::info!("Stopped");
        died.map_or(Ok(()), |died| Err(died.into()))
    }
}
