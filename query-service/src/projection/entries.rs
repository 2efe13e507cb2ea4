//! The configurations of a snapshot, in the order of their names: a tree whose nodes are never changed once somebody else
//! has them, and shared by all snapshots that have them alike.
//!
//! A general persistent map has a key for each entry, and small nodes with room to spare: more than short values themselves
//! take. Here the entries are their own keys, and only branches have names of their own.

use std::{iter, mem, ops::Bound};

use shared::name::ConfigName;
use triomphe::Arc;

use super::{
    entry::Entry,
    node::{FAN_OUT, Items, Named, Node, SPARSE},
};

/// Sorted by the bytes of their names, one for each name. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Entries {
    root: Arc<Tree>,
    len: usize,
}

/// All leaves are on one level, and but for the root none is empty.
#[derive(Clone, Debug)]
enum Tree {
    Leaf(Node<Entry>),
    Branch(Node<Child>),
}

#[derive(Clone, Debug)]
struct Child {
    /// Behind every name of the children before, and not behind any of its own. Of the first only its own parent knows better.
    from: ConfigName,
    tree: Arc<Tree>,
}

impl Named for Entry {
    fn name(&self) -> &str {
        self.name()
    }
}

impl Named for Child {
    fn name(&self) -> &str {
        &self.from
    }
}

impl Default for Entries {
    fn default() -> Self {
        Self { root: Arc::new(Tree::Leaf(Node::default())), len: 0 }
    }
}

impl Entries {
    /// From entries that are sorted, one for each name. Its nodes are full.
    pub(super) fn sorted(entries: Vec<Entry>) -> Self {
        let len = entries.len();
        let mut level: Vec<_> = nodes_of(entries).map(|entries| neighbour(entries, Tree::Leaf)).collect();
        while level.len() > 1 {
            level = nodes_of(level).map(|children| neighbour(children, Tree::Branch)).collect();
        }
        level.pop().map_or_else(Self::default, |only| Self { root: only.tree, len })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        let mut tree = &*self.root;
        loop {
            match tree {
                Tree::Branch(children) => tree = &children.get(child_of(children, name)).tree,
                Tree::Leaf(entries) => return entries.find(name).ok().map(|at| entries.get(at)),
            }
        }
    }

    /// In the order of their names, from `from` on.
    pub(super) fn range(&self, from: Bound<&str>) -> Iter<'_> {
        let name = match from {
            Bound::Included(name) | Bound::Excluded(name) => name,
            Bound::Unbounded => "",
        };
        let (mut above, mut tree) = (Vec::new(), &*self.root);
        loop {
            match tree {
                Tree::Branch(children) => {
                    let at = child_of(children, name);
                    above.push(children.from(at + 1));
                    tree = &children.get(at).tree;
                }
                Tree::Leaf(entries) => {
                    let at = match entries.find(name) {
                        Ok(at) if matches!(from, Bound::Excluded(_)) => at + 1,
                        Ok(at) | Err(at) => at,
                    };
                    return Iter { above, leaf: entries.from(at) };
                }
            }
        }
    }

    /// Adds it, or has it take the place of the one with its name.
    pub(super) fn put(&mut self, entry: Entry) {
        let (added, split) = Arc::make_mut(&mut self.root).put(entry);
        self.len += usize::from(added);
        if let Some(right) = split {
            let empty = Arc::new(Tree::Leaf(Node::default()));
            let left = Child { from: ConfigName::stored(""), tree: mem::replace(&mut self.root, empty) };
            self.root = Arc::new(Tree::Branch(Node::of([left, right])));
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        if self.get(name).is_none() {
            // Nothing is copied for it.
            return;
        }
        self.len -= 1;
        Arc::make_mut(&mut self.root).remove(name);
        while let Tree::Branch(children) = &*self.root
            && children.len() == 1
        {
            self.root = Arc::clone(&children.get(0).tree);
        }
    }
}

impl Tree {
    fn len(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Branch(children) => children.len(),
        }
    }

    /// Tells whether it is one more, and what no longer fits: a right neighbour.
    fn put(&mut self, entry: Entry) -> (bool, Option<Child>) {
        match self {
            Self::Leaf(entries) => match entries.find(entry.name()) {
                Ok(at) => {
                    *entries.get_mut(at) = entry;
                    (false, None)
                }
                Err(at) => (true, entries.insert(at, entry).map(|right| neighbour(right, Self::Leaf))),
            },
            Self::Branch(children) => {
                let at = child_of(children, entry.name());
                if at == 0 && entry.name() < &*children.get(0).from {
                    // What splits off its child is to find its place behind it.
                    children.change_first(|first| first.from = ConfigName::stored(entry.name()));
                }
                let (added, split) = Arc::make_mut(&mut children.get_mut(at).tree).put(entry);
                let split = split.and_then(|right| children.insert(at + 1, right));
                (added, split.map(|right| neighbour(right, Self::Branch)))
            }
        }
    }

    /// The name is there.
    fn remove(&mut self, name: &str) {
        match self {
            Self::Leaf(entries) => {
                if let Ok(at) = entries.find(name) {
                    entries.remove(at);
                }
            }
            Self::Branch(children) => {
                let at = child_of(children, name);
                let child = Arc::make_mut(&mut children.get_mut(at).tree);
                child.remove(name);
                match child.len() {
                    0 => drop(children.remove(at)),
                    1..SPARSE => join(children, at),
                    _ => {}
                }
            }
        }
    }
}

fn nodes_of<T: Named>(items: Vec<T>) -> impl Iterator<Item = Node<T>> {
    let mut items = items.into_iter();
    iter::from_fn(move || (items.len() > 0).then(|| Node::of(items.by_ref().take(FAN_OUT))))
}

fn neighbour<T: Named>(node: Node<T>, tree: impl Fn(Node<T>) -> Tree) -> Child {
    Child { from: ConfigName::stored(node.get(0).name()), tree: Arc::new(tree(node)) }
}

/// Joins a child with a neighbour, if both fit into one node.
fn join(children: &mut Node<Child>, at: usize) {
    let fit = |left: usize| {
        let both = children.from(left).take(2).map(|child| child.tree.len()).sum::<usize>();
        (left + 1 < children.len() && both <= FAN_OUT).then_some(left)
    };
    let Some(left) = at.checked_sub(1).and_then(fit).or_else(|| fit(at)) else { return };
    let Child { from, tree } = children.remove(left + 1);
    match (Arc::make_mut(&mut children.get_mut(left).tree), Arc::unwrap_or_clone(tree)) {
        (Tree::Leaf(entries), Tree::Leaf(right)) => entries.append(right),
        (Tree::Branch(children), Tree::Branch(mut right)) => {
            // It was the first there, and is not the first here.
            right.get_mut(0).from = from;
            children.append(right);
        }
        _ => unreachable!("neighbours are on one level"),
    }
}

/// The only child that can have the name.
fn child_of(children: &Node<Child>, name: &str) -> usize {
    children.find(name).unwrap_or_else(|behind| behind.saturating_sub(1))
}

/// In the order of their names.
#[derive(Debug)]
pub(super) struct Iter<'a> {
    /// What comes behind the leaf, from the root on.
    above: Vec<Items<'a, Child>>,
    leaf: Items<'a, Entry>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a Entry;

    fn next(&mut self) -> Option<&'a Entry> {
        loop {
            if let Some(entry) = self.leaf.next() {
                return Some(entry);
            }
            match self.above.last_mut()?.next().map(|child| &*child.tree) {
                None => drop(self.above.pop()),
                Some(Tree::Leaf(entries)) => self.leaf = entries.from(0),
                Some(Tree::Branch(children)) => self.above.push(children.from(0)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{super::entry::tests::entry, *};

    fn numbered(numbers: impl Iterator<Item = u64>) -> Entries {
        let mut entries = Entries::default();
        for number in numbers {
            entries.put(entry(&format!("{number:05}"), "1", number, None));
        }
        entries
    }

    fn told(entries: &Entries, from: Bound<&str>) -> Vec<(String, u64)> {
        entries.range(from).map(|entry| (entry.name().to_owned(), entry.version)).collect()
    }

    /// Every node that the doc comments promise something of.
    fn check(node: &Tree, is_root: bool, depth: usize, leaves_at: &mut Option<usize>) {
        assert!(node.len() <= FAN_OUT && (is_root || node.len() > 0));
        match node {
            Tree::Leaf(_) => assert_eq!(*leaves_at.get_or_insert(depth), depth, "all leaves are on one level"),
            Tree::Branch(children) => {
                assert!(!is_root || children.len() > 1);
                assert!(children.from(0).is_sorted_by(|one, other| one.from < other.from), "{children:?}");
                for child in children.from(0) {
                    check(&child.tree, false, depth + 1, leaves_at);
                }
            }
        }
    }

    fn nodes(node: &Tree) -> usize {
        match node {
            Tree::Leaf(_) => 1,
            Tree::Branch(children) => 1 + children.from(0).map(|child| nodes(&child.tree)).sum::<usize>(),
        }
    }

    #[test]
    fn names_that_come_in_their_order_fill_the_nodes() {
        let entries = numbered(0..10_000);
        assert!(nodes(&entries.root) < 10_000 / FAN_OUT + 20, "{}", nodes(&entries.root));
        check(&entries.root, true, 0, &mut None);
    }

    #[test]
    fn what_is_removed_leaves_no_sparse_tree_behind() {
        let mut entries = numbered(0..10_000);
        for number in (0..10_000).filter(|number| number % 100 != 0) {
            entries.remove(&format!("{number:05}"));
        }
        check(&entries.root, true, 0, &mut None);
        assert_eq!(entries.len(), 100);
        assert!(nodes(&entries.root) <= 2 * 100 / SPARSE, "{}", nodes(&entries.root));
        for number in (0..10_000).step_by(100) {
            entries.remove(&format!("{number:05}"));
        }
        assert_eq!((entries.len(), nodes(&entries.root)), (0, 1));
    }

    #[test]
    fn a_change_copies_one_node_of_each_level_and_shares_the_others() {
        fn same(a: &Arc<Tree>, b: &Arc<Tree>) -> usize {
            if Arc::ptr_eq(a, b) {
                return nodes(a);
            }
            match (&**a, &**b) {
                (Tree::Branch(a), Tree::Branch(b)) => {
                    a.from(0).zip(b.from(0)).map(|(a, b)| same(&a.tree, &b.tree)).sum()
                }
                _ => 0,
            }
        }
        let before = numbered(0..20_000);
        let mut after = before.clone();
        after.put(entry("12345", "2", 99, None));
        assert_eq!(nodes(&after.root) - same(&before.root, &after.root), 3, "of a tree of three levels");
        assert_eq!(before.get("12345").unwrap().version, 12_345);
        assert_eq!(after.get("12345").unwrap().version, 99);
    }

    #[test]
    fn names_before_all_others_find_their_places() {
        let sorted = |len: u64| Entries::sorted(numbered(0..len).range(Bound::Unbounded).cloned().collect());
        let mut without_its_first = numbered(0..5_000);
        // One that is not joined to its neighbour, which is full: it goes when it is empty.
        let first = without_its_first.range(Bound::Unbounded).take(FAN_OUT).map(|entry| entry.name().to_owned());
        for name in first.collect::<Vec<_>>() {
            without_its_first.remove(&name);
        }
        for mut entries in [sorted(1_000), sorted(5_000), without_its_first] {
            let before = told(&entries, Bound::Unbounded);
            for number in 0..2_000 {
                // In an order that is none; shorter than what the others begin with alike.
                entries.put(entry(&format!("!{:04}", number * 7 % 2_000), "1", number, None));
                check(&entries.root, true, 0, &mut None);
            }
            let all = told(&entries, Bound::Unbounded);
            assert_eq!((all.len(), &all[2_000..]), (before.len() + 2_000, &before[..]));
            assert!((0..2_000).all(|number| entries.get(&format!("!{number:04}")).is_some()));
        }
    }

    #[test]
    fn what_is_sorted_already_is_the_same_tree_and_grows_as_one() {
        for len in [0, 1, 2, 32, 33, 1_024, 1_025, 5_000] {
            let one_by_one = numbered((0..len).map(|number| number * 2));
            let mut at_once = Entries::sorted(one_by_one.range(Bound::Unbounded).cloned().collect());
            check(&at_once.root, true, 0, &mut None);
            assert_eq!((at_once.len(), nodes(&at_once.root)), (one_by_one.len(), nodes(&one_by_one.root)), "{len}");
            assert_eq!(told(&at_once, Bound::Unbounded), told(&one_by_one, Bound::Unbounded));
            for number in (0..len).map(|number| number * 2 + 1) {
                at_once.put(entry(&format!("{number:05}"), "1", number, None));
            }
            at_once.put(entry("", "1", 0, None));
            check(&at_once.root, true, 0, &mut None);
            assert_eq!(at_once.len(), usize::try_from(2 * len + 1).unwrap());
        }
    }

    /// What may happen to a tree.
    #[derive(Clone, Debug)]
    enum Step {
        Put(u16),
        Remove(u16),
        /// Many neighbours at once, so that nodes are joined and levels go.
        RemoveFrom(u16, u8),
        Keep,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            12 => (0..3_000_u16).prop_map(Step::Put),
            3 => (0..3_000_u16).prop_map(Step::Remove),
            1 => (0..3_000_u16, any::<u8>()).prop_map(|(from, many)| Step::RemoveFrom(from, many)),
            1 => Just(Step::Keep),
        ];
        prop::collection::vec(step, 0..3_000)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever is put and removed, it is a sorted map, and what was kept of it stays as it was.
        #[test]
        fn agrees_with_a_plain_map_and_never_changes_what_others_have(steps in steps()) {
            let name = |number: u16| format!("{}/{number}", number % 7);
            let (mut entries, mut plain, mut kept) = (Entries::default(), BTreeMap::new(), vec![]);
            for (version, step) in (1..).zip(steps) {
                match step {
                    Step::Put(number) => {
                        entries.put(entry(&name(number), "1", version, None));
                        plain.insert(name(number), version);
                    }
                    Step::Remove(number) => {
                        entries.remove(&name(number));
                        plain.remove(&name(number));
                    }
                    Step::RemoveFrom(number, many) => {
                        let gone: Vec<_> = plain.range(name(number)..).take(many.into()).map(|(name, _)| name.clone()).collect();
                        for name in gone {
                            entries.remove(&name);
                            plain.remove(&name);
                        }
                    }
                    Step::Keep => kept.push((entries.clone(), plain.clone())),
                }
            }
            kept.push((entries, plain));
            for (entries, plain) in kept {
                check(&entries.root, true, 0, &mut None);
                prop_assert_eq!(entries.len(), plain.len());
                prop_assert_eq!(told(&entries, Bound::Unbounded), plain.clone().into_iter().collect::<Vec<_>>());
                for number in (0..3_000).step_by(17) {
                    let name = name(number);
                    prop_assert_eq!(entries.get(&name).map(|entry| entry.version), plain.get(&name).copied());
                    for from in [Bound::Included(name.as_str()), Bound::Excluded(name.as_str())] {
                        let next = entries.range(from).next().map(|entry| (entry.name(), entry.version));
                        let plain = plain.range::<str, _>((from, Bound::Unbounded)).next();
                        prop_assert_eq!(next, plain.map(|(name, version)| (name.as_str(), *version)));
                    }
                }
            }
        }
    }
}
