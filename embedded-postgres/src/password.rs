//! The generated password of the cluster, in a file beside it that only its owner can read.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rand::TryRng;
use rand::rngs::SysRng;

use crate::Error;
use crate::directory::Directory;

/// Entropy of a password, in bytes; it is written as twice as many hexadecimal digits.
const LENGTH: usize = 24;

/// Where the password of the cluster in `directory` is.
pub(crate) fn file(directory: &Directory) -> PathBuf {
    directory.path.join("password")
}

/// Makes a new password for a cluster that is yet to be made, and has it on disk before this returns.
pub(crate) fn create(directory: &Directory) -> Result<(), Error> {
    let path = file(directory);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::data_dir("remove", &path)(error)),
        _ => {}
    }
    let mut secret = [0; LENGTH];
    SysRng.try_fill_bytes(&mut secret).map_err(Error::Randomness)?;
    let mut text = String::with_capacity(2 * LENGTH);
    for byte in secret {
        write!(text, "{byte:02x}").expect("writing to a String does not fail");
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(Error::data_dir("write", &path))?;
    // initdb reads it as the user that Postgres runs as.
    directory.account.own(&path)
}

/// The password of a cluster that is there.
pub(crate) fn read(directory: &Directory) -> Result<String, Error> {
    let path = file(directory);
    let text = std::fs::read_to_string(&path).map_err(|source| match source.kind() {
        ErrorKind::PermissionDenied => Error::data_dir("read", &path)(source),
        _ => Error::Password { path, source },
    })?;
    Ok(text.trim().to_owned())
}
