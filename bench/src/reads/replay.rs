//! A query service that replays a log from its start, and what it has in memory then; `psql` beside it, in turns.

use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::log::Log;
use crate::{
    BoxError,
    ours::{self, http::Connection},
    report::tell,
    rounds::Spread,
    server::{Memory, Server},
};

/// How long a service is left alone before its memory is looked at.
const SETTLE: Duration = Duration::from_secs(2);

/// Bytes of a name, as `log` writes them.
const NAME_BYTES: u64 = 31;

/// What a log is like.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Shape {
    pub(crate) events: u64,
    pub(crate) names: u64,
    /// Of the JSON text, quotes included.
    pub(crate) value_bytes: u64,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, names, value_bytes } = self;
        write!(f, "{events} events of {names} names with values of {value_bytes} bytes")
    }
}

/// What is measured with.
#[derive(Debug)]
pub(crate) struct Course {
    pub(crate) query_service: PathBuf,
    pub(crate) directory: PathBuf,
    pub(crate) rounds: u32,
}

/// What became of a log.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) log: Shape,
    /// From the start of the process to its readiness.
    pub(crate) events_per_s: Spread,
    /// The replay alone, as the service tells it.
    pub(crate) replay_events_per_s: Spread,
    /// Nothing where it was not measured.
    pub(crate) psql_events_per_s: Option<Spread>,
    /// The service's rate, from its start on, divided by that of psql, from its start on, round by round.
    pub(crate) ratio: Option<Spread>,
    /// Most resident memory until it was ready, and what was left; bytes.
    pub(crate) peak_bytes: Spread,
    pub(crate) settled_bytes: Spread,
    /// What is left for each name.
    pub(crate) settled_bytes_per_name: f64,
    /// What is allowed: 2.5 times the bytes of names and values, and 200 bytes a name.
    pub(crate) bar_bytes_per_name: u64,
}

/// One start.
#[derive(Clone, Copy, Debug)]
struct Started {
    ready_after: Duration,
    replay_events_per_s: f64,
    memory: Memory,
    settled: Memory,
}

impl Course {
    /// Measures all rounds on a log; `beside` has psql read it too.
    pub(crate) async fn replay(&self, log: &Log, beside: bool) -> Result<Measured, BoxError> {
        let (mut started, mut copied) = (Vec::new(), Vec::new());
        // Whoever comes first would read from disk what the other finds in memory.
        log.copy().await?;
        for round in 0..self.rounds {
            tell(&format!("{}: round {} of {}…", log.shape, round + 1, self.rounds));
            for second in [false, true] {
                if second == (round % 2 == 1) {
                    started.push(self.start(log).await?);
                } else if beside {
                    copied.push(log.copy().await?.as_secs_f64());
                }
            }
        }
        let Shape { events, names, value_bytes } = log.shape;
        let rate = |seconds: f64| events as f64 / seconds;
        let spread = |of: &dyn Fn(&Started) -> f64| Spread::of(started.iter().map(of).collect()).ok_or("no rounds");
        let ready = |started: &Started| started.ready_after.as_secs_f64();
        let ratios = started.iter().zip(&copied).map(|(started, copied)| copied / ready(started));
        let settled_bytes = spread(&|started| started.settled.resident as f64)?;
        Ok(Measured {
            log: log.shape,
            events_per_s: spread(&|started| rate(ready(started)))?,
            replay_events_per_s: spread(&|started| started.replay_events_per_s)?,
            ratio: Spread::of(ratios.collect()),
            psql_events_per_s: Spread::of(copied.iter().map(|seconds| rate(*seconds)).collect()),
            peak_bytes: spread(&|started| started.memory.peak as f64)?,
            settled_bytes,
            settled_bytes_per_name: settled_bytes.median / names as f64,
            bar_bytes_per_name: (NAME_BYTES + value_bytes) * 5 / 2 + 200,
        })
    }

    async fn start(&self, log: &Log) -> Result<Started, BoxError> {
        let mut command = ours::clean(&self.query_service);
        command.args(["--listen", "127.0.0.1:0"]).env("DATABASE_URL", &log.url);
        let began = Instant::now();
        let mut server = Server::spawn("query-service", command, self.directory.join("query-service.log"))?;
        let outcome = until_ready(&mut server, began).await;
        server.stop().await?;
        outcome
    }
}

async fn until_ready(server: &mut Server, began: Instant) -> Result<Started, BoxError> {
    let port = ours::ready(server).await?;
    let ready_after = began.elapsed();
    let memory = server.memory().ok_or("the system does not tell how much memory a process has")?;
    sleep(SETTLE).await;
    let settled = server.memory().ok_or("the service is gone")?;
    let mut connection = Connection::open(port).await?;
    let answer = connection.exchange(b"GET /v1/projection HTTP/1.1\r\nhost: bench\r\n\r\n").await?;
    let told: Told = serde_json::from_slice(connection.body(&answer))?;
    Ok(Started { ready_after, replay_events_per_s: told.replay.events_per_second, memory, settled })
}

/// `GET /v1/projection`.
#[derive(Deserialize)]
struct Told {
    replay: Figures,
}

#[derive(Deserialize)]
struct Figures {
    events_per_second: f64,
}
