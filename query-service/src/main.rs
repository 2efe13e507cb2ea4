//! The binary `query-service`: settings in, service up, one line when it cannot be.

use std::process::ExitCode;

use query_service::{
    App,
    config::{Args, DEFAULT_LISTEN, Task},
};
use shared::{
    BoxError, file_limit,
    http::{healthcheck::healthcheck, server},
    settings::{self, Defaults, usage},
    shutdown, telemetry,
};

fn main() -> ExitCode {
    let args = match settings::parse::<Args>(&Defaults {
        given: vec![("listen", DEFAULT_LISTEN.to_owned())],
        worked_out: vec![],
    }) {
        Ok(args) => args,
        Err(code) => return code,
    };
    if let Some(Task::Healthcheck(asked)) = args.task {
        return healthcheck("query-service", asked, args.listen.listen);
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => telemetry::fail("query-service", error.as_ref()),
    }
}

fn run(args: &Args) -> Result<(), BoxError> {
    let (config, address) = (args.config()?, args.listen.address().map_err(usage)?);
    let _log = args.log.begin("query-service")?;
    file_limit::raise();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let shutdown = shutdown::on_signal(runtime.handle(), shutdown::STOP_LIMIT)?;
    runtime.block_on(async {
        let listener = server::bind(address).await?;
        let app = App::build(config).await?;
        Ok(app.serve(listener, shutdown).await?)
    })
}
