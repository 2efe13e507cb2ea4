//! `bench`: Config API beside etcd, on one machine, in one run.
//!
//! ```text
//! settings ─► workload ─► ours, etcd (servers and clients) ─► load ─► latency ─► rounds ─► report, plot
//! ```
//!
//! One thread does all of it: the load generator shares the machine with what it measures, and is to cost little.

mod etcd;
mod latency;
mod load;
mod machine;
mod ours;
mod plot;
mod report;
mod rounds;
mod server;
mod settings;
mod template;
mod workload;
mod writes;

use std::process::ExitCode;

use clap::Parser;

/// What any stage may fail with; it ends the run.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let settings::Task::Writes(settings) = settings::Cli::parse().task;
    match writes::run(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::tell(&format!("bench: {error}"));
            ExitCode::FAILURE
        }
    }
}
