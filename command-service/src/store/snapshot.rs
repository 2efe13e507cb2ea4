//! Snapshots of aggregates, for stock `postgres-es` readers, whose loads begin with them. Ours need none (`load.rs`). Written
//! off the path of the command.

use shared::{event::AGGREGATE_TYPE, name::ConfigName, telemetry::Chain};
use sqlx::PgPool;
use uuid::Uuid;

use crate::domain::ConfigValue;

/// A snapshot is made at every version that this divides: a stock load reads at most so many events.
pub(super) const SNAPSHOT_EVERY: u64 = 64;

/// `current_snapshot` is how stock writers notice that another has made a snapshot, after their events are in: it is theirs.
/// A snapshot may be lost in a crash, so nobody waits for the disk; it must not outlive its event, which a failover may lose.
const WRITE: &str = "
with unhurried as (select set_config('synchronous_commit', 'off', true))
insert into snapshots (aggregate_type, aggregate_id, last_sequence, current_snapshot, payload)
select $1, $2, $3, 1, $4::json
  from unhurried
 where exists (select from events e
                where e.aggregate_type = $1 and e.aggregate_id = $2 and e.sequence = $3 and e.command_id = $5)
    on conflict on constraint snapshots_aggregate_key do update
   set last_sequence = excluded.last_sequence, payload = excluded.payload
 where snapshots.last_sequence < excluded.last_sequence";

/// Writes a snapshot. A failure costs loading speed only, and the next one mends it.
pub(super) async fn write(pool: PgPool, name: ConfigName, state: ConfigValue, command_id: Uuid) {
    let payload = match serde_json::to_string(&state) {
        Ok(payload) => payload,
        Err(error) => return tracing::error!(%error, "A snapshot could not be written down"),
    };
    let version = i64::try_from(state.version()).unwrap_or(i64::MAX);
    let query = sqlx::query(WRITE).bind(AGGREGATE_TYPE).bind(name.as_str()).bind(version).bind(payload);
    let query = query.bind(command_id);
    if let Err(error) = query.execute(&pool).await {
        tracing::warn!(error = %Chain(&error), name = name.as_str(), version, "A snapshot could not be stored");
    }
}
