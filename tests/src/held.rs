//! The log's lock in the hands of a test, so that appends are under way for as long as it likes.

use sqlx::{Executor, PgConnection};

use crate::{Database, until};

/// Appends that are asked for meanwhile.
const WAITING: &str = "
select pid from pg_stat_activity
 where datname = current_database() and wait_event_type = 'Lock' and query like '%append_events%' order by query_start";

/// Lets no append through until it is released. An append waits for 5 s at most.
#[derive(Debug)]
pub struct HeldLog {
    holder: PgConnection,
    watcher: PgConnection,
}

impl HeldLog {
    /// From now on.
    pub async fn take(database: &Database) -> Self {
        let (mut holder, watcher) = (database.connect().await, database.connect().await);
        holder.execute("begin; select from event_log_lock for update").await.expect("the lock is free");
        Self { holder, watcher }
    }

    /// Waits until so many appends wait for it; their backends.
    pub async fn until_waiting(&mut self, appends: usize) -> Vec<i32> {
        let watcher = &mut self.watcher;
        until("the appends wait for the log's lock", async || {
            let pids: Vec<i32> = sqlx::query_scalar(WAITING).fetch_all(&mut *watcher).await.expect("it answers");
            (pids.len() == appends).then_some(pids)
        })
        .await
    }

    /// Ends a backend, as an administrator does.
    pub async fn terminate(&mut self, pid: i32) {
        self.signal("pg_terminate_backend", pid).await;
    }

    /// Cancels what a backend does, as an administrator does.
    pub async fn cancel(&mut self, pid: i32) {
        self.signal("pg_cancel_backend", pid).await;
    }

    async fn signal(&mut self, function: &str, pid: i32) {
        let sent = format!("select {function}($1)");
        let sent: bool = sqlx::query_scalar(&sent).bind(pid).fetch_one(&mut self.watcher).await.expect("it answers");
        assert!(sent, "{function} of backend {pid}");
    }

    /// Runs statements that write to the log, and lets the others through behind them.
    pub async fn write_and_release(mut self, sql: &str) {
        self.holder.execute(sql).await.expect("the statements run");
        self.holder.execute("commit").await.expect("it was kept");
    }

    /// Lets them through.
    pub async fn release(mut self) {
        self.holder.execute("rollback").await.expect("it was kept");
    }
}
