//! A private Postgres cluster as a child process: found, initialised, started, watched and stopped.
//!
//! ```text
//! Options -> binaries -> directory (+ account, password) -> leftovers -> initialise -> port, socket -> postmaster -> Cluster
//!            which one    ours alone, by a lock             of a killed   first start   where it is     child,        stop, start
//!            fits         owned by whom                     parent        only          reached         ready         again, exited
//! ```
//!
//! The standalone binary keeps real data in one ([`Purpose::Durable`]), the test suite throws one away per run
//! ([`Purpose::ThrowAway`]). The server listens on 127.0.0.1 and on a Unix socket that its owner alone reaches, with a generated
//! password, and on Linux it cannot outlive the process that started it.

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
mod socket;
mod upgrade;

pub use cluster::{Cluster, STOP_LIMIT, StopMode};
pub use error::Error;
pub use options::{DATABASE, Options, Purpose, USER, default_data_dir};
