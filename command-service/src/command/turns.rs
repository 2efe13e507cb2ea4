//! Turns: commands on one name queue inside the process, so that a hot name makes progress without conflicts.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
};

use ahash::RandomState;
use shared::name::ConfigName;
use tokio::sync::OwnedMutexGuard;

type Queue = Arc<tokio::sync::Mutex<()>>;

type Queues = HashMap<ConfigName, Queue, RandomState>;

/// A queue for each name that somebody waits on; as many as there are commands under way. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Mutex<Queues>>);

/// It is the holder's turn, until this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    name: ConfigName,
    guard: Option<OwnedMutexGuard<()>>,
    turns: Turns,
}

impl Turns {
    /// Waits for the turn on this name: first come, first served.
    pub(super) async fn wait(&self, name: &ConfigName) -> Turn {
        let queue = Arc::clone(self.queues().entry(name.clone()).or_default());
        // Made before the wait, so that a waiter that is dropped leaves no queue behind.
        let mut turn = Turn { name: name.clone(), guard: None, turns: self.clone() };
        turn.guard = Some(queue.lock_owned().await);
        turn
    }

    /// Waits for the turns on all these names. In one order, whoever asks: so nobody waits for somebody who waits for them.
    pub(super) async fn wait_for_all(&self, names: impl Iterator<Item = &ConfigName>) -> Vec<Turn> {
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names.dedup();
        let mut turns = Vec::with_capacity(names.len());
        for name in names {
            turns.push(self.wait(name).await);
        }
        turns
    }

    fn queues(&self) -> std::sync::MutexGuard<'_, Queues> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.guard = None;
        let mut queues = self.turns.queues();
        // Nobody can join the queue while the map is locked: the last one out removes it.
        if let Entry::Occupied(queue) = queues.entry(self.name.clone())
            && Arc::strong_count(queue.get()) == 1
        {
            queue.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_name_queues_and_others_do_not_and_nothing_is_left_behind() {
        let turns = Turns::default();
        let (a, b) = (ConfigName::stored("a"), ConfigName::stored("b"));
        let first = turns.wait(&a).await;
        assert!(turns.wait(&a).now_or_never().is_none(), "a second on the same name waits");
        assert!(turns.wait(&b).now_or_never().is_some(), "another name does not");
        drop(first);
        assert!(turns.wait(&a).now_or_never().is_some());
        assert!(turns.queues().is_empty());
    }

    #[tokio::test]
    async fn who_asks_for_the_same_names_in_another_order_waits_and_nobody_for_ever() {
        let turns = Turns::default();
        let (a, b) = (ConfigName::stored("a"), ConfigName::stored("b"));
        let first = turns.wait_for_all([&b, &a, &b].into_iter()).await;
        assert!(turns.wait_for_all([&a, &b].into_iter()).now_or_never().is_none());
        drop(first);
        assert_eq!(turns.wait_for_all([&a, &b].into_iter()).now_or_never().map(|turns| turns.len()), Some(2));
        assert!(turns.queues().is_empty());
    }
}
