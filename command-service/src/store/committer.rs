//! The committer: one task through which every event goes into the log. Waits for one unit, takes what else is queued up
//! to its limits, appends the group, and answers each caller only when it is durable.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use shared::{
    backoff::Backoff,
    database::{Meaning, meaning},
    handover::{AppendedEvent, AppendedGroup, AppendedUnit, Giver},
    name::ConfigName,
    position::Position,
    telemetry::{
        Chain,
        spans::{self, TraceSpan},
    },
};
use sqlx::postgres::PgConnectOptions;
use tokio::{
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    append::{Anchored, Appended, Group, NewEvent, Outcome, Unit, append},
    connection::Connections,
    outage::Outage,
    trace::UnitTrace,
};
use crate::metrics::{AppendMetrics, UnitOutcome};

/// SQLSTATEs of an append that may succeed at another time, and has not been carried out: the lock was not granted in time;
/// somebody cancelled the statement.
const NOT_NOW: [&str; 2] = ["55P03", "57014"];

/// SQLSTATE of a server that takes no writes: a standby, or a primary that was demoted. Another may have its address by now.
const READ_ONLY: &str = "25006";

/// Limits of the committer.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most units that wait; a further one is refused.
    pub queue_units: usize,
    /// Most bytes of events that wait.
    pub queue_bytes: u32,
    /// Most units in one append.
    pub group_units: usize,
    /// Most bytes of events in one append; a larger unit goes alone.
    pub group_bytes: usize,
    /// How long answers are kept under their idempotency keys.
    pub key_lifetime: Duration,
    /// Longest that one attempt may take. Longer than the server's own bound on the wait for the lock, which ends with a
    /// definite answer.
    pub attempt_limit: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_units: 4096,
            queue_bytes: 64 * 1024 * 1024,
            group_units: 512,
            group_bytes: 4 * 1024 * 1024,
            key_lifetime: Duration::from_hours(24),
            attempt_limit: Duration::from_secs(8),
        }
    }
}

/// What became of a unit that was not, or not certainly, appended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// Somebody else wrote one of its names since it was loaded. Nothing was written.
    #[error("another command wrote the same name first")]
    Conflict,
    /// The queue is full. Nothing was written.
    #[error("too many writes are waiting")]
    Overloaded,
    /// The database is away, or somebody holds the log's lock. Nothing was written.
    #[error("the event store is out of reach")]
    Unavailable,
    /// The connection ended while the unit was under way, and did not come back in time to ask.
    #[error("the connection to the event store was lost and the outcome is unknown")]
    Unknown,
    /// The database refused this unit. Nothing was written.
    #[error("the event store refused the events")]
    Refused(#[source] Arc<sqlx::Error>),
}

/// What the caller is told.
type Answer = Result<Appended, AppendError>;

/// A unit in the queue.
struct Waiting {
    unit: Unit,
    bytes: usize,
    since: Instant,
    /// When it is given up: unwritten if it was never sent, unknown if it was.
    until: Instant,
    answer: oneshot::Sender<Answer>,
    trace: Option<UnitTrace>,
    /// Given back when its outcome is known.
    _room: OwnedSemaphorePermit,
}

/// Through which commands append; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    queue: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
    room_bytes: usize,
    under_way: UnderWay,
    metrics: AppendMetrics,
}

/// Since when the committer has had the group that it appends, in milliseconds since it was made; 0 when it has none.
#[derive(Clone, Debug)]
struct UnderWay {
    since: Arc<AtomicU64>,
    made: Instant,
}

impl UnderWay {
    fn begins(&self) {
        self.since.store(self.made_ms_ago().max(1), Ordering::Release);
    }

    fn ends(&self) {
        self.since.store(0, Ordering::Release);
    }

    fn made_ms_ago(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Handle {
    /// Appends the unit; returns when it is durable and visible. While the database is away it is tried until `until`.
    ///
    /// # Errors
    /// What became of it instead. Only [`AppendError::Unknown`] leaves open whether it was written.
    pub async fn append(&self, unit: Unit, until: Instant) -> Result<Appended, AppendError> {
        self.append_traced(unit, until, None).await
    }

    /// The same, of a unit whose statement shows in its command's trace.
    pub(super) async fn append_traced(
        &self,
        unit: Unit,
        until: Instant,
        trace: Option<UnitTrace>,
    ) -> Result<Appended, AppendError> {
        let answered = self.enqueue(unit, until, trace).inspect_err(|refused| {
            if matches!(refused, AppendError::Overloaded) {
                self.metrics.queue_full.inc();
            }
        })?;
        // The committer answers everybody; should it be gone, nobody can say.
        answered.await.unwrap_or(Err(AppendError::Unknown))
    }

    fn enqueue(
        &self,
        unit: Unit,
        until: Instant,
        trace: Option<UnitTrace>,
    ) -> Result<oneshot::Receiver<Answer>, AppendError> {
        let bytes = unit.bytes();
        let places = u32::try_from(bytes).map_err(|_| AppendError::Overloaded)?;
        let room = Arc::clone(&self.room).try_acquire_many_owned(places).map_err(|_| AppendError::Overloaded)?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { unit, bytes, since: Instant::now(), until, answer, trace, _room: room };
        self.queue.try_send(waiting).map_err(|refused| match refused {
            TrySendError::Full(_) => AppendError::Overloaded,
            TrySendError::Closed(_) => AppendError::Unavailable,
        })?;
        Ok(answered)
    }

    /// How long the group has taken so far that is being appended, its repetitions included.
    #[must_use]
    pub fn appending(&self) -> Duration {
        let now = self.under_way.made_ms_ago();
        match self.under_way.since.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            since => Duration::from_millis(now.saturating_sub(since)),
        }
    }

    /// How full the queue is: units that wait, and of how many; bytes that wait or are under way, and of how many.
    pub(crate) fn depth(&self) -> [(usize, usize); 2] {
        let units = self.queue.max_capacity() - self.queue.capacity();
        let bytes = self.room_bytes - self.room.available_permits();
        [(units, self.queue.max_capacity()), (bytes, self.room_bytes)]
    }
}

/// The task; [`Committer::run`] it.
pub struct Committer {
    queue: mpsc::Receiver<Waiting>,
    options: Options,
    connections: Connections,
    outage: Outage,
    metrics: AppendMetrics,
    under_way: UnderWay,
    anchored: Anchored,
    hands_to: Option<Giver>,
    /// Taken from the queue, but touches a name of the group before it.
    held_back: Option<Waiting>,
}

impl std::fmt::Debug for Committer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committer").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Committer {
    /// A committer with a connection of its own, and the handle to it. What it appends, it also hands to `hands_to`.
    #[must_use]
    pub fn new(
        database: PgConnectOptions,
        options: Options,
        metrics: AppendMetrics,
        hands_to: Option<Giver>,
    ) -> (Self, Handle) {
        let (sender, queue) = mpsc::channel(options.queue_units);
        let room_bytes = usize::try_from(options.queue_bytes).unwrap_or(usize::MAX);
        let room = Arc::new(Semaphore::new(room_bytes));
        let connections = Connections::new(database, options.attempt_limit, metrics.connection.clone());
        let under_way = UnderWay { since: Arc::default(), made: Instant::now() };
        let (outage, anchored, held_back) = (Outage::default(), Anchored::default(), None);
        let committer = Self {
            queue,
            options,
            connections,
            outage,
            metrics: metrics.clone(),
            under_way: under_way.clone(),
            anchored,
            hands_to,
            held_back,
        };
        (committer, Handle { queue: sender, room, room_bytes, under_way, metrics })
    }

    /// Appends what comes until `stop`; then what is queued, and ends.
    ///
    /// # Errors
    /// Never: the type is that of critical tasks.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        loop {
            let first = match self.held_back.take() {
                Some(held_back) => held_back,
                None => tokio::select! {
                    biased;
                    Some(waiting) = self.queue.recv() => waiting,
                    () = stop.cancelled() => {
                        self.queue.close();
                        match self.queue.recv().await {
                            Some(waiting) => waiting,
                            None => return Ok(()),
                        }
                    }
                },
            };
            let group = self.gather(first);
            self.under_way.begins();
            self.commit(group).await;
            self.under_way.ends();
        }
    }

    /// The first unit and what is queued behind it, as long as it fits and can be judged beside the others.
    fn gather(&mut self, first: Waiting) -> Vec<Waiting> {
        let mut taken = Taken::default();
        taken.add(&first.unit);
        let mut bytes = first.bytes;
        let mut group = vec![first];
        while group.len() < self.options.group_units {
            let Ok(next) = self.queue.try_recv() else { break };
            bytes = bytes.saturating_add(next.bytes);
            if bytes > self.options.group_bytes || taken.clashes(&next.unit) {
                self.held_back = Some(next);
                break;
            }
            taken.add(&next.unit);
            group.push(next);
        }
        let now = Instant::now();
        for waiting in &group {
            self.metrics.queue_wait.observe((now - waiting.since).as_secs_f64());
        }
        group
    }

    /// Appends a group until its outcome is known, or its units' time is up. Answers everybody.
    async fn commit(&mut self, group: Vec<Waiting>) {
        let mut open = vec![(group, false)];
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        while let Some((group, mut perhaps_written)) = open.pop() {
            let Some(mut group) = self.still_wanted(group, perhaps_written) else { continue };
            let failure = match self.attempt(&group).await {
                Ok(appended) => {
                    if let Some(away) = self.outage.over() {
                        tracing::info!("Appends get through again after {} ms", away.as_millis());
                    }
                    self.anchored = appended.anchored;
                    self.answer(group, appended);
                    continue;
                }
                Err(failure) => failure,
            };
            perhaps_written |= failure.kind == Kind::Lost;
            match failure.kind {
                Kind::Lost | Kind::Away => self.tell_and_wait(&failure, group.len(), &mut backoff).await,
                // A lock that the attempt before may still hold, waiting for a standby, says as little as a lost connection.
                Kind::NotNow if perhaps_written => self.tell_and_wait(&failure, group.len(), &mut backoff).await,
                Kind::NotNow => {
                    tracing::error!(error = %Chain(&failure.error), units = group.len(), "An append was given up: the log's lock is held, or somebody cancelled it");
                    self.refuse(group, &AppendError::Unavailable);
                    continue;
                }
                // One unit spoils the group: halve it until that one stands alone. Order between units does not matter.
                Kind::Refused if group.len() > 1 => {
                    let second_half = group.split_off(group.len() / 2);
                    open.push((second_half, perhaps_written));
                }
                // An attempt before was cut off, and may yet be carried out: this refusal does not speak for it.
                Kind::Refused if perhaps_written => {
                    self.refuse(group, &AppendError::Unknown);
                    continue;
                }
                Kind::Refused => {
                    self.refuse(group, &AppendError::Refused(Arc::new(failure.error)));
                    continue;
                }
            }
            open.push((group, perhaps_written));
        }
    }

    async fn tell_and_wait(&mut self, failure: &Failure, units: usize, backoff: &mut Backoff) {
        if self.outage.failed() {
            tracing::warn!(error = %Chain(&failure.error), units, "An append did not get through; trying again");
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }

    /// The span of a group's statement. It is told to the commands before it has an outcome: they have theirs a moment later.
    fn statement(&self, group: &[Waiting]) -> TraceSpan {
        let traced = || group.iter().filter_map(|waiting| waiting.trace.as_ref());
        if traced().next().is_none() {
            return TraceSpan::default();
        }
        let events = group.iter().map(|waiting| waiting.unit.events.len()).sum();
        let mut span = spans::insert(traced().map(UnitTrace::append), group.len(), events);
        self.connections.tell_place(&mut span);
        traced().for_each(|trace| trace.went_with(&span));
        span
    }

    async fn attempt(&mut self, group: &[Waiting]) -> Result<Group, Failure> {
        let attempted = self.attempt_once(group).await;
        if let Err(failure) = &attempted {
            self.connections.failed(&failure.error);
            // What was cut off may have been, or may yet be, carried out.
            if let (Kind::Lost, Some(to)) = (failure.kind, &self.hands_to) {
                to.missed();
            }
        }
        attempted
    }

    async fn attempt_once(&mut self, group: &[Waiting]) -> Result<Group, Failure> {
        let mut connection = self.connections.take().await.map_err(Failure::before)?;
        let units: Vec<_> = group.iter().map(|waiting| &waiting.unit).collect();
        let mut span = self.statement(group);
        let began = Instant::now();
        let appending = append(&mut connection, &units, self.options.key_lifetime, self.anchored);
        let appended = self.connections.bounded(appending).await.map_err(Failure::during);
        match &appended {
            Ok(_) => self.metrics.appended(began.elapsed(), group.iter().map(|waiting| waiting.bytes)),
            Err(failure) => span.fail(failure.code()),
        }
        drop(span);
        // Otherwise it is dropped: its state is unknown as well, or its server is the wrong one.
        if appended.as_ref().err().is_none_or(|failure| matches!(failure.kind, Kind::NotNow | Kind::Refused)) {
            self.connections.give_back(connection);
        }
        appended
    }

    /// The units whose time is not up; the others are answered.
    fn still_wanted(&self, group: Vec<Waiting>, perhaps_written: bool) -> Option<Vec<Waiting>> {
        let now = Instant::now();
        let (wanted, late): (Vec<_>, Vec<_>) = group.into_iter().partition(|waiting| waiting.until > now);
        self.refuse(late, if perhaps_written { &AppendError::Unknown } else { &AppendError::Unavailable });
        (!wanted.is_empty()).then_some(wanted)
    }

    /// What was appended is on its way to the projection before its callers hear of it.
    fn answer(&self, group: Vec<Waiting>, appended: Group) {
        let Group { outcomes, head, server_process, .. } = appended;
        let mut told = Vec::with_capacity(group.len());
        let mut handing = self.hands_to.as_ref().map(|to| (to, Handing::default()));
        for (Waiting { unit, answer, .. }, outcome) in group.into_iter().zip(outcomes) {
            if let Some((_, handing)) = &mut handing {
                handing.add(unit, &outcome);
            }
            told.push((answer, outcome));
        }
        if let Some((to, handing)) = handing {
            handing.give(to, head, server_process);
        }
        for (to, outcome) in told {
            let (answer, counted) = match outcome {
                Outcome::Done { appended, repeated } => {
                    let answered = matches!(appended, Appended::Answered { .. });
                    let counted = if answered { UnitOutcome::Answered } else { UnitOutcome::Appended };
                    (Ok(appended), if repeated { UnitOutcome::Repeated } else { counted })
                }
                Outcome::Conflict => (Err(AppendError::Conflict), UnitOutcome::Conflict),
            };
            self.metrics.units.of(counted).inc();
            // A caller that is gone no longer asks.
            let _gone = to.send(answer);
        }
    }

    fn refuse(&self, group: Vec<Waiting>, error: &AppendError) {
        let counted = match error {
            AppendError::Conflict => UnitOutcome::Conflict,
            AppendError::Refused(_) => UnitOutcome::Refused,
            AppendError::Unknown => UnitOutcome::Unknown,
            AppendError::Overloaded | AppendError::Unavailable => UnitOutcome::Failed,
        };
        for waiting in group {
            self.metrics.units.of(counted).inc();
            let _gone = waiting.answer.send(Err(error.clone()));
        }
    }
}

/// What a group appended, on its way to the projection.
#[derive(Default)]
struct Handing {
    first: Option<Position>,
    units: Vec<AppendedUnit>,
    /// An attempt that was cut off had appended some of it.
    incomplete: bool,
}

impl Handing {
    /// The next unit of the group, and what became of it.
    fn add(&mut self, unit: Unit, outcome: &Outcome) {
        let Outcome::Done { appended: Appended::Written { first, recorded_at, .. }, repeated } = *outcome else {
            return;
        };
        if repeated {
            self.incomplete = true;
            return;
        }
        self.first.get_or_insert(first);
        let Unit { command_id, events, metadata, .. } = unit;
        let event = |event: NewEvent| AppendedEvent {
            name: event.name,
            version: event.expected_version + 1,
            event_type: event.event_type,
            payload: event.payload,
        };
        let events = events.into_iter().map(event).collect();
        self.units.push(AppendedUnit { command_id, recorded_at, metadata, events });
    }

    fn give(self, to: &Giver, head: Option<Uuid>, server_process: u32) {
        if self.incomplete {
            to.missed();
        }
        let Some(first) = self.first else { return };
        let behind = head.map(|command_id| (Position(first.0 - 1), command_id));
        to.give(AppendedGroup { behind, units: self.units }, server_process);
    }
}

/// What a group writes. `append_events` judges all its units by what was there before: so each name may be written once, and
/// not be looked at by a later unit; and each key be used once.
#[derive(Default)]
struct Taken {
    names: HashSet<ConfigName>,
    keys: HashSet<[u8; 32]>,
}

impl Taken {
    fn add(&mut self, unit: &Unit) {
        self.names.extend(unit.events.iter().map(|event| event.name.clone()));
        self.keys.extend(unit.keyed.iter().map(|keyed| keyed.key.hash));
    }

    fn clashes(&self, unit: &Unit) -> bool {
        let mut names = unit.events.iter().map(|event| &event.name).chain(unit.checks.iter().map(|check| &check.name));
        names.any(|name| self.names.contains(name))
            || unit.keyed.as_ref().is_some_and(|keyed| self.keys.contains(&keyed.key.hash))
    }
}

/// A failed attempt.
struct Failure {
    error: sqlx::Error,
    kind: Kind,
}

/// What a failed attempt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The connection ended under way: the outcome is unknown.
    Lost,
    /// There is no server that takes writes; nothing was written.
    Away,
    /// Nothing was written, this time.
    NotNow,
    /// The server refused these units; nothing was written.
    Refused,
}

impl Failure {
    /// As the server has it; `connection_lost` where it has said nothing.
    fn code(&self) -> String {
        let code = self.error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        code.map_or_else(|| "connection_lost".to_owned(), String::from)
    }

    fn before(error: sqlx::Error) -> Self {
        // Whatever keeps us from connecting (also a refused password) may pass.
        Self { error, kind: Kind::Away }
    }

    fn during(error: sqlx::Error) -> Self {
        // Only the server's own word is definite: an answer that cannot be understood may be that of a commit.
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        let kind = match code.as_deref() {
            None => Kind::Lost,
            Some(READ_ONLY) => Kind::Away,
            Some(code) if NOT_NOW.contains(&code) => Kind::NotNow,
            Some(_) if meaning(&error) == Meaning::ConnectionLost => Kind::Lost,
            Some(_) => Kind::Refused,
        };
        Self { error, kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::append::Lineage;

    fn unit(command: u128, names: &[&str]) -> Unit {
        let event = |name: &&str| NewEvent {
            name: ConfigName::stored(name),
            expected_version: 3,
            seen: None,
            lineage: None,
            event_type: "ConfigValueSet",
            payload: format!(r#"{{"value":"{name}"}}"#),
        };
        let (metadata, checks) = (format!(r#"{{"actor":"{command}"}}"#), vec![]);
        Unit {
            command_id: Uuid::from_u128(command),
            events: names.iter().map(event).collect(),
            metadata,
            checks,
            keyed: None,
        }
    }

    fn done(first: u64, repeated: bool) -> Outcome {
        let (recorded_at, lineage) = ("2024-01-15T10:30:00Z".parse().unwrap(), Lineage::default());
        Outcome::Done { appended: Appended::Written { first: Position(first), recorded_at, lineage }, repeated }
    }

    fn handed(units: Vec<(Unit, Outcome)>, head: Option<Uuid>) -> shared::handover::Taken {
        let (to, mut handing) = (Giver::default(), Handing::default());
        let taker = to.taker();
        for (unit, outcome) in units {
            handing.add(unit, &outcome);
        }
        handing.give(&to, head, 7);
        taker.take()
    }

    #[test]
    fn what_was_written_is_handed_over_behind_what_was_there_and_nothing_else() {
        let head = Uuid::from_u128(99);
        let noted = Outcome::Done { appended: Appended::Noted, repeated: false };
        let group = vec![
            (unit(1, &["a"]), Outcome::Conflict),
            (unit(2, &["b", "c"]), done(6, false)),
            (unit(3, &[]), noted),
            (unit(4, &["d"]), Outcome::Conflict),
            (unit(5, &["e"]), done(8, false)),
        ];
        let taken = handed(group, Some(head));
        let [group] = taken.appended.as_slice() else { panic!("{taken:?}") };
        assert!(taken.complete);
        assert_eq!((group.behind, group.end()), (Some((Position(5), head)), Some((Position(8), Uuid::from_u128(5)))));
        let units: Vec<_> =
            group.units.iter().map(|unit| (unit.command_id.as_u128(), unit.metadata.as_str())).collect();
        assert_eq!(units, [(2, r#"{"actor":"2"}"#), (5, r#"{"actor":"5"}"#)]);
        let events = group.units.iter().flat_map(|unit| &unit.events);
        let events: Vec<_> = events.map(|event| (event.name.as_str(), event.version, event.payload.as_str())).collect();
        assert_eq!(events, [("b", 4, r#"{"value":"b"}"#), ("c", 4, r#"{"value":"c"}"#), ("e", 4, r#"{"value":"e"}"#)]);
    }

    #[test]
    fn the_first_append_of_a_log_stands_behind_nothing() {
        let taken = handed(vec![(unit(1, &["a"]), done(1, false))], None);
        assert_eq!(
            taken.appended.first().map(|group| (group.behind, group.begins_behind())),
            Some((None, Position::ZERO))
        );
    }

    #[test]
    fn where_some_was_written_by_an_attempt_before_the_log_is_to_be_read() {
        let units = || vec![(unit(1, &["a"]), done(3, true)), (unit(2, &["b"]), done(4, false))];
        let taken = handed(units(), Some(Uuid::from_u128(1)));
        assert_eq!((taken.appended.len(), taken.complete), (0, false));
        let nothing = handed(vec![(unit(1, &["a"]), Outcome::Conflict)], None);
        assert_eq!((nothing.appended.len(), nothing.complete), (0, true));
    }
}
