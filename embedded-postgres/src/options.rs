//! What a caller says: where the data is, what it is for, and which server settings it adds.

use std::path::PathBuf;

use nix::sys::signal::Signal;
use nix::unistd::Uid;

/// The superuser that initialisation creates, and the user in [`Cluster::url`](crate::Cluster::url).
pub const USER: &str = "config_api";

/// The database that initialisation creates; further ones are the caller's to create.
pub const DATABASE: &str = "config_api";

/// Where a cluster lives and how it runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory of one instance: it holds `postgres/` (the cluster), `socket/`, `password`, `postgres.log` and
    /// `lock`.
    /// Made when it is missing; a directory that holds other things is refused.
    pub data_dir: PathBuf,
    /// The directory of `initdb` and `postgres`. `None`: search `PATH`, `pg_config --bindir`, and the places where
    /// packages put them. A directory named here is the only one looked at.
    pub bin_dir: Option<PathBuf>,
    /// Whether the data has to survive.
    pub purpose: Purpose,
    /// Further server settings, passed as `-c name=value` after our own, so they win. `port`, `listen_addresses`,
    /// `unix_socket_directories` and `data_directory` are refused, and with [`Purpose::Durable`] whatever would weaken durability.
    pub parameters: Vec<(String, String)>,
}

impl Options {
    /// For data that matters: nothing acknowledged is lost by a crash or a power cut.
    pub fn durable(data_dir: impl Into<PathBuf>) -> Self {
        Self::new(data_dir.into(), Purpose::Durable)
    }

    /// For one test run: quick to make, small, and worthless after a power cut.
    pub fn throw_away(data_dir: impl Into<PathBuf>) -> Self {
        Self::new(data_dir.into(), Purpose::ThrowAway)
    }

    fn new(data_dir: PathBuf, purpose: Purpose) -> Self {
        Self { data_dir, bin_dir: None, purpose, parameters: Vec::new() }
    }
}

/// Whether the data has to survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Synced to disk always; ends with a fast shutdown.
    Durable,
    /// `initdb --no-sync`, little memory, and `fsync` and `full_page_writes` off unless
    /// [`Options::parameters`] turns them on; ends at once, without a checkpoint.
    ThrowAway,
}

impl Purpose {
    /// What the postmaster gets when nobody is left to ask it politely: the parent died, or dropped its handle.
    pub(crate) fn farewell(self) -> Signal {
        match self {
            Self::Durable => Signal::SIGINT,
            Self::ThrowAway => Signal::SIGQUIT,
        }
    }
}

/// The data directory when no setting names one: `/var/lib/config-api` for root, whose home the unprivileged user that
/// Postgres runs as cannot enter; else `$XDG_DATA_HOME/config-api` or `~/.local/share/config-api`. Without a home,
/// `config-api-data` in the current directory.
pub fn default_data_dir() -> PathBuf {
    let xdg = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    data_dir_of(Uid::effective().is_root(), xdg, std::env::home_dir())
}

fn data_dir_of(root: bool, xdg: Option<PathBuf>, home: Option<PathBuf>) -> PathBuf {
    if root {
        return PathBuf::from("/var/lib/config-api");
    }
    // The XDG specification has relative paths ignored.
    let data_home = xdg.filter(|path| path.is_absolute());
    let home = home.filter(|path| path.is_absolute());
    data_home
        .or_else(|| home.map(|home| home.join(".local/share")))
        .map_or_else(|| PathBuf::from("config-api-data"), |base| base.join("config-api"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_keeps_its_data_where_an_unprivileged_user_can_reach_it() {
        let chosen = data_dir_of(true, Some("/x".into()), Some("/root".into()));
        assert_eq!(chosen, PathBuf::from("/var/lib/config-api"));
    }

    #[test]
    fn a_user_keeps_its_data_under_the_xdg_directory_or_its_home() {
        let home = Some(PathBuf::from("/home/ann"));
        assert_eq!(data_dir_of(false, Some("/data".into()), home.clone()), PathBuf::from("/data/config-api"));
        let relative = data_dir_of(false, Some("data".into()), home.clone());
        assert_eq!(relative, PathBuf::from("/home/ann/.local/share/config-api"));
        assert_eq!(data_dir_of(false, None, home), relative);
        assert_eq!(data_dir_of(false, None, None), PathBuf::from("config-api-data"));
    }
}
