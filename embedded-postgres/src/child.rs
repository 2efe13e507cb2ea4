//! A child process with a keeper: a thread that spawns it, waits for it, and tells how it ended.
//!
//! The kernel sends a parent-death signal when the *thread* that spawned the child ends. A thread of a runtime comes
//! and goes, so each child has a thread of its own that lives exactly as long.

use std::convert::Infallible;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::{oneshot, watch};

use crate::Error;
use crate::directory::{Directory, Lock};
use crate::log::Log;

/// A program that is to be run.
pub(crate) struct Task {
    pub(crate) command: Command,
    /// What it reads on standard input, at most the 64 KiB that a pipe holds.
    pub(crate) input: Option<&'static str>,
    pub(crate) log: Log,
    farewell: Signal,
    lock: Lock,
}

impl Task {
    /// `program` as the right user, in a process group of its own so that Ctrl-C in the terminal does not reach it,
    /// writing to the log. It gets `farewell` when nobody is left to wait for it.
    pub(crate) fn new(program: &Path, directory: &Directory, farewell: Signal) -> Result<Self, Error> {
        let (log, file) = Log::open(directory)?;
        let copy = file.try_clone().map_err(Error::data_dir("open", &log.path))?;
        let mut command = Command::new(program);
        command.current_dir(&directory.path).env("LC_ALL", "C").process_group(0);
        command.stdin(Stdio::null()).stdout(copy).stderr(file);
        directory.account.apply(&mut command);
        #[cfg(target_os = "linux")]
        die_with_parent(&mut command, farewell);
        Ok(Self { command, input: None, log, farewell, lock: directory.lock.clone() })
    }
}

/// A running child, or what is left of it. Dropping it sends it its farewell signal and does not wait.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    farewell: Signal,
    ended: watch::Receiver<Option<ExitStatus>>,
    /// Disconnected when the keeper is done; for waiting without a runtime.
    kept: Mutex<mpsc::Receiver<Infallible>>,
}

impl Child {
    /// Starts `task`; returns when the program runs, or could not be executed.
    ///
    /// # Errors
    /// [`Error::Spawn`].
    pub(crate) async fn spawn(task: Task) -> Result<(Self, Log), Error> {
        let program = task.command.get_program().to_owned();
        let failed = |source| Error::Spawn { program: program.into(), source };
        let (started, starts) = oneshot::channel();
        let Task { command, input, log, farewell, lock } = task;
        let keeper = std::thread::Builder::new().name("postgres-keeper".to_owned());
        match keeper.spawn(move || keep(command, input, farewell, lock, started)) {
            Ok(_) => {}
            Err(source) => return Err(failed(source)),
        }
        match starts.await.expect("the keeper answers before it ends") {
            Ok(child) => Ok((child, log)),
            Err(source) => Err(failed(source)),
        }
    }

    /// Its process id, for as long as it is not waited for, and after.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends `signal`, unless it has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        // The keeper reaps under the write lock of this value: while it is borrowed the id is not given to another.
        let ended = self.ended.borrow();
        if ended.is_none() {
            // It can only have become a zombie, which is as good as ended.
            let _ = kill(self.pid, signal);
        }
    }

    /// How it ended, if it did.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// Resolves when it has ended.
    pub(crate) async fn ended(&self) -> ExitStatus {
        let mut ended = self.ended.clone();
        let status = ended.wait_for(Option::is_some).await.expect("the keeper tells the end before it ends itself");
        status.expect("waited for Some")
    }

    /// Waits without a runtime; whether it ended in time.
    pub(crate) fn wait_blocking(&self, limit: Duration) -> bool {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(kept.recv_timeout(limit), Err(RecvTimeoutError::Disconnected))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal(self.farewell);
    }
}

/// The keeper's life.
fn keep(
    mut command: Command,
    input: Option<&'static str>,
    farewell: Signal,
    lock: Lock,
    started: oneshot::Sender<std::io::Result<Child>>,
) {
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut process = match command.spawn() {
        Ok(process) => process,
        Err(error) => {
            drop(lock);
            // Nobody waits any more: nothing was started, so nothing is left to tell.
            let _ = started.send(Err(error));
            return;
        }
    };
    let (publish, ended) = watch::channel(None);
    let (_keeping, kept) = mpsc::sync_channel(0);
    let pid = i32::try_from(process.id()).expect("a process id is an i32 in every system call");
    let child = Child { pid: Pid::from_raw(pid), farewell, ended, kept: Mutex::new(kept) };
    if let Some((input, mut stdin)) = input.zip(process.stdin.take()) {
        // A program that does not read it tells so by how it ends.
        let _ = stdin.write_all(input.as_bytes());
    }
    // If nobody waits any more the child comes back and its drop sends the farewell.
    drop(started.send(Ok(child)));
    wait_until_ended(&mut process);
    // Before it is told, so that who hears of the end can have the directory.
    drop(lock);
    // ECHILD, the only failure, means that the host process reaped it; then the status is lost and 255 stands for it.
    publish.send_modify(|ended| *ended = Some(process.wait().unwrap_or(ExitStatus::from_raw(255 << 8))));
}

/// Waits without reaping, where the system can: the id stays the child's until the end is published.
fn wait_until_ended(process: &mut std::process::Child) {
    #[cfg(target_os = "linux")]
    {
        use nix::errno::Errno;
        use nix::sys::wait::{Id, WaitPidFlag, waitid};
        let pid = i32::try_from(process.id()).expect("a process id is an i32 in every system call");
        let end = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while waitid(Id::Pid(Pid::from_raw(pid)), end) == Err(Errno::EINTR) {}
    }
    #[cfg(not(target_os = "linux"))]
    {
        // The standard library remembers the status.
        let _ = process.wait();
    }
}

/// Has the kernel send `signal` to the child when the keeper, and that is: our process, ends for whatever reason.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "a parent-death signal can only be set in the child itself, after its change of user")]
fn die_with_parent(command: &mut Command, signal: Signal) {
    let parent = Pid::this();
    let set = move || {
        nix::sys::prctl::set_pdeathsig(signal)?;
        // The parent may have died before the signal was set.
        if Pid::parent() == parent { Ok(()) } else { Err(nix::errno::Errno::ESRCH.into()) }
    };
    // SAFETY: between fork and exec only async-signal-safe functions may run. `set` makes two system calls, prctl and
    // getppid; it allocates nothing, takes no lock, and its errors are plain error numbers.
    unsafe { command.pre_exec(set) };
}
