//! A connection to the log while something is read from it.

use std::ops::{Deref, DerefMut};

use sqlx::{PgConnection, Postgres, pool::PoolConnection};

/// Goes back to its pool when what was asked for was read to its end. Dropped before, because a page is full, a time is over or
/// a client is gone, it is closed: the server may still be sending, and that is not to be read by whoever comes next.
#[derive(Debug)]
pub(crate) struct Reading {
    connection: PoolConnection<Postgres>,
    to_its_end: bool,
}

impl Reading {
    pub(crate) fn new(connection: PoolConnection<Postgres>) -> Self {
        Self { connection, to_its_end: false }
    }

    /// Nothing is under way on it.
    pub(crate) fn ended(mut self) {
        self.to_its_end = true;
    }
}

impl Deref for Reading {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Reading {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if !self.to_its_end {
            self.connection.close_on_drop();
        }
    }
}
