//! A process that was told wrongly: one line, and exit code 2.

use std::error::Error;

use crate::BoxError;

/// The caller is at fault, not the surroundings: exit code 2 instead of 1.
#[derive(Debug)]
pub struct UsageError(BoxError);

/// Marks an error as the caller's, as in `cli.address().map_err(usage)?`.
pub fn usage(error: impl Into<BoxError>) -> UsageError {
    UsageError(error.into())
}

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for UsageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}
