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

    /// Runs statements.
    pub async fn execute(&self, sql: &str) {
        self.connect().await.execute(sql).await.expect("the statements run");
    }
}

fn new_name() -> String {
    format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
