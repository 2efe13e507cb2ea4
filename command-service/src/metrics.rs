//! The metrics of this service: the dashboards' contract, beside what every process tells (`shared::metrics`).

use std::time::Duration;

use prometheus::{Histogram, IntCounter};
use shared::{
    metrics::{ConnectionMetrics, CounterPairs, Counters, Definition, Label, Metrics, Values, Words as _, float},
    words,
};

/// All that is told here, in the order of the document.
pub const ALL: &[&Definition] = &[
    &COMMANDS,
    &CONFLICTS,
    &OUTCOMES_UNKNOWN,
    &REPLAYS,
    &APPEND_DURATION,
    &GROUP_UNITS,
    &GROUP_BYTES,
    &UNITS,
    &QUEUE_UNITS,
    &QUEUE_LIMIT_UNITS,
    &QUEUE_BYTES,
    &QUEUE_LIMIT_BYTES,
    &QUEUE_WAIT,
    &QUEUE_FULL,
    &CACHE_REQUESTS,
    &LOADS,
    &LOAD_DURATION,
    &WRITES,
    &WRITES_LIMIT,
    &BATCHES,
    &BATCHES_LIMIT,
    &WRITES_TURNED_AWAY,
    &WORKER_UP,
    &WORKER_QUEUE,
    &WORKER_MESSAGES,
    &WORKER_RESTARTS,
    &WORKER_LOST,
];

/// Of one statement on the log, or the wait for it; in seconds. An attempt takes 8 s at most.
const STATEMENT_BOUNDS: &[f64] =
    &[0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0];

/// Up to the limit of a group, in units.
const UNITS_BOUNDS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// From one small value to more than a group's limit, which one unit may exceed; in bytes.
const BYTES_BOUNDS: &[f64] =
    &[256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

words! {
    /// What is commanded.
    pub(crate) enum Command {
        Set = "set",
        Delete = "delete",
        Rollback = "rollback",
        Batch = "batch",
    }
}

words! {
    /// What came of a command.
    pub(crate) enum CommandOutcome {
        Changed = "changed",
        Unchanged = "unchanged",
        Refused = "refused",
        Failed = "failed",
        Unknown = "unknown",
        Replayed = "replayed",
    }
}

words! {
    /// What came of a unit.
    pub(crate) enum UnitOutcome {
        Appended = "appended",
        Repeated = "repeated",
        Answered = "answered",
        Conflict = "conflict",
        Refused = "refused",
        Failed = "failed",
        Unknown = "unknown",
    }
}

words! {
    /// Whether all that was asked for is remembered.
    pub(crate) enum CacheResult {
        Hit = "hit",
        Miss = "miss",
    }
}

const COMMANDS: Definition = Definition::counter(
    "config_commands_total",
    &[
        Label { name: "command", values: Values::Words(Command::WORDS) },
        Label { name: "outcome", values: Values::Words(CommandOutcome::WORDS) },
    ],
    "Commands by what came of them. `refused` is the client's affair, `failed` wrote nothing, `unknown` may have written, `replayed` was answered as the first command with its Idempotency-Key.",
);

const CONFLICTS: Definition = Definition::counter(
    "config_command_conflicts_total",
    &[],
    "Attempts of commands that were decided again because another writer was first.",
);

const OUTCOMES_UNKNOWN: Definition = Definition::counter(
    "config_outcomes_unknown_total",
    &[],
    "Commands whose clients were told that the outcome is unknown.",
);

const REPLAYS: Definition = Definition::counter(
    "config_idempotent_replays_total",
    &[],
    "Commands that were answered as the first one with the same Idempotency-Key.",
);

const APPEND_DURATION: Definition = Definition::histogram(
    "config_append_duration_seconds",
    &[],
    STATEMENT_BOUNDS,
    "One append, from when it was sent, or the group in front of it was answered, until its commit is confirmed; those that failed are not in it.",
);

const GROUP_UNITS: Definition = Definition::histogram(
    "config_append_group_units",
    &[],
    UNITS_BOUNDS,
    "Units of one confirmed append; a unit is what one command writes.",
);

const GROUP_BYTES: Definition = Definition::histogram(
    "config_append_group_bytes",
    &[],
    BYTES_BOUNDS,
    "Bytes of names, values, metadata and answers of one confirmed append.",
);

const UNITS: Definition = Definition::counter(
    "config_append_units_total",
    &[Label { name: "outcome", values: Values::Words(UnitOutcome::WORDS) }],
    "Units by what came of them: written now, found in the log from an earlier attempt, answered under a key that was used before, another writer was first, refused by the database, not written, perhaps written.",
);

pub(crate) const QUEUE_UNITS: Definition =
    Definition::gauge("config_append_queue_units", &[], "Units that wait for the committer.");

pub(crate) const QUEUE_LIMIT_UNITS: Definition =
    Definition::gauge("config_append_queue_limit_units", &[], "Most units that may wait; further ones get 503.");

pub(crate) const QUEUE_BYTES: Definition =
    Definition::gauge("config_append_queue_bytes", &[], "Bytes of units that wait or are being appended.");

pub(crate) const QUEUE_LIMIT_BYTES: Definition = Definition::gauge(
    "config_append_queue_limit_bytes",
    &[],
    "Most bytes of units that may wait or be appended; further ones get 503.",
);

const QUEUE_WAIT: Definition = Definition::histogram(
    "config_append_queue_wait_seconds",
    &[],
    STATEMENT_BOUNDS,
    "How long a unit waited before it was taken into a group.",
);

const QUEUE_FULL: Definition = Definition::counter(
    "config_append_queue_full_total",
    &[],
    "Units that were turned away with 503 because the queue was full.",
);

const CACHE_REQUESTS: Definition = Definition::counter(
    "config_aggregate_cache_requests_total",
    &[Label { name: "result", values: Values::Words(CacheResult::WORDS) }],
    "Commands that looked into the cache first: all their configurations were remembered, or not.",
);

const LOADS: Definition =
    Definition::counter("config_aggregate_loads_total", &[], "Configurations that were loaded from the log.");

const LOAD_DURATION: Definition = Definition::histogram(
    "config_aggregate_load_duration_seconds",
    &[],
    STATEMENT_BOUNDS,
    "One statement that loads configurations, of one or of many commands; those that failed are not in it.",
);

pub(crate) const WRITES: Definition = Definition::gauge(
    "config_writes_in_progress",
    &[],
    "Writes whose bodies are read or whose commands are under way, batches among them.",
);

pub(crate) const WRITES_LIMIT: Definition =
    Definition::gauge("config_writes_limit", &[], "Most writes at once; further ones get 503.");

pub(crate) const BATCHES: Definition =
    Definition::gauge("config_batches_in_progress", &[], "Batches among the writes.");

pub(crate) const BATCHES_LIMIT: Definition =
    Definition::gauge("config_batches_limit", &[], "Most batches at once; further ones get 503.");

const WRITES_TURNED_AWAY: Definition = Definition::counter(
    "config_writes_turned_away_total",
    &[],
    "Writes that were turned away with 503 because too many writes or batches were in progress.",
);

pub(crate) const WORKER_UP: Definition = Definition::gauge(
    "config_worker_up",
    &[],
    "Whether the update worker takes messages (1), or crashed and is not started again yet, or is stuck (0).",
);

pub(crate) const WORKER_QUEUE: Definition =
    Definition::gauge("config_worker_queue_messages", &[], "Changes that wait for the update worker.");

pub(crate) const WORKER_MESSAGES: Definition =
    Definition::counter("config_worker_messages_total", &[], "Changes that the update worker told.");

pub(crate) const WORKER_RESTARTS: Definition = Definition::counter(
    "config_worker_restarts_total",
    &[],
    "How often the update worker crashed and was started again.",
);

pub(crate) const WORKER_LOST: Definition = Definition::counter(
    "config_worker_messages_lost_total",
    &[],
    "Changes that the update worker did not tell: its queue was full, or they crashed it. They are in the log all the same.",
);

/// What the write path counts; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct WriteMetrics {
    pub(crate) commands: CounterPairs<Command, CommandOutcome>,
    pub(crate) conflicts: IntCounter,
    pub(crate) outcomes_unknown: IntCounter,
    pub(crate) replays: IntCounter,
    pub(crate) turned_away: IntCounter,
    pub(crate) cache: Counters<CacheResult>,
}

impl WriteMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            commands: metrics.counter_pairs(&COMMANDS),
            conflicts: metrics.counter(&CONFLICTS),
            outcomes_unknown: metrics.counter(&OUTCOMES_UNKNOWN),
            replays: metrics.counter(&REPLAYS),
            turned_away: metrics.counter(&WRITES_TURNED_AWAY),
            cache: metrics.counters(&CACHE_REQUESTS),
        }
    }
}

/// What the committer counts; cheap to clone.
#[derive(Clone, Debug)]
pub struct AppendMetrics {
    pub(crate) duration: Histogram,
    pub(crate) group_units: Histogram,
    pub(crate) group_bytes: Histogram,
    pub(crate) units: Counters<UnitOutcome>,
    pub(crate) queue_wait: Histogram,
    pub(crate) queue_full: IntCounter,
    pub(crate) connection: ConnectionMetrics,
}

impl AppendMetrics {
    /// Of a process.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            duration: metrics.histogram(&APPEND_DURATION),
            group_units: metrics.histogram(&GROUP_UNITS),
            group_bytes: metrics.histogram(&GROUP_BYTES),
            units: metrics.counters(&UNITS),
            queue_wait: metrics.histogram(&QUEUE_WAIT),
            queue_full: metrics.counter(&QUEUE_FULL),
            connection: metrics.event_store().connection("committer"),
        }
    }

    /// A group was appended: how long its statement took, and how many bytes of events each of its units has.
    pub(crate) fn appended(&self, took: Duration, bytes: impl ExactSizeIterator<Item = usize>) {
        self.duration.observe(took.as_secs_f64());
        self.group_units.observe(float(bytes.len() as u64));
        self.group_bytes.observe(float(bytes.sum::<usize>() as u64));
    }
}

/// What the loader counts; cheap to clone.
#[derive(Clone, Debug)]
pub struct LoadMetrics {
    pub(crate) loads: IntCounter,
    pub(crate) duration: Histogram,
    pub(crate) connection: ConnectionMetrics,
}

impl LoadMetrics {
    /// Of a process.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            loads: metrics.counter(&LOADS),
            duration: metrics.histogram(&LOAD_DURATION),
            connection: metrics.event_store().connection("loader"),
        }
    }
}
