//! Which snapshot may answer a read: the newest one, once it has what the client has already seen, or what the log has.

use std::{sync::Arc, time::Duration};

use axum::{
    http::{HeaderMap, HeaderName},
    response::Response,
};
use shared::{
    http::{
        CONFIG_POSITION,
        parameters::{Parameters, invalid},
        problem::Problem,
    },
    metrics::{Metrics, float},
    position::{Fingerprint, Position, PositionToken},
    redaction::Redaction,
};
use sqlx::PgPool;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    error::ReadError,
    events::{Followers, MAX_FOLLOWERS},
    head::Head,
    pinned::{Pinned, Release},
};
use crate::{
    metrics::{FOLLOWERS, FOLLOWERS_LIMIT, SNAPSHOTS_PINNED},
    past::Reading,
    projection::{Published, Snapshot, Standing},
    tail::Status,
    watch::{Hub, LogReader},
};

/// The position that a read must have, as a query parameter.
pub(super) const MIN_POSITION: &str = "min_position";
/// Whether a read must have all that the log has.
pub(super) const CONSISTENCY: &str = "consistency";
/// The position that a read must have, as a header.
const CONFIG_MIN_POSITION: HeaderName = HeaderName::from_static("config-min-position");
/// How long ago the log was last heard of, in milliseconds.
pub(super) const CONFIG_LAST_CONTACT: HeaderName = HeaderName::from_static("config-last-contact");

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
    head: Head,
    pub(super) pinned: Arc<Pinned>,
    pub(super) long_lists: Arc<Semaphore>,
    pub(super) followers: Followers,
    min_position_wait: Duration,
    pub(super) redaction: Redaction,
    pub(super) watches: Watches,
}

/// What watches and long polls hang on.
#[derive(Debug)]
pub(crate) struct Watches {
    pub(crate) hub: Arc<Hub>,
    pub(crate) log: LogReader,
    pub(crate) bookmark_interval: Duration,
}

/// The state that answers a read, and how fresh it is.
#[derive(Debug)]
pub(super) struct View {
    pub(super) snapshot: Arc<Snapshot>,
    last_contact_ms: u64,
}

impl Reads {
    /// And the task that gives up states which pages were read from.
    pub(crate) fn new(
        projection: Arc<Published>,
        status: Arc<Status>,
        log: PgPool,
        head: Head,
        min_position_wait: Duration,
        redaction: Redaction,
        watches: Watches,
    ) -> (Self, Release) {
        let long_lists = Arc::new(Semaphore::new(MAX_LONG_LISTS));
        let followers = Followers::default();
        let (pinned, release) = Pinned::new(Arc::clone(&projection));
        let reads = Self {
            projection,
            status,
            log,
            head,
            pinned,
            long_lists,
            followers,
            min_position_wait,
            redaction,
            watches,
        };
        (reads, release)
    }

    /// Tells of what reads hold from now on.
    pub(crate) fn tell(&self, metrics: &Metrics) {
        let (pinned, followers) = (Arc::clone(&self.pinned), self.followers.clone());
        metrics.read(&[&SNAPSHOTS_PINNED, &FOLLOWERS, &FOLLOWERS_LIMIT], move |told| {
            told.value(&SNAPSHOTS_PINNED, float(pinned.count() as u64));
            told.value(&FOLLOWERS, float(followers.count() as u64));
            told.value(&FOLLOWERS_LIMIT, float(MAX_FOLLOWERS as u64));
        });
    }

    /// Ends the answers that would not end by themselves.
    pub(crate) fn stop(&self) -> CancellationToken {
        self.followers.stop()
    }

    /// Hears of each newer snapshot.
    pub(super) fn changes(&self) -> watch::Receiver<Position> {
        self.projection.changes()
    }

    /// The newest snapshot, if there is one.
    pub(super) fn current(&self) -> Option<Arc<Snapshot>> {
        self.projection.current()
    }

    /// The state to answer from, once it has the position that the request asks for, or the head that the log had when it
    /// came.
    ///
    /// # Errors
    /// When it asks for something that is no position, that is not applied in time, or that was rewritten; or when the log
    /// does not tell its head.
    pub(super) async fn view(&self, headers: &HeaderMap, parameters: &Parameters) -> Result<View, Problem> {
        let (strong, wanted) = (is_strong(parameters)?, wanted(headers, parameters)?);
        let snapshot = match wanted {
            None if !strong => self.current().ok_or(ReadError::NotReady),
            // Boxed, so that the others do not carry room for it.
            wanted => Box::pin(self.satisfying(strong, wanted)).await,
        };
        let snapshot = snapshot.map_err(|error| self.stamped(error))?;
        Ok(View { snapshot, last_contact_ms: self.status.last_contact_ms() })
    }

    /// The newest state, for a read that was answered from an older one and waited.
    pub(super) fn newer(&self, view: View) -> View {
        let snapshot = self.current().unwrap_or(view.snapshot);
        View { snapshot, last_contact_ms: self.status.last_contact_ms() }
    }

    /// The problem, with where this replica is.
    pub(super) fn stamped(&self, error: ReadError) -> Problem {
        let here = self.current().map_or(PositionToken::ZERO, |snapshot| snapshot.token());
        stamp_problem(error.into(), here, self.status.last_contact_ms())
    }

    async fn satisfying(&self, strong: bool, wanted: Option<PositionToken>) -> Result<Arc<Snapshot>, ReadError> {
        let mut snapshot = None;
        if strong {
            snapshot = Some(self.until(self.head.now().await?, true).await?);
        }
        if let Some(wanted) = wanted {
            snapshot = Some(self.having(wanted).await?);
        }
        snapshot.or_else(|| self.current()).ok_or(ReadError::NotReady)
    }

    /// The state that an earlier page of a list was of: `view`'s own, or one that is kept. `None`: only the log has it still.
    ///
    /// # Errors
    /// When the replica does not come to it in time, or the log was rewritten.
    pub(super) async fn state_at(&self, view: &View, of: PositionToken) -> Result<Option<Arc<Snapshot>>, ReadError> {
        if view.snapshot.token() == of {
            return Ok(Some(Arc::clone(&view.snapshot)));
        }
        if let Some(snapshot) = self.pinned.at(of) {
            return Ok(Some(snapshot));
        }
        // Another replica's, perhaps, that was ahead of this one.
        Ok(Some(self.having(of).await?).filter(|snapshot| snapshot.token() == of))
    }

    /// Waits for a snapshot that has the event that `wanted` names.
    pub(super) async fn having(&self, wanted: PositionToken) -> Result<Arc<Snapshot>, ReadError> {
        self.until(wanted, false).await
    }

    /// Waits for one that has it; `in_log`: and nothing that the log has not.
    async fn until(&self, wanted: PositionToken, in_log: bool) -> Result<Arc<Snapshot>, ReadError> {
        let deadline = Instant::now() + self.min_position_wait;
        let mut changes = self.projection.changes();
        loop {
            changes.borrow_and_update();
            let current = self.current();
            if let Some(snapshot) = current.as_ref()
                && self.has(snapshot, wanted).await?
                && (!in_log || self.is_in_log(snapshot, wanted).await?)
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
        let in_log = match standing {
            Standing::Applied => return Ok(true),
            Standing::Ahead => return Ok(false),
            Standing::Another | Standing::Older => self.fingerprint_at(wanted.position).await?,
        };
        match judge(standing, in_log == wanted.fingerprint) {
            Verdict::Applied => Ok(true),
            Verdict::NotYet => Ok(false),
            Verdict::Diverged => Err(ReadError::Diverged { wanted, here: snapshot.token() }),
        }
    }

    /// Whether the log has all that the snapshot has, when `head` was its head just now. What is beyond was appended since, or
    /// taken from it by a failover before.
    async fn is_in_log(&self, snapshot: &Snapshot, head: PositionToken) -> Result<bool, ReadError> {
        let here = snapshot.token();
        Ok(here.position <= head.position || self.fingerprint_at(here.position).await? == here.fingerprint)
    }

    /// A connection to the log.
    pub(super) async fn log(&self) -> Result<Reading, ReadError> {
        let connection = timeout(LOG_ACQUIRE_LIMIT, self.log.acquire()).await;
        Ok(Reading::new(connection.map_err(|_| ReadError::LogOutOfReach(None))??))
    }

    async fn fingerprint_at(&self, position: Position) -> Result<Option<Fingerprint>, ReadError> {
        let asked = async {
            let mut log = self.log().await?;
            let command_id = sqlx::query_scalar::<_, Uuid>("select command_id from events where position = $1")
                .bind(position.to_parameter())
                .fetch_optional(&mut *log)
                .await?;
            log.ended();
            Ok(command_id.map(Fingerprint::of))
        };
        timeout(TOKEN_LIMIT, asked).await.unwrap_or(Err(ReadError::LogOutOfReach(None)))
    }
}

impl View {
    /// Tells with every answer where in the log it is from, and how fresh that is.
    pub(super) fn stamp(&self, answer: Result<Response, ReadError>) -> Result<Response, Problem> {
        let mut response = answer.map_err(|error| self.problem(error))?;
        let headers = response.headers_mut();
        headers.insert(CONFIG_POSITION, self.snapshot.token().into());
        headers.insert(CONFIG_LAST_CONTACT, self.last_contact_ms.into());
        Ok(response)
    }

    fn problem(&self, error: ReadError) -> Problem {
        stamp_problem(error.into(), self.snapshot.token(), self.last_contact_ms)
    }
}

/// What becomes of a token that memory cannot confirm.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Applied,
    NotYet,
    Diverged,
}

fn judge(standing: Standing, the_log_has_it: bool) -> Verdict {
    match standing {
        _ if !the_log_has_it => Verdict::Diverged,
        // The log has it, and we another: it was rewritten, and we have not noticed yet.
        Standing::Another | Standing::Ahead => Verdict::NotYet,
        Standing::Older | Standing::Applied => Verdict::Applied,
    }
}

fn stamp_problem(problem: Problem, here: PositionToken, last_contact_ms: u64) -> Problem {
    let problem = problem.header(CONFIG_POSITION, &here.to_string());
    problem.header(CONFIG_LAST_CONTACT, &last_contact_ms.to_string())
}

/// Whether the request asks for everything that the log has.
fn is_strong(parameters: &Parameters) -> Result<bool, Problem> {
    match parameters.get(CONSISTENCY) {
        None | Some("default") => Ok(false),
        Some("strong") => Ok(true),
        Some(_) => Err(invalid(CONSISTENCY, "`strong` or `default`")),
    }
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
    use super::{
        super::states::{command_id, reads, state},
        *,
    };

    async fn having(reads: &Reads, position: u64, event: u64) -> Result<u64, ReadError> {
        let token = PositionToken::new(Position(position), command_id(event));
        Ok(reads.having(token).await?.position().0)
    }

    #[test]
    fn the_log_has_the_last_word_on_what_memory_cannot_confirm() {
        assert_eq!(judge(Standing::Older, true), Verdict::Applied);
        assert_eq!(judge(Standing::Another, true), Verdict::NotYet, "this replica is the one that is wrong");
        assert_eq!(judge(Standing::Older, false), Verdict::Diverged);
        assert_eq!(judge(Standing::Another, false), Verdict::Diverged);
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_waits_for_the_position_that_it_asks_for() {
        let projection = Arc::new(Published::nothing_yet());
        let reads = reads(&projection);
        let publish = async {
            for events in [1, 2, 3] {
                tokio::time::sleep(Duration::from_millis(500)).await;
                projection.advance(state(events));
            }
        };
        let (answer, ()) = tokio::join!(having(&reads, 3, 3), publish);
        assert_eq!(answer.unwrap(), 3);
        assert_eq!(having(&reads, 2, 2).await.unwrap(), 3, "an older one is there already");
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_is_bounded_and_says_where_the_replica_is() {
        let projection = Arc::new(Published::nothing_yet());
        let reads = reads(&projection);
        assert!(matches!(having(&reads, 1, 1).await, Err(ReadError::NotReady)));
        projection.advance(state(2));
        let began = Instant::now();
        let Err(ReadError::Behind { here, .. }) = having(&reads, 3, 3).await else { panic!("it has not got it") };
        assert_eq!((here.position, began.elapsed()), (Position(2), Duration::from_secs(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_memory_does_not_know_is_never_taken_for_applied() {
        let projection = Arc::new(Published::nothing_yet());
        let reads = reads(&projection);
        projection.advance(state(3));
        assert!(matches!(having(&reads, 2, 99).await, Err(ReadError::LogOutOfReach(_))), "nobody could say");
        let publish = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            projection.advance(state(4));
        };
        let (answer, ()) = tokio::join!(having(&reads, 4, 99), publish);
        assert!(matches!(answer, Err(ReadError::LogOutOfReach(_))), "checked again after the wait");
    }

    fn asks(header: Option<&str>, query: &str) -> Result<Option<PositionToken>, ReadError> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(CONFIG_MIN_POSITION, header.parse().unwrap());
        }
        wanted(&headers, &Parameters::of(&format!("/x{query}").parse().unwrap(), &[MIN_POSITION]).unwrap())
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
