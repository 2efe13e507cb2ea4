//! The tail: follows the event log, and keeps the projection at its end.
//!
//! ```text
//! handed (what this process appended itself) ──────────┐
//! link (one connection) ─► page (rows in order) ─► follower (live fold, replay) ─► projection, watch
//! copy (several connections, while a long replay lasts) ─► replay ─┘
//!                                                     └► status ─► http, health
//! ```

mod link;
mod outage;

mod page;

mod copy;
mod replay;

mod live;

mod handed;

mod follower;

mod health;
mod status;
mod telling;

use std::{sync::Arc, time::Duration};

use shared::{
    clock::Clock,
    database::{ConnectError, may_pass},
    handover::Taker,
    schema::SchemaError,
};
use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;

use self::{
    follower::Follower,
    link::{Link, LinkError},
    outage::Outages,
};
pub(crate) use self::{
    health::ProjectionCheck,
    status::{Progress, ReplayFigures, Status},
    telling::tell,
};
use crate::{config::Listening, metrics::TailMetrics, projection::Published, watch::Hub};

/// The log is not one that this process can follow. The process ends: waiting would not help.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TailError {
    #[error(transparent)]
    Schema(SchemaError),
    #[error(transparent)]
    Refused(ConnectError),
}

/// What the tail follows, and how.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) database: PgConnectOptions,
    pub(crate) poll_interval: Duration,
    pub(crate) listening: Listening,
    pub(crate) clock: Clock,
    pub(crate) metrics: TailMetrics,
}

/// The task that follows the log.
#[derive(Debug)]
pub(crate) struct Tail {
    options: Options,
    status: Arc<Status>,
    follower: Follower,
}

impl Tail {
    /// Reports to `projection`, then to `hub`, and to `status`. What this process appends itself arrives at `handed`.
    pub(crate) fn new(
        options: Options,
        projection: Arc<Published>,
        hub: Arc<Hub>,
        status: Arc<Status>,
        handed: Taker,
    ) -> Self {
        let follower = Follower::new(projection, hub, Arc::clone(&status), options.clone(), handed);
        Self { options, status, follower }
    }

    /// Follows the log until it is told to stop, through any loss of the database.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), TailError> {
        tracing::info!("ConfigStateProjection starting...");
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            error = self.follow() => Err(error),
        }
    }

    async fn follow(mut self) -> TailError {
        let mut outages = Outages::default();
        let connection = self.options.metrics.connection.clone();
        let mut opened = false;
        loop {
            let lost = match Link::open(&self.options).await {
                Ok(mut link) => {
                    if std::mem::replace(&mut opened, true) {
                        connection.reconnected();
                    }
                    self.follower.session(&mut link, &mut outages).await
                }
                // Once it was followed, a fault of the set-up is somebody's work under way, and is waited out.
                Err(LinkError::Schema(error)) if !self.follower.has_followed() => return TailError::Schema(error),
                Err(LinkError::Database(error)) if !self.follower.has_followed() && !may_pass(&error) => {
                    return TailError::Refused(ConnectError::Refused(error));
                }
                Err(error) => error,
            };
            self.status.disconnected();
            connection.failed(lost.kind());
            connection.is_down();
            let wait = outages.lost(&lost, self.follower.has_state());
            tokio::time::sleep(wait).await;
        }
    }
}
