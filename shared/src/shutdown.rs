//! When to stop: the first SIGINT, SIGTERM or SIGHUP asks for it, a second one ends the process at once, and so does the end of
//! its time. On a thread of its own: whoever tells a line waits when nobody reads the log, and that may be every thread of the
//! runtime.

use std::{io, process::exit, thread, time::Duration};

use tokio::{
    runtime::{Builder, Handle},
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::telemetry;

/// Longest that the stop of a service takes, its last traces included. With the last words it is less than the 30 s that supervisors
/// give it.
pub const STOP_LIMIT: Duration = Duration::from_secs(28);

/// Longest wait for a line about the end itself.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(1);

/// Exit code of a process that a second signal ended: 128 + SIGINT, as shells report it.
const EXIT_ON_SECOND_SIGNAL: i32 = 130;

/// Exit code of a process whose stop took too long.
const EXIT_LATE: i32 = 1;

/// A token that is cancelled by the first signal. The process has `limit` from then on. Call it once, in `main`.
///
/// # Errors
/// When the system refuses a signal handler, or a thread.
pub fn on_signal(runtime: &Handle, limit: Duration) -> io::Result<CancellationToken> {
    let signals = Builder::new_current_thread().enable_all().build()?;
    let entered = signals.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = if hang_up_is_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
    drop(entered);
    let mut next = async move || {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            () = received(hang_up.as_mut()) => "SIGHUP",
        }
    };
    let token = CancellationToken::new();
    let (asked, runtime) = (token.clone(), runtime.clone());
    let wait = async move {
        let first = next().await;
        // First: whatever may go wrong with telling it, the process stops.
        asked.cancel();
        let _told = runtime.spawn(async move {
            tracing::info!("Stopping on {first}: finishing the requests under way; again to end at once");
        });
        let second = timeout(limit, next()).await.ok();
        let told = runtime.spawn(async move {
            match second {
                Some(second) => tracing::warn!("Ended at once by a second {second}"),
                None => tracing::error!(limit_s = limit.as_secs(), "Ended: it did not stop in time"),
            }
        });
        // Where nobody reads the log there is nothing to wait for.
        if timeout(LAST_WORDS_LIMIT, told).await.is_ok() {
            telemetry::flush();
        }
        exit(if second.is_some() { EXIT_ON_SECOND_SIGNAL } else { EXIT_LATE });
    };
    thread::Builder::new().name("signals".to_owned()).spawn(move || signals.block_on(wait))?;
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
