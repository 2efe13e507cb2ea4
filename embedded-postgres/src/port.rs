//! Free loopback ports for the server.

use std::net::Ipv4Addr;
use std::ops::Range;

use rand::TryRng;
use rand::rngs::SysRng;
use tokio::net::TcpSocket;

use crate::Error;

/// Below the ports that operating systems give to outgoing connections (Linux from 32768, macOS from 49152). Among
/// those, a client that dials a stopped server again and again in time connects to itself, and the port is gone.
const RANGE: Range<u16> = 15_000..30_000;

/// How many ports are looked at before giving up.
const TRIES: u32 = 50;

/// A port that nobody listens on right now. Somebody else may still be quicker: the server then fails to start.
///
/// # Errors
/// [`Error::Port`], [`Error::Randomness`].
pub(crate) fn free() -> Result<u16, Error> {
    let mut port = RANGE.start;
    for _ in 0..TRIES {
        let offset = SysRng.try_next_u32().map_err(Error::Randomness)? % u32::from(RANGE.end - RANGE.start);
        port = RANGE.start + u16::try_from(offset).expect("an offset below the length of a range of u16 fits");
        if is_free(port) {
            return Ok(port);
        }
    }
    Err(Error::Port { port })
}

/// Binds without listening: a child that another thread forks just now holds the socket open until it executes its
/// program, and a socket that listened would keep the server off the port for that long.
pub(crate) fn is_free(port: u16) -> bool {
    let bind = |socket: TcpSocket| {
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::LOCALHOST, port).into())
    };
    TcpSocket::new_v4().and_then(bind).is_ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_in_use_is_not_free() {
        let port = free().unwrap();
        assert!(RANGE.contains(&port));
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(!is_free(port));
    }
}
