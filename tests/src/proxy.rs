//! The network between a service and its Postgres, which fails when a test says so.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::{Database, until};

/// A way to a database on which connections can be cut, and answers lost.
#[derive(Debug)]
pub struct Proxy {
    /// The same database, reached through it.
    pub database: Database,
    network: watch::Sender<Network>,
    /// How many bytes of answers still arrive, on all connections together.
    allowance: Arc<AtomicUsize>,
    _carrying: JoinSet<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    Up,
    /// What a client sends arrives, what the server answers does not.
    AnswersLost,
    Down,
}

impl Proxy {
    /// To this database.
    ///
    /// # Panics
    /// When its URL is not that of a cluster of the tests.
    pub async fn to(database: &Database) -> Self {
        let (login, place) = database.url.rsplit_once('@').expect("user@host:port/database");
        let (server, name) = place.split_once('/').expect("host:port/database");
        let server: SocketAddr = server.parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("{login}@{}/{name}", listener.local_addr().expect("its address"));
        let (network, state) = watch::channel(Network::Up);
        let allowance = Arc::new(AtomicUsize::new(usize::MAX));
        let allowed = Arc::clone(&allowance);
        let mut carrying = JoinSet::new();
        carrying.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(carry(client, server, state.clone(), Arc::clone(&allowed)));
            }
        });
        Self { database: Database { url }, network, allowance, _carrying: carrying }
    }

    /// From now on no answer arrives.
    pub fn lose_answers(&self) {
        self.network.send_replace(Network::AnswersLost);
    }

    /// Ends all connections, and new ones at once, until it is [`up`](Self::up) again.
    pub async fn down(&self) {
        self.network.send_replace(Network::Down);
        // Each connection has a receiver; the last one is the listener's.
        until("the connections are cut", async || (self.network.receiver_count() == 1).then_some(())).await;
    }

    /// From now on so many bytes of answers arrive, and then nothing, until the connections are cut.
    pub fn stall_after(&self, bytes: usize) {
        self.allowance.store(bytes, Relaxed);
    }

    /// All is well again.
    pub fn up(&self) {
        self.allowance.store(usize::MAX, Relaxed);
        self.network.send_replace(Network::Up);
    }
}

async fn carry(
    mut client: TcpStream,
    server: SocketAddr,
    mut network: watch::Receiver<Network>,
    allowance: Arc<AtomicUsize>,
) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let state = network.clone();
    let answers = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            let lost = *state.borrow() == Network::AnswersLost;
            let less = |left: usize| if left == usize::MAX { Some(left) } else { left.checked_sub(read) };
            if allowance.fetch_update(Relaxed, Relaxed, less).is_err() {
                std::future::pending::<()>().await;
            }
            if !lost && to_client.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        _down = network.wait_for(|now| *now == Network::Down) => {}
        _ended = copy(&mut from_client, &mut to_server) => {}
        () = answers => {}
    }
}
