//! Writes that wait together: as many as fit, appended as one, and none pays for another's fault.

use std::pin::pin;

use command_service::store::{Appended, Check, IdempotencyKey, Keyed};
use end_to_end::{CommandService, Database, HeldLog, wait::PATIENCE};
use futures_util::{FutureExt, future::join_all};
use serde_json::json;
use shared::{name::ConfigName, telemetry::Chain};
use sqlx::PgConnection;
use tokio::{task::JoinSet, time::Instant};

use super::{CommitterOptions, Running, Unit, place, set, set_to};
use crate::append::group::{log, names};

#[tokio::test]
async fn what_waits_is_appended_as_one_and_a_unit_over_the_queues_limit_is_refused_at_once() {
    let database = Database::new().await;
    let committer = Running::on(&database.url, CommitterOptions { queue_units: 2, ..CommitterOptions::default() });
    let mut log = HeldLog::take(&database).await;
    // Under way, so no longer in the queue.
    let mut first = pin!(committer.append(set("first", 0)));
    assert!(first.as_mut().now_or_never().is_none());
    log.until_waiting(1).await;
    let mut queued = pin!(join_all(["a", "b"].map(|name| committer.append(set(name, 0)))));
    assert!(queued.as_mut().now_or_never().is_none());
    assert_eq!(committer.append(set("c", 0)).now_or_never().map(place), Some(Err("overloaded")));
    assert_eq!(committer.page().value("config_append_queue_full_total", &[]), 1.0);

    log.release().await;
    assert_eq!(place(first.await), Ok(1));
    assert_eq!(queued.await.into_iter().map(place).collect::<Vec<_>>(), [Ok(2), Ok(3)]);
    assert_eq!(place(committer.append(set("d", 0)).await), Ok(4));
    let mut connection = database.connect().await;
    assert_eq!(names(&mut connection).await, ["first", "a", "b", "d"]);
    assert_eq!(transactions(&mut connection).await, 3);
}

#[tokio::test]
async fn the_bytes_of_what_waits_or_is_under_way_are_limited() {
    let database = Database::new().await;
    let committer = Running::on(&database.url, CommitterOptions { queue_bytes: 1000, ..CommitterOptions::default() });
    let large = |name| set_to(name, 0, &json!({ "value": "x".repeat(600) }).to_string());
    let mut log = HeldLog::take(&database).await;
    let mut first = pin!(committer.append(large("first")));
    assert!(first.as_mut().now_or_never().is_none());
    log.until_waiting(1).await;
    assert_eq!(committer.append(large("a")).now_or_never().map(place), Some(Err("overloaded")));
    let mut small = pin!(committer.append(set("b", 0)));
    assert!(small.as_mut().now_or_never().is_none(), "there is room for it");

    log.release().await;
    assert_eq!((place(first.await), place(small.await)), (Ok(1), Ok(2)));
    assert_eq!(place(committer.append(large("c")).await), Ok(3), "the room was given back");
    assert_eq!(names(&mut database.connect().await).await, ["first", "b", "c"]);
}

#[tokio::test]
async fn a_unit_that_the_database_refuses_fails_alone_wherever_it_stands_in_its_group() {
    const UNITS: usize = 38;
    for poisonous in [&[0][..], &[17], &[37], &[5, 30]] {
        let database = Database::new().await;
        database.execute("alter table events add constraint poison check (aggregate_id not like 'poison%')").await;
        let committer = Running::on(&database.url, CommitterOptions::default());
        let mut log = HeldLog::take(&database).await;
        let mut first = pin!(committer.append(set("first", 0)));
        assert!(first.as_mut().now_or_never().is_none());
        log.until_waiting(1).await;
        let name = |n: usize| if poisonous.contains(&n) { format!("poison{n}") } else { format!("good{n}") };
        let mut group = pin!(join_all((0..UNITS).map(|n| committer.append(set(&name(n), 0)))));
        assert!(group.as_mut().now_or_never().is_none());
        log.release().await;

        assert_eq!(place(first.await), Ok(1));
        let refused: Vec<_> =
            group.await.into_iter().enumerate().filter_map(|(n, appended)| Some((n, place(appended).err()?))).collect();
        assert_eq!(refused, poisonous.iter().map(|n| (*n, "refused")).collect::<Vec<_>>());
        let mut connection = database.connect().await;
        let mut written = names(&mut connection).await.split_off(1);
        written.sort();
        let mut good: Vec<_> = (0..UNITS).filter(|n| !poisonous.contains(n)).map(name).collect();
        good.sort();
        assert_eq!(written, good);
        // Halved: 38 units make six levels at most, each with one good half for each refused unit.
        let appends = transactions(&mut connection).await - 1;
        assert!((1..=6 * poisonous.len()).contains(&appends), "{appends} appends for refusals at {poisonous:?}");
    }
}

/// The rows of the answer are sent before the commit, and prove nothing.
#[tokio::test]
async fn a_unit_whose_commit_fails_is_refused_and_not_written() {
    let database = Database::new().await;
    database
        .execute(
            "create function refuse() returns trigger language plpgsql as $$ begin raise 'not at the commit'; end $$;
             create constraint trigger poison after insert on events deferrable initially deferred
                for each row when (new.aggregate_id = 'poison') execute function refuse()",
        )
        .await;
    let committer = Running::on(&database.url, CommitterOptions::default());
    assert_eq!(place(committer.append(set("poison", 0)).await), Err("refused"));
    assert_eq!(place(committer.append(set("a", 0)).await), Ok(1));
    assert_eq!(names(&mut database.connect().await).await, ["a"]);
}

/// The server's details of a refusal have the row in them.
#[tokio::test]
async fn a_refusal_tells_what_was_wrong_and_no_value() {
    let database = Database::new().await;
    database.execute("alter table events add constraint poison check (aggregate_id <> 'poison')").await;
    let committer = Running::on(&database.url, CommitterOptions::default());
    let refused = committer.append(set_to("poison", 0, r#"{"value":"hunter2"}"#)).await.unwrap_err();
    let told = Chain(&refused).to_string();
    assert!(told.contains("violates check constraint \"poison\"") && !told.contains("hunter2"), "{told}");
}

#[tokio::test]
async fn of_units_that_saw_one_version_one_is_written_and_the_others_conflict() {
    let database = Database::new().await;
    let committers = [(); 2].map(|()| Running::on(&database.url, CommitterOptions::default()));
    let mut log = HeldLog::take(&database).await;
    // `x` twice in one queue, and once in another's.
    let units = [&committers[0], &committers[1]].map(|committer| committer.append(set("x", 0)));
    let mut first = pin!(join_all(units));
    assert!(first.as_mut().now_or_never().is_none());
    log.until_waiting(2).await;
    let more = ["y", "y", "z"].map(|name| committers[0].append(set(name, 0)));
    let mut more = pin!(join_all(more));
    assert!(more.as_mut().now_or_never().is_none());
    log.release().await;

    let mut outcomes: Vec<_> = first.await.into_iter().map(place).collect();
    outcomes.sort();
    assert_eq!(outcomes, [Ok(1), Err("conflict")]);
    assert_eq!(more.await.into_iter().map(place).collect::<Vec<_>>(), [Ok(2), Err("conflict"), Ok(3)]);
    assert_eq!(names(&mut database.connect().await).await, ["x", "y", "z"]);
}

/// A group is judged by what was there before it.
#[tokio::test]
async fn a_unit_is_judged_behind_those_that_write_what_it_depends_on_or_have_its_key() {
    let database = Database::new().await;
    let committer = Running::on(&database.url, CommitterOptions::default());
    let key = IdempotencyKey { hash: [1; 32], request: [2; 32] };
    let keyed = |unit: Unit, answer: &str| Unit { keyed: Some(Keyed { key, answer: answer.to_owned() }), ..unit };
    let depends = Check { name: ConfigName::stored("a"), version: 0, seen: None };
    let mut log = HeldLog::take(&database).await;
    let mut first = pin!(committer.append(set("first", 0)));
    assert!(first.as_mut().now_or_never().is_none());
    log.until_waiting(1).await;
    let units = [
        set("a", 0),
        Unit { checks: vec![depends], ..set("b", 0) },
        keyed(set("c", 0), "1"),
        keyed(set("d", 0), "2"),
        set("e", 0),
    ];
    let mut queued = pin!(join_all(units.map(|unit| committer.append(unit))));
    assert!(queued.as_mut().now_or_never().is_none());
    log.release().await;
    assert_eq!(place(first.await), Ok(1));
    let became: Vec<_> = queued.await.into_iter().map(place).collect();
    assert_eq!(became, [Ok(2), Err("conflict"), Ok(3), Err("answered"), Ok(4)]);
    let refused = [("connection", "committer"), ("kind", "query")];
    assert_eq!(committer.page().value("config_eventstore_errors_total", &refused), 0.0, "no group had to be halved");
    assert_eq!(names(&mut database.connect().await).await, ["first", "a", "c", "e"]);
}

#[tokio::test]
async fn each_unit_of_a_group_is_told_its_own_place_and_moment() {
    let database = Database::new().await;
    let committer = Running::on(&database.url, CommitterOptions::default());
    let mut held = HeldLog::take(&database).await;
    let mut first = pin!(committer.append(set("first", 0)));
    assert!(first.as_mut().now_or_never().is_none());
    held.until_waiting(1).await;
    let of =
        |names: &[&str]| Unit { events: names.iter().flat_map(|name| set(name, 0).events).collect(), ..set("", 0) };
    let units = [&["a", "b"][..], &["c"], &["d", "e", "f"], &["g"]];
    let mut queued = pin!(join_all(units.map(|names| committer.append(of(names)))));
    assert!(queued.as_mut().now_or_never().is_none());
    held.release().await;
    assert_eq!(place(first.await), Ok(1));
    let told = queued.await.into_iter().map(|appended| match appended {
        Ok(Appended::Written { first, recorded_at, .. }) => (first.0, recorded_at.0),
        other => panic!("{other:?}"),
    });
    let told: Vec<_> = told.collect();
    let mut connection = database.connect().await;
    let log = log(&mut connection).await;
    let firsts = log.iter().skip(1).filter(|event| event.part == 0);
    let firsts: Vec<_> =
        firsts.map(|event| (u64::try_from(event.position).expect("a place"), event.recorded_at)).collect();
    assert_eq!(told, firsts);
    assert_eq!(transactions(&mut connection).await, 2, "it was one group");
}

#[tokio::test]
async fn a_group_has_so_many_units_and_bytes_and_a_larger_unit_goes_alone() {
    for (options, appends) in [
        (CommitterOptions { group_units: 2, ..CommitterOptions::default() }, 3),
        (CommitterOptions { group_bytes: 1_500, ..CommitterOptions::default() }, 3),
        (CommitterOptions { group_bytes: 100, ..CommitterOptions::default() }, 5),
    ] {
        let (database, told) = (Database::new().await, format!("{options:?}"));
        let committer = Running::on(&database.url, options);
        let unit = |name| set_to(name, 0, &json!({ "value": "x".repeat(600) }).to_string());
        let mut log = HeldLog::take(&database).await;
        let mut first = pin!(committer.append(unit("first")));
        assert!(first.as_mut().now_or_never().is_none());
        log.until_waiting(1).await;
        let mut queued = pin!(join_all(["a", "b", "c", "d"].map(|name| committer.append(unit(name)))));
        assert!(queued.as_mut().now_or_never().is_none());
        log.release().await;
        assert_eq!(place(first.await), Ok(1));
        assert_eq!(queued.await.into_iter().map(place).collect::<Vec<_>>(), [2, 3, 4, 5].map(Ok));
        assert_eq!(transactions(&mut database.connect().await).await, appends, "{told}");
    }
}

#[tokio::test]
async fn an_unconditional_write_that_met_another_is_decided_again() {
    let database = Database::new().await;
    let services = [CommandService::start(&database).await, CommandService::start(&database).await];
    let mut log = HeldLog::take(&database).await;
    let mut writing = JoinSet::new();
    for (service, value) in services.iter().zip(["one", "two"]) {
        let client = service.client.clone();
        writing.spawn(async move { client.put("x", value).await });
    }
    log.until_waiting(2).await;
    log.release().await;
    let mut tags: Vec<_> = writing.join_all().await.iter().map(|answer| answer.header("etag").to_owned()).collect();
    tags.sort();
    assert_eq!(tags, [r#""1""#, r#""2""#]);
    assert_eq!(names(&mut database.connect().await).await, ["x", "x"]);
}

#[tokio::test]
async fn what_is_queued_when_it_is_told_to_stop_is_written_and_answered_first() {
    let database = Database::new().await;
    let options = CommitterOptions { group_units: 2, ..CommitterOptions::default() };
    let Running { handle, stop, mut task, .. } = Running::on(&database.url, options);
    let append = |name, seen| handle.append(set(name, seen), Instant::now() + PATIENCE);
    let mut log = HeldLog::take(&database).await;
    let mut first = pin!(append("first", 0));
    assert!(first.as_mut().now_or_never().is_none());
    log.until_waiting(1).await;
    // More than one group, and a name twice: what is held back counts as queued.
    let mut queued = pin!(join_all([append("a", 0), append("a", 1), append("b", 0), append("c", 0)]));
    assert!(queued.as_mut().now_or_never().is_none());
    stop.cancel();
    log.release().await;
    task.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(first.now_or_never().map(place), Some(Ok(1)), "answered before it ended");
    let queued = queued.now_or_never().expect("answered before it ended");
    assert_eq!(queued.into_iter().map(place).collect::<Vec<_>>(), [2, 3, 4, 5].map(Ok));
    assert_eq!(names(&mut database.connect().await).await, ["first", "a", "a", "b", "c"]);
}

/// How many wrote what is in the log.
async fn transactions(connection: &mut PgConnection) -> usize {
    let count = sqlx::query_scalar::<_, i64>("select count(distinct xmin::text) from events").fetch_one(connection);
    usize::try_from(count.await.expect("it answers")).expect("a count")
}
