//! The real binaries, as processes that can be killed.

use std::{
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
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

/// How a program ended that never served.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed: its log, or what was asked for.
    pub output: String,
    /// What it complained of.
    pub complaint: String,
}

/// Runs a program to its end.
///
/// # Panics
/// When it does not end in time.
pub async fn run(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
    let mut command = Command::new(program(name));
    command.args(arguments).env_clear().envs(environment.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends in time");
    let ended = ended.expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("it speaks UTF-8");
    Ended { code: ended.status.code(), output: text(ended.stdout), complaint: text(ended.stderr) }
}

/// A program that runs.
#[derive(Debug)]
pub struct Process {
    /// To it.
    pub client: Client,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    /// Reads its log on, so that it never waits for a reader.
    reading: JoinSet<()>,
    /// Held by who reads the next line.
    reader: Arc<tokio::sync::Mutex<()>>,
}

impl Process {
    /// Starts a program on a free port, and waits until it listens.
    ///
    /// # Panics
    /// When it ends before, or takes too long.
    pub async fn start(name: &str, arguments: &[&str]) -> Self {
        Self::start_with(name, arguments, &[]).await
    }

    /// The same, with these variables in its environment and no others.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn start_with(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program(name));
        command.args(["--listen", "127.0.0.1:0"]).args(arguments).env_clear().envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the program starts");
        let mut output = BufReader::new(child.stdout.take().expect("piped")).lines();
        let log = Arc::<Mutex<Vec<String>>>::default();
        let mut next_line = {
            let log = Arc::clone(&log);
            async move || {
                let line = output.next_line().await.expect("its log is UTF-8")?;
                log.lock().expect("no reader panicked").push(line.clone());
                Some(line)
            }
        };
        let listening = async {
            loop {
                let Some(line) = next_line().await else {
                    panic!("{name} ended before it listened: {:?}", child.wait().await);
                };
                // In JSON, a quote ends it.
                if let Some((_, address)) = line.split_once("Listening on ") {
                    return address.split('"').next().expect("a first part").to_owned();
                }
            }
        };
        let address = tokio::time::timeout(PATIENCE, listening).await.expect("it listens in time");
        let mut reading = JoinSet::new();
        let reader = Arc::<tokio::sync::Mutex<()>>::default();
        let turns = Arc::clone(&reader);
        reading.spawn(async move {
            loop {
                let _turn = turns.lock().await;
                if next_line().await.is_none() {
                    break;
                }
            }
        });
        Self { client: Client::new(&address), child, log, reading, reader }
    }

    /// The lines of its log so far, as they are.
    ///
    /// # Panics
    /// When their reader did.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("no reader panicked").clone()
    }

    /// From the next line on nobody reads its log, until this is dropped.
    pub async fn unread(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.reader).lock_owned().await
    }

    /// Waits for its end, whoever reads its log: for as long as a stop may take.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn exit(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(shared::shutdown::STOP_LIMIT + PATIENCE, self.child.wait()).await;
        let status = ended.expect("it ends in time");
        status.expect("it is a child")
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().and_then(|pid| i32::try_from(pid).ok()).expect("it runs"))
    }

    /// Asks it to stop, as supervisors do.
    ///
    /// # Panics
    /// When it has ended.
    pub fn terminate(&self) {
        kill(self.pid(), Signal::SIGTERM).expect("it runs");
    }

    /// Waits for its end; how it ended, and its whole log.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn ended(mut self) -> (ExitStatus, Vec<String>) {
        let ended = async {
            let status = self.child.wait().await.expect("it is a child");
            while let Some(read) = self.reading.join_next().await {
                read.expect("its log is UTF-8");
            }
            status
        };
        let status = tokio::time::timeout(PATIENCE, ended).await.expect("it ends in time");
        (status, self.log())
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
