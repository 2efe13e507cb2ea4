//! Writing to the log by SQL: a call of `append_events` put together unit by unit, an insert as `postgres-es` makes it, and
//! what is in the log then.

use std::{borrow::Cow, time::Duration};

use shared::ids::Ids;
use sqlx::{
    PgExecutor,
    error::DatabaseError,
    types::chrono::{DateTime, Utc},
};
use uuid::Uuid;

/// The arrays of one call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    pub(crate) command_ids: Vec<Uuid>,
    pub(crate) event_units: Vec<i32>,
    pub(crate) check_units: Vec<i32>,
    event_names: Vec<String>,
    event_expected: Vec<i64>,
    event_seen: Vec<Option<Uuid>>,
    check_names: Vec<String>,
    check_sequences: Vec<i64>,
    check_seen: Vec<Option<Uuid>>,
    key_hashes: Vec<Option<[u8; 32]>>,
    request_hashes: Vec<Option<[u8; 32]>>,
    answers: Vec<Option<String>>,
    key_lifetime: Option<&'static str>,
    anchor: Option<(i64, Uuid)>,
    looked_up_events: Vec<i32>,
    wrong_parts: Option<Vec<i16>>,
    silent_of_look_ups: bool,
}

/// One row of the answer: a run of units with the same outcome.
#[derive(Clone, Debug, sqlx::FromRow)]
struct Run {
    first_unit: i32,
    last_unit: i32,
    outcome: String,
    first_position: Option<i64>,
    recorded_at: Option<DateTime<Utc>>,
    conflict_name: Option<String>,
    conflict_sequence: Option<i64>,
    key_request_hash: Option<Vec<u8>>,
    key_answer: Option<String>,
    head_command_id: Option<Uuid>,
    anchor_holds: bool,
}

/// What became of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnitOutcome {
    pub(crate) unit: i32,
    pub(crate) outcome: String,
    pub(crate) first_position: Option<i64>,
    pub(crate) last_position: Option<i64>,
    pub(crate) recorded_at: Option<DateTime<Utc>>,
    pub(crate) conflict_name: Option<String>,
    pub(crate) conflict_sequence: Option<i64>,
    pub(crate) key_request_hash: Option<Vec<u8>>,
    pub(crate) key_answer: Option<String>,
    pub(crate) head_command_id: Option<Uuid>,
    pub(crate) anchor_holds: bool,
}

/// An event as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct StoredEvent {
    pub(crate) position: i64,
    pub(crate) name: String,
    pub(crate) sequence: i64,
    pub(crate) recorded_at: DateTime<Utc>,
    pub(crate) command_id: Uuid,
    pub(crate) part: i16,
}

const APPEND: &str = r#"
select first_unit, last_unit, outcome, first_position, recorded_at, conflict_name, conflict_sequence, key_request_hash,
       key_answer, head_command_id, anchor_holds
  from append_events('ConfigValue', '1.0', $1, array_fill('{}'::json, array[cardinality($1)]), $2, $3, $4,
                     coalesce($5, '24 hours')::interval, $6, $17, $7, $8, $12,
                     array_fill('ConfigValueSet'::text, array[cardinality($6)]),
                     array_fill('{"value":1}'::json, array[cardinality($6)]), $9, $10, $11, $13, $14, $15, $16)"#;

/// The statement of `postgres-es` 0.5.0, whose values are bound there.
const STOCK_INSERT: &str = r#"
INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
VALUES ('ConfigValue', $1, $2, 'ConfigValueSet', '1.0', '{"value":1}', '{}')
RETURNING command_id"#;

const EVENTS: &str = "
select position, aggregate_id as name, sequence, recorded_at, command_id, part from events order by position";

impl Group {
    /// A further unit; events, checks and a key go to the last one.
    pub(crate) fn unit(mut self, command_id: Uuid) -> Self {
        self.command_ids.push(command_id);
        self.key_hashes.push(None);
        self.request_hashes.push(None);
        self.answers.push(None);
        self
    }

    /// An event for the name, whose last sequence is expected to be this.
    pub(crate) fn event(mut self, name: &str, expected: i64) -> Self {
        self.event_units.push(self.last_unit());
        self.event_names.push(name.to_owned());
        self.event_expected.push(expected);
        self.event_seen.push(None);
        self
    }

    /// A name that must have this sequence.
    pub(crate) fn check(mut self, name: &str, sequence: i64) -> Self {
        self.check_units.push(self.last_unit());
        self.check_names.push(name.to_owned());
        self.check_sequences.push(sequence);
        self.check_seen.push(None);
        self
    }

    /// An event for the name, whose last sequence is expected to be this, and written by this command.
    pub(crate) fn event_behind(mut self, name: &str, expected: i64, writer: Uuid) -> Self {
        self = self.event(name, expected);
        *self.event_seen.last_mut().expect("an event") = Some(writer);
        self
    }

    /// A name that must have this sequence, written by this command.
    pub(crate) fn check_of(mut self, name: &str, sequence: i64, writer: Uuid) -> Self {
        self = self.check(name, sequence);
        *self.check_seen.last_mut().expect("a check") = Some(writer);
        self
    }

    /// An idempotency key, the request that came with it, and the answer, in JSON.
    pub(crate) fn key(mut self, key: u8, request: u8, answer: &str) -> Self {
        *self.key_hashes.last_mut().expect("a unit") = Some([key; 32]);
        *self.request_hashes.last_mut().expect("a unit") = Some([request; 32]);
        *self.answers.last_mut().expect("a unit") = Some(answer.to_owned());
        self
    }

    /// The last event of the caller's appends before, and who wrote it: what those wrote needs no look-up while it is there.
    pub(crate) fn anchored(mut self, position: i64, command_id: Uuid) -> Self {
        self.anchor = Some((position, command_id));
        self
    }

    /// The last event's name is another writer's, and is looked up whatever the anchor.
    pub(crate) fn looked_up(mut self) -> Self {
        self.looked_up_events.push(i32::try_from(self.event_units.len()).expect("a test's group is small"));
        self
    }

    /// The events' places in their units are not what they should be.
    pub(crate) fn with_parts(mut self, parts: &[i16]) -> Self {
        self.wrong_parts = Some(parts.to_vec());
        self
    }

    /// Nothing is said of which names are looked up, not even that there are none.
    pub(crate) fn silent_of_look_ups(mut self) -> Self {
        self.silent_of_look_ups = true;
        self
    }

    /// How long its keys are kept, as an interval; 24 hours if nothing is said.
    pub(crate) fn keys_live(mut self, interval: &'static str) -> Self {
        self.key_lifetime = Some(interval);
        self
    }

    /// The events' places in their units.
    fn event_parts(&self) -> Vec<i16> {
        let mut parts = Vec::with_capacity(self.event_units.len());
        for of_unit in self.event_units.chunk_by(|a, b| a == b) {
            parts.extend((0..).take(of_unit.len()));
        }
        parts
    }

    /// Calls `append_events`.
    pub(crate) async fn append(&self, database: impl PgExecutor<'_>) -> Result<Vec<UnitOutcome>, sqlx::Error> {
        let runs: Vec<Run> = sqlx::query_as(APPEND)
            .bind(&self.command_ids)
            .bind(&self.key_hashes)
            .bind(&self.request_hashes)
            .bind(&self.answers)
            .bind(self.key_lifetime)
            .bind(&self.event_units)
            .bind(&self.event_names)
            .bind(&self.event_expected)
            .bind(&self.check_units)
            .bind(&self.check_names)
            .bind(&self.check_sequences)
            .bind(&self.event_seen)
            .bind(&self.check_seen)
            .bind(self.anchor.map(|(position, _)| position))
            .bind(self.anchor.map(|(_, command_id)| command_id))
            .bind((!self.silent_of_look_ups).then_some(&self.looked_up_events))
            .bind(self.wrong_parts.clone().unwrap_or_else(|| self.event_parts()))
            .fetch_all(database)
            .await?;
        let mut outcomes: Vec<_> = runs.into_iter().flat_map(|run| self.units_of(run)).collect();
        outcomes.sort_by_key(|outcome| outcome.unit);
        let units: Vec<_> = outcomes.iter().map(|outcome| outcome.unit).collect();
        assert_eq!(units, (1..=self.last_unit()).collect::<Vec<_>>(), "each unit is answered, once");
        Ok(outcomes)
    }

    fn units_of(&self, run: Run) -> impl Iterator<Item = UnitOutcome> {
        let (mut position, mut recorded_at) = (run.first_position, run.recorded_at);
        (run.first_unit..=run.last_unit).map(move |unit| {
            let events = self.event_units.iter().filter(|of_unit| **of_unit == unit).count();
            let events = i64::try_from(events).expect("a test's unit is small");
            let first_position = position.filter(|_| events > 0);
            let outcome = UnitOutcome {
                unit,
                outcome: run.outcome.clone(),
                first_position,
                last_position: first_position.map(|first| first + events - 1),
                recorded_at,
                conflict_name: run.conflict_name.clone(),
                conflict_sequence: run.conflict_sequence,
                key_request_hash: run.key_request_hash.clone(),
                key_answer: run.key_answer.clone(),
                head_command_id: run.head_command_id,
                anchor_holds: run.anchor_holds,
            };
            position = position.map(|first| first + events);
            recorded_at = recorded_at.map(|moment| moment + Duration::from_micros(1));
            outcome
        })
    }

    fn last_unit(&self) -> i32 {
        i32::try_from(self.command_ids.len()).expect("a test's group is small")
    }
}

impl UnitOutcome {
    /// What became of it, and its first and last position.
    pub(crate) fn place(&self) -> (&str, Option<i64>, Option<i64>) {
        (&self.outcome, self.first_position, self.last_position)
    }

    /// What became of it, and who has which sequence instead.
    pub(crate) fn conflict(&self) -> (&str, Option<&str>, Option<i64>) {
        (&self.outcome, self.conflict_name.as_deref(), self.conflict_sequence)
    }
}

/// An identity as the command service gives them.
pub(crate) fn new_id() -> Uuid {
    Ids::time_ordered().next()
}

/// Inserts an event as `postgres-es` does; the identity that the log gave it.
pub(crate) async fn insert_stock(
    database: impl PgExecutor<'_>,
    name: &str,
    sequence: i64,
) -> Result<Uuid, sqlx::Error> {
    sqlx::query_scalar(STOCK_INSERT).bind(name).bind(sequence).fetch_one(database).await
}

/// The whole log, in its order.
pub(crate) async fn log(database: impl PgExecutor<'_>) -> Vec<StoredEvent> {
    sqlx::query_as(EVENTS).fetch_all(database).await.expect("the log can be read")
}

/// Whose events the log holds, in its order.
pub(crate) async fn names(database: impl PgExecutor<'_>) -> Vec<String> {
    log(database).await.into_iter().map(|event| event.name).collect()
}

/// The SQLSTATE with which the database refuses.
///
/// # Panics
/// When it does not.
pub(crate) fn sqlstate<T: std::fmt::Debug>(result: Result<T, sqlx::Error>) -> String {
    let error = result.expect_err("the database refuses");
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.map_or_else(|| error.to_string(), Cow::into_owned)
}
