//! The command service's process: settings, log, app, serve.

use std::process::ExitCode;

use clap::Parser;
use command_service::{
    App, Config,
    config::{Cli, NoDatabase, Task},
};
use shared::{BoxError, database, http::port_owner::CannotListen, schema, shutdown, telemetry};
use tokio::net::TcpListener;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => telemetry::fail("command-service", error.as_ref()),
    }
}

fn run(cli: &Cli) -> Result<(), BoxError> {
    telemetry::init(cli.serve.log.log_format)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let shutdown = shutdown::on_signal(runtime.handle())?;
    runtime.block_on(async {
        if let Some(Task::Migrate { migrate_database_url, create_roles }) = &cli.task {
            let url = migrate_database_url.as_ref().or(cli.serve.database_url.as_ref()).ok_or(NoDatabase)?;
            schema::migrate_at(&database::connect_options(url, "migrate")?, *create_roles).await?;
            tracing::info!("The schema is at version {}", schema::version());
            return Ok(());
        }
        let (config, address) = Config::from_args(&cli.serve)?;
        let listener = TcpListener::bind(address).await.map_err(|error| CannotListen::explain(address, error))?;
        let app = tokio::select! {
            app = App::build(config) => app?,
            () = shutdown.cancelled() => return Ok(()),
        };
        Ok(app.serve(listener, shutdown).await?)
    })
}
