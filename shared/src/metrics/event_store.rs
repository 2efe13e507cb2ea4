//! What is told of connections to the event store: those that a task owns, and pools.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use sqlx::PgPool;

use super::{
    EVENT_STORE_CONNECTIONS, EVENT_STORE_CONNECTIONS_LIMIT, EVENT_STORE_ERRORS, EVENT_STORE_RECONNECTS, EVENT_STORE_UP,
    Metrics, definition::Words, float,
};
use crate::{
    database::{Meaning, meaning},
    words,
};

words! {
    /// What kept an exchange with the event store from its end.
    pub enum ErrorKind {
        /// There is no server, or the connection to it ended.
        Connection = "connection",
        /// It did not answer in time.
        Timeout = "timeout",
        /// It takes no writes: a standby, or a primary that was demoted.
        ReadOnly = "read_only",
        /// Not now: the log's lock is held, or somebody cancelled the statement.
        Busy = "busy",
        /// It refused the statement.
        Query = "query",
    }
}

impl ErrorKind {
    /// Of a failed exchange.
    #[must_use]
    pub fn of(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::PoolTimedOut => Self::Timeout,
            sqlx::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => Self::Timeout,
            sqlx::Error::Io(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            _ => match error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() {
                Some("25006") => Self::ReadOnly,
                // A lock that was not granted in time, a statement that was cancelled, a full server, a deadlock.
                Some("55P03" | "57014" | "53300" | "40P01") => Self::Busy,
                _ if meaning(error) == Meaning::ConnectionLost => Self::Connection,
                _ => Self::Query,
            },
        }
    }
}

/// The pools of a process, with their names and their limits.
type Pools = Arc<Mutex<Vec<(&'static str, PgPool)>>>;

/// What connections are told by; cheap to clone.
#[derive(Clone, Debug)]
pub struct EventStoreMetrics {
    up: IntGaugeVec,
    reconnects: IntCounterVec,
    errors: IntCounterVec,
    pools: Pools,
}

impl EventStoreMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let pools = Pools::default();
        let told_of = Arc::clone(&pools);
        metrics.read(&[&EVENT_STORE_CONNECTIONS, &EVENT_STORE_CONNECTIONS_LIMIT], move |told| {
            for (name, pool) in &*told_of.lock().unwrap_or_else(PoisonError::into_inner) {
                let idle = pool.num_idle() as u64;
                let in_use = u64::from(pool.size()).saturating_sub(idle);
                told.labelled(&EVENT_STORE_CONNECTIONS, &[name, "idle"], float(idle));
                told.labelled(&EVENT_STORE_CONNECTIONS, &[name, "in_use"], float(in_use));
                let limit = pool.options().get_max_connections();
                told.labelled(&EVENT_STORE_CONNECTIONS_LIMIT, &[name], f64::from(limit));
            }
        });
        Self {
            up: metrics.gauge_vec(&EVENT_STORE_UP),
            reconnects: metrics.counter_vec(&EVENT_STORE_RECONNECTS),
            errors: metrics.counter_vec(&EVENT_STORE_ERRORS),
            pools,
        }
    }

    /// Tells of a pool from now on.
    pub fn pool(&self, name: &'static str, pool: &PgPool) {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).push((name, pool.clone()));
    }

    /// Of a connection, or several that do the same, which opens when it is needed: up until an exchange fails.
    #[must_use]
    pub fn connection(&self, name: &'static str) -> ConnectionMetrics {
        let up = self.up.with_label_values(&[name]);
        up.set(1);
        let of_kind = |kind: &&'static str| self.errors.with_label_values(&[name, kind]);
        ConnectionMetrics {
            up,
            reconnects: self.reconnects.with_label_values(&[name]),
            errors: ErrorKind::WORDS.iter().map(of_kind).collect(),
        }
    }
}

/// What one connection is told by; cheap to clone.
#[derive(Clone, Debug)]
pub struct ConnectionMetrics {
    up: IntGauge,
    reconnects: IntCounter,
    errors: Arc<[IntCounter]>,
}

impl ConnectionMetrics {
    /// An exchange came to its end.
    pub fn works(&self) {
        self.up.set(1);
    }

    /// It is not open yet, or no longer.
    pub fn is_down(&self) {
        self.up.set(0);
    }

    /// It was opened again.
    pub fn reconnected(&self) {
        self.reconnects.inc();
    }

    /// An exchange failed. A server that refused the statement, or could not carry it out now, is there.
    pub fn failed(&self, kind: ErrorKind) {
        self.errors[kind.index()].inc();
        self.up.set(i64::from(matches!(kind, ErrorKind::Busy | ErrorKind::Query)));
    }
}
