//! A database per test.

use std::sync::atomic::{AtomicU32, Ordering};

use embedded_postgres::Cluster;
use shared::{database, schema};
use sqlx::{Connection, Executor, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::sync::OnceCell;

use crate::cluster;

static NEXT: AtomicU32 = AtomicU32::new(1);
static TEMPLATE: OnceCell<()> = OnceCell::const_new();

/// A database of its own for one test.
#[derive(Clone, Debug)]
pub struct Database {
    /// How to reach it, as its owner.
    pub url: String,
}

impl Database {
    /// A new one, migrated, in the run's cluster.
    pub async fn new() -> Self {
        let cluster = cluster::shared().await;
        TEMPLATE
            .get_or_init(|| async {
                let template = Self::create(cluster, "migrated", "template0").await;
                template.migrate().await;
            })
            .await;
        Self::create(cluster, &new_name(), "migrated").await
    }

    /// A new one without a schema, in the run's cluster.
    pub async fn empty() -> Self {
        Self::create(cluster::shared().await, &new_name(), "template0").await
    }

    /// A new one, migrated, in a cluster of the test's own.
    pub async fn in_cluster(cluster: &Cluster) -> Self {
        let database = Self::create(cluster, &new_name(), "template0").await;
        database.migrate().await;
        database
    }

    async fn create(cluster: &Cluster, name: &str, template: &str) -> Self {
        let mut admin = PgConnection::connect(&cluster.url("postgres")).await.expect("the cluster answers");
        let create = format!("create database {name} template {template}");
        admin.execute(create.as_str()).await.expect("a new database");
        Self { url: cluster.url(name) }
    }

    /// Brings the schema to this release's version.
    pub async fn migrate(&self) {
        let options = database::connect_options(&self.url, "tests").expect("a URL");
        schema::migrate_at(&options, false, database::STARTUP_WAIT).await.expect("the migrations apply");
    }

    /// A connection of the test's own.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("the database answers")
    }

    /// A small pool of the test's own.
    pub async fn pool(&self, connections: u32) -> PgPool {
        PgPoolOptions::new().max_connections(connections).connect(&self.url).await.expect("the database answers")
    }

    /// What a failover to an asynchronous standby does: the events from `position` on are gone, and others take their places:
    /// each of these names is set to its value, in JSON. Nobody sees it half done.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn rewrite_from(&self, position: i64, instead: &[(&str, &str)]) {
        let mut connection = self.connect().await;
        let mut transaction = connection.begin().await.expect("a transaction");
        let cut = format!(
            "alter table events disable trigger events_append_only;
             delete from events where position >= {position};
             alter table events enable trigger events_append_only"
        );
        transaction.execute(cut.as_str()).await.expect("the end of the log is cut off");
        for (name, value) in instead {
            let set = "
                insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
                select 'ConfigValue', $1, count(*) + 1, 'ConfigValueSet', '1.0', ('{\"value\":' || $2 || '}')::json, '{}'
                  from events where aggregate_id = $1";
            sqlx::query(set).bind(name).bind(value).execute(&mut *transaction).await.expect("another event");
        }
        transaction.commit().await.expect("it was kept");
    }

    /// An event of a newer release, as the first of `a`: a projection that meets it halts.
    pub async fn append_unknown_event(&self) {
        self.execute(
            "insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
             values ('ConfigValue', 'a', 1, 'ConfigValueRenamed', '9.0', '{}', '{}')",
        )
        .await;
    }

    /// Runs statements.
    pub async fn execute(&self, sql: &str) {
        self.connect().await.execute(sql).await.expect("the statements run");
    }
}

fn new_name() -> String {
    format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
