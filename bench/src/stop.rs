//! The end of a run before its time.

use tokio::signal::unix::{SignalKind, signal};

use crate::BoxError;

/// Returns when somebody wants the run to end.
pub(crate) async fn asked_to_stop() -> BoxError {
    let listen = |kind| signal(kind).map_err(BoxError::from);
    let signals = (listen(SignalKind::interrupt()), listen(SignalKind::terminate()), listen(SignalKind::hangup()));
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = signals else {
        return "signals cannot be listened to".into();
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    "stopped before the end; there is no report".into()
}
