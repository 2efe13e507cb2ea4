//! `bench`: Config API beside others, on one machine, in one run.
//!
//! ```text
//! writes: settings ─► workload ─► ours, etcd (servers and clients) ─► load ─► latency ─► rounds ─► report, plot
//! reads:  settings ─► reads
//! ```
//!
//! One thread does all of it: the load generator shares the machine with what it measures, and is to cost little.

mod etcd;
mod latency;
mod load;
mod machine;
mod ours;
mod plot;
mod reads;
mod report;
mod rounds;
mod server;
mod settings;
mod stop;
mod template;
mod workload;
mod writes;

use std::process::ExitCode;

use clap::Parser;

/// What any stage may fail with; it ends the run.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = match settings::Cli::parse().task {
        settings::Task::Writes(settings) => writes::run(settings).await,
        settings::Task::Reads(settings) => reads::run(settings).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::tell(&format!("bench: {error}"));
            ExitCode::FAILURE
        }
    }
}
