//! The program `config-api` at a terminal, as a person runs it: however it ends, no Postgres is left, and its data is shut
//! down. Here and not in the end-to-end tests, because it is the cluster that must not be left.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use embedded_postgres::{Cluster, Options, StopMode};
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{is_gone, place, until};

/// What Ctrl-C sends from a keyboard.
const CTRL_C: &[u8] = b"\x03";

/// `config-api` that serves, at a terminal of its own.
struct AtTerminal {
    program: Child,
    terminal: File,
    postmaster: Pid,
    data_dir: PathBuf,
}

impl AtTerminal {
    /// Starts it, and waits until it serves. Whoever runs the tests may ignore SIGHUP, by nohup or without a terminal; at a
    /// terminal nobody does.
    fn start(data_dir: &Path) -> Self {
        Self::start_by(&["env", "--default-signal=HUP"], data_dir)
    }

    /// The same, with other words before the program.
    fn start_by(starter: &[&str], data_dir: &Path) -> Self {
        // Not openpty: what it opens, every child of every test inherits, and then the terminal never closes.
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = File::options()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NOCTTY.bits())
            .open(ptsname_r(&master).unwrap());
        let slave = slave.unwrap();
        // setsid makes the terminal the one that controls the program, and then becomes it.
        let mut setsid = Command::new("setsid");
        setsid
            .arg("--ctty")
            .args(starter)
            .arg(config_api())
            .args(["--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir);
        let end = || slave.try_clone().unwrap();
        let program = setsid.env_remove("DATABASE_URL").stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        drop((setsid, slave));
        let mut terminal = File::from(OwnedFd::from(master));
        let (mut shown, mut piece) = (String::new(), [0; 4096]);
        while !shown.contains("Listening on ") {
            let read = terminal.read(&mut piece).unwrap_or_else(|error| panic!("{error} after: {shown}"));
            shown.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
        let pid_file = std::fs::read_to_string(data_dir.join("postgres/postmaster.pid")).unwrap();
        let postmaster = Pid::from_raw(pid_file.lines().next().unwrap().parse().unwrap());
        Self { program, terminal, postmaster, data_dir: data_dir.to_owned() }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.program.id()).unwrap()), signal).unwrap();
    }

    /// Waits for its end and for that of its Postgres, which must have been an ordinary one.
    async fn ended(program: &mut Child, postmaster: Pid, data_dir: &Path) -> ExitStatus {
        let mut status = None;
        until("the program's end", || {
            status = program.try_wait().unwrap();
            status.is_some()
        })
        .await;
        until("Postgres's end", || is_gone(postmaster)).await;
        let log = std::fs::read_to_string(data_dir.join("postgres.log")).unwrap();
        assert!(log.trim_end().ends_with("database system is shut down"), "{log}");
        assert!(!data_dir.join("postgres/postmaster.pid").exists());
        status.unwrap()
    }
}

impl Drop for AtTerminal {
    fn drop(&mut self) {
        // When the test failed; the kernel then ends its Postgres.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// Where `cargo build --workspace --bins` put it: beside the tests' own directory.
fn config_api() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("config-api");
    assert!(program.exists(), "run `cargo build --workspace --bins` first, as ./dev test does");
    program
}

#[tokio::test]
async fn an_interrupt_typed_at_the_terminal_stops_program_and_server() {
    let (_parent, data_dir) = place();
    let mut running = AtTerminal::start(&data_dir);
    running.terminal.write_all(CTRL_C).unwrap();
    let status = AtTerminal::ended(&mut running.program, running.postmaster, &running.data_dir).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn sigterm_stops_program_and_server() {
    let (_parent, data_dir) = place();
    let mut running = AtTerminal::start(&data_dir);
    running.signal(Signal::SIGTERM);
    let status = AtTerminal::ended(&mut running.program, running.postmaster, &running.data_dir).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_closed_terminal_stops_program_and_server() {
    let (_parent, data_dir) = place();
    let mut running = AtTerminal::start(&data_dir);
    // The last descriptor of the terminal's other end: the kernel hangs up.
    running.terminal = File::open("/dev/null").unwrap();
    let status = AtTerminal::ended(&mut running.program, running.postmaster, &running.data_dir).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn who_was_started_to_outlive_the_terminal_does() {
    let (_parent, data_dir) = place();
    // As nohup does, which would write elsewhere.
    let mut running = AtTerminal::start_by(&["sh", "-c", "trap '' HUP; exec \"$0\" \"$@\""], &data_dir);
    running.signal(Signal::SIGHUP);
    running.signal(Signal::SIGTERM);
    let status = AtTerminal::ended(&mut running.program, running.postmaster, &running.data_dir).await;
    assert!(status.success(), "{status}");
    let mut shown = Vec::new();
    // Ends with an error when all of it was read: there is nobody at the other end.
    let _ = running.terminal.read_to_end(&mut shown);
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("Stopping on SIGTERM") && !shown.contains("SIGHUP"), "{shown}");
}

#[tokio::test]
async fn a_killed_program_leaves_no_server_and_the_next_start_works() {
    let (_parent, data_dir) = place();
    let mut running = AtTerminal::start(&data_dir);
    running.signal(Signal::SIGKILL);
    AtTerminal::ended(&mut running.program, running.postmaster, &running.data_dir).await;
    let next = Cluster::start(Options::durable(&data_dir)).await.unwrap();
    next.stop(StopMode::Fast).await.unwrap();
}
