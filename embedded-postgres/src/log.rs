//! `postgres.log`: what the server and initdb write, kept short, and quoted when something fails.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::fcntl::OFlag;

use crate::Error;
use crate::directory::Directory;

/// A log longer than this many bytes is put aside at the next start, as `postgres.log.old`, in place of the one before.
const KEPT_BYTES: u64 = 16 * 1024 * 1024;

/// How much of the log an error quotes: lines, and bytes looked at for them.
const QUOTED_LINES: usize = 5;
const QUOTED_BYTES: u64 = 4096;

/// The log as one child of ours writes it.
pub(crate) struct Log {
    pub(crate) path: PathBuf,
    /// Where this child's part begins, in bytes.
    begins: u64,
}

pub(crate) fn path(directory: &Directory) -> PathBuf {
    directory.path.join("postgres.log")
}

impl Log {
    /// Opens the log for one child; the file is the child's standard output and error.
    pub(crate) fn open(directory: &Directory) -> Result<(Self, File), Error> {
        let path = path(directory);
        if path.metadata().is_ok_and(|log| log.len() > KEPT_BYTES) {
            std::fs::rename(&path, path.with_extension("log.old")).map_err(Error::data_dir("rename", &path))?;
        }
        let opened =
            OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits()).open(&path);
        let file = opened.map_err(Error::data_dir("open", &path))?;
        let begins = file.metadata().map_err(Error::data_dir("look at", &path))?.len();
        Ok((Self { path, begins }, file))
    }

    /// The log as it is, for what was written last by whomever.
    pub(crate) fn of(directory: &Directory) -> Self {
        Self { path: path(directory), begins: 0 }
    }

    /// The last lines this child wrote, as one line.
    pub(crate) fn tail(&self) -> String {
        self.read_tail().unwrap_or_else(|error| format!("its log cannot be read: {error}"))
    }

    /// The last line.
    pub(crate) fn last_line(&self) -> String {
        let tail = self.tail();
        tail.rsplit(" | ").next().unwrap_or_default().to_owned()
    }

    fn read_tail(&self) -> std::io::Result<String> {
        let mut file = File::open(&self.path)?;
        let from = self.begins.max(file.metadata()?.len().saturating_sub(QUOTED_BYTES));
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(QUOTED_BYTES).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>();
        Ok(lines[lines.len().saturating_sub(QUOTED_LINES)..].join(" | "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_last_lines_of_this_child_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("postgres.log");
        std::fs::write(&path, "an older child\nown 1\n\nown 2\n").unwrap();
        let log = Log { path: path.clone(), begins: 15 };
        assert_eq!(log.tail(), "own 1 | own 2");
        std::fs::write(&path, "x\n".repeat(10_000)).unwrap();
        assert_eq!(log.tail(), "x | x | x | x | x");
    }
}
