//! How much memory the process may use: its control group's limit, or what the machine has.

use std::{fs, path::Path};

/// Where control groups are.
const GROUPS: &str = "/sys/fs/cgroup";

/// In bytes; `None` where the system does not tell.
pub(super) fn limit() -> Option<u64> {
    let machine = of_machine(&fs::read_to_string("/proc/meminfo").ok()?);
    let group = fs::read_to_string("/proc/self/cgroup").ok().and_then(|own| of_groups(Path::new(GROUPS), &own));
    // A group may be allowed more than there is.
    machine.into_iter().chain(group).min()
}

/// `MemTotal:       16316412 kB`
fn of_machine(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The least that the process's group, or one that it is in, is limited to. `own` has a line `number:controllers:path` for
/// each hierarchy; version 2 has one, with number 0 and no controllers.
fn of_groups(root: &Path, own: &str) -> Option<u64> {
    let group = |line: &str| {
        let mut parts = line.splitn(3, ':');
        let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let (root, file) = match controllers {
            "" if number == "0" => (root.to_owned(), "memory.max"),
            controllers if controllers.split(',').any(|one| one == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        // In a container the path may be one that only the host sees; then the root is the group.
        let ancestors = Path::new(path.trim_start_matches('/')).ancestors();
        let limits = ancestors.filter_map(|ancestor| fs::read_to_string(root.join(ancestor).join(file)).ok());
        // `max` is no limit.
        limits.filter_map(|limit| limit.trim().parse::<u64>().ok()).min()
    };
    own.lines().filter_map(group).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_machine_has_what_it_says() {
        assert_eq!(of_machine("MemTotal:       16316412 kB\nMemFree: 1 kB\n"), Some(16_316_412 * 1024));
        assert_eq!(of_machine("MemFree: 1 kB\n"), None);
        assert!(limit().is_none_or(|limit| limit > 1024 * 1024));
    }

    #[test]
    fn the_least_limit_above_the_process_counts() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(of_groups(root, "0::/a/b\n"), None, "no limit anywhere");
        write(root, "a/b/memory.max", "max\n");
        write(root, "a/memory.max", "4096\n");
        write(root, "memory.max", "8192\n");
        assert_eq!(of_groups(root, "0::/a/b\n"), Some(4096));
        assert_eq!(of_groups(root, "0::/only/the/host/sees/it\n"), Some(8192));
        write(root, "memory/x/memory.limit_in_bytes", "1024\n");
        assert_eq!(of_groups(root, "3:cpu:/y\n2:memory,hugetlb:/x\n"), Some(1024));
    }
}
