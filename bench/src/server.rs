//! A server that is started for the run and stopped at its end: its process, its log, its CPU time.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, SysconfVar, sysconf},
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::BoxError;

/// Longest that a server may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Longest that it may take to stop by itself.
const STOP_LIMIT: Duration = Duration::from_secs(40);

/// How often is looked whether it answers.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// CPU time of a server's processes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    /// Of the one that was started.
    pub(crate) server: Duration,
    /// Of those below it: our Postgres.
    pub(crate) below: Duration,
}

impl Cpu {
    /// What was used since an earlier moment.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self { server: self.server.saturating_sub(earlier.server), below: self.below.saturating_sub(earlier.below) }
    }
}

/// Resident memory of a server's process, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    /// The most that it ever was.
    pub(crate) peak: u64,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    name: &'static str,
    child: Child,
    pid: i32,
    /// A process beside it that counts as below it: its Postgres.
    beside: Option<i32>,
    log: PathBuf,
}

impl Server {
    /// Starts it; what it prints goes into a file, as under a supervisor.
    pub(crate) fn spawn(name: &'static str, mut command: Command, log: PathBuf) -> Result<Self, BoxError> {
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
        // Ctrl-C is for us alone: we stop it, once, in order.
        command.process_group(0);
        let child = command.spawn().map_err(|error| format!("{name} could not be started: {error}"))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).ok_or("it has no process id")?;
        Ok(Self { name, child, pid, beside: None, log })
    }

    /// With this process, and those below it, counted as below it.
    pub(crate) fn beside(self, pid: u32) -> Self {
        Self { beside: i32::try_from(pid).ok(), ..self }
    }

    /// What it has printed so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Asks again and again until it is ready.
    pub(crate) async fn until<T>(&mut self, mut ready: impl AsyncFnMut(&Self) -> Option<T>) -> Result<T, BoxError> {
        let limit = Instant::now() + START_LIMIT;
        loop {
            if let Some(found) = ready(self).await {
                return Ok(found);
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() > limit {
                let how = ended.map_or("does not answer".to_owned(), |status| format!("ended, {status}"));
                return Err(format!("{} {how}; its log:\n{}", self.name, self.log()).into());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// CPU time so far; nothing where there is no `/proc`.
    pub(crate) fn cpu(&self) -> Option<Cpu> {
        let processes = processes();
        let own = processes.iter().find(|process| process.pid == self.pid)?;
        let below: u64 = self.below(&processes).iter().map(|process| process.ticks + process.ended_ticks).sum();
        Some(Cpu { server: duration(own.ticks)?, below: duration(below)? })
    }

    /// Memory of its own process; nothing where there is no `/proc`.
    pub(crate) fn memory(&self) -> Option<Memory> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let bytes = |name: &str| {
            let kib = status.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix(" kB")?;
            Some(kib.parse::<u64>().ok()? * 1024)
        };
        Some(Memory { resident: bytes("VmRSS:")?, peak: bytes("VmHWM:")? })
    }

    /// The program of a process below it, for its version.
    pub(crate) fn program_below(&self) -> Option<PathBuf> {
        let processes = processes();
        let pid = self.below(&processes).first()?.pid;
        std::fs::read_link(format!("/proc/{pid}/exe")).ok()
    }

    fn below(&self, processes: &[Process]) -> Vec<Process> {
        let beside = self.beside.iter().flat_map(|pid| {
            let itself = processes.iter().filter(move |process| process.pid == *pid).copied();
            itself.chain(below(*pid, processes))
        });
        beside.chain(below(self.pid, processes)).collect()
    }

    /// Stops it, and waits for its end.
    pub(crate) async fn stop(mut self) -> Result<(), BoxError> {
        let below = below(self.pid, &processes()).iter().map(|process| process.pid).collect::<Vec<_>>();
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        kill(Pid::from_raw(self.pid), Signal::SIGTERM)?;
        if timeout(STOP_LIMIT, self.child.wait()).await.is_ok() {
            return Ok(());
        }
        self.child.kill().await?;
        for pid in below {
            // It may have ended by itself.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGQUIT);
        }
        Err(format!("{} did not stop and was killed", self.name).into())
    }
}

/// CPU time of a process and of those below it, ended ones included; nothing where there is no `/proc`.
pub(crate) fn cpu_with_children(pid: u32) -> Option<Duration> {
    let (pid, processes) = (i32::try_from(pid).ok()?, processes());
    let own = *processes.iter().find(|process| process.pid == pid)?;
    let all = below(pid, &processes).into_iter().chain([own]);
    duration(all.map(|process| process.ticks + process.ended_ticks).sum())
}

/// How many processes are below one, and what they have in memory for themselves alone, in bytes.
pub(crate) fn private_memory_below(pid: u32) -> (usize, u64) {
    let children = i32::try_from(pid).map(|pid| below(pid, &processes())).unwrap_or_default();
    (children.len(), children.iter().filter_map(|child| private_memory(child.pid)).sum())
}

fn private_memory(pid: i32) -> Option<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let private =
        rollup.lines().filter_map(|line| line.strip_prefix("Private_")?.split_once(':')?.1.trim().strip_suffix(" kB"));
    private.map(|kib| kib.trim().parse::<u64>().ok()).sum::<Option<u64>>().map(|kib| kib * 1024)
}

/// The first line that `program --version` prints.
pub(crate) async fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().await;
    let printed = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    printed.lines().next().unwrap_or("unknown").to_owned()
}

/// A line of `/proc/*/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    /// CPU time, user and system.
    ticks: u64,
    /// That of its children which ended.
    ended_ticks: u64,
}

fn processes() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter_map(|pid| parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect()
}

/// The command's name, in parentheses, may contain anything.
fn parse(stat: &str) -> Option<Process> {
    let (pid, _) = stat.split_once(' ')?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<_> = rest.split_ascii_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Process {
        pid: pid.parse().ok()?,
        parent: fields.get(1)?.parse().ok()?,
        ticks: ticks(11)? + ticks(12)?,
        ended_ticks: ticks(13)? + ticks(14)?,
    })
}

/// Children, their children, and so on.
fn below(root: i32, processes: &[Process]) -> Vec<Process> {
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        let children = processes.iter().filter(|process| process.parent == parent);
        for child in children {
            found.push(*child);
            parents.push(child.pid);
        }
    }
    found
}

fn duration(ticks: u64) -> Option<Duration> {
    let a_second = u32::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
    Some(Duration::from_secs(ticks) / a_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_and_found_below_its_grandparent() {
        let stat = "42 (a) b) S 7 42 42 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 100 1 1";
        let process = parse(stat).unwrap();
        assert_eq!(process, Process { pid: 42, parent: 7, ticks: 30, ended_ticks: 70 });
        let parent = Process { pid: 7, parent: 1, ticks: 0, ended_ticks: 0 };
        assert_eq!(below(1, &[process, parent]), [parent, process]);
        assert_eq!(below(42, &[process, parent]), []);
    }
}
