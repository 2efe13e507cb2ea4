//! The data directory of one instance: made, locked, owned by the right users.
//!
//! As root the directory itself stays root's, so that the unprivileged user has no way to put a symbolic link where
//! root writes; only the cluster, the password file and `socket/` are given to it. That one is removed and made anew, through root's own directory, at each
//! start.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::account::Account;
use crate::{Error, Options};

/// The exclusive right to a data directory, freed when the last holder drops it: the handle, and the thread that
/// keeps a child which may still write there.
pub(crate) type Lock = Arc<Flock<File>>;

/// A data directory that is ours.
#[derive(Debug)]
pub(crate) struct Directory {
    /// Absolute and free of symbolic links.
    pub(crate) path: PathBuf,
    pub(crate) account: Account,
    pub(crate) lock: Lock,
}

/// The cluster in `data_dir`.
pub(crate) fn cluster_in(data_dir: &Path) -> PathBuf {
    data_dir.join("postgres")
}

impl Directory {
    /// Makes the directory if it is missing, checks that it is ours and that Postgres can reach it, and locks it.
    ///
    /// # Errors
    /// [`Error::DataDir`], [`Error::NotPermitted`], [`Error::NotOurs`], [`Error::NoUnprivilegedUser`], [`Error::Unreachable`],
    /// [`Error::InUse`], [`Error::WrongOwner`].
    pub(crate) fn open(options: &Options) -> Result<Self, Error> {
        // Before anything is made: a refused start leaves nothing behind.
        Account::choose(&cluster_in(&options.data_dir))?.can_reach(&existing_parent(&options.data_dir)?)?;
        let path = make(&options.data_dir)?;
        let lock_file = path.join("lock");
        if !lock_file.exists() && !is_empty(&path)? {
            return Err(Error::NotOurs { data_dir: path });
        }
        let account = Account::choose(&cluster_in(&path))?;
        check_owner(&path, &account)?;
        if let Account::Other(_) = account {
            make_enterable(&path)?;
        }
        account.can_reach(&path)?;
        let lock = Arc::new(lock(&path, &lock_file)?);
        Ok(Self { path, account, lock })
    }

    pub(crate) fn cluster(&self) -> PathBuf {
        cluster_in(&self.path)
    }

    /// Writes down that the run ended in order; the lock stays held.
    pub(crate) fn end_in_order(&self) -> Result<(), Error> {
        self.lock.set_len(0).map_err(Error::data_dir("write", &self.path.join("lock")))
    }

    /// Writes down that there is a run again.
    pub(crate) fn begin_again(&self) -> Result<(), Error> {
        sign(&self.lock).map_err(Error::data_dir("write", &self.path.join("lock")))
    }

    /// Where a cluster is while it is being made.
    pub(crate) fn unfinished_cluster(&self) -> PathBuf {
        self.path.join("postgres.new")
    }

    /// Makes an empty directory for a new cluster; what an interrupted attempt left goes.
    pub(crate) fn begin_cluster(&self) -> Result<PathBuf, Error> {
        let unfinished = self.unfinished_cluster();
        if unfinished.exists() {
            std::fs::remove_dir_all(&unfinished).map_err(Error::data_dir("remove", &unfinished))?;
        }
        DirBuilder::new().mode(0o700).create(&unfinished).map_err(Error::data_dir("create", &unfinished))?;
        self.account.own(&unfinished)?;
        Ok(unfinished)
    }

    /// Puts the finished cluster in its place, durably.
    pub(crate) fn finish_cluster(&self) -> Result<(), Error> {
        std::fs::rename(self.unfinished_cluster(), self.cluster())
            .and_then(|()| File::open(&self.path)?.sync_all())
            .map_err(Error::data_dir("rename a directory in", &self.path))
    }
}

/// Removes a data directory with everything in it. Its lock stays held.
pub(crate) fn remove(data_dir: &Path) -> Result<(), Error> {
    std::fs::remove_dir_all(data_dir).map_err(Error::data_dir("remove", data_dir))
}

fn check_owner(data_dir: &Path, account: &Account) -> Result<(), Error> {
    let (path, user) = (cluster_in(data_dir), account.uid());
    let owner = match std::fs::metadata(&path) {
        Ok(metadata) => metadata.uid(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::data_dir("look at", &path)(error)),
    };
    if owner == user {
        return Ok(());
    }
    let starter = std::fs::metadata(data_dir).map_err(Error::data_dir("look at", data_dir))?.uid();
    // Root keeps the directory itself and gives away what is Postgres's; nobody else can do without it.
    let give = match account {
        Account::Other(_) => vec![path.clone(), data_dir.join("password")],
        Account::Ourselves => vec![data_dir.to_owned()],
    };
    Err(Error::WrongOwner { path, owner, user, starter, give })
}

/// The nearest directory above `data_dir` that is there.
fn existing_parent(data_dir: &Path) -> Result<PathBuf, Error> {
    let failed = || Error::data_dir("create", data_dir);
    let absolute = std::path::absolute(data_dir).map_err(failed())?;
    let parent = absolute.ancestors().skip(1).find(|parent| parent.is_dir()).unwrap_or(Path::new("/"));
    parent.canonicalize().map_err(failed())
}

fn make(data_dir: &Path) -> Result<PathBuf, Error> {
    let failed = || Error::data_dir("create", data_dir);
    if !data_dir.is_dir() {
        let parent = data_dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).map_err(failed())?;
        DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(failed())?;
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed())?;
    }
    data_dir.canonicalize().map_err(failed())
}

/// Nothing in it but what a fresh file system has.
fn is_empty(path: &Path) -> Result<bool, Error> {
    let mut entries = std::fs::read_dir(path).map_err(Error::data_dir("read", path))?.flatten();
    Ok(entries.all(|entry| entry.file_name() == "lost+found"))
}

/// Lets others pass through, not list: what is inside has permissions of its own.
fn make_enterable(path: &Path) -> Result<(), Error> {
    let failed = || Error::data_dir("change the permissions of", path);
    let mode = std::fs::metadata(path).map_err(failed())?.mode();
    if mode & 0o011 == 0o011 {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode & 0o7777 | 0o011)).map_err(failed())
}

fn lock(data_dir: &Path, file: &Path) -> Result<Flock<File>, Error> {
    let failed = || Error::data_dir("lock", file);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
    match Flock::lock(options.open(file).map_err(failed())?, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            let mut last = String::new();
            lock.read_to_string(&mut last).map_err(failed())?;
            if !last.trim().is_empty() {
                let (pid, data_dir) = (last.trim(), data_dir.display());
                tracing::warn!(
                    "The last run on {data_dir} (pid {pid}) did not end in order; what it acknowledged is there"
                );
            }
            sign(&lock).map_err(failed())?;
            Ok(lock)
        }
        Err((mut held, Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            let pid = held.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            Err(Error::InUse { data_dir: data_dir.to_owned(), pid })
        }
        Err((_, errno)) => Err(failed()(errno.into())),
    }
}

/// Writes down who holds the lock.
fn sign(mut lock: &File) -> std::io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_other_peoples_files_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("letter.txt"), "dear").unwrap();
        let before = dir.path().metadata().unwrap().mode();
        let refused = Directory::open(&Options::durable(dir.path())).unwrap_err();
        assert!(matches!(refused, Error::NotOurs { .. }), "{refused}");
        assert_eq!(dir.path().metadata().unwrap().mode(), before);
        assert!(!dir.path().join("lock").exists());
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let wanted = dir.path().join("file/data");
        let refused = Directory::open(&Options::durable(&wanted)).unwrap_err();
        assert!(matches!(&refused, Error::DataDir { path, .. } if *path == wanted), "{refused}");
        assert!(refused.to_string().contains(wanted.to_str().unwrap()), "{refused}");
    }

    #[test]
    fn the_lock_is_free_again_when_its_holder_is_gone() {
        let parent = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
        let options = Options::durable(parent.path().join("data"));
        let held = Directory::open(&options).unwrap();
        let refused = Directory::open(&options).unwrap_err();
        assert!(matches!(refused, Error::InUse { pid, .. } if pid == Some(std::process::id())), "{refused}");
        drop(held);
        Directory::open(&options).unwrap();
    }
}
