//! What the numbers were measured on. Ratios of one run can be compared; numbers of two machines cannot.

use std::{
    fs::File,
    io::{Seek, Write},
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{BoxError, latency::Latencies};

/// Writes of the probe.
const PROBES: usize = 500;

/// Bytes of each: a page of Postgres's log.
const PROBE_BYTES: usize = 8192;

/// Filesystems in memory: nothing there is durable.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

/// The machine, as the report tells it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpus: usize,
    pub(crate) cpu: String,
    pub(crate) kernel: String,
    /// Type of the filesystem that both keep their data on.
    pub(crate) filesystem: String,
    pub(crate) device: String,
    /// Time of a write of 8 KiB with fdatasync there, before the servers were started; microseconds.
    pub(crate) fdatasync_p50_us: f64,
    pub(crate) fdatasync_p99_us: f64,
}

impl Machine {
    /// Looks, and writes into the directory.
    pub(crate) fn look(directory: &Path) -> Result<Self, BoxError> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let (filesystem, device) = mount_of(&directory.canonicalize()?, &mounts);
        if IN_MEMORY.contains(&filesystem.as_str()) {
            let directory = directory.display();
            return Err(format!("{directory} is in memory ({filesystem}); name a directory on a disk by --dir").into());
        }
        let latencies = probe(&directory.join("probe"))?.summary().ok_or("nothing was probed")?;
        let system = nix::sys::utsname::uname()?;
        Ok(Self {
            cpus: std::thread::available_parallelism()?.get(),
            cpu: cpu(),
            kernel: format!("{} {}", system.sysname().to_string_lossy(), system.release().to_string_lossy()),
            filesystem,
            device,
            fdatasync_p50_us: latencies.p50_us,
            fdatasync_p99_us: latencies.p99_us,
        })
    }
}

/// Writes one page after the other, and makes each durable, into a file that has its length already, as the log files of
/// Postgres and etcd have: growing it would cost the filesystem a commit of its own each time.
fn probe(file: &Path) -> Result<Latencies, BoxError> {
    let mut log = File::create(file)?;
    log.write_all(&vec![0; PROBES * PROBE_BYTES])?;
    log.sync_all()?;
    log.rewind()?;
    let mut latencies = Latencies::default();
    for _ in 0..PROBES {
        let began = Instant::now();
        log.write_all(&[1; PROBE_BYTES])?;
        log.sync_data()?;
        latencies.record(began.elapsed().max(Duration::from_micros(1)));
    }
    std::fs::remove_file(file)?;
    Ok(latencies)
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or("unknown", |(_, model)| model).to_owned()
}

/// Type and device of the filesystem, by the longest mount point that the path begins with.
fn mount_of(path: &Path, mountinfo: &str) -> (String, String) {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        Some((Path::new(before.split(' ').nth(4)?), after.next()?, after.next()?))
    });
    let holding = mounts.filter(|(point, ..)| path.starts_with(point));
    let (_, filesystem, device) =
        holding.max_by_key(|(point, ..)| point.components().count()).unwrap_or((path, "unknown", "unknown"));
    (filesystem.to_owned(), device.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_on_the_nearest_mount_above_it() {
        let mounts = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw\n30 22 0:25 / /tmp rw - tmpfs tmpfs rw\n";
        assert_eq!(mount_of(Path::new("/var/tmp/x"), mounts).0, "ext4");
        assert_eq!(mount_of(Path::new("/tmp/x"), mounts).0, "tmpfs");
        assert_eq!(mount_of(Path::new("/tmpx"), mounts).1, "/dev/vda");
        assert_eq!(mount_of(Path::new("/"), "").0, "unknown");
    }
}
