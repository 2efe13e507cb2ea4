//! A private Postgres cluster as a child process: found, initialised, started, watched and stopped.
//!
//! ```text
//! Options -> binaries -> directory (+ account, password) -> leftovers -> initialise -> postmaster -> Cluster
//!            which one    ours alone, by a lock             of a killed   first start   child, port   stop, start
//!            fits         owned by whom                     parent        only          ready         again, exited
//! ```
//!
//! The standalone binary keeps real data in one ([`Purpose::Durable`]), the test suite throws one away per run
//! ([`Purpose::ThrowAway`]). The server listens on 127.0.0.1 only, with a generated password, and on Linux it cannot
//! outlive the process that started it.

mod account;
mod binaries;
mod child;
mod cluster;
mod directory;
mod disk;
mod error;
mod initialise;
mod leftovers;
mod log;
mod options;
mod password;
mod port;
mod postmaster;
mod settings;
mod upgrade;

pub use cluster::{Cluster, STOP_LIMIT, StopMode};
pub use error::Error;
pub use options::{DATABASE, Options, Purpose, USER, default_data_dir};
