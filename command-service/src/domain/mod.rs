//! What may happen to a configuration. Pure: no I/O, no clock.

mod command;
mod config_value;

pub use command::{Change, ConfigValueCommand, Precondition, Refusal};
pub use config_value::ConfigValue;
