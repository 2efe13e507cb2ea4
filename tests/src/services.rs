//! The services, in the test's own process, on ports of their own.

use shared::{database, service::ServeError};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{Client, Database};

/// A service that serves until it is stopped or dropped.
#[derive(Debug)]
pub struct Running {
    /// To it.
    pub client: Client,
    stop: CancellationToken,
    serving: JoinSet<Result<(), ServeError>>,
}

impl Running {
    async fn new<F>(serve: impl FnOnce(TcpListener, CancellationToken) -> F) -> Self
    where
        F: Future<Output = Result<(), ServeError>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let client = Client::new(&format!("http://{}", listener.local_addr().expect("its address")));
        let stop = CancellationToken::new();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, stop.clone()));
        Self { client, stop, serving }
    }

    /// Stops it as a signal would, and tells what serving ended with.
    pub async fn stop(mut self) -> Result<(), ServeError> {
        self.stop.cancel();
        self.ended().await
    }

    /// Waits for it to end by itself.
    pub async fn ended(&mut self) -> Result<(), ServeError> {
        self.serving.join_next().await.expect("it serves").expect("it does not panic")
    }
}

/// Starts command services.
#[derive(Debug)]
pub struct CommandService;

impl CommandService {
    /// The settings of a test's command service.
    #[must_use]
    pub fn config(url: &str) -> command_service::Config {
        command_service::Config::new(database::connect_options(url, "tests command").expect("a URL"))
    }

    /// One on this database.
    pub async fn start(database: &Database) -> Running {
        Self::start_with(Self::config(&database.url)).await
    }

    /// One with these settings.
    pub async fn start_with(config: command_service::Config) -> Running {
        let app = command_service::App::build(config).await.expect("the command service builds");
        Running::new(move |listener, stop| app.serve(listener, stop)).await
    }
}

/// Starts query services.
#[derive(Debug)]
pub struct QueryService;

impl QueryService {
    /// The settings of a test's query service.
    #[must_use]
    pub fn config(url: &str) -> query_service::Config {
        query_service::Config::new(database::connect_options(url, "tests query").expect("a URL"))
    }

    /// One on this database; ready.
    pub async fn start(database: &Database) -> Running {
        let running = Self::start_with(Self::config(&database.url)).await;
        running.until_ready().await;
        running
    }

    /// One with these settings; perhaps not ready yet.
    pub async fn start_with(config: query_service::Config) -> Running {
        let app = query_service::App::build(config).await.expect("the query service builds");
        Running::new(move |listener, stop| app.serve(listener, stop)).await
    }
}

/// Starts standalones.
#[derive(Debug)]
pub struct Standalone;

impl Standalone {
    /// One on this database; ready.
    pub async fn start(database: &Database) -> Running {
        Self::start_with(config_api::app::Config::new(database.url.clone())).await
    }

    /// One that takes this database for its own; ready.
    pub async fn start_as_sole_writer(database: &Database) -> Running {
        let config =
            config_api::app::Config { sole_writer: true, ..config_api::app::Config::new(database.url.clone()) };
        Self::start_with(config).await
    }

    async fn start_with(config: config_api::app::Config) -> Running {
        let app = config_api::App::build(config).await.expect("the standalone builds");
        let running = Running::new(move |listener, stop| app.serve(listener, stop)).await;
        running.until_ready().await;
        running
    }
}

impl Running {
    /// Waits until `/v1/ready` says so.
    pub async fn until_ready(&self) {
        self.client.until_ready().await;
    }
}
