//! The limit of open files: each connection is one, and systems begin with 1,024 mostly.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::http::server::MAX_CONNECTIONS;

/// Files beside connections of clients: the log, pools, the runtime.
const OTHER_FILES: u64 = 256;

/// Raises the limit to what all connections need, as far as the system lets; says so where that is less. Call it in `main`.
pub fn raise() {
    let wanted = MAX_CONNECTIONS as u64 + OTHER_FILES;
    match raise_to(wanted) {
        Ok(got) if got >= wanted => tracing::debug!("Up to {got} files may be open"),
        Ok(got) => tracing::info!(
            "Up to {got} files may be open, which is fewer than {MAX_CONNECTIONS} connections need: the hard limit of the \
             system (ulimit -Hn) is lower"
        ),
        Err(error) => tracing::info!(%error, "The limit of open files could not be raised"),
    }
}

/// The soft limit afterwards.
fn raise_to(wanted: u64) -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= wanted {
        return Ok(soft);
    }
    let most = wanted.min(hard);
    setrlimit(Resource::RLIMIT_NOFILE, most, hard)?;
    Ok(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raises_as_far_as_the_system_lets_and_never_lowers() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(raise_to(1), Ok(soft));
        assert_eq!(raise_to(u64::MAX), Ok(hard));
        assert_eq!(raise_to(1), Ok(hard));
    }
}
