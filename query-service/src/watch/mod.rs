//! The watch: hands each command's changes to whoever watches them, encoded once.
//!
//! ```text
//! tail ─► message (encoded once) ─► hub: index (who takes it) ─► feed (one per watcher) ─► stream ─► http
//!                                    └► ring (the newest) ──────────┘        log (older) ──┘
//! ```

mod filter;
mod frame;
mod message;

mod index;
mod ring;

mod feed;

mod hub;
mod subscription;

mod log;

mod stream;

pub(crate) use filter::Filter;
pub(crate) use hub::{Hub, Refused};
pub(crate) use log::LogReader;
pub(crate) use message::{Draft, Message};
use shared::{metrics::Words as _, words};
pub(crate) use stream::{Initial, Stream};

words! {
    /// Why a stream ends that its client did not end. The client begins again, from what it has.
    pub(crate) enum Reset {
        /// It read more slowly than there was news, for longer than the ring goes back.
        Slow = "slow",
        /// A failover or a restore rewrote the log.
        Rewritten = "rewritten",
        /// The process stops.
        Shutdown = "shutdown",
        /// The log, which is needed for what is older than the ring, is out of reach.
        Unavailable = "unavailable",
    }
}

impl Reset {
    fn word(self) -> &'static str {
        Self::WORDS[self.index()]
    }

    fn detail(self) -> &'static str {
        match self {
            Self::Slow => {
                "This watcher read too slowly and was cut; nothing was skipped: watch again with the last id as Last-Event-ID, \
                 and with a narrower prefix."
            }
            Self::Rewritten => {
                "The event log was rewritten by a failover or a restore, and what was watched may be lost: read the state \
                 anew, or watch with initial=true and without a position."
            }
            Self::Shutdown => "This process is stopping: watch again, with the last id as Last-Event-ID.",
            Self::Unavailable => {
                "The event log is out of reach, or too many read it, and what is older than this process remembers is read from \
                 it: watch again, with the last id as Last-Event-ID."
            }
        }
    }
}
