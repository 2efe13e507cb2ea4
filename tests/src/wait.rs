//! Waiting for a condition.

use std::time::Duration;

/// How long a condition may take to come true. Far more than it needs: only a failing test waits so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Waits until `condition` gives a value.
///
/// # Panics
/// When it does not within [`PATIENCE`]; `what` says what was waited for.
pub async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            looks.tick().await;
            if let Some(value) = condition().await {
                return value;
            }
        }
    };
    let Ok(value) = tokio::time::timeout(PATIENCE, looking).await else {
        panic!("waited {PATIENCE:?} in vain until {what}")
    };
    value
}

/// Lets the runtime's clock go on by so much at once: what has been waited for so long in this process is late now. Nothing
/// outside of it notices.
pub async fn later(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}
