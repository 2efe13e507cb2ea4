//! Which entries of a state are listed, and what is known of them before they are written: their tag, and whether there are
//! more.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use shared::{name::ConfigName, position::Position};
use tokio::task::yield_now;

use crate::projection::{Entry, Snapshot};

/// Entries that are looked at before other tasks of the thread get their turn.
const SLICE: usize = 2_048;

/// Entries of one state, in the order of their names.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) prefix: String,
    /// Only what is behind this name.
    pub(super) after: Option<ConfigName>,
    /// Only the first so many.
    pub(super) limit: Option<usize>,
}

/// Makes the tag of what is listed, entry by entry.
#[derive(Debug, Default)]
pub(super) struct Tag(DefaultHasher);

impl Tag {
    /// A further entry.
    pub(super) fn add(&mut self, name: &str, version: u64) {
        (name, version).hash(&mut self.0);
    }

    pub(super) fn finish(&self) -> u64 {
        self.0.finish()
    }
}

/// What a selection holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scanned {
    /// Another one for other names or versions.
    pub(super) tag: u64,
    pub(super) entries: usize,
    /// The last name, when there are more entries behind the limit.
    pub(super) next: Option<ConfigName>,
}

impl Selection {
    /// The entries behind a name, or all, without regard to the limit.
    pub(super) fn behind<'a>(&'a self, after: Option<&'a str>) -> impl Iterator<Item = (&'a str, &'a Entry)> {
        self.snapshot.list(&self.prefix, after.filter(|after| *after >= self.prefix.as_str()))
    }

    /// Looks at all of it, in slices; the whole state is known by heart.
    pub(super) async fn scan(&self) -> Scanned {
        if self.prefix.is_empty() && self.after.is_none() && self.limit.is_none() {
            return Scanned { tag: whole(&self.snapshot), entries: self.snapshot.len(), next: None };
        }
        let mut scan = Scan { tag: Tag::default(), entries: 0, last: self.after.clone() };
        while let Slice::GoOn = self.scan_slice(&mut scan) {
            yield_now().await;
        }
        let more = self.limit == Some(scan.entries) && self.behind(scan.last.as_deref()).next().is_some();
        let next = scan.last.filter(|_| more);
        Scanned { tag: scan.tag.finish(), entries: scan.entries, next }
    }

    fn scan_slice(&self, scan: &mut Scan) -> Slice {
        let left = self.limit.map_or(usize::MAX, |limit| limit - scan.entries);
        let (mut seen, mut last) = (0, None);
        for (name, entry) in self.behind(scan.last.as_deref()).take(left.min(SLICE)) {
            scan.tag.add(name, entry.version);
            (seen, last) = (seen + 1, Some(name));
        }
        scan.entries += seen;
        if let Some(name) = last {
            scan.last = Some(ConfigName::stored(name));
        }
        if seen == SLICE && left > SLICE { Slice::GoOn } else { Slice::Last }
    }
}

/// How far a scan is.
struct Scan {
    tag: Tag,
    entries: usize,
    last: Option<ConfigName>,
}

enum Slice {
    GoOn,
    Last,
}

/// What all entries hash to, as well: nothing else changes them than the event that changed them last.
fn whole(snapshot: &Snapshot) -> u64 {
    let (position, moment) =
        snapshot.changed().map_or((Position::ZERO, 0), |(position, moment)| (position, moment.0.timestamp_micros()));
    let mut hasher = DefaultHasher::new();
    (position.0, moment).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::{
        super::super::states::{apply, apply_foreign, state_of},
        *,
    };
    use crate::projection::Fold;

    fn selection(snapshot: Snapshot, prefix: &str, after: Option<&str>, limit: Option<usize>) -> Selection {
        let after = after.map(ConfigName::stored);
        Selection { snapshot: Arc::new(snapshot), prefix: prefix.to_owned(), after, limit }
    }

    async fn scan(snapshot: &Snapshot, prefix: &str, after: Option<&str>, limit: Option<usize>) -> Scanned {
        selection(snapshot.clone(), prefix, after, limit).scan().await
    }

    #[tokio::test]
    async fn says_how_many_there_are_and_where_the_next_page_begins() {
        let state = state_of(&[("a", "1"), ("b/1", "2"), ("b/2", "3"), ("b/3", "4"), ("c", "5")]);
        let told = async |prefix, after, limit| {
            let scanned = scan(&state, prefix, after, limit).await;
            (scanned.entries, scanned.next.map(|name| name.to_string()))
        };
        assert_eq!(told("", None, None).await, (5, None));
        assert_eq!(told("b/", None, None).await, (3, None));
        assert_eq!(told("b/", None, Some(2)).await, (2, Some("b/2".to_owned())));
        assert_eq!(told("b/", None, Some(3)).await, (3, None), "there are no more");
        assert_eq!(told("b/", Some("b/2"), Some(3)).await, (1, None));
        assert_eq!(told("b/", Some("a"), Some(1)).await, (1, Some("b/1".to_owned())), "behind what is before all");
        assert_eq!(told("b/", Some("c"), None).await, (0, None));
        assert_eq!(told("x", None, Some(1)).await, (0, None));
    }

    #[tokio::test]
    async fn the_tag_changes_with_the_content_and_not_with_the_position() {
        let mut fold = Fold::default();
        apply(&mut fold, "a/1", Some("1"));
        apply(&mut fold, "b", Some("1"));
        for (prefix, limit) in [("", None), ("a/", None), ("", Some(10)), ("a/", Some(10))] {
            let mut fold = Fold::default();
            apply(&mut fold, "a/1", Some("1"));
            let mut tags = vec![scan(&fold.snapshot(), prefix, None, limit).await.tag];
            let mut next = async |fold: &mut Fold, name: &str, json| {
                apply(fold, name, json);
                tags.push(scan(&fold.snapshot(), prefix, None, limit).await.tag);
                apply_foreign(fold);
                apply(fold, "never set", None);
                let same = scan(&fold.snapshot(), prefix, None, limit).await.tag;
                assert_eq!(tags.last(), Some(&same), "{prefix:?} {limit:?}: nothing changed");
            };
            next(&mut fold, "a/1", Some("2")).await;
            next(&mut fold, "a/2", Some("1")).await;
            next(&mut fold, "a/1", None).await;
            next(&mut fold, "a/1", Some("2")).await;
            let different: std::collections::HashSet<_> = tags.iter().collect();
            assert_eq!(different.len(), tags.len(), "{prefix:?} {limit:?}: {tags:?}");
        }
        let before = scan(&fold.snapshot(), "a/", None, None).await;
        apply(&mut fold, "b", Some("2"));
        assert_eq!(scan(&fold.snapshot(), "a/", None, None).await, before, "another name");
    }

    #[tokio::test]
    async fn a_long_scan_lets_other_tasks_have_their_turn() {
        let names: Vec<_> = (0..SLICE * 3 + 1).map(|n| format!("n{n:06}")).collect();
        let state = state_of(&names.iter().map(|name| (name.as_str(), "1")).collect::<Vec<_>>());
        let long = selection(state.clone(), "n", None, None);
        let mut scanning = Box::pin(long.scan());
        assert!(scanning.as_mut().now_or_never().is_none(), "it gave way");
        let scanned = scanning.await;
        assert_eq!(scanned.entries, names.len());
        let page = scan(&state, "n", None, Some(SLICE)).await;
        assert_eq!((page.entries, page.next.as_deref()), (SLICE, Some(names[SLICE - 1].as_str())));
    }
}
