//! What traces cost: durable writes, and reads of one name, without an exporter and with one, in turns. The collector is a sink
//! in this process; what it costs is the clients'.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{
    requests::Getter,
    stage::{Programs, Stage},
};
use crate::{
    BoxError,
    load::{self, Round},
    ours,
    report::tell,
    rounds::{Ratio, Side, ratio, side},
    template::Numbers,
    workload::{Family, Workload},
};

/// Clients of either kind.
const CLIENTS: u16 = 64;

/// How traces are set, and the variables for it; the first has none.
const MODES: [(&str, &[(&str, &str)]); 3] = [
    ("off", &[]),
    ("1 %", &[("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.01")]),
    ("all", &[("OTEL_TRACES_SAMPLER", "parentbased_always_on")]),
];

/// What a mode costs.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    /// How many writes are sampled; reads are at their own ratio, which is the service's default.
    pub(crate) sampled: &'static str,
    pub(crate) put: Side,
    pub(crate) get: Side,
    /// By those without an exporter.
    pub(crate) put_ratio: Ratio,
    pub(crate) get_ratio: Ratio,
    /// Bytes that the collector received.
    pub(crate) received_bytes: u64,
}

/// Measures all modes in turns, each with services of its own.
pub(crate) async fn run(
    programs: &Programs,
    directory: &Path,
    url: &str,
    (warm_up, measured, rounds): (Duration, Duration, u32),
) -> Result<Vec<Measured>, BoxError> {
    let (mut puts, mut gets): ([Vec<Round>; 3], [Vec<Round>; 3]) = Default::default();
    let (received, numbers) = (MODES.map(|_| Arc::new(AtomicU64::new(0))), Numbers::default());
    let workload = Workload::chosen(&[Family::Put], &[CLIENTS]).pop().ok_or("a workload")?;
    for round in 0..rounds {
        tell(&format!("telemetry: round {} of {rounds}…", round + 1));
        let mut turns = [0, 1, 2];
        turns.rotate_left(usize::try_from(round)? % MODES.len());
        for mode in turns {
            let (endpoint, _sink) = sink(Arc::clone(&received[mode])).await?;
            let mut environment: Vec<_> = MODES[mode].1.to_vec();
            if mode > 0 {
                environment.push(("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint));
            }
            let stage = Stage::start(programs, directory, url, 1, &environment).await?;
            let clients = ours::connect(stage.command.port, &workload, &numbers).await?;
            puts[mode].push(load::run(clients, warm_up, measured, || stage.command.server.cpu()).await);
            let getters = Getter::many(stage.queries[0].port, &workload.name_of(0, 0), CLIENTS.into()).await?;
            gets[mode].push(load::run(getters, warm_up, measured, || stage.queries[0].server.cpu()).await);
            stage.stop().await?;
        }
    }
    let ratios = |rounds: &[Vec<Round>; 3]| -> Option<Vec<Ratio>> {
        rounds.iter().map(|mode| ratio(mode, &rounds[0])).collect()
    };
    let ratios = ratios(&puts).zip(ratios(&gets)).ok_or("no rounds")?;
    let mut all = vec![];
    let modes = MODES.iter().zip(puts).zip(gets).zip(ratios.0.into_iter().zip(ratios.1)).zip(received);
    for (((((sampled, _), put), get), (put_ratio, get_ratio)), received) in modes {
        let (put, get) = (side(1, put).ok_or("no rounds")?, side(1, get).ok_or("no rounds")?);
        let received_bytes = received.load(Ordering::Relaxed);
        all.push(Measured { sampled, put, get, put_ratio, get_ratio, received_bytes });
    }
    Ok(all)
}

/// A collector that takes everything; its endpoint, and its tasks.
async fn sink(received: Arc<AtomicU64>) -> Result<(String, JoinSet<()>), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut exports = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let received = Arc::clone(&received);
            exports.spawn(async move {
                // An exporter that is gone sends no more.
                let _gone = swallow(stream, &received).await;
            });
        }
    });
    Ok((endpoint, tasks))
}

/// Answers each request when its body, whose length it says, was read.
async fn swallow(mut stream: TcpStream, received: &AtomicU64) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        let whole = end + 4 + length.unwrap_or(0);
        while bytes.len() < whole {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
        bytes.drain(..whole);
        received.fetch_add(length.unwrap_or(0) as u64, Ordering::Relaxed);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_sink_reads_requests_of_one_connection_to_their_ends() {
        let received = Arc::new(AtomicU64::new(0));
        let (endpoint, _tasks) = sink(Arc::clone(&received)).await.unwrap();
        let mut stream = TcpStream::connect(endpoint.strip_prefix("http://").unwrap()).await.unwrap();
        for body in ["", "12345", "123"] {
            let request = format!("POST /v1/traces HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200");
            let mut rest = vec![];
            while !rest.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut rest).await.unwrap();
            }
        }
        assert_eq!(received.load(Ordering::Relaxed), 8);
    }
}
