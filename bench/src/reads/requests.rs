//! Requests again and again: one name, and a list; beside an empty handler, and etcd's ranges, all in turns.

use std::{future::Future, pin::Pin, time::Duration};

use serde::Serialize;

use super::stage::Serving;
use crate::{
    BoxError, etcd,
    load::{self, Done, Fault, Round},
    ours::http::Connection,
    report::tell,
    rounds::{Ratio, Side, ratio, side},
    server::Server,
};

/// Configurations in a list.
pub(crate) const LISTED: u64 = 1_000;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Name,
    List,
}

/// Servers that hold the same, and how they are measured.
#[derive(Debug)]
pub(crate) struct Course<'a> {
    pub(crate) ours: &'a Serving,
    /// Only for one name: there is no empty list of a thousand.
    pub(crate) empty: &'a Serving,
    pub(crate) etcd: Option<(&'a Server, u16)>,
    pub(crate) etcd_connections: u16,
    pub(crate) name: String,
    pub(crate) prefix: String,
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
    pub(crate) rounds: u32,
}

/// What became of a request.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) request: String,
    pub(crate) clients: usize,
    pub(crate) ours: Side,
    pub(crate) empty: Option<Side>,
    pub(crate) etcd_serializable: Option<Side>,
    pub(crate) etcd_linearizable: Option<Side>,
    /// Ours by the empty handler's.
    pub(crate) to_empty: Option<Ratio>,
    /// Ours by etcd's serializable range.
    pub(crate) to_serializable: Option<Ratio>,
}

/// A client of ours, or of the empty handler.
pub(super) struct Getter {
    connection: Connection,
    request: Vec<u8>,
}

impl Getter {
    /// So many that ask for a configuration, each on a connection of its own.
    pub(super) async fn many(port: u16, name: &str, clients: usize) -> Result<Vec<Self>, BoxError> {
        Self::of_path(port, &format!("/v1/config/{}", name.replace('/', "%2F")), clients).await
    }

    async fn of_path(port: u16, path: &str, clients: usize) -> Result<Vec<Self>, BoxError> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n").into_bytes();
        let mut getters = Vec::with_capacity(clients);
        for _ in 0..clients {
            getters.push(Self { connection: Connection::open(port).await?, request: request.clone() });
        }
        Ok(getters)
    }
}

impl load::Client for Getter {
    async fn operate(&mut self) -> Result<Done, Fault> {
        match self.connection.exchange(&self.request).await?.status {
            200 => Ok(Done::default()),
            status => Err(Fault::Answer(format!("HTTP {status}"))),
        }
    }
}

type Turn<'a> = Pin<Box<dyn Future<Output = Result<Round, BoxError>> + 'a>>;

impl Course<'_> {
    /// Measures all sides with so many clients.
    pub(crate) async fn run(&self, asked: Asked, clients: usize) -> Result<Measured, BoxError> {
        let request = match asked {
            Asked::Name => format!("get-{clients}"),
            Asked::List => format!("list-{LISTED}"),
        };
        let mut sides: [Vec<Round>; 4] = Default::default();
        for round in 0..self.rounds {
            tell(&format!("{request}: round {} of {}…", round + 1, self.rounds));
            let mut turns: Vec<(usize, Turn<'_>)> = vec![(0, Box::pin(self.http(self.ours, asked, clients)))];
            if asked == Asked::Name {
                turns.push((1, Box::pin(self.http(self.empty, asked, clients))));
            }
            if self.etcd.is_some() {
                turns.push((2, Box::pin(self.ranges(asked, true, clients))));
                turns.push((3, Box::pin(self.ranges(asked, false, clients))));
            }
            if round % 2 == 1 {
                turns.reverse();
            }
            for (index, turn) in turns {
                sides[index].push(turn.await?);
            }
        }
        let events = if asked == Asked::List { usize::try_from(LISTED)? } else { 1 };
        let [ours, empty, serializable, linearizable] = sides;
        Ok(Measured {
            request,
            clients,
            to_empty: ratio(&ours, &empty),
            to_serializable: ratio(&ours, &serializable),
            ours: side(events, ours).ok_or("no rounds")?,
            empty: side(events, empty),
            etcd_serializable: side(events, serializable),
            etcd_linearizable: side(events, linearizable),
        })
    }

    async fn http(&self, serving: &Serving, asked: Asked, clients: usize) -> Result<Round, BoxError> {
        let getters = match asked {
            Asked::Name => Getter::many(serving.port, &self.name, clients).await?,
            Asked::List => Getter::of_path(serving.port, &format!("/v1/config?limit={LISTED}"), clients).await?,
        };
        Ok(load::run(getters, self.warm_up, self.measured, || serving.server.cpu()).await)
    }

    async fn ranges(&self, asked: Asked, serializable: bool, clients: usize) -> Result<Round, BoxError> {
        let (server, port) = self.etcd.ok_or("no etcd")?;
        let what = match asked {
            Asked::Name => etcd::Ranges::Name(self.name.clone()),
            Asked::List => etcd::Ranges::Prefix(self.prefix.clone(), LISTED),
        };
        let (readers, _drivers) = etcd::ranges(port, &what, serializable, clients, self.etcd_connections).await?;
        Ok(load::run(readers, self.warm_up, self.measured, || server.cpu()).await)
    }
}
