//! The user that Postgres runs as: ourselves, or, because it refuses to run as root, an unprivileged one.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Uid, User};

use crate::Error;

/// In order of preference, when we are root.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

/// What people call a user.
pub(crate) fn name_of(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| format!("id {uid}"), |user| user.name)
}

/// Whom a child runs as.
#[derive(Debug, Clone)]
pub(crate) enum Account {
    Ourselves,
    Other(User),
}

impl Account {
    /// The user for the cluster at `cluster`: a cluster that is there keeps its owner, if that is one of ours.
    pub(crate) fn choose(cluster: &Path) -> Result<Self, Error> {
        if !Uid::effective().is_root() {
            return Ok(Self::Ourselves);
        }
        let mut users = UNPRIVILEGED.iter().filter_map(|name| User::from_name(name).ok().flatten()).collect::<Vec<_>>();
        let owner = std::fs::metadata(cluster).ok().map(|cluster| cluster.uid());
        let owns = users.iter().position(|user| Some(user.uid.as_raw()) == owner).unwrap_or(0);
        if users.is_empty() { Err(Error::NoUnprivilegedUser) } else { Ok(Self::Other(users.swap_remove(owns))) }
    }

    pub(crate) fn uid(&self) -> u32 {
        match self {
            Self::Ourselves => Uid::effective().as_raw(),
            Self::Other(user) => user.uid.as_raw(),
        }
    }

    /// Its name, when it is not ourselves.
    pub(crate) fn name(&self) -> Option<String> {
        match self {
            Self::Ourselves => None,
            Self::Other(user) => Some(user.name.clone()),
        }
    }

    /// Has `command` run as this user. The standard library drops root's supplementary groups with it.
    pub(crate) fn apply(&self, command: &mut Command) {
        if let Self::Other(user) = self {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
    }

    /// Gives the file or directory at `path`, which must be in a directory that only we can write, to this user.
    pub(crate) fn own(&self, path: &Path) -> Result<(), Error> {
        let Self::Other(user) = self else { return Ok(()) };
        std::os::unix::fs::lchown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .map_err(Error::data_dir("change the owner of", path))
    }

    /// Whether this user may pass through `directory` and everything above it.
    ///
    /// # Errors
    /// [`Error::Unreachable`] with the first one from the top that it may not enter.
    pub(crate) fn can_reach(&self, directory: &Path) -> Result<(), Error> {
        let Self::Other(user) = self else { return Ok(()) };
        let from_top = directory.ancestors().collect::<Vec<_>>().into_iter().rev();
        for directory in from_top {
            let metadata = std::fs::metadata(directory).map_err(Error::data_dir("look at", directory))?;
            let bit = if metadata.uid() == user.uid.as_raw() {
                0o100
            } else if metadata.gid() == user.gid.as_raw() {
                0o010
            } else {
                0o001
            };
            if metadata.mode() & bit == 0 {
                return Err(Error::Unreachable { directory: directory.to_owned(), user: user.name.clone() });
            }
        }
        Ok(())
    }
}
