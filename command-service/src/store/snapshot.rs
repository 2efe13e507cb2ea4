//! Snapshots of aggregates: a cache of loading, written off the path of the command.

use shared::{event::AGGREGATE_TYPE, name::ConfigName, telemetry::Chain};
use sqlx::PgPool;

use crate::domain::ConfigValue;

/// A snapshot is made at every version that this divides: a load reads at most so many events.
pub(super) const SNAPSHOT_EVERY: u64 = 64;

/// `current_snapshot` is how stock writers notice that another has made a snapshot, after their events are in: it is theirs.
const WRITE: &str = "
insert into snapshots (aggregate_type, aggregate_id, last_sequence, current_snapshot, payload)
values ($1, $2, $3, 1, $4::json)
    on conflict on constraint snapshots_aggregate_key do update
   set last_sequence = excluded.last_sequence, payload = excluded.payload
 where snapshots.last_sequence < excluded.last_sequence";

/// Writes a snapshot. A failure costs loading speed only, and the next one mends it.
pub(super) async fn write(pool: PgPool, name: ConfigName, state: ConfigValue) {
    let payload = match serde_json::to_string(&state) {
        Ok(payload) => payload,
        Err(error) => return tracing::error!(%error, "A snapshot could not be written down"),
    };
    let version = i64::try_from(state.version()).unwrap_or(i64::MAX);
    let query = sqlx::query(WRITE).bind(AGGREGATE_TYPE).bind(name.as_str()).bind(version).bind(payload);
    if let Err(error) = query.execute(&pool).await {
        tracing::warn!(error = %Chain(&error), name = name.as_str(), version, "A snapshot could not be stored");
    }
}
