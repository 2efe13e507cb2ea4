//! What is there as state already, told as it is when the metrics are asked for.

use std::sync::Arc;

use shared::metrics::{Metrics, Words as _, float};

use super::status::{Report, Status};
use crate::{
    metrics::{
        CONFIGURATIONS, DIVERGENCES, HALTED, HEAD_POSITION, HaltCause, LAG_EVENTS, LAG_SECONDS, LAST_CONTACT, POSITION,
        READY, REPLAY_DURATION, REPLAY_EVENTS, REPLAY_RATE, REPLAY_TARGET, REPLAYING,
    },
    projection::Published,
};

/// Tells of the projection from now on.
pub(crate) fn tell(metrics: &Metrics, projection: &Arc<Published>, status: &Arc<Status>) {
    let definitions = [
        &READY,
        &POSITION,
        &HEAD_POSITION,
        &LAG_EVENTS,
        &LAG_SECONDS,
        &LAST_CONTACT,
        &CONFIGURATIONS,
        &REPLAYING,
        &REPLAY_EVENTS,
        &REPLAY_TARGET,
        &REPLAY_DURATION,
        &REPLAY_RATE,
        &DIVERGENCES,
        &HALTED,
    ];
    let (projection, status) = (Arc::clone(projection), Arc::clone(status));
    metrics.read(&definitions, move |told| {
        // The report first: readers are then at least as far as it says.
        let report = status.report();
        let current = projection.current();
        let ready = current.is_some();
        let snapshot = current.unwrap_or_default();
        let position = snapshot.position();
        let head = report.head.max(position);
        let flag = |set: bool| f64::from(u8::from(set));
        told.value(&READY, flag(ready));
        told.value(&POSITION, float(position.0));
        told.value(&HEAD_POSITION, float(head.0));
        told.value(&LAG_EVENTS, float(head.0 - position.0));
        told.value(&LAG_SECONDS, float(status.lag_ms(&report, position)) / 1e3);
        told.value(&LAST_CONTACT, float(status.last_contact_ms()) / 1e3);
        told.value(&CONFIGURATIONS, float(snapshot.len() as u64));
        told.value(&REPLAYING, flag(report.replaying.is_some()));
        let replay = Replayed::of(&report);
        told.value(&REPLAY_EVENTS, float(replay.events));
        told.value(&REPLAY_TARGET, float(replay.target));
        told.value(&REPLAY_DURATION, replay.seconds);
        told.value(&REPLAY_RATE, float(replay.events_per_second));
        told.value(&DIVERGENCES, float(report.divergences));
        for (cause, word) in [HaltCause::Hole, HaltCause::UnreadableEvent].into_iter().zip(HaltCause::WORDS) {
            told.labelled(&HALTED, &[word], flag(report.halted_by == Some(cause)));
        }
    });
}

/// The running replay, else the last one.
#[derive(Default)]
struct Replayed {
    events: u64,
    target: u64,
    seconds: f64,
    events_per_second: u64,
}

impl Replayed {
    fn of(report: &Report) -> Self {
        match (&report.progress, &report.last_replay) {
            (Some(running), _) => Self {
                events: running.events,
                target: running.of,
                // As it is now: a replay that does not come on takes time too.
                seconds: running.began.elapsed().as_secs_f64(),
                events_per_second: running.events_per_second,
            },
            (None, Some(last)) => Self {
                events: last.events,
                target: last.events,
                seconds: float(last.duration_ms) / 1e3,
                events_per_second: last.events_per_second,
            },
            (None, None) => Self::default(),
        }
    }
}
