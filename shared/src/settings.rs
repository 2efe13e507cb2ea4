//! Settings that all binaries name alike, as flags and in the environment.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::{
    Args,
    builder::{BoolishValueParser, RangedU64ValueParser},
};

use crate::{
    redaction::{DEFAULT_REDACT_NAMES, InvalidPattern, Redaction},
    telemetry::LogFormat,
    value::DEFAULT_MAX_VALUE_BYTES,
};

/// Largest setting of the largest value: a quarter of what may wait for the log, 16 MiB.
const LARGEST_MAX_VALUE_BYTES: u64 = 16 * 1024 * 1024;

/// Where to serve.
#[derive(Args, Clone, Debug)]
pub struct ListenArgs {
    /// Address and port to serve on [default: 127.0.0.1 and the binary's own port]; example: 127.0.0.1:4000
    #[arg(long, env = "LISTEN_ADDR", value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,

    /// Serve on an address that other machines reach although nobody has to authenticate
    #[arg(long, env = "INSECURE_NO_AUTH", value_parser = BoolishValueParser::new())]
    pub insecure_no_auth: bool,
}

/// An address that would open an unauthenticated service to the network.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "refusing to listen on {0}: other machines reach it and no authentication is configured; \
     listen on 127.0.0.1, or say --insecure-no-auth if the network itself is trusted"
)]
pub struct OpenToAll(SocketAddr);

impl ListenArgs {
    /// The address to bind.
    ///
    /// # Errors
    /// When it is not loopback and nobody has said that this is meant.
    pub fn address(&self, default_port: u16) -> Result<SocketAddr, OpenToAll> {
        let address = self.listen.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), default_port));
        if address.ip().to_canonical().is_loopback() || self.insecure_no_auth {
            Ok(address)
        } else {
            Err(OpenToAll(address))
        }
    }
}

/// What the process tells.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// Form of the log; its level is set by RUST_LOG (default: info; example: RUST_LOG=info,query_service=debug)
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// Names whose values never reach the log: comma-separated, `*` for any characters, case does not matter
    #[arg(long, env = "REDACT_NAMES", default_value = DEFAULT_REDACT_NAMES, value_name = "PATTERNS")]
    pub redact_names: String,
}

impl LogArgs {
    /// Which names' values are secret.
    ///
    /// # Errors
    /// When a pattern is malformed.
    pub fn redaction(&self) -> Result<Redaction, InvalidPattern> {
        Redaction::new(self.redact_names.split(','))
    }
}

/// What is accepted from clients.
#[derive(Args, Clone, Debug)]
pub struct LimitArgs {
    /// Largest value, in bytes of its JSON text (1 to 16777216)
    #[arg(long, env = "MAX_VALUE_BYTES", default_value_t = DEFAULT_MAX_VALUE_BYTES, value_name = "BYTES",
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=LARGEST_MAX_VALUE_BYTES))]
    pub max_value_bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(listen: &str, insecure_no_auth: bool) -> Result<SocketAddr, OpenToAll> {
        ListenArgs { listen: Some(listen.parse().unwrap()), insecure_no_auth }.address(4000)
    }

    #[test]
    fn only_loopback_is_served_without_authentication_unless_told() {
        for loopback in ["127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(address(loopback, false).is_ok(), "{loopback}");
        }
        for open in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"] {
            assert!(address(open, false).unwrap_err().to_string().contains("--insecure-no-auth"), "{open}");
            assert!(address(open, true).is_ok(), "{open}");
        }
    }
}
