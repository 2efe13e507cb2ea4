//! `append_events`: what becomes of each unit, and of the group.

use std::time::Duration;

use end_to_end::Database;
use sqlx::{Executor, postgres::PgListener};

use self::group::{Group, insert_stock, log, names, new_id, sqlstate};

mod anchored;
pub(crate) mod group;
mod stock;

const MICROSECOND: Duration = Duration::from_micros(1);

#[tokio::test]
async fn units_are_numbered_without_a_hole_and_a_moment_is_one_units() {
    let mut connection = Database::new().await.connect().await;
    let two_events = |group: Group, a, b| group.unit(new_id()).event(a, 0).event(b, 0);
    let group = two_events(two_events(Group::default(), "a", "b").unit(new_id()).event("c", 0), "d", "e");
    let outcomes = group.append(&mut connection).await.unwrap();

    let places = [("appended", 1, 2), ("appended", 3, 3), ("appended", 4, 5)];
    for ((index, outcome), (word, first, last)) in outcomes.iter().enumerate().zip(places) {
        assert_eq!(outcome.place(), (word, Some(first), Some(last)));
        assert_eq!(usize::try_from(outcome.unit), Ok(index + 1));
    }
    let [first, second, third] = [0, 1, 2].map(|unit| (group.command_ids[unit], outcomes[unit].recorded_at.unwrap()));
    assert!(first.1 < second.1 && second.1 < third.1, "{outcomes:?}");
    let stored: Vec<_> = log(&mut connection).await.into_iter().map(|event| (event.position, event)).collect();
    let expected = [("a", first, 0), ("b", first, 1), ("c", second, 0), ("d", third, 0), ("e", third, 1)];
    assert_eq!(stored.len(), expected.len());
    for ((position, event), (index, (name, (command_id, moment), part))) in stored.iter().zip((1..).zip(expected)) {
        assert_eq!((*position, event.name.as_str(), event.sequence, event.part), (index, name, 1, part));
        assert_eq!((event.command_id, event.recorded_at), (command_id, moment));
    }
}

#[tokio::test]
async fn a_moment_is_later_than_the_last_one_also_when_that_lies_in_the_future() {
    let mut connection = Database::new().await.connect().await;
    let ahead = "insert into events
                 values ('ConfigValue', 'ahead', 1, 'ConfigValueSet', '1.0', '{\"value\":1}', '{}', 1,
                         now() + interval '1 hour', gen_random_uuid(), 0)";
    connection.execute(ahead).await.unwrap();
    let group = Group::default().unit(new_id()).event("a", 0).event("b", 0).unit(new_id()).event("c", 0);
    group.append(&mut connection).await.unwrap();
    insert_stock(&mut connection, "d", 1).await.unwrap();

    let moments: Vec<_> = log(&mut connection).await.into_iter().map(|event| event.recorded_at).collect();
    let ahead = moments[0];
    assert_eq!(moments[1..], [1, 1, 2, 3].map(|later| ahead + MICROSECOND * later));
}

#[tokio::test]
async fn a_repeated_command_gets_its_old_receipt_and_writes_nothing() {
    let mut connection = Database::new().await.connect().await;
    let [first, second] = [new_id(), new_id()];
    let group = Group::default().unit(first).event("a", 0).event("b", 0).unit(second).event("c", 0);
    let receipts = group.append(&mut connection).await.unwrap();
    Group::default().unit(new_id()).event("a", 1).append(&mut connection).await.unwrap();

    // Among others, in another order, and though `a` has moved on.
    let again = Group::default().unit(second).event("c", 0).unit(new_id()).event("d", 0);
    let again = again.unit(first).event("a", 0).event("b", 0).append(&mut connection).await.unwrap();
    assert_eq!(again[0].place(), ("repeated", Some(3), Some(3)));
    assert_eq!(again[1].place(), ("appended", Some(5), Some(5)));
    assert_eq!(again[2].place(), ("repeated", Some(1), Some(2)));
    assert_eq!([again[2].recorded_at, again[0].recorded_at], [receipts[0].recorded_at, receipts[1].recorded_at]);
    assert_eq!(names(&mut connection).await, ["a", "b", "c", "a", "d"]);
}

#[tokio::test]
async fn a_conflict_names_the_current_sequence_and_the_other_units_are_written() {
    let mut connection = Database::new().await.connect().await;
    Group::default().unit(new_id()).event("a", 0).append(&mut connection).await.unwrap();
    let group = Group::default().unit(new_id()).event("a", 0).unit(new_id()).event("b", 0);
    let group = group.unit(new_id()).event("never", 3).unit(new_id()).event("c", 0);
    let outcomes = group.append(&mut connection).await.unwrap();
    assert_eq!(outcomes[0].conflict(), ("conflict", Some("a"), Some(1)));
    assert_eq!(outcomes[0].place(), ("conflict", None, None));
    assert_eq!(outcomes[1].place(), ("appended", Some(2), Some(2)));
    assert_eq!(outcomes[2].conflict(), ("conflict", Some("never"), Some(0)));
    assert_eq!(outcomes[3].place(), ("appended", Some(3), Some(3)));
    assert_eq!(names(&mut connection).await, ["a", "b", "c"]);

    // What the log says of them, which has no hole.
    let log = log(&mut connection).await;
    assert!(log.iter().map(|event| event.position).eq(1..=3), "{log:?}");
    for (unit, position) in [(1, 1), (3, 2)] {
        let (event, outcome) = (&log[position], &outcomes[unit]);
        assert_eq!((event.command_id, Some(event.position)), (group.command_ids[unit], outcome.first_position));
        assert_eq!(Some(event.recorded_at), outcome.recorded_at);
    }
}

#[tokio::test]
async fn a_unit_is_written_whole_or_not_at_all() {
    let mut connection = Database::new().await.connect().await;
    let group = Group::default().unit(new_id()).event("a", 0).event("b", 5).event("c", 0);
    let outcomes = group.unit(new_id()).event("d", 0).append(&mut connection).await.unwrap();
    assert_eq!(outcomes[0].conflict(), ("conflict", Some("b"), Some(0)));
    assert_eq!(outcomes[1].place(), ("appended", Some(1), Some(1)));
    assert_eq!(names(&mut connection).await, ["d"]);
}

#[tokio::test]
async fn a_unit_is_written_only_if_the_names_it_depends_on_stand_where_it_saw_them() {
    let mut connection = Database::new().await.connect().await;
    Group::default().unit(new_id()).event("a", 0).append(&mut connection).await.unwrap();
    let group = Group::default().unit(new_id()).event("b", 0).check("a", 1).check("never", 0);
    let group = group.unit(new_id()).event("c", 0).check("a", 0);
    let group = group.unit(new_id()).event("d", 0).check("a", 1).check("never", 1);
    let outcomes = group.unit(new_id()).event("e", 0).append(&mut connection).await.unwrap();
    assert_eq!(outcomes[0].place(), ("appended", Some(2), Some(2)));
    assert_eq!(outcomes[1].conflict(), ("conflict", Some("a"), Some(1)));
    assert_eq!(outcomes[2].conflict(), ("conflict", Some("never"), Some(0)));
    assert_eq!(outcomes[3].place(), ("appended", Some(3), Some(3)));
    assert_eq!(names(&mut connection).await, ["a", "b", "e"]);
}

/// Behind a failover that lost the log's end, a version may be given again.
#[tokio::test]
async fn a_unit_is_written_only_if_what_it_saw_was_written_by_whom_it_saw() {
    let mut connection = Database::new().await.connect().await;
    let (writer, lost) = (new_id(), new_id());
    Group::default().unit(writer).event("a", 0).event("b", 0).append(&mut connection).await.unwrap();
    let group = Group::default().unit(new_id()).event_behind("a", 1, lost);
    let group = group.unit(new_id()).event("c", 0).check_of("b", 1, lost);
    let group = group.unit(new_id()).event("d", 0).check_of("b", 1, writer);
    let group = group.unit(new_id()).event_behind("e", 0, lost);
    let outcomes = group.unit(new_id()).event_behind("b", 1, writer).append(&mut connection).await.unwrap();
    assert_eq!(outcomes[0].conflict(), ("conflict", Some("a"), Some(1)));
    assert_eq!(outcomes[1].conflict(), ("conflict", Some("b"), Some(1)));
    assert_eq!(outcomes[2].place(), ("appended", Some(3), Some(3)));
    assert_eq!(outcomes[3].place(), ("appended", Some(4), Some(4)), "nobody has written what was never there");
    assert_eq!(outcomes[4].place(), ("appended", Some(5), Some(5)));
    assert_eq!(names(&mut connection).await, ["a", "b", "d", "e", "b"]);

    // What was written is found again, though its names now have what it wrote itself, and its check no longer holds.
    let of_e = log(&mut connection).await[3].command_id;
    let group = Group::default().unit(new_id()).event_behind("a", 1, writer).check_of("e", 1, of_e);
    assert_eq!(group.append(&mut connection).await.unwrap()[0].place(), ("appended", Some(6), Some(6)));
    Group::default().unit(new_id()).event("e", 1).append(&mut connection).await.unwrap();
    assert_eq!(group.append(&mut connection).await.unwrap()[0].place(), ("repeated", Some(6), Some(6)));
}

#[tokio::test]
async fn two_units_of_a_group_that_touch_one_name_are_refused_together() {
    let mut connection = Database::new().await.connect().await;
    let group = Group::default().unit(new_id()).event("a", 0).unit(new_id()).event("a", 0);
    assert_eq!(sqlstate(group.append(&mut connection).await), "23505");
    assert_eq!(names(&mut connection).await, [""; 0]);
}

#[tokio::test]
async fn an_idempotency_key_is_stored_with_its_unit_and_answers_its_second_use() {
    let mut connection = Database::new().await.connect().await;
    let first = Group::default().unit(new_id()).event("a", 0).key(1, 10, r#"{"status":200}"#);
    assert_eq!(first.append(&mut connection).await.unwrap()[0].place(), ("appended", Some(1), Some(1)));
    let lives = "select expires_at - recorded_at = '24 hours' from idempotency_keys, events";
    assert!(sqlx::query_scalar::<_, bool>(lives).fetch_one(&mut connection).await.unwrap());

    let other = Group::default().unit(new_id()).event("b", 0).key(1, 11, "{}").unit(new_id()).event("c", 0);
    let outcomes = other.append(&mut connection).await.unwrap();
    assert_eq!(outcomes[0].place(), ("answered", None, None));
    assert_eq!(outcomes[0].key_request_hash.as_deref(), Some([10; 32].as_slice()), "what was asked then");
    assert_eq!(outcomes[0].key_answer.as_deref(), Some(r#"{"status":200}"#));
    assert_eq!(outcomes[1].place(), ("appended", Some(2), Some(2)));

    // The same command once more gets its receipt, as it would without a key.
    assert_eq!(first.append(&mut connection).await.unwrap()[0].place(), ("repeated", Some(1), Some(1)));
    assert_eq!(names(&mut connection).await, ["a", "c"]);

    let several = Group::default().unit(new_id()).event("d", 0).event("e", 0).event("f", 0).key(2, 10, "{}");
    several.append(&mut connection).await.unwrap();
    assert_eq!(several.append(&mut connection).await.unwrap()[0].place(), ("repeated", Some(3), Some(5)));
}

/// Only by a fault of its writer. What is repeated has the names that it had.
#[tokio::test]
async fn a_command_is_not_written_twice_under_other_names() {
    let mut connection = Database::new().await.connect().await;
    let command_id = new_id();
    Group::default().unit(command_id).event("a", 0).event("b", 0).append(&mut connection).await.unwrap();
    for group in [Group::default(), Group::default().anchored(2, command_id)] {
        let group = group.unit(command_id).event("c", 0).event("d", 0);
        assert_eq!(sqlstate(group.append(&mut connection).await), "23505");
    }
    assert_eq!(names(&mut connection).await, ["a", "b"]);
}

#[tokio::test]
async fn who_says_nothing_of_look_ups_is_judged_all_the_same() {
    let mut connection = Database::new().await.connect().await;
    Group::default().unit(new_id()).event("a", 0).key(1, 10, "{}").append(&mut connection).await.unwrap();
    let group = Group::default().unit(new_id()).event("b", 0).key(1, 11, "{}").unit(new_id()).event("c", 0);
    let outcomes = group.silent_of_look_ups().append(&mut connection).await.unwrap();
    assert_eq!(outcomes[0].outcome, "answered");
    assert_eq!(outcomes[1].place(), ("appended", Some(2), Some(2)), "no hole is left for who was answered");
    let group = Group::default().unit(new_id()).event("d", 0).check("c", 7).silent_of_look_ups();
    assert_eq!(group.append(&mut connection).await.unwrap()[0].outcome, "conflict");
    let lost = Group::default().unit(new_id()).event_behind("c", 1, new_id()).silent_of_look_ups();
    assert_eq!(lost.append(&mut connection).await.unwrap()[0].outcome, "conflict");
}

#[tokio::test]
async fn a_unit_that_is_not_written_leaves_its_key_free() {
    let mut connection = Database::new().await.connect().await;
    let conflict = Group::default().unit(new_id()).event("a", 7).key(1, 10, "1").append(&mut connection).await;
    assert_eq!(conflict.unwrap()[0].outcome, "conflict");
    let failed_check = Group::default().unit(new_id()).check("a", 7).key(1, 11, "2").append(&mut connection).await;
    assert_eq!(failed_check.unwrap()[0].outcome, "conflict");
    let next = Group::default().unit(new_id()).event("a", 0).key(1, 12, "3").append(&mut connection).await;
    assert_eq!(next.unwrap()[0].place(), ("appended", Some(1), Some(1)));
}

#[tokio::test]
async fn a_key_is_kept_also_for_a_command_that_changes_nothing() {
    let mut connection = Database::new().await.connect().await;
    let unchanged = || Group::default().unit(new_id()).check("a", 0).key(1, 10, r#"{"changed":false}"#);
    assert_eq!(unchanged().append(&mut connection).await.unwrap()[0].place(), ("appended", None, None));
    let again = &unchanged().append(&mut connection).await.unwrap()[0];
    assert_eq!((again.outcome.as_str(), again.key_answer.as_deref()), ("answered", Some(r#"{"changed":false}"#)));
    assert_eq!(names(&mut connection).await, [""; 0]);
}

#[tokio::test]
async fn an_expired_key_is_free_again() {
    let mut connection = Database::new().await.connect().await;
    let expired = Group::default().unit(new_id()).event("a", 0).key(1, 10, "1").keys_live("0 seconds");
    expired.append(&mut connection).await.unwrap();
    let next = Group::default().unit(new_id()).event("b", 0).key(1, 11, "2").append(&mut connection).await.unwrap();
    assert_eq!(next[0].place(), ("appended", Some(2), Some(2)));
    let last = Group::default().unit(new_id()).event("c", 0).key(1, 12, "3").append(&mut connection).await.unwrap();
    assert_eq!((last[0].outcome.as_str(), last[0].key_answer.as_deref()), ("answered", Some("2")));
    assert_eq!(last[0].key_request_hash.as_deref(), Some([11; 32].as_slice()));
}

#[tokio::test]
async fn only_read_committed_may_append() {
    let mut connection = Database::new().await.connect().await;
    for (level, refusal) in
        [("repeatable read", Some("0A000")), ("serializable", Some("0A000")), ("read committed", None)]
    {
        let begin = format!("begin isolation level {level}");
        connection.execute(begin.as_str()).await.unwrap();
        let ours = Group::default().unit(new_id()).event(level, 0).append(&mut connection).await;
        assert_eq!(ours.map_err(|error| sqlstate(Err::<(), _>(error))).err().as_deref(), refusal, "{level}");
        connection.execute("rollback").await.unwrap();
        connection.execute(begin.as_str()).await.unwrap();
        let stock = insert_stock(&mut connection, level, 1).await;
        assert_eq!(stock.map_err(|error| sqlstate(Err::<(), _>(error))).err().as_deref(), refusal, "{level}");
        connection.execute("rollback").await.unwrap();
    }
}

#[tokio::test]
async fn a_group_that_is_not_in_the_order_of_its_units_is_refused() {
    let mut connection = Database::new().await.connect().await;
    let good = Group::default().unit(new_id()).event("a", 0).check("x", 0).unit(new_id()).event("b", 0).check("y", 0);
    for units in [[2, 1], [1, 3], [0, 1]] {
        let mut events = good.clone();
        events.event_units = units.to_vec();
        assert_eq!(sqlstate(events.append(&mut connection).await), "22023", "events of {units:?}");
    }
    for parts in [[0, 1], [1, 0], [-1, 0]] {
        let parts = good.clone().with_parts(&parts);
        assert_eq!(sqlstate(parts.append(&mut connection).await), "22023", "{parts:?}");
    }
    let one_unit = Group::default().unit(new_id()).event("a", 0).event("b", 0);
    for parts in [[0, 0], [0, 2], [1, 2]] {
        let parts = one_unit.clone().with_parts(&parts);
        assert_eq!(sqlstate(parts.append(&mut connection).await), "22023", "{parts:?}");
    }
    for units in [[1, 3], [0, 1]] {
        let mut checks = good.clone();
        checks.check_units = units.to_vec();
        assert_eq!(sqlstate(checks.append(&mut connection).await), "22023", "checks of {units:?}");
    }
    assert_eq!(names(&mut connection).await, [""; 0]);
    good.append(&mut connection).await.unwrap();
}

#[tokio::test]
async fn a_group_notifies_once_and_one_that_writes_nothing_does_not() {
    let database = Database::new().await;
    let mut connection = database.connect().await;
    let mut listener = PgListener::connect(&database.url).await.unwrap();
    listener.listen("events").await.unwrap();

    let name = |index: u8| format!("name {index}");
    let ten = (1..=10).fold(Group::default(), |group, index| group.unit(new_id()).event(&name(index), 0));
    ten.append(&mut connection).await.unwrap();
    ten.append(&mut connection).await.unwrap();
    Group::default().unit(new_id()).event("conflict", 1).append(&mut connection).await.unwrap();
    insert_stock(&mut connection, "stock", 1).await.unwrap();
    for expected in ["10", "11"] {
        assert_eq!(listener.recv().await.unwrap().payload(), expected);
    }
    // Notifications come in the order of their commits: had there been another, it would be here first.
    connection.execute("select pg_notify('events', 'last')").await.unwrap();
    assert_eq!(listener.recv().await.unwrap().payload(), "last");
}
