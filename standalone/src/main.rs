//! The standalone's process: settings in, one line when it cannot run.

use std::process::ExitCode;

use config_api::{
    run,
    settings::{Cli, Task, defaults},
};
use shared::{http::healthcheck::healthcheck, settings, telemetry};

fn main() -> ExitCode {
    let cli = match settings::parse::<Cli>(&defaults()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    if let Some(Task::Healthcheck(asked)) = cli.task {
        return healthcheck("config-api", asked, cli.listen.listen);
    }
    match run::run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => telemetry::fail("config-api", error.as_ref()),
    }
}
