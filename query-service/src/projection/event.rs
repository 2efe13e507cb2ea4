//! An event as the log hands it over, borrowed from the row that it came in.

use std::borrow::Cow;

use serde::Deserialize;
use shared::{
    event::{AGGREGATE_TYPE, ConfigValueEvent, UnknownEvent, metadata},
    moment::Moment,
    position::Position,
    value::Json,
};
use uuid::Uuid;

/// One row of `events`.
#[derive(Clone, Debug)]
pub(crate) struct Recorded<'a> {
    pub(crate) position: Position,
    pub(crate) aggregate_type: &'a str,
    /// The configuration's name.
    pub(crate) aggregate_id: &'a str,
    /// The configuration's version.
    pub(crate) sequence: u64,
    pub(crate) event_type: &'a str,
    pub(crate) event_version: &'a str,
    pub(crate) payload: &'a str,
    pub(crate) metadata: &'a str,
    pub(crate) recorded_at: Moment,
    pub(crate) command_id: Uuid,
}

impl<'a> Recorded<'a> {
    /// What it says.
    ///
    /// # Errors
    /// When this release does not know it.
    pub(crate) fn understood(&self) -> Result<Understood<'a>, UnknownEvent> {
        let mut change = None;
        if self.aggregate_type == AGGREGATE_TYPE {
            let value = ConfigValueEvent::value_in(self.event_type, self.event_version, self.payload)?;
            let set = value.map(|value| (value, Authorship::of(self.metadata)));
            change = Some(Change { name: self.aggregate_id, version: self.sequence, set });
        }
        let Self { position, recorded_at, command_id, .. } = *self;
        Ok(Understood { position, recorded_at, command_id, change })
    }

    /// What it weighs in a batch, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.aggregate_id.len() + self.payload.len() + self.metadata.len()
    }
}

/// What an event says, as far as the state is concerned.
#[derive(Debug)]
pub(crate) struct Understood<'a> {
    pub(crate) position: Position,
    pub(crate) recorded_at: Moment,
    pub(crate) command_id: Uuid,
    /// `None`: it is another aggregate's, and changes nothing here.
    pub(crate) change: Option<Change<'a>>,
}

/// What becomes of a configuration.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: u64,
    /// Its new value; `None`: it is deleted.
    pub(crate) set: Option<(Json<'a>, Authorship<'a>)>,
}

/// About what a change copies of the state's tree, in bytes.
const COPIED_BYTES: u64 = 2 * 1024;

impl Change<'_> {
    /// About what it costs to keep the state before it beside the one behind it, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let value = self.set.as_ref().map_or(0, |(value, _)| value.json().len());
        COPIED_BYTES + (self.name.len() + value) as u64
    }
}

/// Who made a change, and why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Authorship<'a> {
    pub(crate) actor: Cow<'a, str>,
    pub(crate) reason: Option<Cow<'a, str>>,
}

impl<'a> Authorship<'a> {
    /// Reads it from an event's metadata. Stock writers may have written anything, or nothing: that is nobody in particular.
    pub(crate) fn of(metadata: &'a str) -> Self {
        #[derive(Default, Deserialize)]
        struct Keys<'a> {
            #[serde(borrow)]
            actor: Option<Cow<'a, str>>,
            #[serde(borrow)]
            reason: Option<Cow<'a, str>>,
        }
        let Keys { actor, reason } = serde_json::from_str(metadata).unwrap_or_default();
        Self { actor: actor.unwrap_or(Cow::Borrowed(metadata::ANONYMOUS)), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_who_and_why_from_any_metadata() {
        let ours = Authorship::of(r#"{"actor":"ann","reason":"a \"b\"","request_id":"r"}"#);
        assert_eq!(ours, Authorship { actor: "ann".into(), reason: Some("a \"b\"".into()) });
        for stock in ["{}", "null", "[]", r#"{"actor":7}"#, r#"{"actor":null}"#] {
            assert_eq!(Authorship::of(stock), Authorship { actor: "anonymous".into(), reason: None }, "{stock}");
        }
    }
}
