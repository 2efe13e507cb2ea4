//! What `append_events` need not look up, because its caller wrote it itself and that is still in the log.

use end_to_end::Database;
use rand::{
    RngExt, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::group::{Group, UnitOutcome, log, names, new_id};

/// `a` and `b` have a version each, by one command; who that was.
async fn two_names(connection: &mut PgConnection) -> Uuid {
    let writer = new_id();
    Group::default().unit(writer).event("a", 0).event("b", 0).append(connection).await.expect("they are new");
    writer
}

#[tokio::test]
async fn what_stands_up_to_the_anchor_is_not_looked_up() {
    let mut connection = Database::new().await.connect().await;
    let (writer, lost) = (two_names(&mut connection).await, new_id());
    // The look-up would find another writer than is said here.
    let group = || Group::default().unit(new_id()).event_behind("a", 1, lost).anchored(2, writer);
    let looked_up = group().looked_up().append(&mut connection).await.unwrap();
    assert_eq!(looked_up[0].conflict(), ("conflict", Some("a"), Some(1)));
    assert!(looked_up[0].anchor_holds);
    let trusted = group().append(&mut connection).await.unwrap();
    assert_eq!(trusted[0].place(), ("appended", Some(3), Some(3)));
    assert_eq!((trusted[0].head_command_id, trusted[0].anchor_holds), (Some(writer), true));
}

#[tokio::test]
async fn an_anchor_holds_also_when_others_wrote_behind_it() {
    let mut connection = Database::new().await.connect().await;
    let (writer, other) = (two_names(&mut connection).await, new_id());
    Group::default().unit(other).event("c", 0).append(&mut connection).await.unwrap();
    let group = Group::default().unit(new_id()).event_behind("a", 1, new_id()).anchored(2, writer);
    let outcome = &group.append(&mut connection).await.unwrap()[0];
    assert_eq!(outcome.place(), ("appended", Some(4), Some(4)));
    assert_eq!((outcome.head_command_id, outcome.anchor_holds), (Some(other), true));
}

/// A failover lost the log's end, and others have written there since.
#[tokio::test]
async fn without_its_anchor_everything_is_looked_up() {
    let mut connection = Database::new().await.connect().await;
    let (writer, lost) = (two_names(&mut connection).await, new_id());
    for (position, command_id) in [(3, lost), (2, lost), (7, writer)] {
        let group = Group::default().unit(new_id()).event_behind("a", 1, lost).anchored(position, command_id);
        let outcome = &group.append(&mut connection).await.unwrap()[0];
        assert_eq!(outcome.conflict(), ("conflict", Some("a"), Some(1)), "anchored at {position}");
        assert_eq!((outcome.head_command_id, outcome.anchor_holds), (Some(writer), false));
    }
    assert_eq!(names(&mut connection).await, ["a", "b"]);
}

#[tokio::test]
async fn before_the_first_event_there_is_no_anchor() {
    let mut connection = Database::new().await.connect().await;
    let first = &Group::default().unit(new_id()).event("a", 0).append(&mut connection).await.unwrap()[0];
    assert_eq!((first.head_command_id, first.anchor_holds), (None, false));
}

/// Whether names are looked up or not, the outcome is the same: somebody else's writes, repetitions, keys and checks among them.
#[tokio::test]
async fn what_is_not_looked_up_is_judged_as_what_is() {
    let mut connection = Database::new().await.connect().await;
    let mut random = StdRng::seed_from_u64(20);
    let mut versions = [0_i64; 8];
    let mut writers = [None; 8];
    let (mut past, mut anchors): (Vec<Group>, Vec<(i64, Uuid)>) = (vec![], vec![]);
    let mut seen = [0_usize; 4];
    for _ in 0..150 {
        let mut order: Vec<usize> = (0..versions.len()).collect();
        order.shuffle(&mut random);
        let mut keys: Vec<u8> = (0..30).collect();
        keys.shuffle(&mut random);
        let mut group = Group::default();
        let mut taken = order.into_iter();
        for _ in 0..random.random_range(1..4) {
            group = group.unit(new_id());
            for _ in 0..random.random_range(0..3) {
                let Some(name) = taken.next() else { break };
                let expected = (versions[name] - i64::from(random.random_ratio(1, 8))).max(0);
                group = match writers[name] {
                    Some(writer) if expected == versions[name] => {
                        group.event_behind(&format!("n{name}"), expected, writer)
                    }
                    _ => group.event(&format!("n{name}"), expected),
                };
                if random.random_ratio(1, 3) {
                    group = group.looked_up();
                }
            }
            if random.random_ratio(1, 6)
                && let Some(name) = taken.next()
            {
                let wrong = i64::from(random.random_ratio(1, 4));
                group = group.check(&format!("n{name}"), versions[name] + wrong);
            }
            if random.random_ratio(1, 4)
                && let Some(key) = keys.pop()
            {
                group = group.key(key, 1, "{}");
            }
        }
        if random.random_ratio(1, 5)
            && let Some(before) = past.choose(&mut random)
        {
            group = before.clone();
        }
        let plain = tried(&mut connection, &group).await;
        // The newest event, or one before others.
        let newest = anchors.len().saturating_sub(3);
        let anchored = match anchors[newest..].choose(&mut random) {
            Some((position, command_id)) => group.clone().anchored(*position, *command_id),
            None => group.clone(),
        };
        assert_eq!(plain, tried(&mut connection, &anchored).await, "{group:?}");
        let outcomes = anchored.append(&mut connection).await.unwrap();
        for outcome in &outcomes {
            let words = ["appended", "repeated", "answered", "conflict"];
            seen[words.iter().position(|word| *word == outcome.outcome).unwrap()] += 1;
        }
        for event in log(&mut connection).await {
            let name: usize = event.name[1..].parse().unwrap();
            if event.sequence > versions[name] {
                (versions[name], writers[name]) = (event.sequence, Some(event.command_id));
            }
            if anchors.last().is_none_or(|(position, _)| event.position > *position) {
                anchors.push((event.position, event.command_id));
            }
        }
        past.push(group);
    }
    assert!(seen.iter().all(|times| *times > 5), "each outcome: {seen:?}");
}

/// What would become of the group, and what the log would be then; without its times, which differ.
async fn tried(connection: &mut PgConnection, group: &Group) -> (Vec<UnitOutcome>, Vec<(i64, String, i64, Uuid, i16)>) {
    let mut transaction = connection.begin().await.expect("a transaction");
    let mut outcomes = group.append(&mut *transaction).await.expect("an outcome");
    for outcome in &mut outcomes {
        (outcome.recorded_at, outcome.anchor_holds) = (None, false);
        // Of several names of a unit that moved on, either may be named.
        (outcome.conflict_name, outcome.conflict_sequence) = (None, None);
    }
    let events = log(&mut *transaction).await.into_iter();
    let events =
        events.map(|event| (event.position, event.name, event.sequence, event.command_id, event.part)).collect();
    transaction.rollback().await.expect("it is undone");
    (outcomes, events)
}

/// A conflict costs a second attempt in the same call, and leaves no trace of the first.
#[tokio::test]
async fn a_name_that_moved_on_is_found_by_the_insert_and_the_others_are_written() {
    let mut connection = Database::new().await.connect().await;
    let writer = two_names(&mut connection).await;
    Group::default().unit(new_id()).event("a", 1).append(&mut connection).await.unwrap();
    let group = Group::default().unit(new_id()).event("c", 0).unit(new_id()).event("a", 1).event("d", 0);
    let outcomes = group.unit(new_id()).event("b", 1).anchored(2, writer).append(&mut connection).await.unwrap();
    assert_eq!(outcomes[0].place(), ("appended", Some(4), Some(4)));
    assert_eq!(outcomes[1].conflict(), ("conflict", Some("a"), Some(2)));
    assert_eq!(outcomes[2].place(), ("appended", Some(5), Some(5)));
    assert_eq!(names(&mut connection).await, ["a", "b", "a", "c", "b"]);
    assert!(log(&mut connection).await.iter().map(|event| event.position).eq(1..=5));
}
