//! When to stop: the first SIGINT, SIGTERM or SIGHUP asks for it, a second one ends the process at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code of a process that a second signal ended: 128 + SIGINT, as shells report it.
const EXIT_ON_SECOND_SIGNAL: i32 = 130;

/// A token that is cancelled by the first signal. Call it once, in `main`.
///
/// # Errors
/// When the system refuses a signal handler.
pub fn on_signal(runtime: &tokio::runtime::Handle) -> std::io::Result<CancellationToken> {
    let _entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let token = CancellationToken::new();
    let asked = token.clone();
    let _forever = runtime.spawn(async move {
        loop {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
                _ = hang_up.recv() => "SIGHUP",
            };
            if asked.is_cancelled() {
                tracing::warn!("Ended at once by a second {name}");
                std::process::exit(EXIT_ON_SECOND_SIGNAL);
            }
            // First: whatever may go wrong with telling it, the process stops.
            asked.cancel();
            tracing::info!("Stopping on {name}: finishing the requests under way; again to end at once");
        }
    });
    Ok(token)
}
