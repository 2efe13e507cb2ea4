//! From settings to a running process, and back.

use std::{net::SocketAddr, time::Duration};

use embedded_postgres::{Cluster, Options, StopMode};
use shared::{BoxError, file_limit, http::server, settings::usage, shutdown};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    App,
    app::Config,
    banner,
    settings::{Cli, Database},
};

/// Longest that the stop takes: that of the services, and what Postgres takes to write everything to disk.
const STOP_LIMIT: Duration =
    Duration::from_secs(shutdown::STOP_LIMIT.as_secs() + embedded_postgres::STOP_LIMIT.as_secs() + 5);

/// Runs until a signal, or until something fails: log, address, Postgres, app, serve, and the same in reverse.
///
/// # Errors
/// What kept it from starting, or ended it.
pub fn run(cli: &Cli) -> Result<(), BoxError> {
    let _log = cli.log.begin("config-api")?;
    file_limit::raise();
    let (database, address) = (cli.database()?, cli.listen.address().map_err(usage)?);
    let runtime = tokio::runtime::Runtime::new()?;
    let shutdown = shutdown::on_signal(runtime.handle(), STOP_LIMIT)?;
    runtime.block_on(async {
        let listener = server::bind(address).await?;
        let data_dir = match database {
            Database::Given { url } => {
                return serve(cli, Config::new(url), "in the given Postgres", listener, shutdown).await;
            }
            Database::Own { data_dir } => data_dir,
        };
        let data = data_dir.display().to_string();
        let options = Options { bin_dir: cli.postgres_bin_dir.clone(), ..Options::durable(data_dir) };
        let postgres = tokio::select! {
            postgres = Cluster::start(options) => postgres?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let own = Config { sole_writer: true, ..Config::new(postgres.local_url(embedded_postgres::DATABASE)) };
        let served = tokio::select! {
            served = serve(cli, own, &data, listener, shutdown) => served,
            status = postgres.exited() => Err(postgres.why_ended(status).into()),
        };
        // The cause first, should Postgres then not stop either.
        let stopped = postgres.stop(StopMode::Fast).await;
        served.and(stopped.map_err(Into::into))
    })
}

async fn serve(
    cli: &Cli,
    config: Config,
    data: &str,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), BoxError> {
    let config = Config {
        database_wait: cli.start.database_wait(),
        max_value_bytes: cli.limits.max_value_bytes,
        key_lifetime: cli.limits.key_lifetime(),
        redaction: cli.log.redaction().map_err(usage)?,
        ..config
    };
    let address: SocketAddr = listener.local_addr()?;
    let app = tokio::select! {
        app = App::build(config) => app?,
        () = shutdown.cancelled() => return Ok(()),
    };
    tracing::info!("Config API serves http://{address}; stop it with Ctrl-C");
    let health = app.health();
    Ok(banner::beside(app.serve(listener, shutdown), &health, address, data).await?)
}
