//! `GET /v1/diff`: what is another than it was is what two folds say; and both ways of finding it agree.

use end_to_end::{Client, CommandService, Database, QueryService};
use serde_json::json;
use sqlx::PgConnection;

use super::{
    history::{Dice, History},
    joined, pages,
};

#[tokio::test]
async fn a_difference_is_that_of_the_folds_at_its_ends() {
    for seed in 1..=4 {
        let (database, history) = (Database::new().await, History::random(seed, 120));
        history.write(&database).await;
        let query = QueryService::start(&database).await;
        let mut dice = Dice::new(seed + 2000);
        let end = usize::try_from(history.end()).unwrap();
        let random = (0..10).map(|_| {
            let ends = [dice.throw(end + 1), dice.throw(end + 1)].map(|end| i64::try_from(end).unwrap());
            (ends[0].min(ends[1]), ends[0].max(ends[1]))
        });
        for (from, to) in [(0, history.end()), (5, 5)].into_iter().chain(random.collect::<Vec<_>>()) {
            check(&query.client, &history, from, to).await;
        }
    }
}

async fn check(client: &Client, history: &History, from: i64, to: i64) {
    let (from_token, to_token) = (history.token(from), history.token(to));
    for prefix in ["", "a", "a/b"] {
        let expected = history.difference(from, to, prefix);
        let path = format!("/v1/diff?from={from_token}&to={to_token}&prefix={}", Client::encode(prefix));
        for limit in [1, 3, 1000] {
            let pages = pages(client, &format!("{path}&limit={limit}")).await;
            assert_eq!(joined(&pages, Some("changes")), expected, "{path}, pages of {limit}");
            assert_eq!(pages.len(), expected.len().div_ceil(limit).max(1), "{path}");
        }
    }
    let told = client.get(&format!("/v1/diff?from={from}&to={to}")).await.json();
    let side = |position: i64| {
        let recorded_at = (position > 0).then(|| history.event(position).moment());
        json!({"position": position, "recorded_at": recorded_at})
    };
    assert_eq!((&told["from"], &told["to"]), (&side(from), &side(to)));
}

/// Names are found among the events of a short range, and by a scan over all names for a long one: here each is made to.
#[tokio::test]
async fn both_ways_of_finding_what_changed_agree_however_the_pieces_are_cut() {
    for seed in 11..=14 {
        let (database, history) = (Database::new().await, History::random(seed, 100));
        history.write(&database).await;
        let mut log = database.connect().await;
        for (from, to) in [(0, history.end()), (0, 40), (30, 31), (20, 90), (99, 100)] {
            let was = history.last_changes(from);
            let changed = history.last_changes(to).into_values().filter(|event| event.position > from);
            let expected: Vec<_> = changed
                .map(|event| (event.name.clone(), event.version, was.get(&*event.name).map(|was| was.version)))
                .collect();
            for (walk, names, changes, bytes) in
                [true, false].into_iter().flat_map(|walk| [(walk, 1, 9, 999), (walk, 3, 2, 999), (walk, 99, 99, 1)])
            {
                let found = pieces(&mut log, (from, to), walk, (names, changes, bytes)).await;
                assert_eq!(found, expected, "{from} to {to}, walking: {walk}, {names} {changes} {bytes}");
            }
        }
    }
}

type Found = (String, i64, Option<i64>);

async fn pieces(log: &mut PgConnection, ends: (i64, i64), walk: bool, bounds: (i32, i32, i64)) -> Vec<Found> {
    let (mut found, mut after) = (vec![], None::<String>);
    loop {
        let piece = sqlx::query_as::<_, (String, Option<i64>, Option<i64>)>(
            "select name, is_sequence, was_sequence
               from changes_between('ConfigValue', $1, $2, '', $3, $4, false, $5, $6, $7)",
        );
        let piece =
            piece.bind(ends.0).bind(ends.1).bind(&after).bind(walk).bind(bounds.0).bind(bounds.1).bind(bounds.2);
        let rows = piece.fetch_all(&mut *log).await.expect("a piece");
        assert!(rows.len() <= usize::try_from(bounds.0.min(bounds.1) + 1).expect("few"), "{rows:?}");
        after = None;
        for (name, is, was) in rows {
            match is {
                Some(is) => found.push((name, is, was)),
                None => after = Some(name),
            }
        }
        if after.is_none() {
            return found;
        }
    }
}

#[tokio::test]
async fn a_difference_up_to_now_tells_who_changed_what_and_why() {
    let database = Database::new().await;
    let (command, query) = (CommandService::start(&database).await, QueryService::start(&database).await);
    command.client.put("kept", 1).await;
    command.client.put("changed", "old").await;
    let before = command.client.put("deleted", true).await.header("config-position").to_owned();
    command.client.put_with("changed", r#"{"value":"between"}"#, &[]).await;
    command.client.put_with("changed", r#"{"value":"new","reason":"ticket 7"}"#, &[]).await;
    command.client.delete("deleted").await;
    command.client.put("passing", 1).await;
    command.client.delete("passing").await;
    let last = command.client.put_with("added", r#"{"value":{"n":1.10}}"#, &[]).await;

    let min_position = last.header("config-position");
    let told = query.client.get(&format!("/v1/diff?from={before}&min_position={min_position}")).await;
    assert_eq!((told.status.as_u16(), told.header("cache-control")), (200, "no-store"), "now is not over");
    assert_eq!(told.header("config-position"), min_position);
    assert!(told.body.contains(r#"{"n":1.10}"#), "values keep their bytes: {}", told.body);
    assert_eq!(
        told.json()["changes"],
        json!([
            {"name": "added", "from": null, "to": {"version": 1, "value": {"n": 1.10}}, "actor": "anonymous", "reason": null},
            {"name": "changed", "from": {"version": 1, "value": "old"}, "to": {"version": 3, "value": "new"},
             "actor": "anonymous", "reason": "ticket 7"},
            {"name": "deleted", "from": {"version": 1, "value": true}, "to": null, "actor": "anonymous", "reason": null},
        ])
    );
}
