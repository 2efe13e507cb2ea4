//! What the group that is gathered writes already.

use std::{collections::HashSet, sync::LazyLock};

use ahash::RandomState;
use shared::name::ConfigName;

use super::ready::Ready;

/// Stands for a name among those of a group. Two names with the same hash only keep two units out of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct NameHash(u64);

impl NameHash {
    pub(super) fn of(name: &ConfigName) -> Self {
        /// One for all commands, whose hashes meet in a group; with keys that nobody outside of the process knows.
        static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self(HASHES.hash_one(name))
    }
}

/// What a group writes. `append_events` judges all its units by what was there before: so each name may be written once, and
/// not be looked at by a later unit; and each key be used once.
#[derive(Default)]
pub(super) struct Taken {
    names: HashSet<NameHash, RandomState>,
    keys: HashSet<[u8; 32], RandomState>,
}

impl Taken {
    pub(super) fn add(&mut self, ready: &Ready) {
        self.names.extend(&ready.writes);
        self.keys.extend(ready.unit.keyed.iter().map(|keyed| keyed.key.hash));
    }

    pub(super) fn clashes(&self, ready: &Ready) -> bool {
        let mut names = ready.writes.iter().chain(&ready.checks);
        names.any(|name| self.names.contains(name))
            || ready.unit.keyed.as_ref().is_some_and(|keyed| self.keys.contains(&keyed.key.hash))
    }

    /// For the next group. What it has room for stays.
    pub(super) fn clear(&mut self) {
        self.names.clear();
        self.keys.clear();
    }
}
