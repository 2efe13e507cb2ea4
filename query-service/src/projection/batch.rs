//! Events that were understood in one place and are folded in another: what the state keeps of them, in one piece of memory.

use shared::{event::UnknownEvent, moment::Moment, position::Position, value::Json};
use uuid::Uuid;

use super::event::{Authorship, Change, Recorded, Understood};

/// Events in their order. It can hold any; who fills it looks how large it is.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Names, values, actors and reasons, one behind the other.
    text: String,
    events: Vec<Packed>,
}

#[derive(Debug)]
struct Packed {
    position: Position,
    recorded_at: Moment,
    command_id: Uuid,
    change: Option<PackedChange>,
}

/// Lengths in bytes of what stands in the text.
#[derive(Debug)]
struct PackedChange {
    name: usize,
    version: u64,
    set: Option<PackedSet>,
}

#[derive(Debug)]
struct PackedSet {
    value: usize,
    actor: usize,
    reason: Option<usize>,
}

impl Batch {
    /// Adds an event.
    ///
    /// # Errors
    /// When this release does not know it.
    pub(crate) fn push(&mut self, event: &Recorded<'_>) -> Result<(), UnknownEvent> {
        let Understood { position, recorded_at, command_id, change } = event.understood()?;
        let change = change.map(|change| PackedChange {
            name: self.text(change.name),
            version: change.version,
            set: change.set.map(|(value, author)| PackedSet {
                value: self.text(value.json()),
                actor: self.text(&author.actor),
                reason: author.reason.map(|reason| self.text(&reason)),
            }),
        });
        self.events.push(Packed { position, recorded_at, command_id, change });
        Ok(())
    }

    fn text(&mut self, text: &str) -> usize {
        self.text.push_str(text);
        text.len()
    }

    /// What it weighs, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.text.len() + self.events.len() * size_of::<Packed>()
    }

    /// Has it empty, for further events. Its memory stays.
    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.events.clear();
    }

    /// What it takes of memory, in bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.text.capacity() + self.events.capacity() * size_of::<Packed>()
    }

    /// The events, as they went in.
    pub(crate) fn events(&self) -> impl Iterator<Item = Understood<'_>> {
        let mut rest = self.text.as_str();
        let mut next = move |bytes| {
            let (text, behind) = rest.split_at(bytes);
            rest = behind;
            text
        };
        self.events.iter().map(move |event| Understood {
            position: event.position,
            recorded_at: event.recorded_at,
            command_id: event.command_id,
            change: event.change.as_ref().map(|change| Change {
                name: next(change.name),
                version: change.version,
                set: change.set.as_ref().map(|set| {
                    let value = Json::stored(next(set.value));
                    (
                        value,
                        Authorship {
                            actor: next(set.actor).into(),
                            reason: set.reason.map(|bytes| next(bytes).into()),
                        },
                    )
                }),
            }),
        })
    }
}
