//! The configurations of a fold that nobody looks at yet: found by name, in no order, until a long replay is through.
//!
//! To put an entry into its place in the order looks at a dozen places in memory, here at two: with a million names that is
//! most of what a replay costs. Sorting all of them once, at the end, costs less than keeping them sorted all the time.

use std::{mem, num::NonZero, thread};

use ahash::RandomState;
use hashbrown::{HashTable, hash_table};

use super::entry::Entry;

/// Fewer are sorted by one thread.
const WORTH_A_THREAD: usize = 10_000;

/// One entry for each name.
#[derive(Debug, Default)]
pub(super) struct Loose {
    table: HashTable<Hashed>,
    hasher: RandomState,
}

/// An entry and the hash of its name: a table that grows would else look at each name again.
type Hashed = (u64, Entry);

/// Whether it has that name, whose hash is this. Most of what has another is known by the hash.
fn is((known, entry): &Hashed, hash: u64, name: &str) -> bool {
    *known == hash && entry.name() == name
}

impl Loose {
    /// Adds it, or has it take the place of the one with its name.
    pub(super) fn put(&mut self, entry: Entry) {
        let hash = self.hasher.hash_one(entry.name());
        match self.table.entry(hash, |known| is(known, hash, entry.name()), |(hash, _)| *hash) {
            hash_table::Entry::Occupied(mut known) => known.get_mut().1 = entry,
            hash_table::Entry::Vacant(place) => {
                place.insert((hash, entry));
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn remove(&mut self, name: &str) {
        let hash = self.hasher.hash_one(name);
        if let Ok(known) = self.table.find_entry(hash, |known| is(known, hash, name)) {
            known.remove();
        }
    }

    /// All of them by name, sorted by about as many threads as there are CPUs, which a replay leaves idle by now.
    pub(super) fn into_sorted(self) -> Vec<Entry> {
        let mut entries: Vec<Headed> = self.table.into_iter().map(|(_, entry)| (0, entry)).collect();
        let alike = bytes_alike(&entries);
        let threads =
            thread::available_parallelism().map_or(1, NonZero::get).min(entries.len() / WORTH_A_THREAD).max(1);
        let part = entries.len().div_ceil(threads).max(1);
        on_threads(entries.chunks_mut(part), |part| sort_by_heads(part, alike));
        // Runs that are sorted are only merged.
        entries.sort_by_key(|(head, _)| *head);
        on_threads(parts_between_heads(&mut entries, part), |part| sort_within_heads(part, alike));
        entries.into_iter().map(|(_, entry)| entry).collect()
    }
}

/// An entry, and some bytes of its name as a number that sorts as they do. To look at a name is to wait for memory: it is done
/// once for each [`HEAD_BYTES`] that are needed, and not for each comparison.
type Headed = (u128, Entry);

/// Bytes of a name in a head. The last byte of its number says how many there were, or [`GOES_ON`].
const HEAD_BYTES: usize = size_of::<u128>() - 1;

/// The last byte of the number of a head that is not its name's last: `HEAD_BYTES + 1`. A name that ends in its head is filled
/// up with zeros, which a longer one could have in their place: by the last byte the shorter one is the first.
const GOES_ON: u8 = 16;

/// What the name is from a byte on, which it must have. Two names with equal heads both go on, as no two are the same.
fn head(name: &str, from: usize) -> u128 {
    let rest = &name.as_bytes()[from..];
    let known = rest.len().min(HEAD_BYTES);
    let mut bytes = [0; HEAD_BYTES + 1];
    bytes[..known].copy_from_slice(&rest[..known]);
    bytes[HEAD_BYTES] = u8::try_from(rest.len()).unwrap_or(u8::MAX).min(GOES_ON);
    u128::from_be_bytes(bytes)
}

/// How many bytes all names begin with.
fn bytes_alike(entries: &[Headed]) -> usize {
    let mut names = entries.iter().map(|(_, entry)| entry.name().as_bytes());
    let mut alike = names.next().unwrap_or_default();
    for name in names {
        let same = alike.iter().zip(name).take_while(|(one, other)| one == other).count();
        alike = &alike[..same];
    }
    alike.len()
}

fn sort_by_heads(entries: &mut [Headed], from: usize) {
    for (number, entry) in entries.iter_mut() {
        *number = head(entry.name(), from);
    }
    entries.sort_unstable_by_key(|(head, _)| *head);
}

/// Sorts entries whose heads, from that byte on, are sorted.
fn sort_within_heads(entries: &mut [Headed], from: usize) {
    for alike in entries.chunk_by_mut(|(one, _), (other, _)| one == other) {
        if alike.len() > 1 {
            sort_by_heads(alike, from + HEAD_BYTES);
            sort_within_heads(alike, from + HEAD_BYTES);
        }
    }
}

/// In parts of about this many, none of which ends between equal heads.
fn parts_between_heads(mut entries: &mut [Headed], about: usize) -> Vec<&mut [Headed]> {
    let mut parts = Vec::new();
    while let Some((head, _)) = entries.get(about) {
        let end = entries.partition_point(|(other, _)| other < head);
        let end = if end == 0 { entries.partition_point(|(other, _)| other <= head) } else { end };
        let (part, rest) = mem::take(&mut entries).split_at_mut(end);
        parts.push(part);
        entries = rest;
    }
    if !entries.is_empty() {
        parts.push(entries);
    }
    parts
}

/// Each on a thread of its own, the first one on this.
fn on_threads<'e>(parts: impl IntoIterator<Item = &'e mut [Headed]>, work: impl Fn(&mut [Headed]) + Sync) {
    thread::scope(|scope| {
        let mut parts = parts.into_iter();
        let own = parts.next();
        for part in parts {
            scope.spawn(|| work(part));
        }
        own.map(&work);
    });
}

impl FromIterator<Entry> for Loose {
    fn from_iter<T: IntoIterator<Item = Entry>>(entries: T) -> Self {
        let mut loose = Self::default();
        entries.into_iter().for_each(|entry| loose.put(entry));
        loose
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
        for middle in ["", "/long enough to fill a head"] {
            // The numbers in an order that is none; the last of their digits are all that tells some names apart.
            let name = |number: u64| format!("alike/{:03}{middle}/{:03}", number / 1_000, number % 1_000);
            let mut loose = Loose::default();
            for number in 0..many {
                loose.put(entry(&name(number * 7919 % many), "1", number, None));
            }
            assert_eq!(loose.len(), WORTH_A_THREAD * 5 / 2);
            let names: Vec<_> = told(&loose.into_sorted()).into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, (0..many).map(name).collect::<Vec<_>>());
        }
    }

    fn numbered(heads: &[u128]) -> Vec<Headed> {
        heads.iter().map(|head| (*head, entry("a", "1", 1, None))).collect()
    }

    proptest! {
        #[test]
        fn parts_have_all_entries_and_keep_equal_heads_together(
            mut heads in prop::collection::vec(0..8_u128, 0..40), about in 1..10_usize,
        ) {
            heads.sort_unstable();
            let mut entries = numbered(&heads);
            let parts = parts_between_heads(&mut entries, about);
            let parts: Vec<Vec<_>> = parts.iter().map(|part| part.iter().map(|(head, _)| *head).collect()).collect();
            prop_assert!(parts.len() <= 2 * (heads.len() / about) + 1, "{:?}", parts);
            prop_assert_eq!(parts.concat(), heads);
            prop_assert!(parts.is_sorted_by(|one, next| one.last() < next.first()), "{:?}", parts);
            // None is longer than it was to be, but for equal heads.
            prop_assert!(parts.iter().all(|part| part.len() <= about || part[0] == part[part.len() - 1]), "{:?}", parts);
        }

        #[test]
        fn the_last_of_each_name_is_left_in_order(
            steps in prop::collection::vec(("[ab\u{0}é]{0,3}(0123456789abcd)?[ab\u{0}]{0,4}(0123456789abcd)?[ab\u{0}]{0,4}", any::<bool>()), 0..200),
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
