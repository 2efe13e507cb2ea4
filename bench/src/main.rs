//! `bench`: Config API beside others, on one machine, in one run.
//!
//! ```text
//! writes: settings ─► workload ─► ours, etcd (servers and clients) ─► load ─► latency ─► rounds ─► report, plot
//! reads:  settings ─► reads
//! ```
//!
//! One thread does all of it: the load generator shares the machine with what it measures, and is to cost little. The empty
//! handler that reads are compared with is a process of its own, with as many threads as a service.

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

use std::{io, process::ExitCode};

use clap::Parser;

/// What any stage may fail with; it ends the run.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    match run(settings::Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::tell(&format!("bench: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(task: settings::Task) -> Result<(), BoxError> {
    let one_thread = || -> io::Result<_> { tokio::runtime::Builder::new_current_thread().enable_all().build() };
    match task {
        settings::Task::Writes(settings) => one_thread()?.block_on(writes::run(settings)),
        settings::Task::Reads(settings) => one_thread()?.block_on(reads::run(settings)),
        settings::Task::Empty { body_bytes } => tokio::runtime::Runtime::new()?.block_on(reads::empty(body_bytes)),
    }
}
