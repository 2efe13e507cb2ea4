//! Why an address could not be bound, for the person at the terminal: who has the port, and which one is free.

use std::{
    fmt,
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
};

/// How far apart the ports are that are proposed instead of a taken one, and how many are looked at.
const STEP: u16 = 100;
const PROPOSALS: u16 = 20;

/// An address that could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum CannotListen {
    /// Somebody else listens there.
    #[error("cannot listen on {address}: port {} is taken by {}; stop it{}", .address.port(), told(.owner.as_ref()), proposed(.free.as_ref()))]
    Taken {
        /// Where was to be served.
        address: SocketAddr,
        /// Who does already, if the system tells us.
        owner: Option<PortOwner>,
        /// A place that was free just now.
        free: Option<SocketAddr>,
    },
    /// The system has another reason: the address is not this machine's, or the port is for root.
    #[error("cannot listen on {address}; choose another address with --listen or LISTEN_ADDR")]
    Other {
        /// Where was to be served.
        address: SocketAddr,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

impl CannotListen {
    /// Why `address` could not be bound. Looks through the system's processes: for the end of a process, not for a loop.
    #[must_use]
    pub fn explain(address: SocketAddr, source: std::io::Error) -> Self {
        if source.kind() != ErrorKind::AddrInUse {
            return Self::Other { address, source };
        }
        let ports = (1..=PROPOSALS).filter_map(|step| address.port().checked_add(step * STEP));
        let free = ports.map(|port| SocketAddr::new(address.ip(), port)).find(|place| TcpListener::bind(place).is_ok());
        Self::Taken { address, owner: PortOwner::of(address), free }
    }
}

fn told(owner: Option<&PortOwner>) -> String {
    owner.map_or_else(|| "another process".to_owned(), ToString::to_string)
}

fn proposed(free: Option<&SocketAddr>) -> String {
    free.map_or_else(String::new, |free| format!(" or use --listen {free}"))
}

/// A process that listens.
#[derive(Debug, PartialEq, Eq)]
pub struct PortOwner {
    /// Of its program, as the system shortens it.
    pub name: String,
    /// Of several that share the socket, the oldest.
    pub pid: u32,
}

impl fmt::Display for PortOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` (pid {})", self.name, self.pid)
    }
}

#[cfg(target_os = "linux")]
impl PortOwner {
    /// Who listens where `address` wants to. `None` when nobody does, or when it is another user's process and we are not root.
    #[must_use]
    pub fn of(address: SocketAddr) -> Option<Self> {
        let tables =
            ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap_or_default());
        let sockets: Vec<String> = tables.iter().flat_map(|table| linux::listening(table, address)).collect();
        let pid = linux::holders(&sockets).min()?;
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some(Self { name: name.trim_end().to_owned(), pid })
    }
}

#[cfg(not(target_os = "linux"))]
impl PortOwner {
    /// Who listens on the port of `address`, as lsof tells; macOS has it.
    #[must_use]
    pub fn of(address: SocketAddr) -> Option<Self> {
        let port = format!("-iTCP:{}", address.port());
        let told = std::process::Command::new("lsof").args(["-nP", &port, "-sTCP:LISTEN", "-Fpc"]).output().ok()?;
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        let field = |letter| told.lines().find_map(|line| line.strip_prefix(letter));
        Some(Self { name: field('c')?.to_owned(), pid: field('p')?.parse().ok()? })
    }
}

/// What Linux tells in `/proc`.
#[cfg(target_os = "linux")]
mod linux {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

    /// Of `/proc/net/tcp` or `tcp6` the sockets that listen where `wanted` would, as links in `/proc/<pid>/fd` name them.
    pub(super) fn listening(table: &str, wanted: SocketAddr) -> Vec<String> {
        let in_the_way = |line: &&str| {
            let mut columns = line.split_whitespace().skip(1);
            let local = columns.next().and_then(address);
            let listens = columns.nth(1) == Some("0A");
            listens && local.is_some_and(|local| clash(local, wanted))
        };
        let inode = |line: &str| line.split_whitespace().nth(9).map(|inode| format!("socket:[{inode}]"));
        table.lines().skip(1).filter(in_the_way).filter_map(inode).collect()
    }

    fn clash(a: SocketAddr, b: SocketAddr) -> bool {
        let (one, other) = (a.ip().to_canonical(), b.ip().to_canonical());
        a.port() == b.port() && (one == other || one.is_unspecified() || other.is_unspecified())
    }

    /// `0100007F:0FA0`: words of the address as this machine's numbers, then the port.
    fn address(text: &str) -> Option<SocketAddr> {
        let (ip, port) = text.split_once(':')?;
        let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
        let ip: IpAddr = if ip.len() == 8 {
            Ipv4Addr::from(word(0)?).into()
        } else {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?).into()
        };
        Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
    }

    /// The processes that have one of these sockets open, as far as we may look.
    pub(super) fn holders(sockets: &[String]) -> impl Iterator<Item = u32> {
        let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            files
                .filter_map(|file| std::fs::read_link(file.path()).ok())
                .any(|link| link.to_str().is_some_and(|link| sockets.iter().any(|socket| socket == link)))
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        const TABLE: &str =
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:07E8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100 0 0 10 0
   1: 0100007F:0FA0 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 222 1 0 100 0 0 10 0
   2: 0100007F:0FA0 0100007F:BEEF 01 00000000:00000000 00:00000000 00000000  1000        0 333 1 0 100 0 0 10 0
";

        #[test]
        #[cfg(target_endian = "little")]
        fn a_socket_is_in_the_way_when_it_listens_on_the_same_or_on_every_address() {
            let found = |wanted: &str| listening(TABLE, wanted.parse().unwrap());
            assert_eq!(found("127.0.0.1:4000"), ["socket:[222]"]);
            assert_eq!(found("0.0.0.0:4000"), ["socket:[222]"]);
            assert_eq!(found("[::]:4000"), ["socket:[222]"]);
            assert_eq!(found("10.0.0.1:2024"), ["socket:[111]"]);
            assert!(found("10.0.0.1:4000").is_empty());
            assert!(found("127.0.0.1:4001").is_empty());
            assert!(listening("", "127.0.0.1:4000".parse().unwrap()).is_empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_with_its_owner_and_a_free_one() {
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue }; // a machine without IPv6
            let address = listener.local_addr().unwrap();
            let error = TcpListener::bind(address).unwrap_err();
            let told = CannotListen::explain(address, error);
            let CannotListen::Taken { owner: Some(owner), free: Some(free), .. } = &told else { panic!("{told:?}") };
            assert_eq!(owner.pid, std::process::id());
            assert_eq!(
                told.to_string(),
                format!(
                    "cannot listen on {address}: port {} is taken by {owner}; stop it or use --listen {free}",
                    address.port()
                )
            );
            drop(TcpListener::bind(free).unwrap());
        }
    }

    #[test]
    fn an_address_of_another_machine_is_told_with_the_systems_reason() {
        let address: SocketAddr = "192.0.2.1:4000".parse().unwrap();
        let told = CannotListen::explain(address, TcpListener::bind(address).unwrap_err());
        assert!(matches!(told, CannotListen::Other { .. }), "{told}");
        assert!(told.to_string().contains("192.0.2.1:4000"), "{told}");
    }
}
