//! A log of a given shape, in a database of its own.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use embedded_postgres::Cluster;
use shared::{database, schema};
use tokio::{process::Command, time::Instant};

use super::replay::Shape;
use crate::{BoxError, report::tell};

/// The columns that a replay reads, in its order.
const COPY: &str =
    "copy (select position, aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
 recorded_at, command_id from events order by position) to stdout (format binary)";

/// Names of 31 bytes, each written equally often, in an order that is none; values and metadata as the service writes them.
const FILL: &str = "insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
        position, recorded_at, command_id, part)
 select 'ConfigValue',
        'team-' || lpad((n % 20)::text, 2, '0') || '/service-' || lpad((n / 20 % 300)::text, 3, '0') || '/key-' ||
            lpad(n::text, 8, '0'),
        (position - 1) / :names + 1, 'ConfigValueSet', '1.0',
        ('{\"value\":\"' || lpad(position::text, :bytes - 2, 'v') || '\"}')::json,
        ('{\"actor\":\"anonymous\",\"request_id\":\"' || gen_random_uuid() || '\"}')::json,
        position, timestamptz '2024-01-15T10:30:00Z' + position * interval '1 microsecond', gen_random_uuid(), 0
   from (select position, position * 611953 % :names as n from generate_series(1::bigint, :events) as position) as numbered
  order by position";

/// A database with events.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) shape: Shape,
    pub(crate) url: String,
    admin_url: String,
    psql: PathBuf,
}

/// The one that belongs to the server, or else that of the PATH.
pub(crate) fn psql(cluster: &Cluster) -> PathBuf {
    let beside = cluster.bin_dir().join("psql");
    if beside.is_file() { beside } else { PathBuf::from("psql") }
}

impl Log {
    /// Makes one.
    pub(crate) async fn fill(cluster: &Cluster, psql: &Path, shape: Shape) -> Result<Self, BoxError> {
        tell(&format!("writing {shape}…"));
        let log = Self { shape, url: cluster.url("bench"), admin_url: cluster.url("postgres"), psql: psql.to_owned() };
        log.run(&log.admin_url, "create database bench template template0").await?;
        let options = database::connect_options(&log.url, "bench")?;
        schema::migrate_at(&options, false, database::STARTUP_WAIT).await?;
        let Shape { events, names, value_bytes } = shape;
        let fill = FILL.replace(":names", &names.to_string()).replace(":events", &events.to_string());
        log.run(&log.url, &fill.replace(":bytes", &value_bytes.to_string())).await?;
        log.run(&log.url, "vacuum (freeze, analyze) events").await?;
        Ok(log)
    }

    /// The name that `FILL` gives a number.
    pub(crate) fn name(number: u64) -> String {
        format!("team-{:02}/service-{:03}/key-{number:08}", number % 20, number / 20 % 300)
    }

    /// Names and quoted values of a log whose names are written once, for another store.
    pub(crate) fn pairs(&self) -> Vec<(String, String)> {
        let digits = usize::try_from(self.shape.value_bytes - 2).expect("a value fits into memory");
        (0..self.shape.names).map(|number| (Self::name(number), format!("\"{number:v>digits$}\""))).collect()
    }

    /// Has it gone.
    pub(crate) async fn remove(self) -> Result<(), BoxError> {
        self.run(&self.admin_url, "drop database bench with (force)").await
    }

    /// Copies all of it to nowhere; how long that took, the program's start included.
    pub(crate) async fn copy(&self) -> Result<Duration, BoxError> {
        let began = Instant::now();
        self.run(&self.url, COPY).await?;
        Ok(began.elapsed())
    }

    async fn run(&self, url: &str, sql: &str) -> Result<(), BoxError> {
        let mut command = Command::new(&self.psql);
        command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql, url]).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let status = command.status().await.map_err(|error| format!("psql could not be started: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("psql ended, {status}").into()) }
    }
}
