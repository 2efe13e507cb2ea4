//! What readers see: one consistent state at one position, never changed.

use std::ops::Bound;

use imbl::Vector;
use shared::{
    moment::Moment,
    position::{Fingerprint, Position, PositionToken},
};

use super::{entries::Entries, entry::Entry};

/// How many of the newest events a snapshot can tell from others that took their place; 4 bytes each, shared between
/// snapshots. Older ones are looked up in the log.
pub(crate) const RECENT_EVENTS: usize = 65_536;

/// The state at a position. What did not change is shared with the snapshots before and behind it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// By name, in the order of its bytes. A deleted name is not there.
    pub(super) entries: Entries,
    pub(super) position: Position,
    /// When its last event was recorded.
    pub(super) recorded_at: Option<Moment>,
    /// The last event that changed an entry: it stands still where `position` moves on. `None`: nothing was ever changed.
    pub(super) changed: Option<(Position, Moment)>,
    /// What was changed so far, in bytes: the difference of two snapshots is about what the older one costs beside the newer.
    pub(super) written: u64,
    /// Which of the states that were folded from zero it goes on from, counted by [`Published`](super::Published). Those of
    /// different ones share nothing.
    pub(super) generation: u64,
    /// Of the events that end at `position`; at most [`RECENT_EVENTS`].
    pub(super) recent: Vector<Fingerprint>,
}

/// Whether a token names an event that this snapshot has applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It does, or it names none.
    Applied,
    /// Not yet.
    Ahead,
    /// Another event stands at its position.
    Another,
    /// Too old to tell from memory.
    Older,
}

impl Snapshot {
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Its place in the log, for clients.
    pub(crate) fn token(&self) -> PositionToken {
        PositionToken { position: self.position, fingerprint: self.recent.last().copied() }
    }

    pub(crate) fn recorded_at(&self) -> Option<Moment> {
        self.recorded_at
    }

    /// Which event changed it last, and when that was recorded. Two snapshots of one log that say the same here hold the same.
    pub(crate) fn changed(&self) -> Option<(Position, Moment)> {
        self.changed
    }

    /// Bytes of all changes that it was folded from.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Another one for states that share nothing with this.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// The configurations whose names begin with `prefix`, in the order of their names' bytes, from behind `after`.
    pub(crate) fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a str, &'a Entry)> {
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let behind = self.entries.range(from).map(|entry| (entry.name(), entry));
        behind.take_while(move |(name, _)| name.starts_with(prefix))
    }

    /// Where a client's token stands to it. A bare position is taken at its word.
    pub(crate) fn standing(&self, token: PositionToken) -> Standing {
        if token.position > self.position {
            return Standing::Ahead;
        }
        let Some(fingerprint) = token.fingerprint else { return Standing::Applied };
        if token.position == Position::ZERO {
            return Standing::Another;
        }
        let back = usize::try_from(self.position.0 - token.position.0).unwrap_or(usize::MAX);
        match self.recent.len().checked_sub(back + 1).and_then(|index| self.recent.get(index)) {
            Some(ours) if *ours == fingerprint => Standing::Applied,
            Some(_) => Standing::Another,
            None => Standing::Older,
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn fingerprint(event: u64) -> Fingerprint {
        Fingerprint::of(Uuid::from_u128(u128::from(event)))
    }

    fn token(position: u64, event: u64) -> PositionToken {
        PositionToken { position: Position(position), fingerprint: Some(fingerprint(event)) }
    }

    /// At position 10, knowing the events 8, 9 and 10.
    fn snapshot() -> Snapshot {
        Snapshot { position: Position(10), recent: (8..=10).map(fingerprint).collect(), ..Snapshot::default() }
    }

    #[test]
    fn tells_its_events_from_others_in_their_place() {
        let snapshot = snapshot();
        assert_eq!(snapshot.token(), token(10, 10));
        for position in 8..=10 {
            assert_eq!(snapshot.standing(token(position, position)), Standing::Applied);
            assert_eq!(snapshot.standing(token(position, 99)), Standing::Another);
        }
    }

    #[test]
    fn says_when_it_cannot_tell() {
        let snapshot = snapshot();
        assert_eq!(snapshot.standing(token(7, 7)), Standing::Older);
        assert_eq!(snapshot.standing(token(1, 1)), Standing::Older);
        assert_eq!(snapshot.standing(token(11, 11)), Standing::Ahead);
        assert_eq!(snapshot.standing(token(u64::MAX, 11)), Standing::Ahead);
        assert_eq!(snapshot.standing(token(0, 1)), Standing::Another, "there is no event 0");
    }

    #[test]
    fn takes_a_bare_position_at_its_word() {
        for position in [0, 1, 10] {
            let bare = PositionToken { position: Position(position), fingerprint: None };
            assert_eq!(snapshot().standing(bare), Standing::Applied);
        }
        assert_eq!(Snapshot::default().standing(PositionToken::ZERO), Standing::Applied);
        assert_eq!(Snapshot::default().token(), PositionToken::ZERO);
    }
}
