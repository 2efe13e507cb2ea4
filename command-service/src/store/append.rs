//! The append: one statement, one round trip, for a whole group. The order rule is in `append_events` itself.

use std::time::Duration;

use bytes::BytesMut;
use chrono::{DateTime, TimeDelta, Utc};
use shared::{
    event::{AGGREGATE_TYPE, EVENT_VERSION},
    moment::Moment,
    position::Position,
};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    anchor::{Anchored, Footing, Lineage},
    pipe::Pipe,
    ready::{Array, Column, Interval, Ready, put},
    unit::Unit,
};

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
        /// What was asked then, as in [`IdempotencyKey::request`](super::IdempotencyKey::request).
        request: Vec<u8>,
        /// What was answered then; JSON.
        answer: String,
    },
}

/// One row of the answer: a run of units with the same outcome.
#[derive(Debug)]
pub(super) struct Run {
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

pub(super) const APPEND: &str = "
select first_unit, last_unit, outcome, first_position, recorded_at, key_request_hash, key_answer, head_command_id, anchor_holds,
       pg_backend_pid() as server_process
  from append_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,
                     case when coalesce($23 = pg_backend_pid(), true) then $20::bigint end, $21, $22)";

impl Run {
    fn of(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            first_unit: row.try_get(0)?,
            last_unit: row.try_get(1)?,
            outcome: row.try_get(2)?,
            first_position: row.try_get(3)?,
            recorded_at: row.try_get(4)?,
            key_request_hash: row.try_get(5)?,
            key_answer: row.try_get(6)?,
            head_command_id: row.try_get(7)?,
            anchor_holds: row.try_get(8)?,
            server_process: row.try_get(9)?,
        })
    }
}

/// Appends the units and tells what became of each, in their order. No two may touch the same name.
///
/// All rows are awaited up to the server's last word: a row arrives before the commit, and would prove nothing.
pub(super) async fn append(
    pipe: &Pipe,
    group: &[&Ready],
    key_lifetime: Duration,
    footing: Footing,
) -> Result<Vec<Run>, sqlx::Error> {
    let units: &[_] = &group.iter().map(|ready| &ready.unit).collect::<Vec<_>>();
    let index = |index: usize| i32::try_from(index + 1).expect("a group is far smaller than 2^31 units").to_be_bytes();
    let of_events = || {
        units.iter().enumerate().flat_map(|(unit, Unit { events, .. })| events.iter().map(move |event| (unit, event)))
    };
    let of_checks = || {
        units.iter().enumerate().flat_map(|(unit, Unit { checks, .. })| checks.iter().map(move |check| (unit, check)))
    };
    let (events, checks) = (of_events().count(), of_checks().count());
    let column = |column: Column| {
        move |bytes: &mut BytesMut| {
            group.iter().for_each(|ready| bytes.extend_from_slice(ready.columns.elements(column)));
        }
    };
    let part = |part: usize| i16::try_from(part).expect("a batch is far smaller than 2^15 operations").to_be_bytes();
    let version = |version: u64| i64::try_from(version).expect("versions are bigints in the log").to_be_bytes();
    // Without any key the arrays are empty, and the server looks for none.
    let keyed = units.iter().any(|unit| unit.keyed.is_some());
    let keys = || units.iter().filter(|_| keyed).map(|unit| unit.keyed.as_ref());
    let looked_up = || (0..).zip(of_events()).filter(|(_, (_, event))| footing.asks_for(event)).map(|(event, _)| event);
    let lifetime = i64::try_from(key_lifetime.as_micros()).expect("a key lives for days");
    let keys_count = keys().count();
    let rows = pipe
        .append(&[
            &AGGREGATE_TYPE,
            &EVENT_VERSION,
            &Array::new(units.len(), |bytes| {
                units.iter().for_each(|unit| put(bytes, Some(unit.command_id.as_bytes())));
            }),
            &Array::new(units.len(), |bytes| {
                units.iter().for_each(|unit| put(bytes, Some(unit.metadata.as_bytes())));
            }),
            &Array::new(keys_count, |bytes| {
                keys().for_each(|keyed| put(bytes, keyed.map(|keyed| keyed.key.hash.as_slice())));
            }),
            &Array::new(keys_count, |bytes| {
                keys().for_each(|keyed| put(bytes, keyed.map(|keyed| keyed.key.request.as_slice())));
            }),
            &Array::new(keys_count, |bytes| {
                keys().for_each(|keyed| put(bytes, keyed.map(|keyed| keyed.answer.as_bytes())));
            }),
            &Interval(lifetime),
            &Array::new(events, |bytes| of_events().for_each(|(unit, _)| put(bytes, Some(&index(unit))))),
            &Array::new(events, |bytes| {
                units.iter().flat_map(|unit| 0..unit.events.len()).for_each(|place| put(bytes, Some(&part(place))));
            }),
            &Array::new(events, column(Column::Names)),
            &Array::new(events, column(Column::Expected)),
            &Array::new(events, column(Column::Seen)),
            &Array::new(events, column(Column::Types)),
            &Array::new(events, |bytes| {
                of_events().for_each(|(_, event)| put(bytes, Some(event.payload.as_bytes())));
            }),
            &Array::new(checks, |bytes| of_checks().for_each(|(unit, _)| put(bytes, Some(&index(unit))))),
            &Array::new(checks, |bytes| {
                of_checks().for_each(|(_, check)| put(bytes, Some(check.name.as_str().as_bytes())));
            }),
            &Array::new(checks, |bytes| {
                of_checks().for_each(|(_, check)| put(bytes, Some(&version(check.version))));
            }),
            &Array::new(checks, |bytes| {
                of_checks().for_each(|(_, check)| {
                    put(bytes, check.seen.as_ref().map(|seen| seen.as_bytes().as_slice()));
                });
            }),
            &footing.anchor().map(|(position, _)| position.to_parameter()),
            &footing.anchor().map(|(_, command_id)| command_id),
            &Array::new(looked_up().count(), |bytes| {
                looked_up().for_each(|event| put(bytes, Some(&index(event))));
            }),
            &footing.only_in().map(u32::cast_signed),
        ])
        .await?;
    rows.iter().map(Run::of).collect::<Result<_, _>>().map_err(|error| not_understood(&error.to_string()))
}

/// What became of the group, by the server's answer.
pub(super) fn judged(group: &[&Ready], runs: Vec<Run>, anchored: Anchored, on: Footing) -> Result<Group, sqlx::Error> {
    let units: &[_] = &group.iter().map(|ready| &ready.unit).collect::<Vec<_>>();
    let Some(Run { head_command_id: head, anchor_holds, server_process, .. }) = runs.first() else {
        return Err(not_understood("nothing"));
    };
    let (head, holds, server_process) = (*head, *anchor_holds, server_process.cast_unsigned());
    let found = runs.iter().filter_map(|run| last_of(units, run));
    let anchored = anchored.behind(on, holds, found, head, server_process);
    Ok(Group { outcomes: outcomes(units, runs, anchored.lineage())?, anchored, head, server_process })
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
