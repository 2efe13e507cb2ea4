//! What a run found: a table for people, JSON for programs.

mod table;

use std::{io::Write, path::Path};

use serde::Serialize;

pub(crate) use self::table::{print, print_head};
use crate::{BoxError, machine::Machine, rounds::Measured};

/// Of the JSON; raised when a field changes its meaning or goes. README.md describes it.
const SCHEMA: u32 = 1;

/// All of it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: u32,
    /// When the run began, in UTC.
    pub(crate) began_at: String,
    pub(crate) machine: Machine,
    pub(crate) versions: Versions,
    pub(crate) settings: Settings,
    pub(crate) workloads: Vec<Measured>,
}

/// Of what was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Versions {
    pub(crate) config_api: String,
    pub(crate) postgres: String,
    pub(crate) etcd: Option<String>,
}

/// With what it was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Settings {
    /// `config-api` or `command-service`.
    pub(crate) service: &'static str,
    pub(crate) seconds: u64,
    pub(crate) warm_up_seconds: u64,
    pub(crate) rounds: u32,
    /// 0: one for each client.
    pub(crate) etcd_connections: u16,
}

impl Report {
    /// One without workloads yet.
    pub(crate) fn new(machine: Machine, versions: Versions, settings: Settings) -> Self {
        Self { schema: SCHEMA, began_at: now(), machine, versions, settings, workloads: Vec::new() }
    }
}

/// The present moment, in UTC.
pub(crate) fn now() -> String {
    #[expect(clippy::disallowed_methods, reason = "a report says when it was made; nothing depends on it")]
    let now = chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now());
    now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// Writes the JSON of a report.
pub(crate) fn write(report: &impl Serialize, file: &Path) -> Result<(), BoxError> {
    let mut text = serde_json::to_string_pretty(report)?;
    text.push('\n');
    std::fs::write(file, text).map_err(|error| format!("{} cannot be written: {error}", file.display()))?;
    Ok(())
}

/// To the person who waits, beside the report: on standard error.
pub(crate) fn tell(line: &str) {
    // Who closed it does not want to know.
    let _unread = writeln!(std::io::stderr(), "{line}");
}
