//! A node of the tree of configurations: a few items, sorted by name, that are found without looking at most of their names.

/// Most items of a node. A change copies one node of each level.
pub(super) const FAN_OUT: usize = 32;

/// A node with fewer is joined with a neighbour, if both fit into one.
pub(super) const SPARSE: usize = FAN_OUT / 4;

/// What a node is sorted by.
pub(super) trait Named {
    fn name(&self) -> &str;
}

/// Up to [`FAN_OUT`] items, sorted by the bytes of their names, one for each name.
///
/// Names lie anywhere in memory, and to look at one costs more than all else in a search. Those of one node are neighbours:
/// they begin alike. So each item has beside it the 8 bytes behind that beginning, which are nearly always enough.
#[derive(Clone, Debug)]
pub(super) struct Node<T> {
    /// How many bytes all names begin with alike. They may have more in common.
    alike: usize,
    items: Vec<(u64, T)>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { alike: 0, items: Vec::new() }
    }
}

impl<T: Named> Node<T> {
    /// From items that are sorted.
    pub(super) fn of(items: impl IntoIterator<Item = T>) -> Self {
        let mut node = Self { alike: 0, items: items.into_iter().map(|item| (0, item)).collect() };
        node.index();
        node
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn get(&self, at: usize) -> &T {
        &self.items[at].1
    }

    /// For a change that leaves its name as it is, or is followed by an [`append`](Self::append).
    pub(super) fn get_mut(&mut self, at: usize) -> &mut T {
        &mut self.items[at].1
    }

    /// The items from `at` on.
    pub(super) fn from(&self, at: usize) -> Items<'_, T> {
        Items(self.items[at..].iter())
    }

    /// Where the item with that name is, or else where it would go.
    pub(super) fn find(&self, name: &str) -> Result<usize, usize> {
        let mut found = Err(0);
        if let Some(behind) = name.as_bytes().get(self.alike..) {
            let head = head(behind);
            let order = |(other, item): &(u64, T)| other.cmp(&head).then_with(|| item.name().cmp(name));
            found = self.items.binary_search_by(order);
        }
        let (Err(_), Some((_, first))) = (found, self.items.first()) else { return found };
        // What does not begin as all others do is before or behind them all.
        let beginning = &first.name().as_bytes()[..self.alike];
        match name.as_bytes().iter().take(self.alike).cmp(beginning) {
            std::cmp::Ordering::Less => Err(0),
            std::cmp::Ordering::Equal => found,
            std::cmp::Ordering::Greater => Err(self.items.len()),
        }
    }

    /// Puts an item where it belongs. What is too much then is taken out and returned: the right half; where names come in
    /// their order, only the new item, so that nodes stay full.
    pub(super) fn insert(&mut self, at: usize, item: T) -> Option<Self> {
        let alike = self.items.first().map_or(item.name().len(), |(_, first)| alike(first.name(), item.name()));
        let behind = item.name().as_bytes().get(self.alike..).map_or(0, head);
        self.items.insert(at, (behind, item));
        if alike < self.alike || self.items.len() == 1 {
            self.index();
        }
        if self.items.len() <= FAN_OUT {
            return None;
        }
        let half = if at == FAN_OUT { at } else { FAN_OUT / 2 };
        let right = self.items.split_off(half);
        self.index();
        Some(Self::of(right.into_iter().map(|(_, item)| item)))
    }

    /// Changes the first item's name to one that is before all others.
    pub(super) fn change_first(&mut self, change: impl FnOnce(&mut T)) {
        if let Some((_, first)) = self.items.first_mut() {
            change(first);
        }
        self.index();
    }

    pub(super) fn remove(&mut self, at: usize) -> T {
        self.items.remove(at).1
    }

    /// Takes over the items of a right neighbour.
    pub(super) fn append(&mut self, right: Self) {
        self.items.extend(right.items);
        self.index();
    }

    fn index(&mut self) {
        let ([(_, first), ..], [.., (_, last)]) = (&self.items[..], &self.items[..]) else { return };
        self.alike = alike(first.name(), last.name());
        for (behind, item) in &mut self.items {
            *behind = head(&item.name().as_bytes()[self.alike..]);
        }
    }
}

/// How many bytes both begin with alike.
fn alike(one: &str, other: &str) -> usize {
    one.bytes().zip(other.bytes()).take_while(|(one, other)| one == other).count()
}

/// The first 8 bytes, as a number that sorts as they do; what is shorter has zeros behind it.
fn head(bytes: &[u8]) -> u64 {
    if let Some(whole) = bytes.first_chunk() {
        return u64::from_be_bytes(*whole);
    }
    let mut head = [0; 8];
    head[..bytes.len()].copy_from_slice(bytes);
    u64::from_be_bytes(head)
}

/// Items in their order.
#[derive(Debug)]
pub(super) struct Items<'a, T>(std::slice::Iter<'a, (u64, T)>);

impl<T> Default for Items<'_, T> {
    fn default() -> Self {
        Self([].iter())
    }
}

impl<'a, T> Iterator for Items<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        self.0.next().map(|(_, item)| item)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    impl Named for String {
        fn name(&self) -> &str {
            self
        }
    }

    #[test]
    fn a_head_sorts_as_its_bytes_do() {
        let texts = ["", "a", "a\u{1}", "ab", "abcdefgh", "abcdefghi", "b", "é", "🦀"];
        for (one, other) in texts.iter().zip(&texts[1..]) {
            assert!(head(one.as_bytes()) <= head(other.as_bytes()), "{one} {other}");
        }
        assert!(head(b"abcdefgh") > head(b"abcdefg"));
    }

    proptest! {
        /// Whatever the names have in common, each is found, and what is not there is told its place.
        #[test]
        fn finds_as_a_sorted_set_does(
            names in prop::collection::btree_set("(a|ab|abcdefgh|abcdefghij|é){0,3}[a-c\u{0}]{0,2}", 0..=FAN_OUT),
            others in prop::collection::vec("(a|ab|abcdefgh|abcdefghij|é){0,3}[a-c\u{0}]{0,2}", 20),
            order in any::<prop::sample::Index>(),
        ) {
            let mut shuffled: Vec<_> = names.iter().cloned().collect();
            shuffled.rotate_left(if names.is_empty() { 0 } else { order.index(names.len()) });
            let mut node = Node::default();
            for name in shuffled {
                let at = node.find(&name).unwrap_err();
                prop_assert!(node.insert(at, name).is_none());
            }
            let check = |node: &Node<String>, names: &BTreeSet<String>| {
                for name in names.iter().chain(&others) {
                    let at = names.range::<String, _>(..name).count();
                    assert_eq!(node.find(name), if names.contains(name) { Ok(at) } else { Err(at) }, "{name:?}");
                }
                assert!(node.from(0).eq(names));
            };
            check(&node, &names);
            let mut fewer = names.clone();
            while let Some(first) = fewer.pop_first() {
                prop_assert_eq!(node.remove(0), first);
                check(&node, &fewer);
            }
            check(&Node::of(names.iter().cloned()), &names);
        }
    }
}
