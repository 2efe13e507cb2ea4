//! The append: one statement, one round trip, for a whole group. The order rule is in `append_events` itself.

use chrono::{DateTime, Utc};
use shared::{
    event::{AGGREGATE_TYPE, EVENT_VERSION},
    moment::Moment,
    name::ConfigName,
    position::Position,
};
use sqlx::{PgConnection, postgres::types::PgInterval};
use uuid::Uuid;

/// One command's events: all are written, or none.
#[derive(Clone, Debug)]
pub struct Unit {
    /// What makes its append safe to repeat.
    pub command_id: Uuid,
    /// In order.
    pub events: Vec<NewEvent>,
}

/// An event on its way into the log.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Of which configuration.
    pub name: ConfigName,
    /// The version that its writer saw; the event gets the next.
    pub expected_version: u64,
    /// Its type's name.
    pub event_type: &'static str,
    /// JSON.
    pub payload: String,
    /// JSON.
    pub metadata: String,
}

impl Unit {
    /// What it weighs in queue and group, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.events.iter().map(|event| event.name.len() + event.payload.len() + event.metadata.len()).sum()
    }
}

/// What became of a unit.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// Its events are in the log: written now, or by an earlier attempt of the same command.
    Written { first: Position, recorded_at: Moment },
    /// Somebody else wrote that name since; nothing of the unit was written.
    Conflict,
}

/// One row of the answer.
#[derive(sqlx::FromRow)]
struct UnitRow {
    outcome: String,
    first_position: Option<i64>,
    recorded_at: Option<DateTime<Utc>>,
}

const APPEND: &str = "
select outcome, first_position, recorded_at
  from append_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
 order by unit";

/// No idempotency keys yet, so none is kept.
const NO_KEYS: PgInterval = PgInterval { months: 0, days: 0, microseconds: 0 };

/// Appends the units and tells what became of each, in their order. No two may touch the same name.
///
/// All rows are awaited up to the server's last word: a row arrives before the commit, and would prove nothing.
pub(super) async fn append(connection: &mut PgConnection, units: &[&Unit]) -> Result<Vec<Outcome>, sqlx::Error> {
    let index = |index: usize| i32::try_from(index + 1).expect("a group is far smaller than 2^31 units");
    let of_events = || {
        units.iter().enumerate().flat_map(|(unit, Unit { events, .. })| events.iter().map(move |event| (unit, event)))
    };
    let expected = |event: &NewEvent| i64::try_from(event.expected_version).expect("versions are bigints in the log");
    let rows = sqlx::query_as::<_, UnitRow>(APPEND)
        .bind(AGGREGATE_TYPE)
        .bind(units.iter().map(|unit| unit.command_id).collect::<Vec<_>>())
        .bind(vec![None::<Vec<u8>>; units.len()])
        .bind(vec![None::<Vec<u8>>; units.len()])
        .bind(vec![None::<String>; units.len()])
        .bind(NO_KEYS)
        .bind(of_events().map(|(unit, _)| index(unit)).collect::<Vec<_>>())
        .bind(of_events().map(|(_, event)| event.name.as_str()).collect::<Vec<_>>())
        .bind(of_events().map(|(_, event)| expected(event)).collect::<Vec<_>>())
        .bind(of_events().map(|(_, event)| event.event_type).collect::<Vec<_>>())
        .bind(of_events().map(|_| EVENT_VERSION).collect::<Vec<_>>())
        .bind(of_events().map(|(_, event)| event.payload.as_str()).collect::<Vec<_>>())
        .bind(of_events().map(|(_, event)| event.metadata.as_str()).collect::<Vec<_>>())
        .bind(Vec::<i32>::new())
        .bind(Vec::<&str>::new())
        .bind(Vec::<i64>::new())
        .fetch_all(connection)
        .await?;
    if rows.len() != units.len() {
        return Err(sqlx::Error::Protocol(format!("append_events answered {} of {} units", rows.len(), units.len())));
    }
    rows.iter().map(outcome).collect()
}

fn outcome(row: &UnitRow) -> Result<Outcome, sqlx::Error> {
    match (row.outcome.as_str(), row.first_position, row.recorded_at) {
        ("appended" | "repeated", Some(first), Some(recorded_at)) => {
            Ok(Outcome::Written { first: Position::from_column(first), recorded_at: Moment(recorded_at) })
        }
        ("conflict", ..) => Ok(Outcome::Conflict),
        (other, ..) => Err(sqlx::Error::Protocol(format!("append_events answered `{other}` to a unit without a key"))),
    }
}
