//! The real binaries, as processes that can be killed.

use std::{path::PathBuf, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinSet,
};

use crate::{Client, wait::PATIENCE};

/// Where `cargo build --workspace --bins` put a program: beside the tests' own.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("the tests' own path");
    let directory = tests.parent().and_then(|deps| deps.parent()).expect("target/<profile>/deps");
    let program = directory.join(name);
    assert!(
        program.exists(),
        "{} is not built; run `cargo build --workspace --bins` first, as ./dev test does",
        program.display()
    );
    program
}

/// A program that runs.
#[derive(Debug)]
pub struct Process {
    /// To it.
    pub client: Client,
    child: Child,
    /// Reads its log on, so that it never waits for a reader.
    _draining: JoinSet<()>,
}

impl Process {
    /// Starts a program on a free port, and waits until it listens.
    ///
    /// # Panics
    /// When it ends before, or takes too long.
    pub async fn start(name: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program(name));
        command.args(["--listen", "127.0.0.1:0"]).args(arguments).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the program starts");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let listening = async {
            loop {
                let mut line = String::new();
                let read = output.read_line(&mut line).await.expect("its log is UTF-8");
                assert_ne!(read, 0, "{name} ended before it listened: {:?}", child.wait().await);
                if let Some((_, address)) = line.trim_end().split_once("Listening on ") {
                    return address.to_owned();
                }
            }
        };
        let address = tokio::time::timeout(PATIENCE, listening).await.expect("it listens in time");
        let mut draining = JoinSet::new();
        draining.spawn(async move {
            let _ended = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
        });
        Self { client: Client::new(&address), child, _draining: draining }
    }

    /// `kill -9`.
    ///
    /// # Panics
    /// When the system refuses.
    pub async fn kill(mut self) {
        self.child.start_kill().expect("it runs");
        self.child.wait().await.expect("it ends");
    }
}
