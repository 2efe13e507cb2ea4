//! What the documents say is tried: their shell blocks are run, their log lines and links are looked up.
//!
//! CONTRIBUTING.md says how a block states what it prints.

mod markdown;
mod shell;

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
};

use end_to_end::{Database, process::Process};
use markdown::{Block, blocks, links, log_lines, slugs};
use shell::{Shell, chunks};

const RUNBOOK: &str = "docs/RUNBOOK.md";
const DEPLOY: &str = "docs/DEPLOY.md";

/// Blocks that no test runs: the document, how the block begins, and why.
const NOT_RUN: [(&str, &str, &str); 19] = [
    ("README.md", "./dev up", "would serve until somebody stops it; tests/dev/run tests it"),
    ("README.md", "createdb config_api", "is about the reader's own Postgres"),
    ("README.md", "cargo build --release", "takes minutes, and is about the reader's own Postgres"),
    ("CONTRIBUTING.md", "./dev up", "would serve until somebody stops it; the others are what runs this test"),
    ("bench/README.md", "./dev bench", "takes ten minutes"),
    ("docs/PERFORMANCE.md", "apt-get install etcd-server", "takes ten minutes"),
    (RUNBOOK, "sudo systemctl restart", "is about the reader's own units"),
    (RUNBOOK, "./dev check https://", "is about the reader's own hosts"),
    (DEPLOY, "deploy/secrets/make", "needs a container engine"),
    (DEPLOY, "docker-compose ps", "needs a container engine"),
    (DEPLOY, "echo OTEL_EXPORTER", "needs a container engine"),
    (DEPLOY, "docker build", "needs a container engine"),
    (DEPLOY, "curl -c jar", "needs a gateway; tests/it/gateway.rs tries what it says"),
    (DEPLOY, "kubectl create namespace", "needs a cluster"),
    (DEPLOY, "cargo build --release --locked\nsudo deploy/systemd/install", "takes minutes, and installs"),
    (DEPLOY, "cargo build --release --locked\ndeploy/debian/build", "takes minutes, and installs"),
    (DEPLOY, "sudo systemctl start", "is about the reader's own units"),
    (DEPLOY, "sudo sh", "is about the reader's own machine"),
    (DEPLOY, "./dev stack up", "takes ports that others may have"),
];

/// Blocks of the runbook that are about a Postgres of config-api's own, and are not run with a given one.
const OWN_POSTGRES: [&str; 3] = [
    "grep -o 'Postgres has stopped'",
    "grep -c 'Creating a private Postgres cluster'",
    r#"ps -o rss= -p "$(sed -n 1p "$DATA_DIR/postgres/postmaster.pid")""#,
];

/// Documents whose blocks a test below runs.
const RUN: [&str; 3] = ["README.md", "docs/API.md", RUNBOOK];

#[tokio::test]
async fn the_readmes_tour_works() {
    let database = Database::new().await;
    let service = Process::start("config-api", &["--database-url", &database.url]).await;
    service.client.until_ready().await;
    let shell = Shell::new().reaching(4000, service.client.base());
    shell.run("README.md", &chunks(&runnable("README.md"))).await;
    service.kill().await;
}

#[tokio::test]
async fn the_examples_of_the_api_work() {
    let database = Database::new().await;
    let start = async |program: &str| {
        let service = Process::start(program, &["--database-url", &database.url]).await;
        service.client.until_ready().await;
        service
    };
    let (both, command, query) = tokio::join!(start("config-api"), start("command-service"), start("query-service"));
    let shell = Shell::new().reaching(4000, both.client.base());
    let shell = shell.reaching(4001, command.client.base()).reaching(4002, query.client.base());
    shell.run("docs/API.md", &chunks(&runnable("docs/API.md"))).await;
    for service in [both, command, query] {
        service.kill().await;
    }
}

/// It starts, stops, breaks and restores a config-api with a Postgres of its own.
#[tokio::test]
async fn the_runbooks_procedures_work() {
    let place = Place::new();
    place.shell().with("DATA_DIR", &place.at("data")).run(RUNBOOK, &chunks(&runnable(RUNBOOK))).await;
}

/// The same with a given Postgres.
#[tokio::test]
async fn the_runbooks_procedures_work_with_a_given_postgres() {
    let (place, database) = (Place::new(), Database::empty().await);
    let all = runnable(RUNBOOK).into_iter();
    let (own, both): (Vec<_>, Vec<_>) =
        all.partition(|block| OWN_POSTGRES.iter().any(|beginning| block.text.starts_with(beginning)));
    assert_eq!(own.len(), OWN_POSTGRES.len());
    place.shell().with("DATABASE_URL", &database.url).run(RUNBOOK, &chunks(&both)).await;
}

/// Neither a wait without an end, nor a signal to whoever has the process's id by now, nor another Postgres.
#[tokio::test]
async fn the_runbooks_functions_say_so_when_nothing_runs() {
    let place = Place::new();
    let mut all: Vec<_> = runnable(RUNBOOK).into_iter().take_while(|block| block.text != "start\n").collect();
    all.extend(blocks(RUNBOOK, WHEN_NOTHING_RUNS));
    place.shell().with("DATA_DIR", &place.at("data")).run(RUNBOOK, &chunks(&all)).await;
}

const WHEN_NOTHING_RUNS: &str = r#"
```sh
db psql -c 'select 1' 2>&1 || echo refused
# -> …db: the Postgres of … does not run, or its postmaster.pid cannot be read
# -> refused
stop 2>&1 || echo refused
# -> …stop: … names no config-api that runs
# -> refused
mkdir -p "$DATA_DIR/postgres"
tail -f /dev/null & echo $! | tee "$DATA_DIR/lock" >"$DATA_DIR/postgres/postmaster.pid"
db psql -c 'select 1' 2>&1 || echo refused
# -> db: the Postgres of … does not run, or its postmaster.pid cannot be read
# -> refused
stop 2>&1 || echo refused
# -> stop: … names no config-api that runs
# -> refused
kill "$(cat "$DATA_DIR/lock")" && echo "it was still there"
# -> it was still there
rm "$DATA_DIR/lock"
start 2>&1 || echo refused
# -> config-api: …
# -> refused
wait_for false 2>&1 || echo refused
# -> config-api: …
# -> refused
```
"#;

/// Where one run of the runbook has its files, and its config-api its port.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        // As root, Postgres's own user may pass through it.
        Self(tempfile::Builder::new().prefix("config-api-tests-").tempdir().expect("a temporary directory"))
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// The shell ends the config-api that it started.
    fn shell(&self) -> Shell {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let address = format!("127.0.0.1:{port}");
        Shell::new()
            .reaching(4000, &format!("http://{address}"))
            .with("LISTEN_ADDR", &address)
            .with("LOG", &self.at("config-api.log"))
            .with("BACKUP", &self.at("config-api.dump"))
            .with("RUN_DIR", &self.at(""))
            .ending_with("stop 2>/dev/null || true")
    }
}

#[test]
fn every_shell_block_is_run_or_listed() {
    let mut listed = vec![];
    for document in documents() {
        for block in blocks(&document, &read(&document)).into_iter().filter(Block::is_shell) {
            match not_run(&document, &block) {
                Some(entry) => listed.push(entry),
                None => assert!(
                    RUN.contains(&document.as_str()),
                    "{document}:{}: nobody runs this; add the document to RUN, or the block to NOT_RUN with a reason",
                    block.line
                ),
            }
        }
    }
    for entry in &NOT_RUN {
        assert_eq!(listed.iter().filter(|&listed| listed == &entry).count(), 1, "blocks of {entry:?}");
    }
}

#[test]
fn every_link_leads_somewhere() {
    for document in documents() {
        let text = read(&document);
        for link in links(&text).filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let folder = Path::new(&document).parent().unwrap();
            let target = if file.is_empty() { root().join(&document) } else { root().join(folder).join(file) };
            assert!(target.exists(), "{document}: {link} leads nowhere");
            let found = anchor.is_empty() || slugs(&fs::read_to_string(&target).unwrap()).any(|slug| slug == anchor);
            assert!(found, "{document}: {link} has no such heading");
        }
    }
}

/// An operator greps for them: a line that the code no longer writes is never found.
#[test]
fn every_log_line_of_the_runbook_is_one_that_the_code_writes() {
    let sources = sources();
    let written: Vec<_> = string_literals(&sources).filter(|literal| fixed_letters(literal) > 7).collect();
    let text = read(RUNBOOK);
    let lines: Vec<_> = log_lines(&text).collect();
    assert!(lines.len() > 40, "{lines:?}");
    for line in lines {
        // Either may say less than the other.
        let found = written.iter().any(|written| shell::matches(written, line) || shell::matches(line, written));
        assert!(found, "no source writes the log line `{line}`");
        let word = line.rsplit(": ").next().filter(|word| word.contains('_') && !word.contains([' ', '…']));
        assert!(word.is_none_or(|word| sources.contains(&format!("\"{word}\""))), "no source has the word of `{line}`");
    }
}

/// The blocks of a document that are run, in their order, with what states their output.
fn runnable(document: &str) -> Vec<Block> {
    let all = blocks(document, &read(document));
    all.into_iter().filter(|block| !block.is_shell() || not_run(document, block).is_none()).collect()
}

fn not_run(document: &str, block: &Block) -> Option<&'static (&'static str, &'static str, &'static str)> {
    NOT_RUN.iter().find(|(listed, beginning, _)| *listed == document && block.text.starts_with(beginning))
}

/// The documents, by their paths from the root.
fn documents() -> Vec<String> {
    let mut found = vec![];
    for folder in ["", "bench", "docs", "docs/adr", "migrations"] {
        for entry in fs::read_dir(root().join(folder)).expect("a folder of the repository") {
            let name = entry.expect("it is read").file_name().into_string().expect("names are UTF-8");
            if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
                found.push(Path::new(folder).join(name).display().to_string());
            }
        }
    }
    assert!(found.len() > 10, "{found:?}");
    found
}

fn read(document: &str) -> String {
    fs::read_to_string(root().join(document)).expect("it can be read")
}

fn fixed_letters(literal: &str) -> usize {
    literal.chars().filter(|c| c.is_alphabetic()).count()
}

/// What stands in quotes on a line, with `…` for what is filled in.
fn string_literals(sources: &str) -> impl Iterator<Item = String> {
    let quoted = sources.lines().flat_map(|line| line.split('"').skip(1).step_by(2));
    quoted.map(|literal| {
        let mut pieces = literal.split('{');
        let first = pieces.next().unwrap_or_default().to_owned();
        pieces.fold(first, |text, piece| format!("{text}…{}", piece.split_once('}').map_or(piece, |(_, rest)| rest)))
    })
}

/// The programs' sources, each string that goes on in a further line in one.
fn sources() -> String {
    let mut folders: Vec<_> =
        ["command-service/src", "query-service/src", "shared/src", "standalone/src", "embedded-postgres/src"]
            .map(|folder| root().join(folder))
            .into();
    let mut text = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("it is read").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                text.push_str(&fs::read_to_string(path).expect("it can be read"));
            }
        }
    }
    text.split("\\\n").map(str::trim_start).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the root").to_owned()
}
