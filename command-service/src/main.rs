//! The command service's process: settings, log, app, serve.

use std::process::ExitCode;

use command_service::{
    App, Config,
    config::{Cli, DEFAULT_LISTEN, Task},
};
use shared::{
    BoxError, database,
    http::{healthcheck::healthcheck, server},
    schema,
    settings::{self, Defaults, usage},
    shutdown, telemetry,
};

fn main() -> ExitCode {
    let cli = match settings::parse::<Cli>(&Defaults {
        given: vec![("listen", DEFAULT_LISTEN.to_owned())],
        worked_out: vec![],
    }) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    if let Some(Task::Healthcheck(asked)) = cli.task {
        return healthcheck("command-service", asked, cli.serve.listen.listen);
    }
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => telemetry::fail("command-service", error.as_ref()),
    }
}

fn run(cli: &Cli) -> Result<(), BoxError> {
    let _log = cli.serve.log.begin("command-service")?;
    let runtime = tokio::runtime::Runtime::new()?;
    let shutdown = shutdown::on_signal(runtime.handle(), shutdown::STOP_LIMIT)?;
    runtime.block_on(async {
        if let Some(Task::Migrate { migrate_database_url, create_roles }) = &cli.task {
            let url = cli.serve.url(migrate_database_url.as_deref())?;
            let options = database::connect_options(&url, "migrate").map_err(usage)?;
            let migrated = schema::migrate_at(&options, *create_roles, cli.serve.start.database_wait());
            return match shutdown.run_until_cancelled(migrated).await {
                Some(migrated) => {
                    migrated?;
                    tracing::info!("The schema is at version {}", schema::version());
                    Ok(())
                }
                // What is under way is rolled back when its connection ends.
                None => Err("stopped before the schema was migrated; run it again".into()),
            };
        }
        let (config, address) = Config::from_args(&cli.serve)?;
        let listener = server::bind(address).await?;
        let app = tokio::select! {
            app = App::build(config) => app?,
            () = shutdown.cancelled() => return Ok(()),
        };
        Ok(app.serve(listener, shutdown).await?)
    })
}
