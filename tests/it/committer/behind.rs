//! A group that is sent behind one that is under way: what becomes of it when that one fails, and of both when their connection does.

use end_to_end::{Database, HeldLog, Proxy, until};
use tokio::{join, time::Instant};

use super::{CommitterOptions, Running, outages::until_waiting_elsewhere, place, set};
use crate::append::group::names;

/// One that has appended before: until then it knows nothing that what it sends behind could stand on.
async fn running(url: &str) -> Running {
    let committer = Running::on(url, CommitterOptions::default());
    assert_eq!(place(committer.append(set("before", 0)).await), Ok(1));
    committer
}

/// So many units have been taken from the queue.
async fn until_taken(committer: &Running, units: f64) {
    until("the units are sent", async || {
        (committer.page().value("config_append_queue_wait_seconds_count", &[]) == units).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_sent_behind_a_unit_is_appended_whether_that_is_or_not() {
    let database = Database::new().await;
    database.execute("alter table events add constraint poison check (aggregate_id <> 'poison')").await;
    let committer = running(&database.url).await;
    let mut appended = 1;
    for (unit, expected, behind) in
        [(set("a", 0), Ok(2), "b"), (set("poison", 0), Err("refused"), "c"), (set("a", 7), Err("conflict"), "d")]
    {
        let mut log = HeldLog::take(&database).await;
        let taken = committer.page().value("config_append_queue_wait_seconds_count", &[]);
        let in_front = committer.append(unit);
        let both = async {
            log.until_waiting(1).await;
            let next = committer.append(set(behind, 0));
            let sent = async {
                until_taken(&committer, taken + 2.0).await;
                log.release().await;
            };
            join!(next, sent).0
        };
        let (first, next) = join!(in_front, both);
        assert_eq!(place(first), expected);
        appended += 1 + u64::from(expected.is_ok());
        assert_eq!(place(next), Ok(appended), "behind {expected:?}");
    }
    assert_eq!(names(&mut database.connect().await).await, ["before", "a", "b", "c", "d"]);
}

#[tokio::test]
async fn both_are_repeated_when_their_session_is_ended_and_are_in_the_log_once() {
    let database = Database::new().await;
    let committer = running(&database.url).await;
    let mut log = HeldLog::take(&database).await;
    let cut = async {
        let lost = log.until_waiting(1).await[0];
        let behind = committer.append(set("b", 0));
        let ended = async {
            until_taken(&committer, 3.0).await;
            log.terminate(lost).await;
            until_waiting_elsewhere(&mut log, lost).await;
            log.release().await;
        };
        join!(behind, ended).0
    };
    let (first, behind) = join!(committer.append(set("a", 0)), cut);
    assert_eq!((place(first), place(behind)), (Ok(2), Ok(3)));
    assert_eq!(names(&mut database.connect().await).await, ["before", "a", "b"]);
}

/// It has waited too long, and was never sent: that is certain.
#[tokio::test]
async fn a_unit_whose_time_is_up_while_it_waits_is_unavailable_and_not_written() {
    let database = Database::new().await;
    let committer = running(&database.url).await;
    let late = committer.handle.append(set("late", 0), Instant::now());
    let (late, in_time) = join!(late, committer.append(set("a", 0)));
    assert_eq!((place(late), place(in_time)), (Err("unavailable"), Ok(2)));
    assert_eq!(names(&mut database.connect().await).await, ["before", "a"]);
}

/// Its session has not heard of the cut, and goes on when it gets the lock; whether with both is open.
#[tokio::test]
async fn what_was_sent_behind_is_as_unknown_as_what_is_in_front_and_what_still_waits_is_not() {
    let database = Database::new().await;
    let mut watcher = database.connect().await;
    let network = Proxy::to(&database).await;
    let committer = running(&network.database.url).await;
    let mut log = HeldLog::take(&database).await;
    let unit = set("b", 0);
    let cut = async {
        log.until_waiting(1).await;
        let behind = committer.append_until_soon(unit.clone());
        let more = async {
            until_taken(&committer, 3.0).await;
            let waits = committer.append_until_soon(set("c", 0));
            join!(waits, network.down()).0
        };
        join!(behind, more)
    };
    let (first, (behind, waits)) = join!(committer.append_until_soon(set("a", 0)), cut);
    assert_eq!([first, behind, waits].map(place), [Err("unknown"), Err("unknown"), Err("unavailable")]);
    log.release().await;
    until("the first is in the log", async || {
        names(&mut watcher).await.starts_with(&["before".to_owned(), "a".to_owned()]).then_some(())
    })
    .await;
    network.up();
    assert_eq!(place(committer.append(unit).await), Ok(3), "written now, or then");
    assert_eq!(place(committer.append(set("c", 0)).await), Ok(4));
    assert_eq!(names(&mut watcher).await, ["before", "a", "b", "c"]);
}
