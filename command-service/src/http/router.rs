//! All routes and what they share, on one page.

use std::sync::Arc;

use axum::{
    Router,
    routing::{get, post, put},
};
use prometheus::IntCounter;
use shared::{
    http::{path::empty_name, problem::Problem},
    metrics::{Definition, Metrics, float},
    position::Applied,
    redaction::Redaction,
};
use tokio::sync::Semaphore;

use super::{
    batch::batch,
    delete::delete,
    put::put as put_value,
    rollback::rollback,
    worker_stats::worker_stats,
    write::{self, Places},
};
use crate::{command::CommandBus, config::Config, metrics, update_worker::Handle};

/// Most writes whose bodies are read or whose commands are under way; each weighs up to a value. Further ones get 503.
pub const MAX_CONCURRENT_WRITES: usize = 2048;

/// Most batches of them; each weighs up to its values and those that it replaces.
pub const MAX_CONCURRENT_BATCHES: usize = 64;

/// What the handlers work with.
#[derive(Debug)]
pub struct WriteState {
    pub(super) bus: Arc<CommandBus>,
    pub(super) worker: Handle,
    pub(super) max_value_bytes: usize,
    pub(super) redaction: Redaction,
    pub(super) visible_in: Option<Applied>,
    pub(super) writes: Arc<Semaphore>,
    pub(super) batches: Arc<Semaphore>,
    turned_away: IntCounter,
}

impl WriteState {
    pub(crate) fn new(bus: CommandBus, worker: Handle, config: &Config, turned_away: IntCounter) -> Self {
        let writes = Arc::new(Semaphore::new(MAX_CONCURRENT_WRITES));
        let batches = Arc::new(Semaphore::new(MAX_CONCURRENT_BATCHES));
        tell_places(&config.metrics, [&metrics::WRITES, &metrics::WRITES_LIMIT], &writes, MAX_CONCURRENT_WRITES);
        tell_places(&config.metrics, [&metrics::BATCHES, &metrics::BATCHES_LIMIT], &batches, MAX_CONCURRENT_BATCHES);
        Self {
            bus: Arc::new(bus),
            worker,
            max_value_bytes: config.max_value_bytes,
            redaction: config.redaction.clone(),
            visible_in: config.visible_in.clone(),
            writes,
            batches,
            turned_away,
        }
    }

    /// Takes a place among the writes under way.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn place_of_write(&self) -> Result<Places, Problem> {
        self.places(&[&self.writes])
    }

    /// And one among the batches.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn places_of_batch(&self) -> Result<Places, Problem> {
        self.places(&[&self.writes, &self.batches])
    }

    fn places(&self, kinds: &[&Arc<Semaphore>]) -> Result<Places, Problem> {
        write::take_places(kinds).inspect_err(|_| self.turned_away.inc())
    }
}

/// How many places are taken, and of how many.
fn tell_places(metrics: &Metrics, definitions: [&'static Definition; 2], places: &Arc<Semaphore>, limit: usize) {
    let (places, [taken, most]) = (Arc::clone(places), definitions);
    metrics.read(&definitions, move |told| {
        told.value(taken, float((limit - places.available_permits()) as u64));
        told.value(most, float(limit as u64));
    });
}

/// The routes, the old system's unversioned twins among them; without health and fallbacks.
pub(crate) fn routes(state: WriteState) -> Router {
    let mut routes = Router::new();
    for prefix in ["/v1", ""] {
        routes = routes
            .route(&format!("{prefix}/config/{{name}}"), put(put_value).delete(delete))
            .route(&format!("{prefix}/config/"), put(empty_name).delete(empty_name));
    }
    routes = routes.route("/v1/config/{name}/rollback", post(rollback)).route("/v1/batch", post(batch));
    routes.route("/v1/worker/stats", get(worker_stats)).with_state(Arc::new(state))
}
