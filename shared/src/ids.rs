//! The only place that makes up identities.

use uuid::Uuid;

/// Makes identities; passed to whoever needs one. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Ids {
    next: fn() -> Uuid,
}

impl Ids {
    /// `UUIDv7`: ordered by time, so that an index on them grows at its end (half the WAL of random ones), and random in
    /// the last four bytes, which positions use as their fingerprint.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "these are the identities that are passed in")]
    pub fn time_ordered() -> Self {
        Self { next: Uuid::now_v7 }
    }

    /// Identities that a test says.
    #[must_use]
    pub fn told_by(next: fn() -> Uuid) -> Self {
        Self { next }
    }

    /// An identity that was never given before.
    #[must_use]
    pub fn next(self) -> Uuid {
        (self.next)()
    }
}
