//! The limit on the time in which a request's head must come, without a timer for each request.
//!
//! hyper makes a timer when it begins to wait for a head, and drops it when the head is there; the runtime's have to be put
//! into a wheel, and taken out of it, under a lock that all connections share. Here a connection has one timer, which is left
//! where it is as long as heads come in time, and looks anew when it fires.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::{Sleep, Timer};
use tokio::{task::coop::unconstrained, time::Instant};

/// hyper waits for no head.
const NOT_WAITING: u64 = u64::MAX;

/// What hyper and a connection's task know of each other; of one task alone, so their order is that of its steps.
#[derive(Clone, Debug)]
pub(super) struct HeadLimit(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    opened: Instant,
    /// Until when the head must be there, in nanoseconds since `opened`.
    until: AtomicU64,
    over: AtomicBool,
}

impl HeadLimit {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            opened: Instant::now(),
            until: AtomicU64::new(NOT_WAITING),
            over: AtomicBool::new(false),
        }))
    }

    fn wait_until(&self, deadline: std::time::Instant) {
        let until = Instant::from_std(deadline).saturating_duration_since(self.0.opened).as_nanos();
        self.0.until.store(u64::try_from(until).unwrap_or(NOT_WAITING), Relaxed);
        self.0.over.store(false, Relaxed);
    }

    /// Until when the head must be there that is waited for.
    fn until(&self) -> Option<Instant> {
        let until = self.0.until.load(Relaxed);
        (until != NOT_WAITING).then(|| self.0.opened + Duration::from_nanos(until))
    }
}

impl Timer for HeadLimit {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        self.wait_until(deadline);
        Box::pin(UntilHead(self.clone()))
    }

    fn reset(&self, _: &mut Pin<Box<dyn Sleep>>, deadline: std::time::Instant) {
        self.wait_until(deadline);
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

/// What hyper polls when a head has not come yet.
struct UntilHead(HeadLimit);

impl Future for UntilHead {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        // Nobody has to be woken: the connection's task is, by its own timer, and asks here then.
        if self.0.0.over.load(Relaxed) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Sleep for UntilHead {}

impl Drop for UntilHead {
    fn drop(&mut self) {
        self.0.0.until.store(NOT_WAITING, Relaxed);
    }
}

/// The timer of a connection.
#[derive(Debug)]
pub(super) struct HeadTimer {
    limit: HeadLimit,
    /// Fires at the limit of this head or of an earlier one.
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl HeadTimer {
    pub(super) fn of(limit: HeadLimit) -> Self {
        Self { limit, timer: None }
    }

    /// Whether the limit is over: hyper knows it then, when it is polled again. To be asked behind each turn that it had.
    pub(super) fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let Some(until) = self.limit.until() else { return false };
        loop {
            match &mut self.timer {
                // It will wake the task, whose waker it has; asking it more would only cost.
                Some(timer) if !timer.is_elapsed() => return false,
                Some(_) if Instant::now() >= until => {
                    self.limit.0.over.store(true, Relaxed);
                    return true;
                }
                Some(timer) => timer.as_mut().reset(until),
                None => self.timer = Some(Box::pin(tokio::time::sleep_until(until))),
            }
            // Whatever else this task has done in its turn: a timer that is not asked now would not wake it.
            if let Some(timer) = &mut self.timer
                && pin!(unconstrained(timer.as_mut())).poll(context).is_pending()
            {
                return false;
            }
        }
    }
}
