//! The server's settings: ours, then the caller's, which win, except over what the cluster cannot do without.

use crate::{Error, Options, Purpose, socket};

/// Set by us on every start; the URLs and the lock depend on them.
const RESERVED: [&str; 4] = ["port", "listen_addresses", "unix_socket_directories", "data_directory"];

/// What makes an acknowledged commit survive a power cut; each is `on` in a durable cluster.
const DURABILITY: [&str; 3] = ["fsync", "full_page_writes", "synchronous_commit"];

/// For every cluster. Of TCP the loopback only, a dead client is noticed in about 6 s, and times in UTC.
const COMMON: [(&str, &str); 9] = [
    ("listen_addresses", "127.0.0.1"),
    ("tcp_keepalives_idle", "3"),
    ("tcp_keepalives_interval", "1"),
    ("tcp_keepalives_count", "3"),
    ("password_encryption", "scram-sha-256"),
    // stderr is postgres.log; the server's own collector would write elsewhere.
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("log_timezone", "UTC"),
    ("timezone", "UTC"),
];

/// Memory for a small machine; WAL up to 1 GB between checkpoints, which a recovery reads in well under a minute.
const DURABLE: [(&str, &str); 6] = [
    ("fsync", "on"),
    ("full_page_writes", "on"),
    ("synchronous_commit", "on"),
    ("shared_buffers", "128MB"),
    ("max_connections", "100"),
    ("max_wal_size", "1GB"),
];

/// Many databases with a pool each, none of them large.
const THROW_AWAY: [(&str, &str); 5] = [
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("shared_buffers", "32MB"),
    ("max_connections", "200"),
    ("max_wal_size", "256MB"),
];

/// Checks what the caller adds.
///
/// # Errors
/// [`Error::Parameter`] for a setting that is ours, or that would weaken a durable cluster.
pub(crate) fn check(options: &Options) -> Result<(), Error> {
    for (name, value) in &options.parameters {
        // The server reads `-` as `_` and names in either case.
        let known_as = name.to_ascii_lowercase().replace('-', "_");
        let reason = if name.contains('=') || name.is_empty() {
            "that is no name"
        } else if RESERVED.contains(&known_as.as_str()) {
            "the program sets it itself"
        } else if options.purpose == Purpose::Durable && DURABILITY.contains(&known_as.as_str()) && value != "on" {
            "the data in this cluster has to survive a power cut"
        } else {
            continue;
        };
        return Err(Error::Parameter { name: name.clone(), value: value.clone(), reason });
    }
    Ok(())
}

/// The server's arguments for its settings: `-c name=value` each, the last of a name wins. With a Unix socket, or without.
pub(crate) fn arguments(options: &Options, port: u16, with_socket: bool) -> Vec<String> {
    let by_purpose = match options.purpose {
        Purpose::Durable => DURABLE.as_slice(),
        Purpose::ThrowAway => THROW_AWAY.as_slice(),
    };
    let ours = COMMON.iter().chain(by_purpose).map(|(name, value)| format!("{name}={value}"));
    let theirs = options.parameters.iter().map(|(name, value)| format!("{name}={value}"));
    let sockets = if with_socket { socket::SEEN_FROM_CLUSTER } else { "" };
    let place = [format!("port={port}"), format!("unix_socket_directories={sockets}")];
    let all = ours.chain(place).chain(theirs);
    all.flat_map(|setting| ["-c".to_owned(), setting]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(options: Options, name: &str, value: &str) -> Options {
        Options { parameters: vec![(name.to_owned(), value.to_owned())], ..options }
    }

    #[test]
    fn a_durable_cluster_cannot_be_weakened() {
        for name in ["fsync", "FSYNC", "full-page-writes", "synchronous_commit"] {
            let refused = check(&with(Options::durable("/data"), name, "off")).unwrap_err();
            assert!(refused.to_string().contains(name), "{refused}");
            check(&with(Options::durable("/data"), name, "on")).unwrap();
        }
        check(&with(Options::durable("/data"), "fsync=off", "on")).unwrap_err();
    }

    #[test]
    fn a_throw_away_cluster_may_sync_but_no_cluster_may_move() {
        let options = with(Options::throw_away("/data"), "fsync", "on");
        check(&options).unwrap();
        let arguments = arguments(&options, 20_000, true);
        let last = arguments.iter().rfind(|argument| argument.starts_with("fsync=")).unwrap();
        assert_eq!(last, "fsync=on");
        check(&with(options.clone(), "Port", "5432")).unwrap_err();
        check(&with(options, "unix_socket_directories", "/tmp")).unwrap_err();
    }
}
