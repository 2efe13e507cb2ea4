//! The append: one statement, one round trip, for a whole group. The order rule is in `append_events` itself.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use shared::{
    event::{AGGREGATE_TYPE, EVENT_VERSION},
    moment::Moment,
    name::ConfigName,
    position::Position,
};
use sqlx::{
    Encode, PgConnection, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{
        PgArgumentBuffer, PgHasArrayType, PgTypeInfo,
        types::{Oid, PgInterval},
    },
};
use uuid::Uuid;

/// One command's events: all are written, or none.
#[derive(Clone, Debug)]
pub struct Unit {
    /// What makes its append safe to repeat.
    pub command_id: Uuid,
    /// In order. Each of another name.
    pub events: Vec<NewEvent>,
    /// Of its events, all the same; JSON.
    pub metadata: String,
    /// What must still be true of names that it does not write.
    pub checks: Vec<Check>,
    /// The key that it came with, and what a repetition is answered. Kept together with the events, also when there are none.
    pub keyed: Option<Keyed>,
}

/// A name that a unit depends on without writing it.
#[derive(Clone, Debug)]
pub struct Check {
    /// Of the configuration.
    pub name: ConfigName,
    /// The version that it must have; 0 before its first event.
    pub version: u64,
    /// The command that must have written that version; `None`: whichever.
    pub seen: Option<Uuid>,
}

/// An idempotency key, and the answer that is kept under it.
#[derive(Clone, Debug)]
pub struct Keyed {
    /// The key.
    pub key: IdempotencyKey,
    /// JSON.
    pub answer: String,
}

/// A client's idempotency key, as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// SHA-256 of account, route and key.
    pub hash: [u8; 32],
    /// SHA-256 of what was asked.
    pub request: [u8; 32],
}

/// An event on its way into the log.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Of which configuration.
    pub name: ConfigName,
    /// The version that its writer saw; the event gets the next.
    pub expected_version: u64,
    /// The command that had written that version; `None`: whichever. Behind a failover that lost the log's end, the same
    /// version may be another's.
    pub seen: Option<Uuid>,
    /// Its type's name.
    pub event_type: &'static str,
    /// JSON.
    pub payload: String,
}

impl Unit {
    /// What it weighs in queue and group, in bytes.
    pub(super) fn bytes(&self) -> usize {
        // In the log, each event has the metadata.
        let event = |event: &NewEvent| event.name.len() + event.payload.len() + self.metadata.len();
        let events = self.events.iter().map(event);
        let checks = self.checks.iter().map(|check| check.name.len());
        events.chain(checks).sum::<usize>() + self.keyed.as_ref().map_or(0, |keyed| keyed.answer.len())
    }
}

/// What became of a unit.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// It is done: written now, or by an earlier attempt of the same command.
    Done {
        /// Where.
        appended: Appended,
        /// By an earlier attempt.
        repeated: bool,
    },
    /// Somebody else wrote a name of it since; nothing of the unit was written.
    Conflict,
}

/// A unit that is done.
#[derive(Clone, Debug)]
pub enum Appended {
    /// Its events are in the log.
    Written {
        /// Place of its first event; the others follow it.
        first: Position,
        /// When, by the database's clock under the log's lock.
        recorded_at: Moment,
    },
    /// It had no events; its answer is kept.
    Noted,
    /// Its key was taken by an earlier command: nothing was written now.
    Answered {
        /// What was asked then, as in [`IdempotencyKey::request`].
        request: Vec<u8>,
        /// What was answered then; JSON.
        answer: String,
    },
}

/// What Postgres knows the types `json` and `json[]` by, in every version.
const JSON: Oid = Oid(114);
const JSON_ARRAY: Oid = Oid(199);

/// JSON for a `json` column, which keeps its text. sqlx's own type is that of `jsonb`, which does not.
struct JsonText<'a>(&'a str);

impl Type<Postgres> for JsonText<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(JSON)
    }
}

impl PgHasArrayType for JsonText<'_> {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(JSON_ARRAY)
    }
}

impl<'q> Encode<'q, Postgres> for JsonText<'q> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <&str as Encode<'_, Postgres>>::encode_by_ref(&self.0, buffer)
    }
}

/// One row of the answer: a run of units with the same outcome.
#[derive(sqlx::FromRow)]
struct Run {
    first_unit: i32,
    last_unit: i32,
    outcome: String,
    first_position: Option<i64>,
    recorded_at: Option<DateTime<Utc>>,
    key_request_hash: Option<Vec<u8>>,
    key_answer: Option<String>,
}

const APPEND: &str = "
select first_unit, last_unit, outcome, first_position, recorded_at, key_request_hash, key_answer
  from append_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)";

/// Appends the units and tells what became of each, in their order. No two may touch the same name.
///
/// All rows are awaited up to the server's last word: a row arrives before the commit, and would prove nothing.
pub(super) async fn append(
    connection: &mut PgConnection,
    units: &[&Unit],
    key_lifetime: Duration,
) -> Result<Vec<Outcome>, sqlx::Error> {
    let index = |index: usize| i32::try_from(index + 1).expect("a group is far smaller than 2^31 units");
    let of_events = || {
        units.iter().enumerate().flat_map(|(unit, Unit { events, .. })| events.iter().map(move |event| (unit, event)))
    };
    let of_checks = || {
        units.iter().enumerate().flat_map(|(unit, Unit { checks, .. })| checks.iter().map(move |check| (unit, check)))
    };
    let version = |version: u64| i64::try_from(version).expect("versions are bigints in the log");
    // Without any key the arrays are empty, and the server looks for none.
    let keyed = units.iter().any(|unit| unit.keyed.is_some());
    let keys = || units.iter().filter(|_| keyed).map(|unit| unit.keyed.as_ref());
    let lifetime = i64::try_from(key_lifetime.as_micros()).expect("a key lives for days");
    let runs = sqlx::query_as::<_, Run>(APPEND)
        .bind(AGGREGATE_TYPE)
        .bind(units.iter().map(|unit| unit.command_id).collect::<Vec<_>>())
        .bind(units.iter().map(|unit| JsonText(&unit.metadata)).collect::<Vec<_>>())
        .bind(keys().map(|keyed| keyed.map(|keyed| keyed.key.hash)).collect::<Vec<_>>())
        .bind(keys().map(|keyed| keyed.map(|keyed| keyed.key.request)).collect::<Vec<_>>())
        .bind(keys().map(|keyed| keyed.map(|keyed| keyed.answer.as_str())).collect::<Vec<_>>())
        .bind(PgInterval { months: 0, days: 0, microseconds: lifetime })
        .bind(of_events().map(|(unit, _)| index(unit)).collect::<Vec<_>>())
        .bind(of_events().map(|(_, event)| event.name.as_str()).collect::<Vec<_>>())
        .bind(of_events().map(|(_, event)| version(event.expected_version)).collect::<Vec<_>>())
        .bind(of_events().map(|(_, event)| event.seen).collect::<Vec<_>>())
        .bind(of_events().map(|(_, event)| event.event_type).collect::<Vec<_>>())
        .bind(of_events().map(|_| EVENT_VERSION).collect::<Vec<_>>())
        .bind(of_events().map(|(_, event)| JsonText(&event.payload)).collect::<Vec<_>>())
        .bind(of_checks().map(|(unit, _)| index(unit)).collect::<Vec<_>>())
        .bind(of_checks().map(|(_, check)| check.name.as_str()).collect::<Vec<_>>())
        .bind(of_checks().map(|(_, check)| version(check.version)).collect::<Vec<_>>())
        .bind(of_checks().map(|(_, check)| check.seen).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    outcomes(units, runs)
}

/// What became of each unit.
fn outcomes(units: &[&Unit], runs: Vec<Run>) -> Result<Vec<Outcome>, sqlx::Error> {
    let mut outcomes: Vec<Option<Outcome>> = vec![None; units.len()];
    for run in runs {
        let first = usize::try_from(run.first_unit - 1).unwrap_or(usize::MAX);
        let last = usize::try_from(run.last_unit).unwrap_or(0);
        let (Some(units), Some(outcomes)) = (units.get(first..last), outcomes.get_mut(first..last)) else {
            return Err(not_understood("units that it was not given"));
        };
        match (run.outcome.as_str(), run.first_position, run.recorded_at, run.key_request_hash, run.key_answer) {
            (word @ ("appended" | "repeated"), Some(position), Some(recorded_at), ..) => {
                let repeated = word == "repeated";
                let (mut first, mut recorded_at) = (Position::from_column(position), recorded_at);
                for (unit, outcome) in units.iter().zip(outcomes) {
                    let appended = match unit.events.len() {
                        0 => Appended::Noted,
                        _ => Appended::Written { first, recorded_at: Moment(recorded_at) },
                    };
                    *outcome = Some(Outcome::Done { appended, repeated });
                    first.0 += u64::try_from(unit.events.len()).unwrap_or(u64::MAX);
                    recorded_at += TimeDelta::microseconds(1);
                }
            }
            ("answered", .., Some(request), Some(answer)) => {
                let appended = Appended::Answered { request, answer };
                outcomes.fill(Some(Outcome::Done { appended, repeated: false }));
            }
            ("conflict", ..) => outcomes.fill(Some(Outcome::Conflict)),
            (other, ..) => return Err(not_understood(other)),
        }
    }
    outcomes.into_iter().collect::<Option<_>>().ok_or_else(|| not_understood("nothing of some units"))
}

fn not_understood(answer: &str) -> sqlx::Error {
    sqlx::Error::Protocol(format!("append_events answered `{answer}`, which is not understood"))
}
