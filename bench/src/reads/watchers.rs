//! Many watchers that wait: what they cost, and how long one change takes to all of them.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    stage::Stage,
    writer::{Putter, Writes},
};
use crate::{
    BoxError,
    ours::{http::Connection, watch::Watch},
    report::tell,
    rounds::Spread,
};

/// How long all is left alone before memory and CPU are looked at.
const SETTLE: Duration = Duration::from_secs(2);

/// Watchers that connect at a time.
const CONNECT_AT_ONCE: usize = 100;

/// Longest that a change may take to all.
const DELIVERY_LIMIT: Duration = Duration::from_secs(60);

/// The name that all watch.
const NAME: &str = "watched";

/// What so many watchers cost.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) watchers: u64,
    /// Resident memory of the query service for each.
    pub(crate) bytes_each: f64,
    /// CPU of the query service while nothing happens, bookmarks included, in parts of one.
    pub(crate) idle_cpu: f64,
    /// From the acknowledgement of one change until the first and the last watcher had it; milliseconds.
    pub(crate) first_ms: Spread,
    pub(crate) last_ms: Spread,
    /// CPU time of the query service for one delivery, in microseconds.
    pub(crate) cpu_us_each: f64,
}

/// Measures; each round is one change.
pub(crate) async fn run(stage: &Stage, watchers: u64, idle: Duration, rounds: u32) -> Result<Measured, BoxError> {
    let query = &stage.queries[0];
    let memory = || query.server.memory().ok_or("the system does not tell how much memory a process has");
    // The first ones pay for what all share.
    let first = connect(query.port, CONNECT_AT_ONCE as u64).await?;
    sleep(SETTLE).await;
    let before = memory()?;
    tell(&format!("{watchers} watchers connect…"));
    let watches = connect(query.port, watchers).await?;
    sleep(SETTLE).await;
    let after = memory()?;
    let (cpu, began) = (query.cpu()?, Instant::now());
    sleep(idle).await;
    let idle_cpu = query.cpu()?.since(&cpu).server.as_secs_f64() / began.elapsed().as_secs_f64();
    drop(first);
    let (told, mut moments) = mpsc::channel(CONNECT_AT_ONCE);
    let mut waiting = JoinSet::new();
    for mut watch in watches {
        let told = told.clone();
        waiting.spawn(async move { while watch.change().await.is_ok() && told.send(Instant::now()).await.is_ok() {} });
    }
    let mut putter = Putter(Connection::open(stage.command.port).await?);
    let (mut firsts, mut lasts) = (Vec::new(), Vec::new());
    let before_changes = query.cpu()?;
    for round in 0..rounds {
        putter.write(NAME, &format!("\"{round:016}\"")).await?;
        let acknowledged = Instant::now();
        let (mut least, mut most) = (Duration::MAX, Duration::ZERO);
        for had in 0..watchers {
            let moment = timeout(DELIVERY_LIMIT, moments.recv()).await.ok().flatten();
            let moment = moment.ok_or_else(|| format!("only {had} of {watchers} watchers had the change"))?;
            let delay = moment.saturating_duration_since(acknowledged);
            (least, most) = (least.min(delay), most.max(delay));
        }
        firsts.push(least.as_secs_f64() * 1e3);
        lasts.push(most.as_secs_f64() * 1e3);
    }
    let spent = query.cpu()?.since(&before_changes).server;
    waiting.shutdown().await;
    Ok(Measured {
        watchers,
        bytes_each: after.resident.saturating_sub(before.resident) as f64 / watchers as f64,
        idle_cpu,
        first_ms: Spread::of(firsts).ok_or("no rounds")?,
        last_ms: Spread::of(lasts).ok_or("no rounds")?,
        cpu_us_each: spent.as_secs_f64() * 1e6 / (watchers * u64::from(rounds)) as f64,
    })
}

async fn connect(port: u16, watchers: u64) -> Result<Vec<Watch>, BoxError> {
    let mut watches = Vec::with_capacity(usize::try_from(watchers)?);
    let mut connecting = JoinSet::new();
    for _ in 0..watchers {
        if connecting.len() == CONNECT_AT_ONCE
            && let Some(watch) = connecting.join_next().await
        {
            watches.push(watch??);
        }
        connecting.spawn(async move { Watch::open(port, &format!("name={NAME}")).await });
    }
    while let Some(watch) = connecting.join_next().await {
        watches.push(watch??);
    }
    Ok(watches)
}
