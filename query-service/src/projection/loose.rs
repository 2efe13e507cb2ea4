//! The configurations of a fold that nobody looks at yet: found by name, in no order, until a long replay is through.
//!
//! To put an entry into its place in the order looks at a dozen places in memory, here at two: with a million names that is
//! most of what a replay costs. Sorting all of them once, at the end, costs less than keeping them sorted all the time.

use std::{
    borrow::Borrow,
    collections::HashSet,
    hash::{Hash, Hasher},
    num::NonZero,
    thread,
};

use super::entry::Entry;

/// Fewer are sorted by one thread.
const WORTH_A_THREAD: usize = 10_000;

/// One entry for each name.
#[derive(Debug, Default)]
pub(super) struct Loose(HashSet<ByName>);

/// An entry that is known by its name alone.
#[derive(Debug)]
struct ByName(Entry);

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name() == other.0.name()
    }
}

impl Eq for ByName {}

impl Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name().hash(state);
    }
}

impl Borrow<str> for ByName {
    fn borrow(&self) -> &str {
        self.0.name()
    }
}

impl Loose {
    /// Adds it, or has it take the place of the one with its name.
    pub(super) fn put(&mut self, entry: Entry) {
        self.0.replace(ByName(entry));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// All of them by name, sorted by as many threads as there are CPUs, which a replay leaves idle by now.
    pub(super) fn into_sorted(self) -> Vec<Entry> {
        let mut entries: Vec<Headed> = self.0.into_iter().map(|ByName(entry)| (0, entry)).collect();
        let threads =
            thread::available_parallelism().map_or(1, NonZero::get).min(entries.len() / WORTH_A_THREAD).max(1);
        let part = entries.len().div_ceil(threads).max(1);
        thread::scope(|scope| {
            let mut parts = entries.chunks_mut(part);
            let own = parts.next();
            for part in parts {
                scope.spawn(|| sort(part));
            }
            own.map(sort);
        });
        // Runs that are sorted are only merged.
        entries.sort_by(order);
        entries.into_iter().map(|(_, entry)| entry).collect()
    }
}

/// An entry, and the first bytes of its name as a number that sorts as they do: many comparisons need no more.
type Headed = (u128, Entry);

fn sort(part: &mut [Headed]) {
    for (head, entry) in part.iter_mut() {
        let mut bytes = [0; 16];
        let name = entry.name().as_bytes();
        let known = name.len().min(bytes.len());
        bytes[..known].copy_from_slice(&name[..known]);
        *head = u128::from_be_bytes(bytes);
    }
    part.sort_unstable_by(order);
}

fn order((one_head, one): &Headed, (other_head, other): &Headed) -> std::cmp::Ordering {
    one_head.cmp(other_head).then_with(|| one.name().cmp(other.name()))
}

impl FromIterator<Entry> for Loose {
    fn from_iter<T: IntoIterator<Item = Entry>>(entries: T) -> Self {
        Self(entries.into_iter().map(ByName).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{super::entry::tests::entry, *};

    fn told(entries: &[Entry]) -> Vec<(String, u64)> {
        entries.iter().map(|entry| (entry.name().to_owned(), entry.version)).collect()
    }

    #[test]
    fn many_are_sorted_by_several_threads_as_few_are_by_one() {
        let many = u64::try_from(WORTH_A_THREAD).unwrap() * 5 / 2;
        let mut loose = Loose::default();
        for number in 0..many {
            // The numbers in an order that is none, behind a beginning that fills the head.
            loose.put(entry(&format!("a long beginning/{:06}", number * 7919 % many), "1", number, None));
        }
        assert_eq!(loose.0.len(), WORTH_A_THREAD * 5 / 2);
        let names: Vec<_> = told(&loose.into_sorted()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, (0..many).map(|number| format!("a long beginning/{number:06}")).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn the_last_of_each_name_is_left_in_order(
            steps in prop::collection::vec(("[ab\u{0}é]{0,3}(0123456789abcdef)?[ab]{0,2}", any::<bool>()), 0..200),
        ) {
            let (mut loose, mut plain) = (Loose::default(), BTreeMap::new());
            for (version, (name, removed)) in (1..).zip(steps) {
                if removed {
                    loose.remove(&name);
                    plain.remove(&name);
                } else {
                    loose.put(entry(&name, "1", version, None));
                    plain.insert(name, version);
                }
            }
            prop_assert_eq!(told(&loose.into_sorted()), plain.into_iter().collect::<Vec<_>>());
        }
    }
}
