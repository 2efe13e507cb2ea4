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

use super::ready::{Array, Column, Ready, put};

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
    /// The lineage that this version belongs to; `None`: it was loaded, so anybody may have written it.
    pub lineage: Option<Lineage>,
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

/// What one committer has appended since its first append, or since the last time the log turned out to have lost some of it. As
/// long as the newest of these events is in the log, all of them are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lineage(u64);

/// A lineage, and its newest event.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Anchored {
    pub(super) lineage: Lineage,
    /// Its place, and the command that wrote it; `None` before the first append.
    pub(super) anchor: Option<(Position, Uuid)>,
}

impl Anchored {
    /// Behind an append, which has found these events in the log, or put them there.
    fn behind(self, holds: bool, events: impl Iterator<Item = (Position, Uuid)>) -> Self {
        let Self { lineage, anchor } = self;
        let (lineage, anchor) = if holds { (lineage, anchor) } else { (Lineage(lineage.0 + 1), None) };
        Self { lineage, anchor: events.chain(anchor).max_by_key(|(position, _)| *position) }
    }

    /// Whether the name's last version must be looked up, though the anchor holds.
    fn asks_for(self, event: &NewEvent) -> bool {
        event.expected_version > 0 && event.lineage != Some(self.lineage)
    }
}

/// What became of a group.
#[derive(Debug)]
pub(super) struct Group {
    /// Of each unit, in their order.
    pub(super) outcomes: Vec<Outcome>,
    /// What the next append can rely on.
    pub(super) anchored: Anchored,
    /// The command that wrote the log's last event before it.
    pub(super) head: Option<Uuid>,
    /// The server process that carried it out.
    pub(super) server_process: u32,
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
        /// The lineage that they belong to.
        lineage: Lineage,
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
    head_command_id: Option<Uuid>,
    anchor_holds: bool,
    server_process: i32,
}

const APPEND: &str = "
select first_unit, last_unit, outcome, first_position, recorded_at, key_request_hash, key_answer, head_command_id, anchor_holds,
       pg_backend_pid() as server_process
  from append_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)";

/// Appends the units and tells what became of each, in their order. No two may touch the same name.
///
/// All rows are awaited up to the server's last word: a row arrives before the commit, and would prove nothing.
pub(super) async fn append(
    connection: &mut PgConnection,
    group: &[&Ready],
    key_lifetime: Duration,
    anchored: Anchored,
) -> Result<Group, sqlx::Error> {
    let units: &[_] = &group.iter().map(|ready| &ready.unit).collect::<Vec<_>>();
    let index = |index: usize| i32::try_from(index + 1).expect("a group is far smaller than 2^31 units");
    let of_events = || {
        units.iter().enumerate().flat_map(|(unit, Unit { events, .. })| events.iter().map(move |event| (unit, event)))
    };
    let of_checks = || {
        units.iter().enumerate().flat_map(|(unit, Unit { checks, .. })| checks.iter().map(move |check| (unit, check)))
    };
    let events = of_events().count();
    let column = |column: Column| {
        move |bytes: &mut Vec<u8>| {
            group.iter().for_each(|ready| bytes.extend_from_slice(ready.columns.elements(column)));
        }
    };
    let units_of_events = |bytes: &mut Vec<u8>| {
        of_events().for_each(|(unit, _)| put(bytes, Some(&index(unit).to_be_bytes())));
    };
    let part = |part: usize| i16::try_from(part).expect("a batch is far smaller than 2^15 operations").to_be_bytes();
    let parts = |bytes: &mut Vec<u8>| {
        units.iter().flat_map(|unit| 0..unit.events.len()).for_each(|place| put(bytes, Some(&part(place))));
    };
    let payloads = |bytes: &mut Vec<u8>| {
        of_events().for_each(|(_, event)| put(bytes, Some(event.payload.as_bytes())));
    };
    let version = |version: u64| i64::try_from(version).expect("versions are bigints in the log");
    // Without any key the arrays are empty, and the server looks for none.
    let keyed = units.iter().any(|unit| unit.keyed.is_some());
    let keys = || units.iter().filter(|_| keyed).map(|unit| unit.keyed.as_ref());
    let looked_up =
        (0..).zip(of_events()).filter(|(_, (_, event))| anchored.asks_for(event)).map(|(event, _)| index(event));
    let lifetime = i64::try_from(key_lifetime.as_micros()).expect("a key lives for days");
    let runs = sqlx::query_as::<_, Run>(APPEND)
        .bind(AGGREGATE_TYPE)
        .bind(EVENT_VERSION)
        .bind(units.iter().map(|unit| unit.command_id).collect::<Vec<_>>())
        .bind(units.iter().map(|unit| JsonText(&unit.metadata)).collect::<Vec<_>>())
        .bind(keys().map(|keyed| keyed.map(|keyed| keyed.key.hash)).collect::<Vec<_>>())
        .bind(keys().map(|keyed| keyed.map(|keyed| keyed.key.request)).collect::<Vec<_>>())
        .bind(keys().map(|keyed| keyed.map(|keyed| keyed.answer.as_str())).collect::<Vec<_>>())
        .bind(PgInterval { months: 0, days: 0, microseconds: lifetime })
        .bind(Array::<i32, _>::new(events, units_of_events))
        .bind(Array::<i16, _>::new(events, parts))
        .bind(Array::<String, _>::new(events, column(Column::Names)))
        .bind(Array::<i64, _>::new(events, column(Column::Expected)))
        .bind(Array::<Uuid, _>::new(events, column(Column::Seen)))
        .bind(Array::<String, _>::new(events, column(Column::Types)))
        .bind(Array::<JsonText<'_>, _>::new(events, payloads))
        .bind(of_checks().map(|(unit, _)| index(unit)).collect::<Vec<_>>())
        .bind(of_checks().map(|(_, check)| check.name.as_str()).collect::<Vec<_>>())
        .bind(of_checks().map(|(_, check)| version(check.version)).collect::<Vec<_>>())
        .bind(of_checks().map(|(_, check)| check.seen).collect::<Vec<_>>())
        .bind(anchored.anchor.map(|(position, _)| position.to_parameter()))
        .bind(anchored.anchor.map(|(_, command_id)| command_id))
        .bind(looked_up.collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    let Some(Run { head_command_id: head, anchor_holds, server_process, .. }) = runs.first() else {
        return Err(not_understood("nothing"));
    };
    let (head, holds, server_process) = (*head, *anchor_holds, server_process.cast_unsigned());
    let found = runs.iter().filter_map(|run| last_of(units, run));
    let anchored = anchored.behind(holds, found);
    Ok(Group { outcomes: outcomes(units, runs, anchored.lineage)?, anchored, head, server_process })
}

/// The units that a row speaks of.
fn units_of<'a>(units: &'a [&'a Unit], run: &Run) -> Option<&'a [&'a Unit]> {
    units.get(usize::try_from(run.first_unit - 1).ok()?..usize::try_from(run.last_unit).ok()?)
}

/// The last event of the units that a row tells to be in the log.
fn last_of(units: &[&Unit], run: &Run) -> Option<(Position, Uuid)> {
    let first = run.first_position?;
    let units = units_of(units, run)?;
    let events: usize = units.iter().map(|unit| unit.events.len()).sum();
    let last = units.iter().rfind(|unit| !unit.events.is_empty())?;
    Some((Position::from_column(first + i64::try_from(events).ok()? - 1), last.command_id))
}

/// What became of each unit.
fn outcomes(units: &[&Unit], runs: Vec<Run>, lineage: Lineage) -> Result<Vec<Outcome>, sqlx::Error> {
    let mut outcomes: Vec<Option<Outcome>> = vec![None; units.len()];
    for run in runs {
        let Some(of_run) = units_of(units, &run) else { return Err(not_understood("units that it was not given")) };
        let outcomes = outcomes.iter_mut().skip(usize::try_from(run.first_unit - 1).unwrap_or(usize::MAX));
        let outcomes = of_run.iter().zip(outcomes);
        match (run.outcome.as_str(), run.first_position, run.recorded_at, run.key_request_hash, run.key_answer) {
            (word @ ("appended" | "repeated"), Some(position), Some(recorded_at), ..) => {
                let repeated = word == "repeated";
                let (mut first, mut recorded_at) = (Position::from_column(position), recorded_at);
                for (unit, outcome) in outcomes {
                    let appended = match unit.events.len() {
                        0 => Appended::Noted,
                        _ => Appended::Written { first, recorded_at: Moment(recorded_at), lineage },
                    };
                    *outcome = Some(Outcome::Done { appended, repeated });
                    first.0 += u64::try_from(unit.events.len()).unwrap_or(u64::MAX);
                    recorded_at += TimeDelta::microseconds(1);
                }
            }
            ("answered", .., Some(request), Some(answer)) => {
                let appended = Appended::Answered { request, answer };
                let answered = Outcome::Done { appended, repeated: false };
                outcomes.for_each(|(_, outcome)| *outcome = Some(answered.clone()));
            }
            ("conflict", ..) => outcomes.for_each(|(_, outcome)| *outcome = Some(Outcome::Conflict)),
            (other, ..) => return Err(not_understood(other)),
        }
    }
    outcomes.into_iter().collect::<Option<_>>().ok_or_else(|| not_understood("nothing of some units"))
}

fn not_understood(answer: &str) -> sqlx::Error {
    sqlx::Error::Protocol(format!("append_events answered `{answer}`, which is not understood"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What happens to a log, its committer, and who loads from it.
    #[derive(Clone, Debug)]
    enum Step {
        /// The committer appends an event of the name, knowing what it knows; or its answer is lost, and it repeats.
        Append { name: usize, repeated: bool },
        /// Another writer does.
        Other { name: usize },
        /// The committer's process loads a name, perhaps from a server that still has what is lost.
        Load { name: usize, from_old: bool },
        /// A failover loses so many events.
        Lose(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3_usize, any::<bool>()).prop_map(|(name, repeated)| Step::Append { name, repeated }),
            2 => (0..3_usize).prop_map(|name| Step::Other { name }),
            2 => (0..3_usize, any::<bool>()).prop_map(|(name, from_old)| Step::Load { name, from_old }),
            1 => (1..4_usize).prop_map(Step::Lose),
        ]
    }

    /// Events as their commands and names, in their order.
    type Log = Vec<(Uuid, usize)>;

    /// The last event of a name, and how many it has.
    fn last(log: &Log, name: usize) -> Option<(usize, Uuid, u64)> {
        let of_name = || log.iter().enumerate().filter(|(_, event)| event.1 == name);
        of_name().next_back().map(|(index, event)| (index + 1, event.0, of_name().count() as u64))
    }

    fn event(name: usize, seen: Option<(Uuid, u64, Option<Lineage>)>) -> NewEvent {
        NewEvent {
            name: ConfigName::stored(&name.to_string()),
            expected_version: seen.map_or(0, |(_, version, _)| version),
            seen: seen.map(|(command_id, ..)| command_id),
            lineage: seen.and_then(|(.., lineage)| lineage),
            event_type: "ConfigValueSet",
            payload: String::new(),
        }
    }

    proptest! {
        /// Through failovers, other writers, repetitions and loads of any server: a name that is not looked up, while the anchor is
        /// in the log, has in the log what was seen of it.
        #[test]
        fn what_is_not_looked_up_is_there(steps in prop::collection::vec(step(), 0..60)) {
            let (mut log, mut old): (Log, Log) = (vec![], vec![]);
            let mut known: [Option<(Uuid, u64, Option<Lineage>)>; 3] = [None; 3];
            let (mut anchored, mut next) = (Anchored::default(), 0_u128);
            for step in steps {
                next += 1;
                let command_id = Uuid::from_u128(next);
                match step {
                    Step::Other { name } => log.push((command_id, name)),
                    Step::Lose(events) => {
                        old.clone_from(&log);
                        log.truncate(log.len().saturating_sub(events));
                    }
                    Step::Load { name, from_old } => {
                        let server = if from_old { &old } else { &log };
                        known[name] = last(server, name).map(|(_, command_id, version)| (command_id, version, None));
                    }
                    Step::Append { name, repeated } => {
                        let event = event(name, known[name]);
                        let holds = anchored.anchor.is_some_and(|(position, command_id)| {
                            usize::try_from(position.0 - 1).is_ok_and(|index| log.get(index).is_some_and(|event| event.0 == command_id))
                        });
                        let looked_up = !holds || anchored.asks_for(&event);
                        if let Some(seen) = event.seen && !looked_up {
                            prop_assert!(log.contains(&(seen, name)), "{seen} of {name} is not in {log:?}");
                        }
                        // As the log itself judges it.
                        let stands = last(&log, name).map(|(_, command_id, _)| command_id) == event.seen;
                        let mut found = vec![];
                        if stands {
                            log.push((command_id, name));
                            found.push((Position(log.len() as u64), command_id));
                        }
                        anchored = anchored.behind(holds, found.iter().copied());
                        if stands && repeated {
                            anchored = anchored.behind(anchored.anchor.is_some(), found.iter().copied());
                        }
                        known[name] = match last(&log, name) {
                            Some((_, command_id, version)) if stands => Some((command_id, version, Some(anchored.lineage))),
                            // A conflict: it is loaded.
                            other => other.map(|(_, command_id, version)| (command_id, version, None)),
                        };
                    }
                }
            }
        }
    }
}
