//! Who is to hear of a name. Looking it up costs what the name has of prefixes that are watched, not what there is of watchers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use shared::name::ConfigName;

use super::filter::Filter;

/// The watchers of one filter. They hear the same, so it is worked out once for all of them.
#[derive(Debug)]
struct Group<M> {
    filter: Arc<Filter>,
    members: HashMap<u64, M>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct GroupId(u64);

/// A member's place, to leave by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    group: GroupId,
    member: u64,
}

/// Groups by filter, and by each name and prefix in their filters. `M` is a member: watchers and those who wait are indexed
/// apart, and alike.
#[derive(Debug)]
pub(super) struct Index<M> {
    groups: HashMap<GroupId, Group<M>>,
    by_filter: HashMap<Arc<Filter>, GroupId>,
    by_name: HashMap<ConfigName, BTreeSet<GroupId>>,
    /// By the prefix's length in bytes first: a name is looked up once for each length that is watched.
    by_prefix: BTreeMap<usize, HashMap<Box<str>, BTreeSet<GroupId>>>,
    next: u64,
    len: usize,
}

impl<M> Default for Index<M> {
    fn default() -> Self {
        let (groups, by_filter, by_name) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { groups, by_filter, by_name, by_prefix: BTreeMap::new(), next: 0, len: 0 }
    }
}

impl<M> Index<M> {
    /// Adds a member; the filter comes back as the group has it, shared.
    pub(super) fn insert(&mut self, filter: Filter, member: M) -> (Place, Arc<Filter>) {
        self.next += 1;
        let group = match self.by_filter.get(&filter) {
            Some(group) => *group,
            None => self.new_group(filter, GroupId(self.next)),
        };
        let place = Place { group, member: self.next };
        let group = self.groups.get_mut(&group).expect("a group that is indexed is there");
        group.members.insert(place.member, member);
        self.len += 1;
        (place, Arc::clone(&group.filter))
    }

    pub(super) fn remove(&mut self, place: Place) {
        let Some(group) = self.groups.get_mut(&place.group) else { return };
        if group.members.remove(&place.member).is_some() {
            self.len -= 1;
        }
        if group.members.is_empty() {
            let filter = Arc::clone(&group.filter);
            self.remove_group(&filter, place.group);
        }
    }

    /// Members in all.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &M> {
        self.groups.values().flat_map(|group| group.members.values())
    }

    /// Which groups take which of these names: the names' indexes, in order, each once.
    pub(super) fn taken<'a>(&self, names: impl Iterator<Item = &'a str>) -> BTreeMap<GroupId, Vec<usize>> {
        let mut taken = BTreeMap::<_, Vec<_>>::new();
        for (index, name) in names.enumerate() {
            for group in self.groups_of(name) {
                let indexes = taken.entry(group).or_default();
                if indexes.last() != Some(&index) {
                    indexes.push(index);
                }
            }
        }
        taken
    }

    pub(super) fn members(&self, group: GroupId) -> impl Iterator<Item = &M> {
        self.groups.get(&group).into_iter().flat_map(|group| group.members.values())
    }

    fn groups_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = GroupId> + 'a {
        let exact = self.by_name.get(name).into_iter().flatten();
        let lengths = self.by_prefix.range(..=name.len());
        let prefixed = lengths.filter_map(|(length, prefixes)| prefixes.get(name.get(..*length)?)).flatten();
        exact.chain(prefixed).copied()
    }

    fn new_group(&mut self, filter: Filter, id: GroupId) -> GroupId {
        let filter = Arc::new(filter);
        for name in filter.names() {
            self.by_name.entry(name.clone()).or_default().insert(id);
        }
        if let Some(prefix) = filter.prefix() {
            let prefixes = self.by_prefix.entry(prefix.len()).or_default();
            prefixes.entry(prefix.into()).or_default().insert(id);
        }
        self.by_filter.insert(Arc::clone(&filter), id);
        self.groups.insert(id, Group { filter, members: HashMap::new() });
        id
    }

    fn remove_group(&mut self, filter: &Filter, id: GroupId) {
        self.groups.remove(&id);
        self.by_filter.remove(filter);
        for name in filter.names() {
            if let Some(groups) = self.by_name.get_mut(name) {
                groups.remove(&id);
                if groups.is_empty() {
                    self.by_name.remove(name);
                }
            }
        }
        let Some(prefix) = filter.prefix() else { return };
        let Some(prefixes) = self.by_prefix.get_mut(&prefix.len()) else { return };
        if let Some(groups) = prefixes.get_mut(prefix) {
            groups.remove(&id);
            if groups.is_empty() {
                prefixes.remove(prefix);
            }
        }
        if prefixes.is_empty() {
            self.by_prefix.remove(&prefix.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 8] = ["a", "a/b", "a/b/c", "ab", "b", "é", "éa", "🦀"];
    const PREFIXES: [&str; 6] = ["", "a", "a/", "a/b", "é", "zz"];

    fn filter(names: &[usize], prefix: Option<usize>) -> Filter {
        let names = names.iter().map(|name| ConfigName::stored(NAMES[*name])).collect();
        Filter::new(names, prefix.map(|prefix| PREFIXES[prefix]))
    }

    #[test]
    fn watchers_of_one_filter_are_one_group_and_leave_nothing_behind() {
        let mut index = Index::default();
        let (first, shared) = index.insert(filter(&[0, 1], Some(4)), "first");
        let (second, again) = index.insert(filter(&[1, 0], Some(4)), "second");
        assert!(Arc::ptr_eq(&shared, &again));
        assert_eq!((index.len(), index.taken(["a"].into_iter()).len()), (2, 1));
        index.remove(first);
        index.remove(first);
        assert_eq!(index.all().collect::<Vec<_>>(), [&"second"]);
        index.remove(second);
        assert_eq!(index.len(), 0);
        assert!(index.groups.is_empty() && index.by_filter.is_empty());
        assert!(index.by_name.is_empty() && index.by_prefix.is_empty());
    }

    /// Names and prefixes of others must not be looked at: a hundred times as many would take a hundred times as long.
    #[test]
    fn looking_a_name_up_costs_the_same_however_many_others_are_watched() {
        let quickest = |watched: usize| {
            let mut index = Index::default();
            for n in 0..watched {
                let name = ConfigName::stored(&format!("other/{n:06}"));
                index.insert(Filter::new(vec![name], Some(&format!("team/{n:06}/"))), ());
            }
            index.insert(Filter::new(vec![], Some("mine/")), ());
            let look = || {
                let began = Instant::now();
                let taken: usize = (0..20).map(|_| index.taken(["mine/1"].into_iter()).len()).sum();
                assert_eq!(taken, 20);
                began.elapsed()
            };
            (0..20).map(|_| look()).min().expect("several looks")
        };
        let (few, many) = (quickest(30), quickest(3_000));
        assert!(many < few * 10, "{few:?} beside 30, {many:?} beside 3,000");
    }

    proptest! {
        /// Whoever comes and goes, the index says what asking each watcher about each name says.
        #[test]
        fn agrees_with_asking_every_watcher(
            watchers in prop::collection::vec(
                (prop::collection::vec(0..NAMES.len(), 0..4), prop::option::of(0..PREFIXES.len()), any::<bool>()), 0..20),
            changed in prop::collection::vec(0..NAMES.len(), 0..6),
        ) {
            let mut index = Index::default();
            let mut here = vec![];
            for (member, (names, prefix, leaves)) in watchers.into_iter().enumerate() {
                let filter = filter(&names, prefix);
                let (place, _) = index.insert(filter.clone(), member);
                if leaves {
                    index.remove(place);
                } else {
                    here.push((member, filter));
                }
            }
            let names: Vec<_> = changed.iter().map(|name| NAMES[*name]).collect();
            let mut told: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            for (group, taken) in index.taken(names.iter().copied()) {
                for member in index.members(group) {
                    prop_assert!(told.insert(*member, taken.clone()).is_none(), "told once");
                }
            }
            let asked: BTreeMap<_, _> = here.into_iter().filter_map(|(member, filter)| {
                let taken: Vec<_> = (0..names.len()).filter(|index| filter.takes(names[*index])).collect();
                (!taken.is_empty()).then_some((member, taken))
            }).collect();
            prop_assert_eq!(told, asked);
        }
    }
}
