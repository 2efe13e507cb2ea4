//! The metrics of this service: the dashboards' contract, beside what every process tells (`shared::metrics`).

use prometheus::{Histogram, IntCounter};
use shared::{
    clock::Clock,
    metrics::{ConnectionMetrics, Counters, Definition, Label, Metrics, Values, Words as _, float},
    moment::Moment,
    words,
};

use crate::watch::Reset;

/// All that is told here, in the order of the document.
pub const ALL: &[&Definition] = &[
    &READY,
    &POSITION,
    &HEAD_POSITION,
    &LAG_EVENTS,
    &LAG_SECONDS,
    &LAST_CONTACT,
    &CONFIGURATIONS,
    &EVENTS_APPLIED,
    &HANDED_OVER,
    &APPLY_DELAY,
    &REPLAYING,
    &REPLAY_EVENTS,
    &REPLAY_TARGET,
    &REPLAY_DURATION,
    &REPLAY_RATE,
    &REPLAYS,
    &REPLAY_FAILURES,
    &DIVERGENCES,
    &HALTED,
    &SNAPSHOTS_PINNED,
    &WATCHERS,
    &WATCHERS_LIMIT,
    &LONG_POLLS,
    &WATCHERS_TURNED_AWAY,
    &DELIVERIES,
    &DELIVERY_DELAY,
    &WATCHERS_CUT,
    &RESETS,
    &FOLLOWERS,
    &FOLLOWERS_LIMIT,
];

/// From a notification's way to a watch that is minutes behind; in seconds.
const DELAY_BOUNDS: &[f64] =
    &[0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

words! {
    /// Why the log was folded from zero.
    pub(crate) enum ReplayCause {
        Start = "start",
        Rebuild = "rebuild",
        Divergence = "divergence",
    }
}

words! {
    /// Why nothing further is applied.
    pub(crate) enum HaltCause {
        Hole = "hole",
        UnreadableEvent = "unreadable_event",
    }
}

pub(crate) const READY: Definition = Definition::gauge(
    "config_projection_ready",
    &[],
    "Whether there is a state to read (1): from the end of the first replay on.",
);

pub(crate) const POSITION: Definition =
    Definition::gauge("config_projection_position", &[], "Position up to which readers see the log.");

pub(crate) const HEAD_POSITION: Definition =
    Definition::gauge("config_projection_head_position", &[], "The newest known position of the log.");

pub(crate) const LAG_EVENTS: Definition =
    Definition::gauge("config_projection_lag_events", &[], "Events that are known and that readers do not see yet.");

pub(crate) const LAG_SECONDS: Definition = Definition::gauge(
    "config_projection_lag_seconds",
    &[],
    "0 while readers see all that is known of the log; else since when they last did, also while the log is out of reach.",
);

pub(crate) const LAST_CONTACT: Definition =
    Definition::gauge("config_projection_last_contact_seconds", &[], "Since the log was last heard of.");

pub(crate) const CONFIGURATIONS: Definition =
    Definition::gauge("config_projection_configurations", &[], "Configurations that have a value.");

const EVENTS_APPLIED: Definition = Definition::counter(
    "config_projection_events_applied_total",
    &[],
    "Events that were applied for readers in following the log; those of replays are not among them.",
);

const HANDED_OVER: Definition = Definition::counter(
    "config_projection_events_handed_over_total",
    &[],
    "Events among those applied that the same process had appended, and that were not read from the log: config-api's own writes.",
);

const APPLY_DELAY: Definition = Definition::histogram(
    "config_projection_apply_delay_seconds",
    &[],
    DELAY_BOUNDS,
    "From when a command's events were recorded, by the database's clock, until readers see them; one for each command, those of replays not among them.",
);

pub(crate) const REPLAYING: Definition = Definition::gauge(
    "config_projection_replaying",
    &[],
    "Whether the log is being folded from zero (1), or still to be, at the start.",
);

pub(crate) const REPLAY_EVENTS: Definition =
    Definition::gauge("config_projection_replay_events", &[], "Events that the running or last replay has applied.");

pub(crate) const REPLAY_TARGET: Definition = Definition::gauge(
    "config_projection_replay_target_events",
    &[],
    "Events that the running or last replay has to apply.",
);

pub(crate) const REPLAY_DURATION: Definition = Definition::gauge(
    "config_projection_replay_duration_seconds",
    &[],
    "How long the running replay has taken so far, or the last one took.",
);

pub(crate) const REPLAY_RATE: Definition = Definition::gauge(
    "config_projection_replay_events_per_second",
    &[],
    "Rate of the running or last replay, on average.",
);

const REPLAYS: Definition = Definition::counter(
    "config_projection_replays_total",
    &[Label { name: "cause", values: Values::Words(ReplayCause::WORDS) }],
    "Replays that were completed: the first one, those that somebody asked for, those of a log that was rewritten.",
);

const REPLAY_FAILURES: Definition = Definition::counter(
    "config_projection_replay_failures_total",
    &[],
    "How often a replay was interrupted, by a lost connection, an event that cannot be applied, or a rewritten log. It goes on by itself.",
);

pub(crate) const DIVERGENCES: Definition = Definition::counter(
    "config_projection_divergences_total",
    &[],
    "How often the log was found rewritten, by a failover or a restore.",
);

pub(crate) const HALTED: Definition = Definition::gauge(
    "config_projection_halted",
    &[Label { name: "cause", values: Values::Words(HaltCause::WORDS) }],
    "Whether nothing further is applied (1): a position is missing, or an event cannot be read by this release.",
);

pub(crate) const SNAPSHOTS_PINNED: Definition = Definition::gauge(
    "config_projection_snapshots_pinned",
    &[],
    "Former states that are kept for the next pages of lists.",
);

pub(crate) const WATCHERS: Definition = Definition::gauge("config_watchers", &[], "Watchers that are connected.");

pub(crate) const WATCHERS_LIMIT: Definition =
    Definition::gauge("config_watchers_limit", &[], "Most watchers and long polls, both together.");

pub(crate) const LONG_POLLS: Definition =
    Definition::gauge("config_long_polls", &[], "Long polls that wait for a change.");

const WATCHERS_TURNED_AWAY: Definition = Definition::counter(
    "config_watchers_turned_away_total",
    &[],
    "Watchers and long polls that were turned away with 503 because the limit was reached.",
);

const DELIVERIES: Definition = Definition::counter(
    "config_watch_deliveries_total",
    &[],
    "Messages that were handed to watchers' connections: one for each command and watcher.",
);

const DELIVERY_DELAY: Definition = Definition::histogram(
    "config_watch_delivery_delay_seconds",
    &[],
    DELAY_BOUNDS,
    "From when a command's events were recorded, by the database's clock, until they were handed to a watcher's connection; what a watcher missed before it came is not in it.",
);

const WATCHERS_CUT: Definition = Definition::counter(
    "config_watchers_cut_total",
    &[Label { name: "cause", values: Values::Words(Reset::WORDS) }],
    "Streams that were ended by this service: their clients read too slowly, the log was rewritten, the process stops, or the log was needed and out of reach.",
);

const RESETS: Definition = Definition::counter(
    "config_watch_resets_total",
    &[Label { name: "cause", values: Values::Words(Reset::WORDS) }],
    "`reset` events that watchers were sent: those of streams that were ended, and of watchers that came with a position that is no more.",
);

pub(crate) const FOLLOWERS: Definition =
    Definition::gauge("config_event_followers", &[], "Consumers that follow the log by /v1/events.");

pub(crate) const FOLLOWERS_LIMIT: Definition =
    Definition::gauge("config_event_followers_limit", &[], "Most consumers that may follow the log at once.");

/// What the tail counts; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct TailMetrics {
    pub(crate) events_applied: IntCounter,
    pub(crate) handed_over: IntCounter,
    pub(crate) replays: Counters<ReplayCause>,
    pub(crate) replay_failures: IntCounter,
    pub(crate) connection: ConnectionMetrics,
    apply_delay: Histogram,
    clock: Clock,
}

impl TailMetrics {
    pub(crate) fn new(metrics: &Metrics, clock: Clock) -> Self {
        let connection = metrics.event_store().connection("tail");
        connection.is_down();
        Self {
            events_applied: metrics.counter(&EVENTS_APPLIED),
            handed_over: metrics.counter(&HANDED_OVER),
            replays: metrics.counters(&REPLAYS),
            replay_failures: metrics.counter(&REPLAY_FAILURES),
            connection,
            apply_delay: metrics.histogram(&APPLY_DELAY),
            clock,
        }
    }

    /// Readers see what was recorded at these moments.
    pub(crate) fn visible(&self, recorded: impl Iterator<Item = Moment>) {
        let now = self.clock.now();
        recorded.for_each(|recorded_at| self.apply_delay.observe(seconds_since(now, recorded_at)));
    }
}

/// What watches count; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct WatchMetrics {
    pub(crate) turned_away: IntCounter,
    pub(crate) deliveries: IntCounter,
    pub(crate) cut: Counters<Reset>,
    pub(crate) resets: Counters<Reset>,
    delivery_delay: Histogram,
    clock: Clock,
}

impl WatchMetrics {
    pub(crate) fn new(metrics: &Metrics, clock: Clock) -> Self {
        Self {
            turned_away: metrics.counter(&WATCHERS_TURNED_AWAY),
            deliveries: metrics.counter(&DELIVERIES),
            cut: metrics.counters(&WATCHERS_CUT),
            resets: metrics.counters(&RESETS),
            delivery_delay: metrics.histogram(&DELIVERY_DELAY),
            clock,
        }
    }

    /// A watcher that has kept up is handed what was recorded at this moment.
    pub(crate) fn delivered(&self, recorded_at: Option<Moment>) {
        self.deliveries.inc();
        if let Some(recorded_at) = recorded_at {
            self.delivery_delay.observe(seconds_since(self.clock.now(), recorded_at));
        }
    }
}

/// 0 when the database's clock is ahead.
fn seconds_since(now: Moment, earlier: Moment) -> f64 {
    float(u64::try_from((now.0 - earlier.0).num_microseconds().unwrap_or(i64::MAX)).unwrap_or(0)) / 1e6
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn of_watches() -> WatchMetrics {
        WatchMetrics::new(&Metrics::of("query-service"), Clock::system())
    }

    pub(crate) fn of_tail() -> TailMetrics {
        TailMetrics::new(&Metrics::of("query-service"), Clock::system())
    }

    #[test]
    fn a_delay_is_in_seconds_and_never_negative() {
        let [early, late] = ["2024-01-15T10:30:00Z", "2024-01-15T10:30:01.5Z"].map(|text| text.parse().unwrap());
        assert_eq!((seconds_since(late, early), seconds_since(early, late)), (1.5, 0.0));
    }
}
