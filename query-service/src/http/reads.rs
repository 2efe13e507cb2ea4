//! Which snapshot may answer a read: the newest one, once it has what the client has already seen.

use std::{sync::Arc, time::Duration};

use axum::{
    http::{HeaderMap, HeaderValue},
    response::Response,
};
use shared::{
    http::{CONFIG_POSITION, problem::Problem},
    position::{Fingerprint, Position, PositionToken},
    redaction::Redaction,
};
use sqlx::{PgPool, Postgres, pool::PoolConnection};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use uuid::Uuid;

use super::{
    error::ReadError,
    parameters::{MIN_POSITION, Parameters},
};
use crate::{
    projection::{Published, Snapshot, Standing},
    tail::Status,
};

/// The position that a read must have, as a header.
const CONFIG_MIN_POSITION: &str = "config-min-position";
/// How long ago the log was last heard of, in milliseconds.
const CONFIG_LAST_CONTACT: &str = "config-last-contact";

/// Longest that the log is asked about a position that memory does not know.
const TOKEN_LIMIT: Duration = Duration::from_secs(2);

/// Longest wait for one of the few connections to the log.
const LOG_ACQUIRE_LIMIT: Duration = Duration::from_secs(2);

/// Long lists that are sent at once: each keeps the state alive that it is of, for as long as its client reads.
const MAX_LONG_LISTS: usize = 64;

/// What the endpoints read from.
#[derive(Debug)]
pub(crate) struct Reads {
    projection: Arc<Published>,
    pub(super) status: Arc<Status>,
    log: PgPool,
    pub(super) long_lists: Arc<Semaphore>,
    min_position_wait: Duration,
    pub(super) redaction: Redaction,
}

/// The state that answers a read, and how fresh it is.
#[derive(Debug)]
pub(super) struct View {
    pub(super) snapshot: Arc<Snapshot>,
    last_contact_ms: u64,
}

impl Reads {
    pub(crate) fn new(
        projection: Arc<Published>,
        status: Arc<Status>,
        log: PgPool,
        min_position_wait: Duration,
        redaction: Redaction,
    ) -> Self {
        let long_lists = Arc::new(Semaphore::new(MAX_LONG_LISTS));
        Self { projection, status, log, long_lists, min_position_wait, redaction }
    }

    /// The newest snapshot, if there is one.
    pub(super) fn current(&self) -> Option<Arc<Snapshot>> {
        self.projection.current()
    }

    /// The state to answer from, once it has the position that the request asks for.
    ///
    /// # Errors
    /// When it asks for something that is no position, that is not applied in time, or that was rewritten.
    pub(super) async fn view(&self, headers: &HeaderMap, parameters: &Parameters) -> Result<View, Problem> {
        let snapshot = match wanted(headers, parameters)? {
            None => self.current().ok_or(ReadError::NotReady),
            Some(token) => self.having(token).await,
        };
        let last_contact_ms = self.status.last_contact_ms();
        let stamped = |error: ReadError| {
            let here = self.current().map_or(PositionToken::ZERO, |snapshot| snapshot.token());
            stamp_problem(error.into(), here, last_contact_ms)
        };
        Ok(View { snapshot: snapshot.map_err(stamped)?, last_contact_ms })
    }

    /// Waits for a snapshot that has the event that `wanted` names.
    async fn having(&self, wanted: PositionToken) -> Result<Arc<Snapshot>, ReadError> {
        let deadline = Instant::now() + self.min_position_wait;
        let mut changes = self.projection.changes();
        loop {
            changes.borrow_and_update();
            let current = self.current();
            if let Some(snapshot) = current.as_ref()
                && self.has(snapshot, wanted).await?
            {
                return Ok(Arc::clone(snapshot));
            }
            if !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                let here = current.ok_or(ReadError::NotReady)?.token();
                return Err(ReadError::Behind { wanted, here });
            }
        }
    }

    /// Whether the snapshot has it; the log decides what memory cannot.
    async fn has(&self, snapshot: &Snapshot, wanted: PositionToken) -> Result<bool, ReadError> {
        let standing = snapshot.standing(wanted);
        if standing == Standing::Applied || standing == Standing::Ahead {
            return Ok(standing == Standing::Applied);
        }
        if self.fingerprint_at(wanted.position).await? != wanted.fingerprint {
            return Err(ReadError::Diverged { wanted, here: snapshot.token() });
        }
        // The log has it, and we another: it was rewritten and we have not noticed yet.
        Ok(standing == Standing::Older)
    }

    /// A connection to the log.
    pub(super) async fn log(&self) -> Result<PoolConnection<Postgres>, ReadError> {
        let connection = timeout(LOG_ACQUIRE_LIMIT, self.log.acquire()).await;
        Ok(connection.map_err(|_| ReadError::LogOutOfReach(None))??)
    }

    async fn fingerprint_at(&self, position: Position) -> Result<Option<Fingerprint>, ReadError> {
        let command_id = sqlx::query_scalar::<_, Uuid>("select command_id from events where position = $1")
            .bind(position.to_parameter())
            .fetch_optional(&self.log);
        let command_id = timeout(TOKEN_LIMIT, command_id).await.map_err(|_| ReadError::LogOutOfReach(None))??;
        Ok(command_id.map(Fingerprint::of))
    }
}

impl View {
    /// Tells with every answer where in the log it is from, and how fresh that is.
    pub(super) fn stamp(&self, answer: Result<Response, ReadError>) -> Result<Response, Problem> {
        let token = self.snapshot.token();
        let mut response = answer.map_err(|error| stamp_problem(error.into(), token, self.last_contact_ms))?;
        let headers = response.headers_mut();
        if let Ok(token) = HeaderValue::from_str(&token.to_string()) {
            headers.insert(CONFIG_POSITION, token);
        }
        headers.insert(CONFIG_LAST_CONTACT, self.last_contact_ms.into());
        Ok(response)
    }
}

fn stamp_problem(problem: Problem, here: PositionToken, last_contact_ms: u64) -> Problem {
    let problem = problem.header(CONFIG_POSITION, &here.to_string());
    problem.header(CONFIG_LAST_CONTACT, &last_contact_ms.to_string())
}

/// The position that the request asks for.
fn wanted(headers: &HeaderMap, parameters: &Parameters) -> Result<Option<PositionToken>, ReadError> {
    let parse = |origin, text: &str| text.parse().map_err(|source| ReadError::InvalidToken { origin, source });
    let mut wanted = None;
    for value in headers.get_all(CONFIG_MIN_POSITION) {
        let token = parse("The header Config-Min-Position", value.to_str().unwrap_or_default())?;
        if wanted.replace(token).is_some_and(|other| other != token) {
            return Err(ReadError::TwoPositions);
        }
    }
    if let Some(text) = parameters.get(MIN_POSITION) {
        let token = parse("The query parameter `min_position`", text)?;
        if wanted.replace(token).is_some_and(|other| other != token) {
            return Err(ReadError::TwoPositions);
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(header: Option<&str>, query: &str) -> Result<Option<PositionToken>, ReadError> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(CONFIG_MIN_POSITION, header.parse().unwrap());
        }
        wanted(&headers, &Parameters::of(&format!("/x{query}").parse().unwrap(), &[MIN_POSITION])?)
    }

    #[test]
    fn takes_the_position_from_the_header_or_the_query() {
        assert_eq!(asks(None, "").unwrap(), None);
        let token = "42.9f3a01bc".parse().unwrap();
        assert_eq!(asks(Some("42.9f3a01bc"), "").unwrap(), Some(token));
        assert_eq!(asks(None, "?min_position=42.9f3a01bc").unwrap(), Some(token));
        assert_eq!(asks(Some("42.9f3a01bc"), "?min_position=42.9f3a01bc").unwrap(), Some(token));
    }

    #[test]
    fn refuses_two_different_positions() {
        assert!(matches!(asks(Some("42"), "?min_position=43"), Err(ReadError::TwoPositions)));
        assert!(matches!(asks(Some("42"), "?min_position=42.9f3a01bc"), Err(ReadError::TwoPositions)));
    }

    #[test]
    fn shows_a_right_one_for_what_is_no_position() {
        for (header, query) in [(Some("x"), ""), (None, "?min_position="), (Some("42.9f3"), "")] {
            let problem = format!("{:?}", Problem::from(asks(header, query).unwrap_err()));
            assert!(problem.contains("such as 42.9f3a01bc"), "{problem}");
        }
    }
}
