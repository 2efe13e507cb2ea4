//! Work that goes on when whoever asked for it goes away.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::runtime::Handle;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

/// Carried out by whoever polls it: a task of its own would have to be woken, and to wake the one that asked. What is left of it
/// when it is dropped goes on in such a task.
pub(super) struct ToItsEnd<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    /// Nothing once it has ended, or panicked.
    work: Option<Pin<Box<F>>>,
    tracked: TaskTracker,
    /// The end of the process waits for it, whoever polls it.
    _under_way: TaskTrackerToken,
}

impl<F> ToItsEnd<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    pub(super) fn new(work: F, tracked: &TaskTracker) -> Self {
        Self { work: Some(Box::pin(work)), tracked: tracked.clone(), _under_way: tracked.token() }
    }
}

impl<F> Future for ToItsEnd<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let mut work = self.work.take().expect("it is not polled again once it has ended");
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<F> Drop for ToItsEnd<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    fn drop(&mut self) {
        // Without a runtime the process is at its end, and so is the work.
        if let (Some(work), Ok(runtime)) = (self.work.take(), Handle::try_current()) {
            self.tracked.spawn_on(work, &runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;

    use futures_util::{FutureExt, poll};
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_is_left_of_it_goes_on_and_is_waited_for() {
        let tracked = TaskTracker::new();
        tracked.close();
        let ((begin, begun), (done, is_done)) = (oneshot::channel::<()>(), oneshot::channel());
        let mut work = ToItsEnd::new(
            async {
                begun.await.unwrap();
                done.send("done").unwrap();
            },
            &tracked,
        );
        assert!(poll!(&mut work).is_pending());
        assert_eq!(tracked.len(), 1, "also while it is polled by somebody else");
        drop(work);
        begin.send(()).unwrap();
        tracked.wait().await;
        assert_eq!(is_done.await, Ok("done"));
    }

    #[tokio::test]
    async fn what_has_ended_or_panicked_does_not_begin_again() {
        let tracked = TaskTracker::new();
        assert_eq!(ToItsEnd::new(async { 1 }, &tracked).await, 1);
        let panicking = ToItsEnd::new(async { panic!("on purpose") }, &tracked);
        assert!(AssertUnwindSafe(panicking).catch_unwind().await.is_err());
        assert!(tracked.is_empty());
    }
}
