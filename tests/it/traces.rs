//! Traces, as a collector gets them from real processes.

use end_to_end::{Answer, Collector, Database, process::Process};

mod changes;
mod replicas;
mod sending;

/// A change that was sent with a trace of its client's.
const CLIENTS_TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENTS_SPAN: &str = "00f067aa0ba902b7";

fn sampled_parent() -> (&'static str, String) {
    ("traceparent", format!("00-{CLIENTS_TRACE}-{CLIENTS_SPAN}-01"))
}

/// The trace that an answer says it belongs to.
fn trace_of(answer: &Answer) -> String {
    let told = answer.header("traceresponse");
    let parts: Vec<_> = told.split('-').collect();
    assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2], "{answer:?}");
    parts[1].to_owned()
}

/// A process of this program on the database, that sends its traces to the collector.
async fn traced(program: &str, database: &Database, collector: &Collector) -> Process {
    traced_with(program, database, collector, &[]).await
}

/// The same, with more variables.
async fn traced_with(program: &str, database: &Database, collector: &Collector, more: &[(&str, &str)]) -> Process {
    let variables = collector.variables();
    let variables: Vec<_> =
        variables.iter().map(|(name, value)| (*name, value.as_str())).chain(more.iter().copied()).collect();
    let process = Process::start_with(program, &["--database-url", &database.url], &variables).await;
    process.client.until_ready().await;
    process
}
