//! The standalone's process: settings, log, Postgres, app, serve, and the same in reverse.

use std::{net::SocketAddr, process::ExitCode};

use clap::Parser;
use config_api::{
    App,
    app::Config,
    banner,
    settings::{Cli, DEFAULT_PORT},
};
use embedded_postgres::{Cluster, Options, StopMode};
use shared::{BoxError, http::port_owner::CannotListen, shutdown, telemetry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => telemetry::fail("config-api", error.as_ref()),
    }
}

fn start(cli: &Cli) -> Result<(), BoxError> {
    telemetry::init(cli.log.log_format)?;
    let address = cli.listen.address(DEFAULT_PORT)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let shutdown = shutdown::on_signal(runtime.handle())?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await.map_err(|error| CannotListen::explain(address, error))?;
        if let Some(url) = &cli.database_url {
            return serve(cli, url.clone(), "in the Postgres of --database-url", listener, shutdown).await;
        }
        let data_dir = cli.data_dir.clone().unwrap_or_else(embedded_postgres::default_data_dir);
        let data = data_dir.display().to_string();
        let options = Options { bin_dir: cli.postgres_bin_dir.clone(), ..Options::durable(data_dir) };
        let postgres = tokio::select! {
            postgres = Cluster::start(options) => postgres?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let served = tokio::select! {
            served = serve(cli, postgres.url(embedded_postgres::DATABASE), &data, listener, shutdown) => served,
            status = postgres.exited() => Err(postgres.why_ended(status).into()),
        };
        postgres.stop(StopMode::Fast).await?;
        served
    })
}

async fn serve(
    cli: &Cli,
    database_url: String,
    data: &str,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), BoxError> {
    let config = Config { database_url, max_value_bytes: cli.limits.max_value_bytes, redaction: cli.log.redaction()? };
    let address: SocketAddr = listener.local_addr()?;
    let app = tokio::select! {
        app = App::build(config) => app?,
        () = shutdown.cancelled() => return Ok(()),
    };
    tracing::info!("Config API serves http://{address}; stop it with Ctrl-C");
    let health = app.health();
    Ok(banner::beside(app.serve(listener, shutdown), &health, address, data).await?)
}
