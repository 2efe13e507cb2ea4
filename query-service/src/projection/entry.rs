//! A configuration that has a value, as it is kept in memory.

use std::{fmt, ops::Deref, sync::Arc};

use shared::{moment::Moment, position::Position, value::Json};
use triomphe::HeaderSlice;

use super::event::Authorship;

/// A configuration that has a value: one allocation, with the name, the value and what is known of it, which every snapshot
/// that has it shares. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Entry(triomphe::Arc<HeaderSlice<Facts, str>>);

/// What is known of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) version: u64,
    /// Of the event that gave it this value.
    pub(crate) position: Position,
    pub(crate) recorded_at: Moment,
    pub(crate) actor: Arc<str>,
    /// Where in the text the name ends and the value begins.
    name_bytes: u32,
    /// Where the value ends and the reason begins, counted from the end; `None` without a reason.
    reason_bytes: Option<u32>,
}

/// What an entry is made from.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) name: &'a str,
    pub(super) value: Json<'a>,
    pub(super) version: u64,
    pub(super) position: Position,
    pub(super) recorded_at: Moment,
    pub(super) author: &'a Authorship<'a>,
    /// The author's actor, kept once for all its changes.
    pub(super) actor: Arc<str>,
}

impl Entry {
    /// Puts it together in `scratch`, whose memory is used again and again.
    pub(super) fn new(parts: Parts<'_>, scratch: &mut String) -> Self {
        let reason = parts.author.reason.as_deref();
        scratch.clear();
        scratch.push_str(parts.name);
        scratch.push_str(parts.value.json());
        scratch.push_str(reason.unwrap_or_default());
        let facts = Facts {
            version: parts.version,
            position: parts.position,
            recorded_at: parts.recorded_at,
            actor: parts.actor,
            name_bytes: bytes(parts.name),
            reason_bytes: reason.map(bytes),
        };
        Self(triomphe::Arc::from_header_and_str(facts, scratch))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.slice[..self.name_bytes as usize]
    }

    pub(crate) fn value(&self) -> Json<'_> {
        Json::stored(&self.0.slice[self.name_bytes as usize..self.reason_from()])
    }

    pub(crate) fn reason(&self) -> Option<&str> {
        self.reason_bytes.map(|_| &self.0.slice[self.reason_from()..])
    }

    fn reason_from(&self) -> usize {
        self.0.slice.len() - self.reason_bytes.unwrap_or(0) as usize
    }
}

fn bytes(text: &str) -> u32 {
    u32::try_from(text.len()).expect("no field of a row in Postgres has more than 1 GiB")
}

impl Deref for Entry {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.0.header
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("name", &self.name()).field("facts", &self.0.header).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One that has this name and value, and whose version tells it from others.
    pub(in crate::projection) fn entry(name: &str, json: &str, version: u64, reason: Option<&str>) -> Entry {
        let author = Authorship { actor: "ann".into(), reason: reason.map(Into::into) };
        let parts = Parts {
            name,
            value: Json::stored(json),
            version,
            position: Position(version),
            recorded_at: "2024-01-15T10:30:00Z".parse().unwrap(),
            author: &author,
            actor: "ann".into(),
        };
        Entry::new(parts, &mut String::new())
    }

    #[test]
    fn tells_its_parts_apart() {
        for name in ["a", "größe", "🦀"] {
            for json in ["1", r#""é""#, "{}"] {
                for reason in [None, Some(""), Some("weil")] {
                    let entry = entry(name, json, 7, reason);
                    assert_eq!((entry.name(), entry.value().json(), entry.reason()), (name, json, reason));
                    assert_eq!((entry.version, &*entry.actor), (7, "ann"));
                }
            }
        }
    }
}
