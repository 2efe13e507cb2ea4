//! The binary `query-service`: settings in, service up, one line when it cannot be.

use std::process::ExitCode;

use clap::Parser;
use query_service::{
    App,
    config::{Args, DEFAULT_PORT},
};
use shared::{BoxError, http::port_owner::CannotListen, shutdown, telemetry};
use tokio::net::TcpListener;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => telemetry::fail("query-service", error.as_ref()),
    }
}

fn run(args: &Args) -> Result<(), BoxError> {
    let config = args.config()?;
    let address = args.listen.address(DEFAULT_PORT)?;
    telemetry::init(args.log.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let shutdown = shutdown::on_signal(runtime.handle())?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await.map_err(|error| CannotListen::explain(address, error))?;
        let app = App::build(config).await?;
        Ok(app.serve(listener, shutdown).await?)
    })
}
