//! Health, as monitors, balancers and supervisors ask for it: `/v1/health`, `/v1/ready`, `/v1/live`.

use std::{sync::Arc, time::Duration};

use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use futures_util::future::{BoxFuture, join_all};
use serde_json::{Map, Value, json};
use sqlx::PgPool;

use crate::{
    clock::Clock,
    database::{self, Access},
};

/// Longest that one check may take.
const CHECK_LIMIT: Duration = Duration::from_secs(2);

/// One thing that a service needs to be well.
pub trait Check: Send + Sync {
    /// Its key in the answer.
    fn name(&self) -> &'static str;

    /// Whether the service can do its work without it, so that it stays ready while this fails.
    fn needed_to_serve(&self) -> bool;

    /// `Err` says what is wrong in words that may be shown: no addresses, no credentials, no text from the database.
    fn check(&self) -> BoxFuture<'_, Result<(), String>>;

    /// As [`Check::check`], for readiness, where that asks for less: what is behind may still be fit to serve.
    fn ready(&self) -> BoxFuture<'_, Result<(), String>> {
        self.check()
    }
}

/// All checks of a process. Cheap to clone.
#[derive(Clone)]
pub struct Health {
    checks: Vec<Arc<dyn Check>>,
    clock: Clock,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.checks.iter().map(|check| check.name())).finish()
    }
}

impl Health {
    /// Health made of these checks.
    #[must_use]
    pub fn new(checks: Vec<Arc<dyn Check>>, clock: Clock) -> Self {
        Self { checks, clock }
    }

    /// The checks of both; of two with one name the first.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        let known: Vec<_> = self.checks.iter().map(|check| check.name()).collect();
        self.checks.extend(other.checks.into_iter().filter(|check| !known.contains(&check.name())));
        self
    }

    /// What `/v1/ready` answers.
    pub async fn is_ready(&self) -> bool {
        self.report(Asked::Ready).await.0 == StatusCode::OK
    }

    /// What each check finds now.
    pub(super) async fn all(&self) -> Vec<(&'static str, Result<(), String>)> {
        self.results(Asked::Health).await
    }

    async fn results(&self, asked: Asked) -> Vec<(&'static str, Result<(), String>)> {
        let relevant = self.checks.iter().filter(|check| asked == Asked::Health || check.needed_to_serve());
        let results = join_all(relevant.map(async |check| {
            let check_or_ready = if asked == Asked::Health { check.check() } else { check.ready() };
            let result = tokio::time::timeout(CHECK_LIMIT, check_or_ready).await;
            let result = result.unwrap_or_else(|_| Err(format!("no answer within {} s", CHECK_LIMIT.as_secs())));
            (check.name(), result)
        }));
        results.await
    }

    async fn report(&self, asked: Asked) -> (StatusCode, Json<Value>) {
        let results = self.results(asked).await;
        let well = results.iter().all(|(_, result)| result.is_ok());
        let told = |(name, result): (&str, Result<(), String>)| {
            (name.to_owned(), json!(result.err().unwrap_or("ok".to_owned())))
        };
        let checks: Map<_, _> = results.into_iter().map(told).collect();
        let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let word = if well { "ok" } else { "unavailable" };
        (status, Json(json!({ "status": word, "timestamp": self.clock.now(), "checks": checks })))
    }
}

/// What is asked: whether all is well, or only whether it can serve.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Health,
    Ready,
}

/// The routes of health, for whoever serves.
pub(super) fn routes(health: Health) -> Router {
    let all = async |State(health): State<Health>| health.report(Asked::Health).await;
    let ready = async |State(health): State<Health>| health.report(Asked::Ready).await;
    Router::new()
        .route("/health", get(all))
        .route("/v1/health", get(all))
        .route("/v1/ready", get(ready))
        // Alive is whoever answers: restarting does not mend a database.
        .route("/v1/live", get(async || "OK".into_response()))
        .with_state(health)
}

/// The database answers.
pub struct DatabaseCheck {
    /// Through which it is asked.
    pub pool: PgPool,
    /// See [`Check::needed_to_serve`].
    pub needed_to_serve: bool,
}

impl Check for DatabaseCheck {
    fn name(&self) -> &'static str {
        "database"
    }

    fn needed_to_serve(&self) -> bool {
        self.needed_to_serve
    }

    fn check(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let answer = sqlx::query("select 1").execute(&self.pool).await;
            answer.map(drop).map_err(|_| "the database does not answer".to_owned())
        })
    }
}

/// The log can be used as the service uses it: the database is the right one, and takes writes if there are some.
pub struct EventStoreCheck {
    /// Through which it is asked.
    pub pool: PgPool,
    /// For what.
    pub access: Access,
}

impl EventStoreCheck {
    async fn ask(&self) -> Result<(), String> {
        let out_of_reach = |_| "the event log cannot be read".to_owned();
        let mut connection = self.pool.acquire().await.map_err(out_of_reach)?;
        let head = sqlx::query("select position from events order by position desc limit 1");
        head.fetch_optional(&mut *connection).await.map_err(out_of_reach)?;
        if self.access == Access::Append && !database::is_writable(&mut connection).await.map_err(out_of_reach)? {
            // Another server may be the primary now: the next check looks where the address leads then.
            connection.close_on_drop();
            return Err("the event log's server is read-only: a standby, or a primary that was demoted".to_owned());
        }
        Ok(())
    }
}

impl Check for EventStoreCheck {
    fn name(&self) -> &'static str {
        "eventstore"
    }

    fn needed_to_serve(&self) -> bool {
        self.access == Access::Append
    }

    fn check(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.ask())
    }
}
