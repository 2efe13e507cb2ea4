//! The file system that the data is on. Whether it is full or read-only is asked of it, not read from messages.

use std::io::ErrorKind;
use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};

use crate::Error;

/// What a new cluster takes: 40 MiB, a database of 8 MiB, and WAL of 16 MiB a segment. In bytes.
pub(crate) const NEW_CLUSTER: u64 = 80 * 1024 * 1024;

/// What a server needs to go on: one segment of WAL. In bytes.
pub(crate) const WAL_SEGMENT: u64 = 16 * 1024 * 1024;

/// What is wrong with the disk at `path`, if `needed` bytes are to be written there; `None` also when it does not tell.
pub(crate) fn fault(path: &Path, needed: u64) -> Option<Error> {
    let told = statvfs(path).ok()?;
    // Wider on some systems than on others.
    #[expect(clippy::useless_conversion, reason = "the fields are u32 on macOS")]
    let free = u64::from(told.blocks_available()).saturating_mul(u64::from(told.fragment_size()));
    if told.flags().contains(FsFlags::ST_RDONLY) {
        Some(Error::ReadOnly { path: path.to_owned() })
    } else if free < needed {
        Some(Error::DiskFull { path: path.to_owned(), free, needed })
    } else {
        None
    }
}

/// The same, when the system has said so by refusing to write `path`.
pub(crate) fn refused(path: &Path, kind: ErrorKind) -> Option<Error> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(path);
    match kind {
        ErrorKind::ReadOnlyFilesystem => Some(Error::ReadOnly { path: path.to_owned() }),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Some(fault(there, WAL_SEGMENT).unwrap_or(Error::DiskFull {
                path: path.to_owned(),
                free: 0,
                needed: WAL_SEGMENT,
            }))
        }
        _ => None,
    }
}
