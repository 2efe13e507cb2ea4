//! A real Prometheus that scrapes what a test starts.

use std::{fs, net::SocketAddr, path::Path, process::Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinSet,
};

use crate::wait::PATIENCE;

/// One that runs on a free port, until it is dropped.
#[derive(Debug)]
pub struct Prometheus {
    http: reqwest::Client,
    base: String,
    _child: Child,
    /// Reads its log on, so that it never waits for a reader.
    _reading: JoinSet<()>,
    _directory: TempDir,
}

impl Prometheus {
    /// One with these rules, which scrapes the targets of each job twice a second and evaluates the rules every second.
    ///
    /// # Panics
    /// When it is not installed, does not take the rules, or does not listen in time.
    pub async fn start(rules: &Path, jobs: &[(&str, &[&str])]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut config = format!(
            "global: {{scrape_interval: 500ms, evaluation_interval: 1s}}\nrule_files: [{}]\nscrape_configs:\n",
            rules.display()
        );
        for (job, bases) in jobs {
            let targets: Vec<_> = bases.iter().filter_map(|base| base.strip_prefix("http://")).collect();
            config.push_str(&format!("- {{job_name: {job}, static_configs: [{{targets: {targets:?}}}]}}\n"));
        }
        let file = directory.path().join("prometheus.yml");
        fs::write(&file, config).expect("it can be written");
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()));
        command.args(["--web.listen-address=127.0.0.1:0", "--log.level=info"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("prometheus is installed; ./dev test offers to install it");
        let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
        let listening = async {
            let mut said = vec![];
            while let Some(line) = log.next_line().await.expect("its log is UTF-8") {
                // Before it binds it says which address it was told; port 0 is none.
                let address = line.split_once("address=").and_then(|(_, rest)| rest.split(' ').next());
                if let Some(address) = address.and_then(|address| address.parse::<SocketAddr>().ok())
                    && address.port() != 0
                {
                    return address;
                }
                said.push(line);
            }
            panic!("prometheus ended: {said:#?}")
        };
        let address = tokio::time::timeout(PATIENCE, listening).await.expect("it listens in time");
        let mut reading = JoinSet::new();
        reading.spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        let base = format!("http://{address}");
        Self { http: reqwest::Client::new(), base, _child: child, _reading: reading, _directory: directory }
    }

    /// What a query gives now: its series, each as `{metric, value: [time, text]}`.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn query(&self, query: &str) -> Vec<Value> {
        let data = self.get("/api/v1/query", &[("query", query)]).await;
        data["result"].as_array().unwrap_or_else(|| panic!("{query}: no series in {data}")).clone()
    }

    /// Every rule that is loaded, as its API tells of it.
    pub async fn rules(&self) -> Vec<Value> {
        let data = self.get("/api/v1/rules", &[]).await;
        let groups = data["groups"].as_array().expect("groups of rules");
        groups.iter().flat_map(|group| group["rules"].as_array().expect("rules")).cloned().collect()
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let answer = self.http.get(format!("{}{path}", self.base)).query(query).send().await;
        // It listens a little before it serves.
        let answer: Value = match answer.expect("prometheus answers").text().await.expect("a body") {
            body if body.starts_with('{') => serde_json::from_str(&body).expect("JSON"),
            _ => return serde_json::json!({"result": [], "groups": []}),
        };
        assert_eq!(answer["status"], "success", "{query:?}: {answer}");
        answer["data"].clone()
    }
}
