//! The server's Unix socket: who is on the same machine reaches the server with less work than through TCP.

use std::fs::{DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use crate::Error;
use crate::directory::Directory;

/// The socket's directory as the server is told it: seen from the cluster, so that it fits whatever the data directory is called.
pub(crate) const SEEN_FROM_CLUSTER: &str = "../socket";

/// Makes an empty directory for the socket of the server on `port`; what a killed server left there goes. `None` when clients
/// could not connect through it: its path is longer than the system allows (107 bytes on Linux), has a comma, at which Postgres's clients
/// separate hosts, or the file system has no sockets.
///
/// # Errors
/// [`Error::DataDir`].
pub(crate) fn make(directory: &Directory, port: u16) -> Result<Option<PathBuf>, Error> {
    let path = directory.path.join("socket");
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::data_dir("remove", &path)(error)),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(&path).map_err(Error::data_dir("create", &path))?;
    if path.as_os_str().as_bytes().contains(&b',') {
        return Ok(None);
    }
    let tried = path.join(format!(".s.PGSQL.{port}"));
    // As the server does it, which also sets the socket's permissions.
    let works = UnixListener::bind(&tried).and_then(|listener| {
        std::fs::set_permissions(&tried, Permissions::from_mode(0o777))?;
        UnixStream::connect(&tried).map(|_| drop(listener))
    });
    if let Err(error) = works {
        tracing::debug!(%error, path = %tried.display(), "no Unix socket for Postgres; it is reached through TCP");
        return Ok(None);
    }
    std::fs::remove_file(&tried).map_err(Error::data_dir("remove", &tried))?;
    directory.account.own(&path)?;
    Ok(Some(path))
}
