//! nginx as the deployments run it, with the very file, in front of services of a test.

use std::{
    fs::{self, File, Permissions},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use tempfile::TempDir;
use tokio::{net::TcpStream, process::Child};

use crate::{Client, until};

/// The file, from the root of the repository.
pub const TEMPLATE: &str = "deploy/gateway/nginx.conf.template";

/// Where nginx is where it is not in the path of ordinary users.
const PROGRAMS: [&str; 4] =
    ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/local/bin/nginx", "/opt/homebrew/bin/nginx"];

/// A gateway that serves until it is dropped.
#[derive(Debug)]
pub struct Gateway {
    /// To it.
    pub client: Client,
    _nginx: Child,
    directory: TempDir,
}

impl Gateway {
    /// In front of these services.
    pub async fn start(command: &Client, queries: &[&Client]) -> Self {
        Self::start_with(command, queries, |file| file).await
    }

    /// The same, with a file that a test has changed.
    ///
    /// # Panics
    /// When nginx is not installed, or refuses the file.
    pub async fn start_with(command: &Client, queries: &[&Client], change: impl FnOnce(String) -> String) -> Self {
        let directory = tempfile::Builder::new().prefix("config-api-tests-").tempdir().expect("a temporary directory");
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("it is ours");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
        let server = |client: &Client| client.base().replace("http://", "server ");
        let queries: Vec<_> = queries.iter().map(|query| format!("{} max_fails=0;", server(query))).collect();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the root");
        let mut file = fs::read_to_string(root.join(TEMPLATE)).expect("the gateway's file");
        for (name, value) in [
            ("GATEWAY_LISTEN", free.to_string()),
            ("GATEWAY_DIRECTORY", directory.path().display().to_string()),
            ("GATEWAY_COMMAND_SERVERS", format!("{} max_fails=0;", server(command))),
            ("GATEWAY_QUERY_SERVERS", queries.join(" ")),
            ("GATEWAY_MAX_BODY", "1114112".to_owned()),
        ] {
            let place = format!("${{{name}}}");
            assert!(file.contains(&place), "{TEMPLATE} has no {place}");
            file = file.replace(&place, &value);
        }
        let path = directory.path().join("nginx.conf");
        fs::write(&path, change(file)).expect("the directory is ours");
        let log = |name| File::create(directory.path().join(name)).expect("the directory is ours");
        let mut nginx = tokio::process::Command::new(program());
        // One process, which ends with the test whatever becomes of that.
        nginx.arg("-c").arg(&path).args(["-g", "daemon off; master_process off;"]);
        nginx.stdin(Stdio::null()).stdout(log("access")).stderr(log("errors")).kill_on_drop(true);
        let mut nginx = nginx.spawn().expect("nginx starts");
        until("the gateway listens", async || {
            let errors = || fs::read_to_string(directory.path().join("errors")).unwrap_or_default();
            if let Some(ended) = nginx.try_wait().expect("it is a child") {
                panic!("nginx ended, {ended}: {}", errors());
            }
            TcpStream::connect(free).await.ok()
        })
        .await;
        Self { client: Client::new(&format!("http://{free}")), _nginx: nginx, directory }
    }

    /// The lines of its log so far.
    ///
    /// # Panics
    /// When they are not there.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.directory.path().join("access")).expect("its log");
        log.lines().map(str::to_owned).collect()
    }
}

fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join("nginx"));
    let mut places = in_path.chain(PROGRAMS.map(PathBuf::from));
    places.find(|place| place.is_file()).expect("nginx is not installed; Debian: apt-get install nginx-light")
}
