//! Stock `postgres-es` on our table: it writes by the order rule without knowing of it, and either side reads the other.

use command_service::domain::{Change, ConfigValue, ConfigValueCommand, Precondition, Refusal};
use cqrs_es::{AggregateError, CqrsFramework, EventStore, persist::PersistedEventStore};
use end_to_end::{CommandService, Database};
use postgres_es::PostgresEventRepository;
use serde_json::{json, value::RawValue};
use shared::{event::ConfigValueEvent, value::ConfigJson};
use sqlx::{Executor, PgPool};

use super::group::{Group, insert_stock, log, names, new_id, sqlstate};

type StockStore = PersistedEventStore<PostgresEventRepository, ConfigValue>;

#[tokio::test]
async fn stock_commands_get_places_moments_and_identities_of_their_own() {
    for store in [without_snapshots, with_snapshots] {
        let database = Database::new().await;
        let (mut connection, pool) = (database.connect().await, database.pool(2).await);
        let cqrs = CqrsFramework::new(store(pool.clone()), vec![], ());
        for (name, change) in [("a", set("1")), ("a", set("2")), ("b", set("1")), ("a", delete()), ("a", set("3"))] {
            cqrs.execute(name, change).await.unwrap();
        }
        cqrs.execute("b", set("1")).await.expect("it changes nothing");

        let log = log(&mut connection).await;
        let places: Vec<_> = log.iter().map(|event| (event.position, event.name.as_str(), event.sequence)).collect();
        assert_eq!(places, [(1, "a", 1), (2, "a", 2), (3, "b", 1), (4, "a", 3), (5, "a", 4)]);
        assert!(log.is_sorted_by(|before, after| before.recorded_at < after.recorded_at), "{log:?}");
        for event in &log {
            assert_eq!((event.part, event.command_id.get_version_num()), (0, 4), "{event:?}");
            assert_eq!(log.iter().filter(|other| other.command_id == event.command_id).count(), 1, "{event:?}");
        }
        assert_eq!([value(&store(pool.clone()), "a").await, value(&store(pool), "b").await], ["3", "1"]);
    }
}

#[tokio::test]
async fn a_stock_writer_that_lost_the_race_for_a_version_is_told() {
    let database = Database::new().await;
    let store = without_snapshots(database.pool(2).await);
    let loaded = store.load_aggregate("a").await.unwrap();
    Group::default().unit(new_id()).event("a", 0).append(&mut database.connect().await).await.unwrap();
    let late = store.commit(vec![was_set("2")], loaded, [].into()).await;
    assert!(matches!(late, Err(AggregateError::AggregateConflict)), "{late:?}");
}

#[tokio::test]
async fn a_stock_insert_that_does_nothing_leaves_no_hole() {
    let mut connection = Database::new().await.connect().await;
    insert_stock(&mut connection, "a", 1).await.unwrap();
    let again =
        "insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
                 select aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata from events
                     on conflict do nothing";
    assert_eq!(connection.execute(again).await.unwrap().rows_affected(), 0);
    insert_stock(&mut connection, "a", 2).await.unwrap();
    assert_eq!(log(&mut connection).await.iter().map(|event| event.position).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_negative_sequence_is_refused() {
    let mut connection = Database::new().await.connect().await;
    assert_eq!(sqlstate(insert_stock(&mut connection, "a", -1).await), "23514");
    insert_stock(&mut connection, "a", 0).await.unwrap();
}

#[tokio::test]
async fn either_side_understands_what_the_other_wrote() {
    let database = Database::new().await;
    let service = CommandService::start(&database).await;
    let put = async |value: &str| {
        let answer = service.client.put_with("a", &json!({ "value": value }).to_string(), &[AS_JSON]).await.json();
        (answer["changed"].clone(), answer["version"].clone(), answer["position"].clone())
    };
    let stock = without_snapshots(database.pool(2).await);
    let cqrs = CqrsFramework::new(without_snapshots(database.pool(2).await), vec![], ());

    cqrs.execute("a", set(r#""x""#)).await.unwrap();
    assert_eq!(put("x").await, (json!(false), json!(1), json!(1)));
    assert_eq!(put("y").await, (json!(true), json!(2), json!(2)));
    cqrs.execute("a", set(r#""y""#)).await.expect("it changes nothing");
    assert_eq!(service.client.delete("a").await.status, 200);
    let refused = cqrs.execute("a", delete()).await;
    assert!(matches!(refused, Err(AggregateError::UserError(Refusal::AlreadyDeleted))), "{refused:?}");
    cqrs.execute("a", set(r#""z""#)).await.unwrap();
    assert_eq!(put("z").await, (json!(false), json!(4), json!(4)));

    let events = stock.load_events("a").await.unwrap();
    let read: Vec<_> = events.iter().map(|event| (event.sequence, event.payload.clone())).collect();
    let [x, y, z] = ["x", "y", "z"].map(|text| was_set(&format!("\"{text}\"")));
    assert_eq!(read, [(1, x), (2, y), (3, ConfigValueEvent::ConfigValueDeleted), (4, z)]);
    assert_eq!(events[1].metadata["actor"], "anonymous");
}

#[tokio::test]
async fn a_stock_writer_keeps_snapshots_of_its_own_and_either_side_goes_on_from_the_other() {
    let database = Database::new().await;
    let service = CommandService::start(&database).await;
    let (mut connection, pool) = (database.connect().await, database.pool(2).await);
    let stock = CqrsFramework::new(with_snapshots(pool.clone()), vec![], ());
    let snapshots = "select (last_sequence, current_snapshot)::text from snapshots where aggregate_id = $1";
    let mut snapshot = async |name: &str| {
        sqlx::query_scalar::<_, String>(snapshots).bind(name).fetch_optional(&mut connection).await.unwrap()
    };

    for value in ["1", "2", "3"] {
        stock.execute("theirs", set(value)).await.unwrap();
    }
    assert_eq!(snapshot("theirs").await.as_deref(), Some("(2,1)"));
    assert_eq!(service.client.put("theirs", 3).await.header("etag"), "\"3\"", "unchanged");
    for value in 4..=7 {
        service.client.put("theirs", value).await;
    }
    assert_eq!(value(&with_snapshots(pool.clone()), "theirs").await, "7", "from its snapshot, and ours behind it");
    for value in ["8", "9"] {
        stock.execute("theirs", set(value)).await.unwrap();
    }
    assert_eq!(service.client.put("theirs", 9).await.header("etag"), "\"9\"", "unchanged");
}

#[tokio::test]
async fn stock_inserts_and_our_appends_take_turns_in_one_transaction_without_a_hole() {
    let mut connection = Database::new().await.connect().await;
    connection.execute("begin").await.unwrap();
    insert_stock(&mut connection, "a", 1).await.unwrap();
    insert_stock(&mut connection, "b", 1).await.unwrap();
    let group = Group::default().unit(new_id()).event("a", 1).unit(new_id()).event("c", 0);
    assert_eq!(group.append(&mut connection).await.unwrap()[1].place(), ("appended", Some(4), Some(4)));
    insert_stock(&mut connection, "d", 1).await.unwrap();
    connection.execute("commit").await.unwrap();
    let positions: Vec<_> = log(&mut connection).await.iter().map(|event| event.position).collect();
    assert_eq!(positions, [1, 2, 3, 4, 5]);
    assert_eq!(names(&mut connection).await, ["a", "b", "a", "c", "d"]);
}

const AS_JSON: (&str, &str) = ("accept", "application/json");

fn without_snapshots(pool: PgPool) -> StockStore {
    PersistedEventStore::new_event_store(PostgresEventRepository::new(pool))
}

fn with_snapshots(pool: PgPool) -> StockStore {
    PersistedEventStore::new_snapshot_store(PostgresEventRepository::new(pool), 2)
}

fn set(value: &str) -> ConfigValueCommand {
    ConfigValueCommand { change: Change::Set(json_value(value)), precondition: Precondition::None }
}

fn delete() -> ConfigValueCommand {
    ConfigValueCommand { change: Change::Delete, precondition: Precondition::None }
}

fn was_set(value: &str) -> ConfigValueEvent {
    ConfigValueEvent::ConfigValueSet { value: json_value(value) }
}

fn json_value(json: &str) -> ConfigJson {
    ConfigJson::accept(RawValue::from_string(json.to_owned()).expect("JSON"), 1000).expect("a value")
}

/// The value that a store loads.
async fn value(store: &StockStore, name: &str) -> String {
    let loaded = store.load_aggregate(name).await.expect("it loads").aggregate;
    loaded.value().expect("it has a value").json().to_owned()
}
