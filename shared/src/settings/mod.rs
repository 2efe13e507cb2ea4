//! Settings: what all binaries name alike, and how each reads its own.
//!
//! ```text
//! file ─► defaults ─► clap: environment, flags ─► the binary's settings ─► print (--print-config)
//! ```

mod file;
mod password;
mod print;
mod read;
mod usage;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{
    Args,
    builder::{BoolishValueParser, RangedU64ValueParser},
};

use crate::{
    BoxError,
    database::STARTUP_WAIT,
    redaction::{DEFAULT_REDACT_NAMES, InvalidPattern, Redaction},
    telemetry::{self, DEFAULT_FILTER, DEFAULT_READS_RATIO, Filter, Log, LogFormat, TraceArgs},
    value::DEFAULT_MAX_VALUE_BYTES,
};

/// Largest setting of the largest value: a quarter of what may wait for the log, 16 MiB.
const LARGEST_MAX_VALUE_BYTES: u64 = 16 * 1024 * 1024;

pub use password::{NoPassword, PasswordArgs};
pub use read::{Asked, Defaults, parse, read};
pub use usage::{UsageError, usage};

/// Where settings come from, beside flags and the environment.
#[derive(Args, Clone, Debug)]
pub struct SourceArgs {
    /// TOML file of settings, named as the flags are: max_value_bytes = 65536; flags and environment win over it.
    /// Example: /etc/config-api.toml
    #[arg(long, env = "CONFIG_FILE", value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,

    /// Print the settings as they are now, each with where it comes from and without its secrets, and exit
    #[arg(long, global = true)]
    pub print_config: bool,
}

/// Where to serve.
#[derive(Args, Clone, Debug)]
pub struct ListenArgs {
    /// Address and port to serve on; example: 0.0.0.0:4000
    #[arg(long, env = "LISTEN_ADDR", value_name = "ADDRESS:PORT", value_parser = socket_address)]
    pub listen: SocketAddr,

    /// Serve on an address that other machines reach although nobody has to authenticate; example: true
    #[arg(long, env = "INSECURE_NO_AUTH", value_parser = BoolishValueParser::new())]
    pub insecure_no_auth: bool,
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an IP address and a port, such as 127.0.0.1:4000 or [::1]:4000".to_owned())
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
    pub fn address(&self) -> Result<SocketAddr, OpenToAll> {
        let address = self.listen;
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
    /// Form of the log; example: json
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// What is logged: a level (error, warn, info, debug, trace), or levels of parts. Can be changed while it runs, at
    /// /v1/log-filter. Example: info,query_service=debug
    #[arg(long, env = "RUST_LOG", default_value = DEFAULT_FILTER, value_name = "FILTER")]
    pub log_filter: Filter,

    /// Names whose values never reach the log: comma-separated, `*` for any characters, case does not matter.
    /// Example: *secret*,*.pem
    #[arg(long, env = "REDACT_NAMES", default_value = DEFAULT_REDACT_NAMES, value_name = "PATTERNS")]
    pub redact_names: String,

    /// Which part of reads (GET, HEAD) has a trace, 0 to 1, when the client's trace is not sampled; where traces go is said by
    /// OTEL_EXPORTER_OTLP_ENDPOINT. Example: 0.1
    #[arg(long, env = "TRACE_READS_RATIO", default_value_t = DEFAULT_READS_RATIO, value_name = "RATIO", value_parser = ratio)]
    pub trace_reads_ratio: f64,
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "write a number from 0 to 1, such as 0.01".to_owned())
}

impl LogArgs {
    /// Sets log and traces up for the process of this program: once, in `main`, outside of a runtime.
    ///
    /// # Errors
    /// As [`telemetry::init`].
    pub fn begin(&self, program: &'static str) -> Result<Log, BoxError> {
        let trace = TraceArgs { program, reads_ratio: self.trace_reads_ratio };
        telemetry::init(self.log_format, &self.log_filter, trace)
    }

    /// Which names' values are secret.
    ///
    /// # Errors
    /// When a pattern is malformed.
    pub fn redaction(&self) -> Result<Redaction, InvalidPattern> {
        Redaction::new(self.redact_names.split(','))
    }
}

/// How to begin.
#[derive(Args, Clone, Debug)]
pub struct StartArgs {
    /// How long to wait at the start for a database that is not up yet, in seconds, 0 to 3600; example: 300
    #[arg(long, env = "DATABASE_WAIT_SECONDS", default_value_t = STARTUP_WAIT.as_secs(), value_name = "SECONDS",
          global = true, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub database_wait_seconds: u64,
}

impl StartArgs {
    /// The wait.
    #[must_use]
    pub fn database_wait(&self) -> Duration {
        Duration::from_secs(self.database_wait_seconds)
    }
}

/// What is accepted from clients.
#[derive(Args, Clone, Debug)]
pub struct LimitArgs {
    /// Largest value, in bytes of its JSON text, 1 to 16777216; example: 65536
    #[arg(long, env = "MAX_VALUE_BYTES", default_value_t = DEFAULT_MAX_VALUE_BYTES, value_name = "BYTES",
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=LARGEST_MAX_VALUE_BYTES))]
    pub max_value_bytes: usize,

    /// How long a request may be repeated under its Idempotency-Key, in hours, 1 to 720; example: 72
    #[arg(long, env = "IDEMPOTENCY_KEY_HOURS", default_value_t = 24, value_name = "HOURS",
          value_parser = clap::value_parser!(u64).range(1..=720))]
    pub idempotency_key_hours: u64,
}

/// How long answers are kept under their idempotency keys when nothing else is said.
pub const DEFAULT_KEY_LIFETIME: Duration = Duration::from_hours(24);

impl LimitArgs {
    /// How long answers are kept under their idempotency keys.
    #[must_use]
    pub fn key_lifetime(&self) -> Duration {
        Duration::from_hours(self.idempotency_key_hours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(listen: &str, insecure_no_auth: bool) -> Result<SocketAddr, OpenToAll> {
        ListenArgs { listen: listen.parse().unwrap(), insecure_no_auth }.address()
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
