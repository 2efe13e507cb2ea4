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
            Unwell::Down => "the update worker does not run: it crashed, or is not started yet".to_owned(),
            Unwell::Stuck(seconds) => format!("the update worker has told one change for {seconds} s"),
        });
        Box::pin(async { well })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc::sync_channel};

    use shared::{clock::Clock, name::ConfigName};
    use tokio_util::sync::CancellationToken;

    use super::{
        super::{Update, UpdateWorker},
        *,
    };

    fn update() -> Update {
        let recorded_at = "2024-01-15T10:30:00Z".parse().unwrap();
        Update { name: ConfigName::stored("a"), old_value: None, new_value: None, recorded_at }
    }

    async fn until_it_says(check: &WorkerCheck, beginning: &str) {
        let says = async {
            let mut looks = tokio::time::interval(std::time::Duration::from_millis(5));
            loop {
                looks.tick().await;
                let said = check.check().await.err().unwrap_or("ok".to_owned());
                if said.starts_with(beginning) {
                    return;
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), says).await.expect(beginning);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_worker_that_is_not_started_or_tells_one_change_for_too_long_is_not_well() {
        let (begun, has_begun) = sync_channel(1);
        let (go_on, told_to) = sync_channel::<()>(1);
        let (begun, told_to) = (Arc::new(begun), Arc::new(Mutex::new(told_to)));
        let teller = move |_: &Update, _: u64| {
            begun.send(()).unwrap();
            told_to.lock().unwrap().recv().unwrap();
        };
        let (worker, handle) = UpdateWorker::telling(Clock::system(), Box::new(teller));
        let check = WorkerCheck(handle.clone());
        until_it_says(&check, "the update worker does not run: it crashed, or is not started yet").await;
        let (stop, mut running) = (CancellationToken::new(), tokio::task::JoinSet::new());
        running.spawn(worker.run(stop.clone()));
        until_it_says(&check, "ok").await;
        handle.notify(update());
        tokio::task::spawn_blocking(move || has_begun.recv().unwrap()).await.unwrap();
        assert_eq!(check.check().await, Ok(()), "it has just begun");
        until_it_says(&check, "the update worker has told one change for 5 s").await;
        go_on.send(()).unwrap();
        until_it_says(&check, "ok").await;
        stop.cancel();
        running.join_next().await.unwrap().unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_crashed_is_not_well_until_it_is_started_again() {
        let (worker, handle) = UpdateWorker::telling(Clock::system(), Box::new(|_, _| panic!("a bug")));
        let check = WorkerCheck(handle.clone());
        let (stop, mut running) = (CancellationToken::new(), tokio::task::JoinSet::new());
        running.spawn(worker.run(stop.clone()));
        handle.notify(update());
        while handle.stats().restarts == 0 {
            tokio::task::yield_now().await;
        }
        let unwell = check.check().await.unwrap_err();
        assert_eq!(unwell, "the update worker does not run: it crashed, or is not started yet");
        until_it_says(&check, "ok").await;
        stop.cancel();
        running.join_next().await.unwrap().unwrap().unwrap();
    }
}
