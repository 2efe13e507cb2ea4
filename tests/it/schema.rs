//! The schema: migrated by anybody at any time, checked at start, append-only, and with grants that say who may do what.

use std::{fs, path::Path};

use end_to_end::{CommandService, Database, QueryService, cluster, wait::PATIENCE};
use shared::{
    database::Access,
    schema::{self, SchemaError, version},
    telemetry::Chain,
};
use sqlx::{Executor, PgConnection};
use tokio::task::JoinSet;

use crate::append::group::{Group, insert_stock, log, names, new_id, sqlstate};

#[tokio::test]
async fn migrating_again_changes_nothing() {
    let database = Database::empty().await;
    database.migrate().await;
    let mut connection = database.connect().await;
    insert_stock(&mut connection, "a", 1).await.unwrap();
    let migrations = "select string_agg(m::text, '|' order by version) from _sqlx_migrations m";
    let before: String = sqlx::query_scalar(migrations).fetch_one(&mut connection).await.unwrap();

    database.migrate().await;
    let after: String = sqlx::query_scalar(migrations).fetch_one(&mut connection).await.unwrap();
    assert_eq!(after, before);
    assert_eq!(names(&mut connection).await, ["a"]);
    schema::check(&mut connection, Access::Append).await.unwrap();
}

#[tokio::test]
async fn several_processes_may_migrate_one_database_at_once() {
    let database = Database::empty().await;
    // With the roles there, so that the grants race as well.
    schema::create_roles(&mut database.connect().await).await.unwrap();
    for round in ["empty", "migrated", "migrated", "migrated"] {
        let at_once = migrate_at_once(std::iter::repeat_n(&database, 8), false).await;
        assert!(at_once.iter().all(Result::is_ok), "{round}: {at_once:?}");
    }
    schema::check(&mut database.connect().await, Access::Append).await.unwrap();
}

#[tokio::test]
async fn several_databases_of_one_cluster_may_be_migrated_at_once_with_their_roles() {
    let cluster = cluster::own().await;
    let databases = [
        Database::in_cluster(&cluster).await,
        Database::in_cluster(&cluster).await,
        Database::in_cluster(&cluster).await,
        Database::in_cluster(&cluster).await,
    ];
    for round in 0..10 {
        let at_once = migrate_at_once(databases.iter().cycle().take(8), true).await;
        assert!(at_once.iter().all(Result::is_ok), "round {round}: {at_once:?}");
        for database in &databases {
            database.execute("drop owned by config_api_writer, config_api_reader").await;
        }
        databases[0].execute("drop role config_api_writer, config_api_reader").await;
    }
}

#[tokio::test]
async fn a_schema_that_is_not_this_releases_is_told_apart() {
    let ours = version();
    let check = async |change: &str| {
        let database = Database::new().await;
        database.execute(change).await;
        schema::check(&mut database.connect().await, Access::Append).await
    };
    assert!(check("select").await.is_ok());

    let empty = schema::check(&mut Database::empty().await.connect().await, Access::Append).await;
    assert!(matches!(empty, Err(SchemaError::Older { found: 0, ours: told }) if told == ours), "{empty:?}");
    let older = check(OLDER).await;
    assert!(
        matches!(older, Err(SchemaError::Older { found, ours: told }) if found == ours - 1 && told == ours),
        "{older:?}"
    );
    let newer = check(NEWER).await;
    assert!(matches!(newer, Err(SchemaError::Newer { found: 99, ours: told }) if told == ours), "{newer:?}");
    let different = check("update _sqlx_migrations set checksum = '\\x00' where version = 2").await;
    assert!(matches!(different, Err(SchemaError::Different { version: 2 })), "{different:?}");
    let dirty = check("update _sqlx_migrations set success = false where version = 3").await;
    assert!(matches!(dirty, Err(SchemaError::Dirty { version: 3 })), "{dirty:?}");
}

#[tokio::test]
async fn both_services_refuse_another_schema_and_name_both_versions() {
    for (change, found) in [(OLDER, version() - 1), (NEWER, 99)] {
        let database = Database::new().await;
        database.execute(change).await;
        let built = command_service::App::build(CommandService::config(&database.url)).await;
        let command = Chain(&built.expect_err("the command service refuses")).to_string();

        let mut running = QueryService::start_with(QueryService::config(&database.url)).await;
        let ended = tokio::time::timeout(PATIENCE, running.ended()).await.expect("the query service ends");
        let query = Chain(&ended.expect_err("it refuses")).to_string();

        let both = [format!("is at version {found},"), format!("than this release's {};", version())];
        for refusal in [command, query] {
            assert!(both.iter().all(|version| refusal.contains(version)), "{refusal}");
        }
    }
}

#[tokio::test]
async fn nobody_changes_or_removes_an_event_not_even_the_owner() {
    let mut owner = Database::new().await.connect().await;
    insert_stock(&mut owner, "a", 1).await.unwrap();
    let before = log(&mut owner).await;
    for rewrite in [
        "update events set payload = '{}'",
        "update events set payload = '{}' where false",
        "delete from events",
        "truncate events",
        "truncate events cascade",
        "insert into events select * from events on conflict on constraint events_pkey do update set payload = '{}'",
        "update event_log_lock set only_row = true",
        "delete from event_log_lock",
        "truncate event_log_lock",
        "insert into event_log_lock values (true) on conflict do nothing",
    ] {
        assert_eq!(sqlstate(owner.execute(rewrite).await), "23001", "{rewrite}");
    }
    assert_eq!(log(&mut owner).await, before);
}

/// What was written before commands were known by their first events, and with the key in another order.
#[tokio::test]
async fn a_log_that_was_filled_by_an_older_release_is_gone_on_with() {
    let database = Database::empty().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.file_name().is_some_and(|name| name.to_str().unwrap().starts_with("00")));
    files.sort();
    let (older, newer) = files.split_at(10);
    for file in older {
        database.execute(&fs::read_to_string(file).unwrap()).await;
    }
    let command_id = new_id();
    let batch = format!(
        "insert into events select 'ConfigValue', name, 1, 'ConfigValueSet', '1.0', '{{\"value\":1}}', '{{}}', part + 1,
                now(), '{command_id}', part from unnest(array['a', 'b', 'c']) with ordinality as e (name, n), lateral (select n - 1 as part) p"
    );
    database.execute(&batch).await;
    for file in newer {
        database.execute(&fs::read_to_string(file).unwrap()).await;
    }
    let mut connection = database.connect().await;
    let again = Group::default().unit(command_id).event("a", 0).event("b", 0).event("c", 0);
    assert_eq!(again.append(&mut connection).await.unwrap()[0].place(), ("repeated", Some(1), Some(3)));
    let group = Group::default().unit(new_id()).event("b", 1).unit(new_id()).event("c", 0);
    let outcomes = group.append(&mut connection).await.unwrap();
    assert_eq!(outcomes[0].place(), ("appended", Some(4), Some(4)));
    assert_eq!((outcomes[1].outcome.as_str(), outcomes[1].conflict_sequence), ("conflict", Some(1)));
}

#[tokio::test]
async fn a_writer_may_append_and_never_rewrite() {
    let database = Database::new().await;
    let database = login(&database, "a_writer", "config_api_writer").await;
    let mut writer = database.connect().await;
    schema::check(&mut writer, Access::Append).await.unwrap();
    let group = Group::default().unit(new_id()).event("a", 0).key(1, 1, "1");
    assert_eq!(group.append(&mut writer).await.unwrap()[0].place(), ("appended", Some(1), Some(1)));
    insert_stock(&mut writer, "b", 1).await.unwrap();
    CommandService::start(&database).await.client.put("c", 1).await;
    assert_eq!(names(&mut writer).await, ["a", "b", "c"]);

    for rewrite in ["update events set payload = '{}'", "delete from events", "truncate events"] {
        assert_eq!(sqlstate(writer.execute(rewrite).await), "42501", "{rewrite}");
    }
    for around_the_order in [
        "insert into events select * from events",
        "insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata, position)
         values ('ConfigValue', 'd', 1, 'ConfigValueDeleted', '1.0', '{}', '{}', 1000)",
        "update event_log_lock set only_row = true",
        "delete from event_log_lock",
        "truncate event_log_lock",
        "select take_event_log_lock()",
        "delete from _sqlx_migrations",
    ] {
        assert_eq!(sqlstate(writer.execute(around_the_order).await), "42501", "{around_the_order}");
    }
    assert!(!may_cancel_others(&mut writer).await, "a cancelled wait for a standby is reported as success");
}

#[tokio::test]
async fn a_reader_may_read_the_log_and_do_nothing_else() {
    let database = Database::new().await;
    insert_stock(&mut database.connect().await, "a", 1).await.unwrap();
    let database = login(&database, "a_reader", "config_api_reader").await;
    let mut reader = database.connect().await;
    schema::check(&mut reader, Access::Read).await.unwrap();
    let refused = schema::check(&mut reader, Access::Append).await.unwrap_err().to_string();
    assert!(
        refused.contains("may not append to the event log") && refused.contains("grant config_api_writer"),
        "{refused}"
    );
    assert_eq!(names(&mut reader).await, ["a"]);
    assert_eq!(QueryService::start(&database).await.client.value("a").await.short(), (200, "1"));

    assert_eq!(sqlstate(insert_stock(&mut reader, "b", 1).await), "42501");
    let group = Group::default().unit(new_id()).event("b", 0);
    assert_eq!(sqlstate(group.append(&mut reader).await), "42501");
    for refused in [
        // With places of their own, so that nothing but the privilege is in the way.
        "insert into events select * from events",
        "update events set payload = '{}'",
        "delete from events",
        "truncate events",
        "select from event_log_lock for update",
        "select lock_event_log()",
        "select take_event_log_lock()",
        "select from idempotency_keys",
    ] {
        assert_eq!(sqlstate(reader.execute(refused).await), "42501", "{refused}");
    }
    assert!(!may_cancel_others(&mut reader).await);
}

const OLDER: &str = "delete from _sqlx_migrations where version = (select max(version) from _sqlx_migrations)";

const NEWER: &str = "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
                     values (99, 'of a newer release', true, '\\x00', 0)";

/// Each on a connection of its own, as several processes would. They are there before the first begins: connecting takes
/// longer than migrating, and would keep them apart.
async fn migrate_at_once<'a>(
    databases: impl Iterator<Item = &'a Database>,
    roles: bool,
) -> Vec<Result<(), SchemaError>> {
    let mut connections = Vec::new();
    for database in databases {
        connections.push(database.connect().await);
    }
    let mut migrations = JoinSet::new();
    for mut connection in connections {
        migrations.spawn(async move {
            if roles {
                schema::create_roles(&mut connection).await?;
            }
            schema::migrate(&mut connection).await
        });
    }
    migrations.join_all().await
}

/// The database as a login role sees it that has the group role and nothing else. Roles are the whole cluster's.
async fn login(database: &Database, name: &str, group: &str) -> Database {
    schema::create_roles(&mut database.connect().await).await.expect("the group roles");
    database.migrate().await;
    database.execute(&format!("create role {name} login password 'secret' in role {group}")).await;
    let (_, place) = database.url.split_once('@').expect("user:password@host");
    Database { url: format!("postgres://{name}:secret@{place}") }
}

async fn may_cancel_others(connection: &mut PgConnection) -> bool {
    let member = "select pg_has_role(current_user, 'pg_signal_backend', 'member')";
    sqlx::query_scalar(member).fetch_one(connection).await.expect("roles can be asked for")
}
