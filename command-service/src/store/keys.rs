//! Idempotency keys whose time is up: removed now and then, a few at a time. An append treats them as absent before.

use std::time::Duration;

use shared::telemetry::Chain;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

/// How often is looked.
const EVERY: Duration = Duration::from_secs(60);

/// Most keys in one statement, so that it is short.
const AT_ONCE: u32 = 1_000;

const REMOVE: &str = "
delete from idempotency_keys
 where key_hash in (select key_hash from idempotency_keys where expires_at <= now() order by expires_at limit $1
                       for update skip locked)";

/// Removes expired keys until `stop`. A failure is told; the next look mends it.
///
/// # Errors
/// Never: the type is that of critical tasks.
pub async fn sweep(pool: PgPool, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
    let mut looks = tokio::time::interval(EVERY);
    while stop.run_until_cancelled(looks.tick()).await.is_some() {
        loop {
            match sqlx::query(REMOVE).bind(i64::from(AT_ONCE)).execute(&pool).await {
                Ok(removed) if removed.rows_affected() == u64::from(AT_ONCE) && !stop.is_cancelled() => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "Expired idempotency keys could not be removed");
                    break;
                }
            }
        }
    }
    Ok(())
}
