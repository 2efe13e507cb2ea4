//! The check `worker` of health.

use futures_util::future::BoxFuture;
use shared::http::health::Check;

use super::worker::{Handle, Unwell};

/// Whether the update worker does its work. Writes go on without it.
#[derive(Debug)]
pub struct WorkerCheck(pub Handle);

impl Check for WorkerCheck {
    fn name(&self) -> &'static str {
        "worker"
    }

    fn needed_to_serve(&self) -> bool {
        false
    }

    fn check(&self) -> BoxFuture<'_, Result<(), String>> {
        let well = self.0.well().map_err(|unwell| match unwell {
            Unwell::Down => "the update worker crashed and is not started again yet".to_owned(),
            Unwell::Stuck(seconds) => format!("the update worker has told one change for {seconds} s"),
        });
        Box::pin(async { well })
    }
}
