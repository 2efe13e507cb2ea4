//! End-to-end tests: real Postgres, real HTTP, one binary.

mod append;
mod bad_input;
mod check;
mod committer;
mod conditional;
mod contract;
mod crash;
mod deploy;
mod docs;
mod gateway;
mod handover;
mod health;
mod log_order;
mod manifests;
mod metrics;
mod past;
mod process;
mod reads;
mod replay;
mod replicas;
mod schema;
mod start;
mod traces;
mod values;
mod watch;
mod writes;
