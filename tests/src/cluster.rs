//! The private Postgres of this test run. It dies with the run, and its directory with it.

use std::path::PathBuf;

use embedded_postgres::{Cluster, Options};
use tokio::sync::OnceCell;

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

/// The run's cluster; started by the first test that asks. Its autovacuum is off: what is fast only with statistics is
/// not fast at the worst moment.
pub async fn shared() -> &'static Cluster {
    CLUSTER
        .get_or_init(|| async {
            let cluster = start([("autovacuum", "off")]).await;
            remove_at_exit();
            cluster
        })
        .await
}

/// A cluster for one test, which may stop and break it.
pub async fn own() -> OwnCluster {
    OwnCluster(start([]).await)
}

/// Removed with its directory when it is dropped.
#[derive(Debug)]
pub struct OwnCluster(Cluster);

impl std::ops::Deref for OwnCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.0
    }
}

impl Drop for OwnCluster {
    fn drop(&mut self) {
        let _best_effort = self.0.remove_blocking();
    }
}

async fn start<const N: usize>(parameters: [(&str, &str); N]) -> Cluster {
    let mut options = Options::throw_away(new_directory());
    options.parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Cluster::start(options).await.expect("a Postgres for the tests")
}

/// Reachable by the unprivileged user that Postgres runs as.
fn new_directory() -> PathBuf {
    tempfile::Builder::new().prefix("config-api-tests-").tempdir().expect("a temporary directory").keep()
}

/// The test harness ends the process by `exit`, which drops no static; Postgres itself dies with its parent, but its
/// directory would stay.
fn remove_at_exit() {
    extern "C" fn remove() {
        if let Some(cluster) = CLUSTER.get() {
            let _best_effort = cluster.remove_blocking();
        }
    }
    #[expect(unsafe_code, reason = "the standard library has no hook at exit")]
    // SAFETY: the function is safe to call, touches only a static, and does not unwind: `remove_blocking` returns errors.
    unsafe {
        libc::atexit(remove);
    }
}
