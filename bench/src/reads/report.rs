//! What a run found: tables for people, JSON for programs.

use std::{fmt::Write as _, io::Write as _, path::Path};

use serde::Serialize;

use super::replay::Measured;
use crate::{BoxError, machine::Machine, report, rounds::Spread};

/// Of the JSON; raised when a field changes its meaning or goes. README.md describes it.
const SCHEMA: u32 = 1;

/// All of it. A workload that was not run has nothing.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: u32,
    /// When the run began, in UTC.
    began_at: String,
    machine: Machine,
    query_service: String,
    postgres: String,
    rounds: u32,
    pub(crate) replay: Vec<Measured>,
    pub(crate) memory: Vec<Measured>,
}

impl Report {
    /// One without numbers yet.
    pub(crate) fn new(machine: Machine, query_service: String, postgres: String, rounds: u32) -> Self {
        let (replay, memory, began_at) = (Vec::new(), Vec::new(), report::now());
        Self { schema: SCHEMA, began_at, machine, query_service, postgres, rounds, replay, memory }
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
             rounds    {}, in turns\n",
            self.query_service, self.postgres, self.rounds
        ));
    }

    /// After the last one.
    pub(crate) fn print(&self) {
        show(&format!("{}{}", replays(&self.replay), memories(&self.memory)));
    }
}

fn show(text: &str) {
    // Who closed it does not want to know.
    let _unread = std::io::stdout().write_all(text.as_bytes());
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
