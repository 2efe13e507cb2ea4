//! The server: hyper's own connection builder, because `axum::serve` sets no timer and so no limit on a request's head.

use std::{
    error::Error as _,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{self, Poll},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::Instant,
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{
    head_limit::{HeadLimit, HeadTimer},
    port_owner::CannotListen,
    self_wake::SelfWake,
};
use crate::metrics::{HttpMetrics, OpenConnection};

/// Longest that a client may take to send a request's head.
pub const HEADER_READ_LIMIT: Duration = Duration::from_secs(10);

/// Longest that a client may take to read anything of what it is being sent.
pub const WRITE_STALL_LIMIT: Duration = Duration::from_secs(20);

/// Largest head of a request, and read buffer of a connection, in bytes; hyper's default is 408 KiB.
pub const MAX_HEAD_BYTES: usize = 32 * 1024;

/// Most connections at once: 20,000 watchers and room for requests. Further ones wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 24_000;

/// Connections that wait in the kernel to be accepted, or as many as the system lets. What comes beyond is dropped, and tries
/// again after seconds; after a restart all watchers come back within ten.
const BACKLOG: u32 = 4_096;

/// Wait before accepting again when the system has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often it is told that connections cannot be accepted: where each that ends makes room for one, it is so again and again.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Takes the address to serve on.
///
/// # Errors
/// When it is taken or forbidden.
#[expect(clippy::unused_async, reason = "must be called on a runtime, which tells when somebody comes")]
pub async fn bind(address: SocketAddr) -> Result<TcpListener, CannotListen> {
    listen(address).map_err(|source| CannotListen::explain(address, source))
}

/// As [`TcpListener::bind`], which has 128 wait.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop`, then finishes the requests under way, for `limit` at most, and cuts those that are left. Returns
/// when the limit is over, for what else is to end by then.
pub(crate) async fn run(
    listener: TcpListener,
    routes: Router,
    metrics: &HttpMetrics,
    stop: CancellationToken,
    limit: Duration,
) -> Instant {
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (stopping, leave) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
    let mut told: Option<Instant> = None;
    let mut http = http1::Builder::new();
    http.header_read_timeout(HEADER_READ_LIMIT).max_buf_size(MAX_HEAD_BYTES);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
            Some(_ended) = connections.join_next() => continue,
        };
        let (stream, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                    told = Some(Instant::now());
                    tracing::warn!(%error, "Connections cannot be accepted; trying again");
                }
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => continue,
                }
            }
        };
        let (service, limit) = (TowerToHyperService::new(routes.clone()), HeadLimit::new());
        http.timer(limit.clone());
        connections.spawn(Serving {
            connection: Box::pin(http.serve_connection(TokioIo::new(patient(stream)), service)),
            wakes: SelfWake::new(),
            head: HeadTimer::of(limit),
            stopping: Arc::clone(&stopping),
            leave: Box::pin(leave.clone().cancelled_owned()),
            waits_to_leave: false,
            leaves: false,
            open: metrics.connection(),
            _place: place,
        });
    }
    let until = Instant::now() + limit;
    drop(listener);
    stopping.store(true, Ordering::Release);
    leave.cancel();
    if tokio::time::timeout_at(until, async { while connections.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!(limit_s = limit.as_secs(), "Requests under way did not end in time and are cut");
        connections.shutdown().await;
    }
    until
}

/// A connection, until its client or the stop ends it. It has several turns in each request; so it waits for the stop by
/// a waker that is left once, since a task's wakers are all alike, and looks at a flag. Asking the token each time would take
/// a lock that all connections share.
struct Serving {
    connection: Pin<Box<http1::Connection<TokioIo<Patient>, TowerToHyperService<Router>>>>,
    wakes: SelfWake,
    head: HeadTimer,
    /// Set before `leave` is cancelled.
    stopping: Arc<AtomicBool>,
    leave: Pin<Box<WaitForCancellationFutureOwned>>,
    waits_to_leave: bool,
    /// It was told to end behind the request under way.
    leaves: bool,
    open: OpenConnection,
    _place: OwnedSemaphorePermit,
}

impl Future for Serving {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if !this.leaves && (!this.waits_to_leave || this.stopping.load(Ordering::Acquire)) {
            this.waits_to_leave = true;
            if this.leave.as_mut().poll(context).is_ready() {
                this.leaves = true;
                this.connection.as_mut().graceful_shutdown();
            }
        }
        let connection = &mut this.connection;
        let mut poll = |context: &mut _| this.wakes.poll(context, |context| connection.as_mut().poll(context));
        let mut ended = poll(context);
        if ended.is_pending() && this.head.is_over(context) {
            ended = poll(context);
        }
        ended.map(|ended| {
            if let Err(error) = ended {
                if is_stalled(&error) {
                    this.open.stalled();
                }
                tracing::debug!(%error, "A connection ended");
            }
        })
    }
}

/// Whether it was cut because its client read nothing.
fn is_stalled(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut)
}

/// A socket whose client must read what it is sent.
type Patient = Pin<Box<TimeoutStream<TcpStream>>>;

/// A client that stops reading what it asked for keeps alive whatever is being sent; its connection is cut.
fn patient(stream: TcpStream) -> Patient {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_STALL_LIMIT));
    Box::pin(stream)
}

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // An answer is one small write; waiting to fill a packet only delays it.
    let _no_delay = stream.set_nodelay(true);
    Ok((stream, place))
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::pending};

    use axum::{body::Body, routing::get};
    use bytes::Bytes;
    use futures_util::stream;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::mpsc,
        task::JoinHandle,
    };
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::metrics::Metrics;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A server of one route, and a client that has asked for it. The clock stands still while there is anything to do.
    async fn asked(routes: Router, stop: &CancellationToken) -> (JoinHandle<Instant>, TcpStream) {
        asked_and_counted(routes, stop, &Metrics::of("command-service")).await
    }

    async fn asked_and_counted(
        routes: Router,
        stop: &CancellationToken,
        metrics: &Metrics,
    ) -> (JoinHandle<Instant>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let (metrics, stop) = (metrics.http().clone(), stop.clone());
        let serve = async move { run(listener, routes, &metrics, stop, Duration::from_secs(20)).await };
        (TaskTracker::new().spawn(serve), client)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_reading_is_cut() {
        let let_go = CancellationToken::new();
        let sent = let_go.clone();
        let endless = get(async move || {
            let guard = sent.clone().drop_guard();
            let piece = Bytes::from(vec![b'x'; 64 * 1024]);
            Body::from_stream(stream::iter(std::iter::repeat_with(move || {
                let _until_dropped = &guard;
                Ok::<_, Infallible>(piece.clone())
            })))
        });
        let began = Instant::now();
        let metrics = Metrics::of("command-service");
        let routes = Router::new().route("/", endless);
        let (_server, client) = asked_and_counted(routes, &CancellationToken::new(), &metrics).await;
        tokio::time::timeout(PATIENCE, let_go.cancelled()).await.expect("the body is let go");
        tokio::task::yield_now().await;
        let page = String::from_utf8(metrics.page()).unwrap();
        assert!(page.contains("\nconfig_http_connections_stalled_total 1\n"), "{page}");
        assert!(page.contains("\nconfig_http_connections 0\n"), "{page}");
        assert!(began.elapsed() >= WRITE_STALL_LIMIT, "not before its time");
        drop(client);
    }

    /// Nobody accepts: all of them wait in the kernel, where others would be dropped, and come again after a second or more.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn many_clients_may_come_at_once() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let coming = async {
            let mut clients = vec![];
            // More than 128 and the few that the kernel takes on top.
            while clients.len() < 300 {
                clients.push(TcpStream::connect(address).await.unwrap());
            }
        };
        tokio::time::timeout(PATIENCE, coming).await.expect("there is room for all");
    }

    /// What a server says to a client that sends this and nothing more, and after how long it is cut.
    async fn said_to(request: &[u8]) -> (String, Duration) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (routes, stop) = (Router::new().route("/", get(async || "here")), CancellationToken::new());
        let (metrics, stopped) = (Metrics::of("query-service"), stop.clone());
        let serve = async move { run(listener, routes, metrics.http(), stopped, Duration::from_secs(20)).await };
        let server = TaskTracker::new().spawn(serve);
        let began = Instant::now();
        client.write_all(request).await.unwrap();
        let mut answer = vec![];
        let ended = tokio::time::timeout(PATIENCE, client.read_to_end(&mut answer)).await;
        let _reset_or_end = ended.expect("the connection is closed");
        let took = began.elapsed();
        stop.cancel();
        server.await.unwrap();
        (String::from_utf8(answer).unwrap(), took)
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_does_not_come_to_its_end_is_given_up() {
        let (answer, took) = said_to(b"GET / HTTP/1.1\r\nhost: x\r\n").await;
        assert!((HEADER_READ_LIMIT..HEADER_READ_LIMIT * 2).contains(&took), "{took:?}");
        assert!(!answer.contains("here"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn each_head_has_the_limit_anew() {
        let stop = CancellationToken::new();
        let (_server, mut client) = asked(Router::new().route("/", get(async || "here")), &stop).await;
        let mut answered = async |began: Instant| {
            let mut answer = vec![];
            while !answer.ends_with(b"here") {
                assert!(client.read_buf(&mut answer).await.unwrap() > 0, "cut after {:?}", began.elapsed());
            }
            tokio::time::sleep(HEADER_READ_LIMIT * 2 / 3).await;
            client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        };
        for _ in 0..4 {
            answered(Instant::now()).await;
        }
        let (mut answer, began) = (vec![], Instant::now());
        tokio::time::timeout(PATIENCE, client.read_to_end(&mut answer)).await.expect("it is cut").unwrap();
        assert!(answer.ends_with(b"here"));
        assert!((HEADER_READ_LIMIT..HEADER_READ_LIMIT + Duration::from_millis(10)).contains(&began.elapsed()));
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_refused() {
        let request = |bytes| format!("GET / HTTP/1.1\r\nconnection: close\r\nx: {}\r\n\r\n", "x".repeat(bytes));
        let (answer, _) = said_to(request(MAX_HEAD_BYTES - 100).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        // It may be closed before the client has read why.
        let (answer, _) = said_to(request(MAX_HEAD_BYTES * 2).as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_asks_nothing_more_does_not_hold_up_the_stop() {
        let stop = CancellationToken::new();
        let (server, mut client) = asked(Router::new().route("/", get(async || "here")), &stop).await;
        let mut answer = [0; 512];
        let mut read = 0;
        while !answer[..read].ends_with(b"here") {
            read += client.read(&mut answer[read..]).await.unwrap();
        }
        let asked_at = Instant::now();
        stop.cancel();
        server.await.unwrap();
        assert!(asked_at.elapsed() < Duration::from_secs(1), "{:?}", asked_at.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_in_time_is_cut_at_the_stop() {
        let stop = CancellationToken::new();
        let (entered, mut has_entered) = mpsc::channel::<()>(1);
        let never = get(async move || {
            entered.send(()).await.unwrap();
            pending::<()>().await;
        });
        let (server, mut client) = asked(Router::new().route("/", never), &stop).await;
        has_entered.recv().await.unwrap();
        stop.cancel();
        server.await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, client.read_to_end(&mut answer)).await;
        let _reset_or_end = ended.expect("the connection is closed");
        assert!(answer.is_empty());
    }
}
