//! When to stop: the first SIGINT, SIGTERM or SIGHUP asks for it, a second one ends the process at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::telemetry;

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
    let mut hang_up = if hang_up_is_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
    let token = CancellationToken::new();
    let asked = token.clone();
    let _forever = runtime.spawn(async move {
        loop {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
                () = received(hang_up.as_mut()) => "SIGHUP",
            };
            if asked.is_cancelled() {
                tracing::warn!("Ended at once by a second {name}");
                telemetry::flush();
                std::process::exit(EXIT_ON_SECOND_SIGNAL);
            }
            // First: whatever may go wrong with telling it, the process stops.
            asked.cancel();
            tracing::info!("Stopping on {name}: finishing the requests under way; again to end at once");
        }
    });
    Ok(token)
}

async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether who started us, such as nohup, wants a closed terminal to change nothing. Only Linux tells without unsafe code.
fn hang_up_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // One bit for each signal; SIGHUP is 1, the lowest.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
