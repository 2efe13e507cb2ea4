//! A connection wakes itself while it is polled: a handler that asks for its request's body, and then gets it, are the same task.
//! The runtime would put the task behind all others each time, and wake another thread to look for work, which finds none. Here
//! it is polled again at once. So to wake oneself gives nobody else a turn here; `tokio::task::yield_now` does.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU8,
            Ordering::{AcqRel, Acquire},
        },
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// Polls in a row, at most; then other tasks come first. A request with a body needs three. In each, hyper answers at most 16
/// requests that were sent one behind the other.
const MOST_POLLS: usize = 4;

/// It is being polled: who wakes it need not tell the runtime.
const POLLED: u8 = 1;

/// It was woken since it was polled last.
const WOKEN: u8 = 2;

/// What a future is polled with, so that it may wake itself.
pub(super) struct SelfWake {
    state: Arc<State>,
    waker: Waker,
}

#[derive(Default)]
struct State {
    flags: AtomicU8,
    task: AtomicWaker,
}

impl Wake for State {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.flags.fetch_or(WOKEN, AcqRel) == 0 {
            self.task.wake();
        }
    }
}

impl SelfWake {
    pub(super) fn new() -> Self {
        let state = Arc::<State>::default();
        Self { waker: Waker::from(Arc::clone(&state)), state }
    }

    /// Polls, and again as long as it was woken meanwhile.
    pub(super) fn poll<T>(
        &self,
        context: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let State { flags, task } = &*self.state;
        task.register(context.waker());
        for _ in 0..MOST_POLLS {
            flags.swap(POLLED, AcqRel);
            let polled = poll(&mut Context::from_waker(&self.waker));
            let not_woken = flags.compare_exchange(POLLED, 0, AcqRel, Acquire).is_ok();
            if polled.is_ready() || not_woken {
                return polled;
            }
        }
        flags.swap(0, AcqRel);
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        thread,
        time::Duration,
    };

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    /// Polls once from outside a future that wakes itself in its first `wakes` polls; how often it was polled, and its task woken.
    fn polled_and_woken(wakes: usize) -> (usize, usize) {
        let (itself, outside, mut polls) = (SelfWake::new(), Arc::new(Woken::default()), 0);
        let waker = Waker::from(Arc::clone(&outside));
        let polled = itself.poll(&mut Context::from_waker(&waker), |context| {
            polls += 1;
            if polls <= wakes {
                context.waker().wake_by_ref();
                context.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        });
        assert!(polled.is_pending());
        (polls, outside.0.load(SeqCst))
    }

    #[test]
    fn who_wakes_itself_is_polled_again_at_once_but_not_for_ever() {
        assert_eq!(polled_and_woken(0), (1, 0));
        assert_eq!(polled_and_woken(2), (3, 0));
        assert_eq!(polled_and_woken(usize::MAX), (MOST_POLLS, 1));
    }

    #[test]
    fn who_is_woken_between_polls_wakes_its_task_once() {
        let (itself, outside) = (SelfWake::new(), Arc::new(Woken::default()));
        let waker = Waker::from(Arc::clone(&outside));
        let mut kept = None;
        for round in 1..=2 {
            let polled = itself.poll(&mut Context::from_waker(&waker), |context| {
                kept = Some(context.waker().clone());
                Poll::<()>::Pending
            });
            assert!(polled.is_pending());
            let kept = kept.take().unwrap();
            kept.wake_by_ref();
            kept.wake();
            assert_eq!(outside.0.load(SeqCst), round);
        }
    }

    /// A wake that got lost would leave this waiting for ever.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_wake_of_another_thread_is_never_lost() {
        const WAKES: usize = 100_000;
        const PATIENCE: Duration = Duration::from_secs(60);
        let given_up = Arc::new(AtomicBool::new(false));
        let (itself, told, seen) = (SelfWake::new(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (mut teller, mut last) = (None, 0);
        let all_seen = poll_fn(|context| {
            itself.poll(context, |context| {
                let now = told.load(SeqCst);
                // Once for each: the other tells the next when this one is seen.
                if now != last {
                    last = now;
                    seen.store(now, SeqCst);
                }
                teller.get_or_insert_with(|| {
                    let (waker, given_up) = (context.waker().clone(), Arc::clone(&given_up));
                    let (told, seen) = (Arc::clone(&told), Arc::clone(&seen));
                    thread::spawn(move || {
                        for number in 1..=WAKES {
                            told.store(number, SeqCst);
                            waker.wake_by_ref();
                            while seen.load(SeqCst) != number && !given_up.load(SeqCst) {
                                thread::yield_now();
                            }
                        }
                    })
                });
                if now == WAKES { Poll::Ready(()) } else { Poll::Pending }
            })
        });
        let in_time = tokio::time::timeout(PATIENCE, all_seen).await;
        given_up.store(true, SeqCst);
        assert!(in_time.is_ok(), "a wake was lost behind {} of {WAKES}", seen.load(SeqCst));
        teller.unwrap().join().unwrap();
    }
}
