//! What a watcher watches: some names, all names that begin so, or both.

use shared::name::ConfigName;

/// A name is taken when it is one of `names`, or begins with `prefix`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Filter {
    /// In the order of their bytes, each once, none that the prefix takes already.
    names: Box<[ConfigName]>,
    prefix: Option<Box<str>>,
}

impl Filter {
    /// Of these names and this prefix; without either, of everything.
    pub(crate) fn new(mut names: Vec<ConfigName>, prefix: Option<&str>) -> Self {
        let prefix = if names.is_empty() { Some(prefix.unwrap_or_default()) } else { prefix };
        names.retain(|name| prefix.is_none_or(|prefix| !name.starts_with(prefix)));
        names.sort_unstable();
        names.dedup();
        Self { names: names.into(), prefix: prefix.map(Into::into) }
    }

    /// Of one name.
    pub(crate) fn of_name(name: &ConfigName) -> Self {
        Self { names: [name.clone()].into(), prefix: None }
    }

    /// Whether it takes this name.
    pub(crate) fn takes(&self, name: &str) -> bool {
        self.prefix.as_deref().is_some_and(|prefix| name.starts_with(prefix))
            || self.names.binary_search_by(|known| known.as_str().cmp(name)).is_ok()
    }

    /// The exact names, in order.
    pub(crate) fn names(&self) -> &[ConfigName] {
        &self.names
    }

    pub(crate) fn prefix(&self) -> Option<&str> {
        self.prefix.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<ConfigName> {
        names.iter().map(|name| ConfigName::stored(name)).collect()
    }

    #[test]
    fn takes_its_names_and_what_begins_with_its_prefix() {
        let filter = Filter::new(names(&["z", "a", "z", "b/1"]), Some("b/"));
        assert_eq!(filter.names(), names(&["a", "z"]));
        for (name, taken) in [("a", true), ("z", true), ("b/", true), ("b/1", true), ("b", false), ("aa", false)] {
            assert_eq!(filter.takes(name), taken, "{name}");
        }
        assert!(!Filter::new(names(&["a"]), None).takes("b"));
    }

    #[test]
    fn says_nothing_and_takes_everything() {
        assert!(Filter::new(vec![], None).takes("a"));
        assert_eq!(Filter::new(names(&["a"]), Some("")), Filter::new(vec![], None));
    }
}
