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

/// Blocks that no test runs: the document, how the block begins, and why.
const NOT_RUN: [(&str, &str, &str); 9] = [
    ("README.md", "./dev up", "would serve until somebody stops it; tests/dev/run tests it"),
    ("README.md", "createdb config_api", "is about the reader's own Postgres"),
    ("README.md", "cargo build --release", "takes minutes, and is about the reader's own Postgres"),
    ("CONTRIBUTING.md", "./dev up", "would serve until somebody stops it; the others are what runs this test"),
    ("bench/README.md", "./dev bench", "takes ten minutes"),
    ("docs/PERFORMANCE.md", "apt-get install etcd-server", "takes ten minutes"),
    ("docs/RUNBOOK.md", "sudo systemctl restart", "is about the reader's own units"),
    ("docs/RUNBOOK.md", "db() { program", "is about the reader's own Postgres"),
    ("docs/RUNBOOK.md", "./dev check https://", "is about the reader's own hosts"),
];

/// Documents whose blocks a test below runs.
const RUN: [&str; 3] = ["README.md", "docs/API.md", "docs/RUNBOOK.md"];

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
    // As root, Postgres's own user may pass through it.
    let place = tempfile::Builder::new().prefix("config-api-tests-").tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (address, at) = (format!("127.0.0.1:{port}"), |name: &str| place.path().join(name).display().to_string());
    let shell = Shell::new()
        .reaching(4000, &format!("http://{address}"))
        .with("LISTEN_ADDR", &address)
        .with("DATA_DIR", &at("data"))
        .with("LOG", &at("config-api.log"))
        .with("BACKUP", &at("config-api.dump"))
        .ending_with(r#"kill "$(cat "$DATA_DIR/lock")" 2>/dev/null && wait"#);
    shell.run("docs/RUNBOOK.md", &chunks(&runnable("docs/RUNBOOK.md"))).await;
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
    let text = read("docs/RUNBOOK.md");
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
