//! Writes at a given rate, whatever they take: each begins when it is due, and what is late is measured as late.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::{
    BoxError,
    load::Fault,
    ours::http::Connection,
    template::{Numbers, number_in},
};

/// Writers; each has one write under way at a time.
const WRITERS: u64 = 64;

/// Names that are written in turn.
const NAMES: u64 = 1_000;

/// Beginning of the names.
pub(crate) const PREFIX: &str = "delay.";

/// When something happened to each write, by the number of its value.
pub(crate) type Moments = HashMap<u64, Instant>;

/// What became of the writes.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) acknowledged: Moments,
    /// From the acknowledgement until a read at another replica, which was told to wait for it, answered.
    pub(crate) visible: Vec<Duration>,
    /// From the moment that it was due until its acknowledgement.
    pub(crate) took: Vec<Duration>,
}

/// One who can write.
pub(crate) trait Writes: Send + 'static {
    /// Writes; returns what a reader may wait for.
    fn write(&mut self, name: &str, value: &str) -> impl Future<Output = Result<Option<String>, Fault>> + Send;
}

/// Writes `rate` values a second for that long. With a replica, each writer reads what it wrote there.
pub(crate) async fn run<W: Writes>(
    mut writers: impl AsyncFnMut() -> Result<W, BoxError>,
    numbers: &Numbers,
    (rate, lasts): (u64, Duration),
    replica: Option<u16>,
) -> Result<Written, BoxError> {
    let (began, all) = (Instant::now() + Duration::from_millis(100), rate * lasts.as_secs());
    let (next, written) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Written::default())));
    let mut running = JoinSet::new();
    for _ in 0..WRITERS {
        let mut writer = writers().await?;
        let mut reader = match replica {
            Some(port) => Some(Connection::open(port).await?),
            None => None,
        };
        let (next, written, numbers) = (Arc::clone(&next), Arc::clone(&written), numbers.clone());
        running.spawn(async move {
            loop {
                let turn = next.fetch_add(1, Ordering::Relaxed);
                if turn >= all {
                    return Ok(());
                }
                let due = began + Duration::from_secs(1) * u32::try_from(turn)? / u32::try_from(rate)?;
                let number = numbers.next();
                tokio::time::sleep_until(due.into()).await;
                let name = format!("{PREFIX}{:04}", number % NAMES);
                let token = writer.write(&name, &format!("\"{number:016}\"")).await?;
                let acknowledged = Instant::now();
                let visible = match (&mut reader, token) {
                    (Some(reader), Some(token)) => Some(read(reader, &name, &token, number).await? - acknowledged),
                    _ => None,
                };
                let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
                written.acknowledged.insert(number, acknowledged);
                written.took.push(acknowledged - due);
                written.visible.extend(visible);
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        let outcome: Result<(), BoxError> = ended?;
        outcome?;
    }
    Ok(std::mem::take(&mut *written.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// Reads a name that was written; when the answer was there.
async fn read(reader: &mut Connection, name: &str, token: &str, number: u64) -> Result<Instant, BoxError> {
    let request = format!("GET /v1/config/{name} HTTP/1.1\r\nhost: bench\r\nconfig-min-position: {token}\r\n\r\n");
    let answer = reader.exchange(request.as_bytes()).await?;
    let read = number_in(reader.body(&answer));
    if answer.status == 200 && read.is_some_and(|read| read >= number) {
        return Ok(Instant::now());
    }
    Err(format!("a read at {token} answered {} with {read:?} where {number} was written", answer.status).into())
}

/// A client of a command service.
pub(crate) struct Putter(pub(crate) Connection);

impl Writes for Putter {
    async fn write(&mut self, name: &str, value: &str) -> Result<Option<String>, Fault> {
        let body = format!("{{\"value\":{value}}}");
        let request = format!(
            "PUT /v1/config/{name} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = self.0.exchange(request.as_bytes()).await?;
        if answer.status != 200 {
            return Err(Fault::Answer(format!("HTTP {}", answer.status)));
        }
        Ok(self.0.header(&answer, "config-position").map(str::to_owned))
    }
}

impl Writes for crate::etcd::Putter {
    async fn write(&mut self, name: &str, value: &str) -> Result<Option<String>, Fault> {
        crate::etcd::put(self, name, value).await.map(|()| None)
    }
}
