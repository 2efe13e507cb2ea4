//! What a watch promises, in etcd's words, each while sessions are killed, the network is cut, and watchers come and go.

use std::collections::{BTreeMap, HashSet};

use super::storm::{Storm, Watches, storm};

/// More than is written: what was missed comes from memory.
const LARGE_RING: usize = 1 << 20;

/// A handful of messages: what was missed comes from the log.
const SMALL_RING: usize = 2_000;

const EVERYTHING: Watches = Watches { query: "", hangs_up_after: usize::MAX };
const RESTLESS: Watches = Watches { query: "", hangs_up_after: 5 };
const ONE_WRITER: Watches = Watches { query: "prefix=w1/", hangs_up_after: 11 };

#[tokio::test]
async fn ordered_events_come_in_the_order_of_their_positions() {
    for ring in [LARGE_RING, SMALL_RING] {
        for told in storm([EVERYTHING, RESTLESS, ONE_WRITER], ring).await.told {
            let positions: Vec<_> = told.events.iter().map(end_to_end::Event::position).collect();
            assert!(positions.is_sorted(), "{told:?}");
            let mut versions = BTreeMap::new();
            for change in told.changes().into_iter().flat_map(|command| command.changes) {
                let (name, version) = change.split_once('@').unwrap();
                let version: u64 = version.parse().unwrap();
                let last = versions.insert(name.to_owned(), version).unwrap_or(0);
                assert_eq!(last + 1, version, "{change} of {told:?}");
            }
        }
    }
}

#[tokio::test]
async fn unique_no_event_comes_twice() {
    for told in storm([EVERYTHING, RESTLESS, ONE_WRITER], SMALL_RING).await.told {
        let changes: Vec<_> = told.changes().into_iter().flat_map(|command| command.changes).collect();
        let distinct: HashSet<_> = changes.iter().collect();
        assert_eq!((distinct.len(), changes.is_empty()), (changes.len(), false), "{told:?}");
    }
}

#[tokio::test]
async fn reliable_no_event_is_left_out() {
    let storm = storm([EVERYTHING, RESTLESS], SMALL_RING).await;
    assert!(storm.log.len() > 200);
    for told in &storm.told {
        assert_eq!(told.changes(), storm.log, "{}", told.connections);
    }
}

#[tokio::test]
async fn atomic_the_changes_of_a_command_come_together() {
    let storm = storm([RESTLESS, ONE_WRITER], LARGE_RING).await;
    assert!(storm.log.iter().filter(|command| command.changes.len() > 1).count() > 30);
    for told in &storm.told {
        for command in told.changes() {
            let stored = storm.log.iter().find(|stored| stored.position == command.position);
            assert_eq!(stored, Some(&command), "{}", told.query);
        }
    }
}

/// Hangs up after each single event, from memory and from the log.
#[tokio::test]
async fn resumable_whoever_comes_back_goes_on_where_it_was() {
    let one_by_one = Watches { query: "prefix=w2/", hangs_up_after: 2 };
    for ring in [LARGE_RING, SMALL_RING] {
        let storm = storm([one_by_one, RESTLESS], ring).await;
        assert!(storm.told[0].connections > 40, "{}", storm.told[0].connections);
        assert_eq!(storm.told[0].changes(), storm.taken(|name| name.starts_with("w2/")));
        assert_eq!(storm.told[1].changes(), storm.log);
    }
}

#[tokio::test]
async fn bookmarkable_a_bookmark_says_that_everything_before_it_was_told() {
    let nothing = Watches { query: "prefix=nothing", hangs_up_after: 3 };
    let storm = storm([RESTLESS, ONE_WRITER, nothing], LARGE_RING).await;
    check_bookmarks(&storm, 0, |_| true);
    check_bookmarks(&storm, 1, |name| name.starts_with("w1/"));
    check_bookmarks(&storm, 2, |_| false);
    let bookmarks = storm.told[2].events.iter().filter(|event| event.position() > 0).count();
    assert!(bookmarks > 3, "who hears of nothing else hears how far it is: {bookmarks}");
}

fn check_bookmarks(storm: &Storm, watcher: usize, takes: impl Fn(&str) -> bool) {
    let (taken, mut told) = (storm.taken(takes), 0);
    for event in &storm.told[watcher].events {
        match event.event.as_str() {
            "change" => told += 1,
            _ => {
                let before = taken.iter().filter(|command| command.position <= event.position()).count();
                assert_eq!(told, before, "{event:?}");
                let is_an_end = |command: &super::storm::Command| command.position == event.position();
                assert!(event.position() == 0 || storm.log.iter().any(is_an_end), "within a command: {event:?}");
            }
        }
    }
}

#[tokio::test]
async fn filtered_each_hears_of_its_names_and_of_no_others() {
    let names = Watches { query: "name=w0%2Fk1&name=w3%2Fk2&name=never", hangs_up_after: 7 };
    let both = Watches { query: "name=w0%2Fk1&prefix=w1%2Fk", hangs_up_after: usize::MAX };
    let storm = storm([names, both, ONE_WRITER], SMALL_RING).await;
    let taken = [
        storm.taken(|name| ["w0/k1", "w3/k2"].contains(&name)),
        storm.taken(|name| name == "w0/k1" || name.starts_with("w1/k")),
        storm.taken(|name| name.starts_with("w1/")),
    ];
    for (told, taken) in storm.told.iter().zip(taken) {
        assert!(taken.len() > 10);
        assert_eq!(told.changes(), taken, "{}", told.query);
    }
}
