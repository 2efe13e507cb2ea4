//! The metrics that every process tells: the dashboards' contract. Names, labels, buckets and meanings of all of them are
//! here, and in the `metrics.rs` of each service; docs/METRICS.md is checked against them.

mod definition;

mod registry;

mod event_store;
mod http;
mod memory;

pub use definition::{Definition, Kind, Label, Values, Words};
pub use event_store::{ConnectionMetrics, ErrorKind, EventStoreMetrics};
pub use http::HttpMetrics;
pub(crate) use http::{OpenConnection, RouteMetrics};
pub use registry::{CounterPairs, Counters, Metrics, Told, float};

use http::KnownMethod;

/// All that is told here, in the order of the document.
pub const ALL: &[&Definition] = &[
    &REQUEST_DURATION,
    &ACTIVE_REQUESTS,
    &REQUESTS_ABANDONED,
    &CONNECTIONS,
    &CONNECTIONS_LIMIT,
    &CONNECTIONS_STALLED,
    &HEALTH_CHECK,
    &EVENT_STORE_UP,
    &EVENT_STORE_CONNECTIONS,
    &EVENT_STORE_CONNECTIONS_LIMIT,
    &EVENT_STORE_RECONNECTS,
    &EVENT_STORE_ERRORS,
    &TRACE_SPANS,
    &TRACE_EXPORT_ERRORS,
    &BUILD_INFO,
    &UPTIME,
    &MEMORY_LIMIT,
];

/// From half a millisecond, in which memory answers, to the longest that an answer may take to begin; in seconds.
const ANSWER_BOUNDS: &[f64] =
    &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

const METHOD: Label = Label { name: "http_request_method", values: Values::Words(KnownMethod::WORDS) };

const POOL: Label =
    Label { name: "pool", values: Values::Told("`writes`, `command-health`; `history`, `watch`, `query-health`") };

const CONNECTION: Label = Label { name: "connection", values: Values::Told("`committer`, `loader`; `tail`, `head`") };

pub(crate) const REQUEST_DURATION: Definition = Definition::histogram(
    "http_server_request_duration_seconds",
    &[
        METHOD,
        Label {
            name: "http_route",
            values: Values::Told("the matched pattern, such as `/v1/config/{name}`; `-` when none"),
        },
        Label { name: "http_response_status_code", values: Values::Told("the status") },
    ],
    ANSWER_BOUNDS,
    "Time from the request's head until its answer begins; a series begins with its first request.",
);

pub(crate) const ACTIVE_REQUESTS: Definition =
    Definition::gauge("http_server_active_requests", &[METHOD], "Requests whose answers have not begun.");

pub(crate) const REQUESTS_ABANDONED: Definition = Definition::counter(
    "config_http_requests_abandoned_total",
    &[],
    "Requests whose clients were gone before their answers began.",
);

pub(crate) const CONNECTIONS: Definition =
    Definition::gauge("config_http_connections", &[], "Open connections of clients, watchers among them.");

pub(crate) const CONNECTIONS_LIMIT: Definition =
    Definition::gauge("config_http_connections_limit", &[], "Most connections of clients; further ones wait.");

pub(crate) const CONNECTIONS_STALLED: Definition = Definition::counter(
    "config_http_connections_stalled_total",
    &[],
    "Connections cut because their clients read nothing of what they were being sent for 20 s.",
);

pub(crate) const HEALTH_CHECK: Definition = Definition::gauge(
    "config_health_check",
    &[Label { name: "check", values: Values::Told("`eventstore`, `database`; `worker`; `projection`") }],
    "Whether the check of /v1/health is ok (1) or not (0), looked at for this page.",
);

pub(crate) const EVENT_STORE_UP: Definition = Definition::gauge(
    "config_eventstore_up",
    &[CONNECTION],
    "Whether the last exchange on this own connection found a server (1) or not (0); 1 before the first, 0 of a tail that has not connected.",
);

pub(crate) const EVENT_STORE_CONNECTIONS: Definition = Definition::gauge(
    "config_eventstore_connections",
    &[POOL, Label { name: "state", values: Values::Words(&["idle", "in_use"]) }],
    "Open connections of this pool.",
);

pub(crate) const EVENT_STORE_CONNECTIONS_LIMIT: Definition =
    Definition::gauge("config_eventstore_connections_limit", &[POOL], "Most connections of this pool.");

pub(crate) const EVENT_STORE_RECONNECTS: Definition = Definition::counter(
    "config_eventstore_reconnects_total",
    &[CONNECTION],
    "How often this own connection was opened again.",
);

pub(crate) const EVENT_STORE_ERRORS: Definition = Definition::counter(
    "config_eventstore_errors_total",
    &[CONNECTION, Label { name: "kind", values: Values::Words(ErrorKind::WORDS) }],
    "Exchanges on this own connection that failed: no server or connection lost, no answer in time, a server that takes no writes, a lock held or a statement cancelled, a statement refused.",
);

pub(crate) const TRACE_SPANS: Definition = Definition::counter(
    "config_trace_spans_total",
    &[Label { name: "outcome", values: Values::Words(&["exported", "failed", "dropped"]) }],
    "Spans: the collector has them; they were sent and no answer said that they arrived, or one that they were not taken; the queue was full.",
);

pub(crate) const TRACE_EXPORT_ERRORS: Definition = Definition::counter(
    "config_trace_export_errors_total",
    &[],
    "Exports, of many spans each, that failed, or were not taken whole.",
);

pub(crate) const BUILD_INFO: Definition = Definition::gauge(
    "config_build_info",
    &[
        Label { name: "version", values: Values::Told("the release's") },
        Label { name: "service", values: Values::Words(&["command-service", "query-service", "config-api"]) },
    ],
    "Always 1: which program of which release this is.",
);

pub(crate) const UPTIME: Definition =
    Definition::gauge("config_uptime_seconds", &[], "Since the process put its parts together.");

pub(crate) const MEMORY_LIMIT: Definition = Definition::gauge(
    "config_memory_limit_bytes",
    &[],
    "Memory that the process may use: the least limit of its control groups, or what the machine has; Linux only.",
);
