//! The committer: what becomes of writes that wait together, and of those whose database fails them.

use std::{convert::Infallible, time::Duration};

use command_service::{
    metrics::AppendMetrics,
    store::{AppendError, Appended, Committer, CommitterHandle, CommitterOptions, NewEvent, Unit},
};
use end_to_end::{Answer, Client, CommandService, Page, wait::PATIENCE};
use reqwest::Method;
use shared::{metrics::Metrics, name::ConfigName};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::append::group::new_id;

mod behind;
mod durability;
mod groups;
pub(crate) mod outages;
mod tls;

/// A committer that runs.
struct Running {
    handle: CommitterHandle,
    metrics: Metrics,
    stop: CancellationToken,
    task: JoinSet<Result<(), Infallible>>,
}

impl Running {
    fn on(url: &str, options: CommitterOptions) -> Self {
        let config = CommandService::config(url);
        let (committer, handle) = Committer::new(config.database, options, AppendMetrics::new(&config.metrics), None);
        let (stop, mut task) = (CancellationToken::new(), JoinSet::new());
        task.spawn(committer.run(stop.clone()));
        Self { handle, metrics: config.metrics, stop, task }
    }

    /// Stops it, and waits for its end.
    async fn ended(mut self) {
        self.stop.cancel();
        self.task.join_next().await.expect("it runs").expect("it does not panic").expect("it cannot fail");
    }

    /// How many units came to this, as metrics tell it.
    fn counted(&self, outcome: &str) -> f64 {
        self.page().value("config_append_units_total", &[("outcome", outcome)])
    }

    fn page(&self) -> Page {
        Page::read(&String::from_utf8(self.metrics.page()).expect("the page is UTF-8"))
    }

    /// Appends for as long as it takes.
    async fn append(&self, unit: Unit) -> Result<Appended, AppendError> {
        self.handle.append(unit, Instant::now() + PATIENCE).await
    }

    /// Appends, and gives it up soon: the time is the behaviour, not a wait for something else.
    async fn append_until_soon(&self, unit: Unit) -> Result<Appended, AppendError> {
        let appended = self.handle.append(unit, Instant::now() + Duration::from_millis(300));
        timeout(PATIENCE, appended).await.expect("it is given up when its time is up")
    }
}

/// A unit that sets one name, which its writer saw at this version.
fn set(name: &str, seen: u64) -> Unit {
    set_to(name, seen, r#"{"value":1}"#)
}

fn set_to(name: &str, seen: u64, payload: &str) -> Unit {
    let event = NewEvent {
        lineage: None,
        name: ConfigName::stored(name),
        expected_version: seen,
        seen: None,
        event_type: "ConfigValueSet",
        payload: payload.to_owned(),
    };
    Unit { command_id: new_id(), events: vec![event], metadata: "{}".to_owned(), checks: vec![], keyed: None }
}

/// Where it is, or why not, in a word: for comparisons.
#[expect(clippy::needless_pass_by_value, reason = "it maps results")]
fn place(appended: Result<Appended, AppendError>) -> Result<u64, &'static str> {
    match appended {
        Ok(Appended::Written { first, .. }) => Ok(first.0),
        Ok(Appended::Noted) => Err("noted"),
        Ok(Appended::Answered { .. }) => Err("answered"),
        Err(AppendError::Conflict) => Err("conflict"),
        Err(AppendError::Overloaded) => Err("overloaded"),
        Err(AppendError::Unavailable) => Err("unavailable"),
        Err(AppendError::Unknown) => Err("unknown"),
        Err(AppendError::Refused(_)) => Err("refused"),
    }
}

/// Sets a configuration, and is told in JSON what became of it.
async fn put(client: Client, name: &str) -> Answer {
    let headers = [("accept", "application/json"), ("content-type", "application/json")];
    client.send(Method::PUT, &format!("/v1/config/{name}"), &headers, Some(r#"{"value":1}"#.to_owned())).await
}
