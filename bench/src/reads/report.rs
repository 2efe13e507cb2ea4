//! What a run found: tables for people, JSON for programs.

use std::{fmt::Write as _, io::Write as _, path::Path};

use serde::Serialize;

use super::{delays, replay::Measured, replicas, requests, telemetry, watchers};
use crate::{
    BoxError,
    latency::Summary,
    machine::Machine,
    report,
    rounds::{Ratio, Side, Spread},
};

/// Of the JSON; raised when a field changes its meaning or goes. README.md describes it.
const SCHEMA: u32 = 2;

/// All of it. A workload that was not run has nothing.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: u32,
    /// When the run began, in UTC.
    pub(crate) began_at: String,
    pub(crate) machine: Machine,
    versions: Versions,
    pub(crate) rounds: u32,
    pub(crate) replay: Vec<Measured>,
    pub(crate) memory: Vec<Measured>,
    pub(crate) requests: Vec<requests::Measured>,
    pub(crate) delays: Vec<delays::Measured>,
    pub(crate) watchers: Vec<watchers::Measured>,
    pub(crate) replicas: Vec<replicas::Measured>,
    pub(crate) telemetry: Vec<telemetry::Measured>,
}

/// Of what was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Versions {
    pub(crate) query_service: String,
    pub(crate) postgres: String,
    pub(crate) etcd: Option<String>,
}

impl Report {
    /// One without numbers yet.
    pub(crate) fn new(machine: Machine, versions: Versions, rounds: u32) -> Self {
        Self {
            schema: SCHEMA,
            began_at: report::now(),
            machine,
            versions,
            rounds,
            replay: Vec::new(),
            memory: Vec::new(),
            requests: Vec::new(),
            delays: Vec::new(),
            watchers: Vec::new(),
            replicas: Vec::new(),
            telemetry: Vec::new(),
        }
    }

    /// Writes the JSON.
    pub(crate) fn write(&self, file: &Path) -> Result<(), BoxError> {
        report::write(self, file)
    }

    /// Before the first round.
    pub(crate) fn print_head(&self) {
        let Machine { cpus, cpu, kernel, filesystem, device, .. } = &self.machine;
        show(&format!(
            "machine   {cpus} CPUs ({cpu}), {kernel}; {filesystem} on {device}\n\
             ours      {}\n\
             postgres  {}, the log in its cache or the system's\n\
             etcd      {}\n\
             rounds    {}, in turns; the clients share the CPUs with the servers\n",
            self.versions.query_service,
            self.versions.postgres,
            self.versions.etcd.as_deref().unwrap_or("none"),
            self.rounds
        ));
    }

    /// After the last one.
    pub(crate) fn print(&self) {
        show(&replays(&self.replay));
        show(&memories(&self.memory));
        show(&requests(&self.requests));
        show(&delays(&self.delays));
        show(&watchers(&self.watchers));
        show(&replicas(&self.replicas));
        show(&telemetry(&self.telemetry));
    }
}

fn show(text: &str) {
    // Who closed it does not want to know.
    let _unread = std::io::stdout().write_all(text.as_bytes());
}

fn throughput(ratio: &Ratio) -> String {
    let Spread { median, least, most } = ratio.throughput;
    format!("{median:.2} ({least:.2} to {most:.2})")
}

/// Microseconds for each operation.
fn server_cpu(side: &Side) -> String {
    side.cpu_us.server.map_or("-".to_owned(), |micros| format!("{micros:.1}"))
}

fn replays(replays: &[Measured]) -> String {
    if replays.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\nreplay: events/s (medians)                  ours:               psql      ratio (least to most)   resident MB:\n\
         events      names      value bytes   from start     replay                                        peak   settled\n",
    );
    for Measured {
        log, events_per_s, replay_events_per_s, psql_events_per_s, ratio, peak_bytes, settled_bytes, ..
    } in replays
    {
        let _infallible = writeln!(
            text,
            "{:<11} {:<10} {:<11} {:>12.0} {:>10.0} {:>10}      {:<20} {:>8.0} {:>9.0}",
            log.events,
            log.names,
            log.value_bytes,
            events_per_s.median,
            replay_events_per_s.median,
            psql_events_per_s.map_or("-".to_owned(), |rate| format!("{:.0}", rate.median)),
            ratio.map_or("-".to_owned(), |Spread { median, least, most }| format!(
                "{median:.2} ({least:.2} to {most:.2})"
            )),
            peak_bytes.median / 1e6,
            settled_bytes.median / 1e6,
        );
    }
    text
}

fn memories(memories: &[Measured]) -> String {
    if memories.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\nmemory: resident bytes a name, of names of 31 bytes\n\
         names      value bytes   settled   allowed   settled/data   peak MB\n",
    );
    for Measured { log, settled_bytes_per_name, bar_bytes_per_name, peak_bytes, .. } in memories {
        let _infallible = writeln!(
            text,
            "{:<10} {:<11} {settled_bytes_per_name:>9.0} {bar_bytes_per_name:>9} {:>14.2} {:>9.0}",
            log.names,
            log.value_bytes,
            settled_bytes_per_name / (31 + log.value_bytes) as f64,
            peak_bytes.median / 1e6,
        );
    }
    text
}

fn requests(requests: &[requests::Measured]) -> String {
    if requests.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\nrequests: answers/s (medians)                                       CPU µs each            latency of ours\n\
         request       ours      empty  ratio (least to most)   etcd ser.   etcd lin.  ratio to ser.   ours  empty   etcd   p50 ms  p99 ms\n",
    );
    let rate = |side: &Option<Side>| {
        side.as_ref().map_or("-".to_owned(), |side| format!("{:.0}", side.operations_per_s.median))
    };
    let spread = |ratio: &Option<Ratio>| ratio.as_ref().map_or("-".to_owned(), throughput);
    let cpu = |side: Option<&Side>| side.map_or("-".to_owned(), server_cpu);
    for measured in requests {
        let _infallible = writeln!(
            text,
            "{:<10} {:>8.0} {:>10}  {:<22} {:>10} {:>11}  {:<20} {:>4} {:>6} {:>6} {:>8.2} {:>7.2}",
            measured.request,
            measured.ours.operations_per_s.median,
            rate(&measured.empty),
            spread(&measured.to_empty),
            rate(&measured.etcd_serializable),
            rate(&measured.etcd_linearizable),
            spread(&measured.to_serializable),
            cpu(Some(&measured.ours)),
            cpu(measured.empty.as_ref()),
            cpu(measured.etcd_serializable.as_ref()),
            measured.ours.latency.p50_us / 1e3,
            measured.ours.latency.p99_us / 1e3,
        );
        let sides = [Some(&measured.ours), measured.empty.as_ref(), measured.etcd_serializable.as_ref()];
        for (error, times) in sides.into_iter().flatten().flat_map(|side| &side.errors) {
            let _infallible = writeln!(text, "  {times} times: {error}");
        }
    }
    text
}

fn delays(delays: &[delays::Measured]) -> String {
    if delays.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\ndelays after the acknowledgement, milliseconds (visible includes a round trip of the reader)\n\
         writes/s   acknowledged: p50     p99   visible: p50     p99     max   delivered: p50     p99     max   etcd watch: p50     p99     max\n",
    );
    let three = |summary: &Summary| {
        format!("{:>7.2} {:>7.2} {:>7.2}", summary.p50_us / 1e3, summary.p99_us / 1e3, summary.max_us / 1e3)
    };
    for measured in delays {
        let _infallible = writeln!(
            text,
            "{:<10} {:>17.2} {:>7.2}   {:>11}   {:>22}   {:>23}",
            measured.writes_per_s,
            measured.acknowledged.p50_us / 1e3,
            measured.acknowledged.p99_us / 1e3,
            three(&measured.visible),
            three(&measured.delivered),
            measured.etcd_delivered.as_ref().map_or("-".to_owned(), three),
        );
    }
    text
}

fn watchers(watchers: &[watchers::Measured]) -> String {
    let mut text = String::new();
    for measured in watchers {
        let _infallible = writeln!(
            text,
            "\nwatchers: {} idle ones: {:.1} KiB each, {:.1} % of a CPU in all; one change: the first had it after {:.1} ms, the last \
             after {:.0} ms ({:.0} to {:.0}); {:.1} µs CPU for each delivery",
            measured.watchers,
            measured.bytes_each / 1024.0,
            measured.idle_cpu * 100.0,
            measured.first_ms.median,
            measured.last_ms.median,
            measured.last_ms.least,
            measured.last_ms.most,
            measured.cpu_us_each,
        );
    }
    text
}

fn replicas(replicas: &[replicas::Measured]) -> String {
    if replicas.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\nquery services on one Postgres: CPU in parts of one\n\
         replicas   writes/s   Postgres   more for each   a query service   connections   Postgres MB for each\n",
    );
    let or_dash =
        |number: Option<f64>, digits: usize| number.map_or("-".to_owned(), |number| format!("{number:.digits$}"));
    for measured in replicas {
        let _infallible = writeln!(
            text,
            "{:<10} {:<10} {:>8.3} {:>15} {:>17} {:>13} {:>22}",
            measured.replicas,
            measured.writes_per_s,
            measured.postgres_cpu,
            or_dash(measured.postgres_cpu_each, 4),
            or_dash(measured.query_cpu_each, 4),
            measured.connections,
            or_dash(measured.postgres_bytes_each.map(|bytes| bytes / 1e6), 1),
        );
    }
    text
}

fn telemetry(telemetry: &[telemetry::Measured]) -> String {
    if telemetry.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\ntraces: 64 clients; ratios to those without an exporter\n\
         sampled   puts/s   ratio (least to most)   CPU µs each   gets/s   ratio (least to most)   CPU µs each   MB received\n",
    );
    for measured in telemetry {
        let _infallible = writeln!(
            text,
            "{:<8} {:>7.0}   {:<21} {:>13} {:>8.0}   {:<21} {:>13} {:>13.1}",
            measured.sampled,
            measured.put.operations_per_s.median,
            throughput(&measured.put_ratio),
            server_cpu(&measured.put),
            measured.get.operations_per_s.median,
            throughput(&measured.get_ratio),
            server_cpu(&measured.get),
            measured.received_bytes as f64 / 1e6,
        );
    }
    text
}
