//! Drives clients for some seconds, each with one operation under way at a time, and counts.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::{TimeVal, TimeValLike},
};
use tokio::task::JoinSet;

use crate::{BoxError, latency::Latencies, server::Cpu};

/// Longest that is waited for the operations which are under way at the end of a round.
const LAST_ANSWERS: Duration = Duration::from_secs(30);

const WARMING_UP: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

/// An operation that was acknowledged.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    /// How often it was refused on the way, as compare-and-set is when another client came first.
    pub(crate) refused: u64,
}

/// An operation that was not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The server said something else than that it is done; the client goes on with its next operation.
    #[error("{0}")]
    Answer(String),
    /// The connection is of no more use; the client ends.
    #[error("connection: {0}")]
    Connection(BoxError),
}

impl Fault {
    /// Of anything that a connection fails with.
    pub(crate) fn connection(error: impl Into<BoxError>) -> Self {
        Self::Connection(error.into())
    }
}

/// A client of either side.
pub(crate) trait Client: Send + 'static {
    /// One operation, from its first byte to its acknowledgement.
    fn operate(&mut self) -> impl Future<Output = Result<Done, Fault>> + Send;
}

/// What one side did in one round.
#[derive(Debug, Default)]
pub(crate) struct Round {
    pub(crate) elapsed: Duration,
    /// Acknowledged while measured.
    pub(crate) operations: u64,
    /// Acknowledged in all, warm-up and last answers included.
    pub(crate) all_operations: u64,
    pub(crate) refused: u64,
    /// What went wrong, and how often; warm-up included.
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) latencies: Latencies,
    /// CPU time of this process, which is the clients.
    pub(crate) client_cpu: Duration,
    /// CPU time of the server's processes; unknown where there is no `/proc`.
    pub(crate) server_cpu: Option<Cpu>,
}

/// What one client counted.
#[derive(Default)]
struct Count {
    /// Of the operations that ended while measured.
    latencies: Vec<Duration>,
    all_operations: u64,
    refused: u64,
    errors: BTreeMap<String, u64>,
}

/// Runs the clients through warm-up and measurement. `server_cpu` is asked at the beginning and the end of the latter.
pub(crate) async fn run<C: Client>(
    clients: Vec<C>,
    warm_up: Duration,
    measured: Duration,
    server_cpu: impl Fn() -> Option<Cpu>,
) -> Round {
    let phase = Arc::new(AtomicU8::new(WARMING_UP));
    let mut running = JoinSet::new();
    for client in clients {
        running.spawn(repeat(client, Arc::clone(&phase)));
    }
    tokio::time::sleep(warm_up).await;
    let (server_before, client_before) = (server_cpu(), own_cpu());
    let began = Instant::now();
    phase.store(MEASURING, Ordering::Relaxed);
    tokio::time::sleep(measured).await;
    phase.store(OVER, Ordering::Relaxed);
    let mut round = Round {
        elapsed: began.elapsed(),
        client_cpu: own_cpu().saturating_sub(client_before),
        server_cpu: server_before.zip(server_cpu()).map(|(before, after)| after.since(&before)),
        ..Round::default()
    };
    let gathering = async {
        while let Some(count) = running.join_next().await {
            round.gather(count.expect("a client does not panic"));
        }
    };
    if tokio::time::timeout(LAST_ANSWERS, gathering).await.is_err() {
        let silent = u64::try_from(running.len()).unwrap_or(u64::MAX);
        round.errors.insert(format!("no answer for {} s", LAST_ANSWERS.as_secs()), silent);
    }
    round
}

async fn repeat<C: Client>(mut client: C, phase: Arc<AtomicU8>) -> Count {
    let mut count = Count::default();
    while phase.load(Ordering::Relaxed) != OVER {
        let began = Instant::now();
        match client.operate().await {
            Ok(done) => {
                count.all_operations += 1;
                if phase.load(Ordering::Relaxed) == MEASURING {
                    count.latencies.push(began.elapsed());
                    count.refused += done.refused;
                }
            }
            Err(fault) => {
                *count.errors.entry(fault.to_string()).or_default() += 1;
                if matches!(fault, Fault::Connection(_)) {
                    break;
                }
            }
        }
    }
    count
}

impl Round {
    fn gather(&mut self, count: Count) {
        self.operations += count.latencies.len() as u64;
        self.all_operations += count.all_operations;
        self.refused += count.refused;
        for latency in count.latencies {
            self.latencies.record(latency);
        }
        for (error, times) in count.errors {
            *self.errors.entry(error).or_default() += times;
        }
    }

    /// Acknowledged operations a second.
    pub(crate) fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    /// So much CPU time for each operation, in microseconds.
    pub(crate) fn micros_each(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() * 1e6 / self.operations.max(1) as f64
    }
}

fn own_cpu() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let duration = |time: TimeVal| Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap_or(0));
    duration(usage.user_time()) + duration(usage.system_time())
}
