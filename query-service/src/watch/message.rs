//! A command's changes as watchers receive them: encoded once, shared by all.

use std::{io::Write as _, ops::Range};

use bytes::Bytes;
use serde::Serialize;
use shared::{
    event::{AGGREGATE_TYPE, ConfigValueEvent, UnknownEvent},
    moment::Moment,
    position::{Position, PositionToken},
    telemetry::spans::{self, TraceSpan},
    value::Json,
};
use uuid::Uuid;

use super::{filter::Filter, frame};
use crate::projection::{Authorship, Recorded};

/// What stands behind the changes.
const END: &[u8] = b"]}\n\n";

/// What a frame has beside its texts and changes, in bytes, at most, so that it takes its memory once. Texts that need escapes take more.
const AROUND_FRAME: usize = 180;
/// The same of a change.
const AROUND_CHANGE: usize = 60;

/// One command: a whole event of the stream, and where in it each change stands.
#[derive(Debug)]
pub(crate) struct Message {
    /// Of the command's last event.
    token: PositionToken,
    recorded_at: Moment,
    frame: Bytes,
    changes: Box<[Change]>,
    /// Open until it is delivered.
    trace: TraceSpan,
}

#[derive(Debug)]
struct Change {
    name: Box<str>,
    /// Its JSON, in the frame.
    json: Range<usize>,
}

impl Message {
    /// The span of its processing, which ends with whoever takes it.
    pub(super) fn take_trace(&mut self) -> TraceSpan {
        std::mem::take(&mut self.trace)
    }

    /// Readers see it now.
    pub(crate) fn is_visible(&mut self) {
        self.trace.event("visible", &[]);
    }

    pub(super) fn token(&self) -> PositionToken {
        self.token
    }

    pub(super) fn position(&self) -> Position {
        self.token.position
    }

    pub(crate) fn recorded_at(&self) -> Moment {
        self.recorded_at
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.changes.iter().map(|change| &*change.name)
    }

    /// What it weighs in memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let changes = self.changes.iter().map(|change| size_of::<Change>() + change.name.len());
        size_of::<Self>() + self.frame.len() + changes.sum::<usize>()
    }

    /// The event with all its changes.
    pub(super) fn whole(&self) -> Bytes {
        self.frame.clone()
    }

    /// The event with these changes alone, by their indexes. All of them are the shared frame itself.
    pub(super) fn with(&self, taken: &[usize]) -> Bytes {
        if taken.len() == self.changes.len() {
            return self.whole();
        }
        let Some(first) = self.changes.first() else { return self.whole() };
        let mut frame = Vec::with_capacity(self.frame.len());
        frame.extend_from_slice(&self.frame[..first.json.start]);
        for (place, index) in taken.iter().enumerate() {
            if place > 0 {
                frame.push(b',');
            }
            frame.extend_from_slice(&self.frame[self.changes[*index].json.clone()]);
        }
        frame.extend_from_slice(END);
        frame.into()
    }

    /// The event with what a filter takes; `None` when that is nothing.
    pub(super) fn for_filter(&self, filter: &Filter) -> Option<Bytes> {
        let names = self.names().enumerate();
        let taken: Vec<_> = names.filter(|(_, name)| filter.takes(name)).map(|(index, _)| index).collect();
        (!taken.is_empty()).then(|| self.with(&taken))
    }
}

/// A command whose end was not seen yet.
#[derive(Debug)]
pub(crate) struct Draft {
    command_id: Uuid,
    position: Position,
    recorded_at: Moment,
    actor: String,
    reason: Option<String>,
    /// The changes, with a comma between them.
    json: Vec<u8>,
    changes: Vec<Change>,
    trace: TraceSpan,
}

impl Draft {
    /// Begins with the command's first event, without it.
    pub(crate) fn of(event: &Recorded<'_>) -> Self {
        let Authorship { actor, reason } = Authorship::of(event.metadata);
        Self {
            command_id: event.command_id,
            position: event.position,
            recorded_at: event.recorded_at,
            actor: actor.into_owned(),
            reason: reason.map(Into::into),
            json: vec![],
            changes: vec![],
            trace: TraceSpan::default(),
        }
    }

    /// Is processed in this span.
    pub(crate) fn traced_by(&mut self, span: TraceSpan) {
        self.trace = span;
    }

    /// Whether the event is this command's.
    pub(crate) fn goes_on_with(&self, event: &Recorded<'_>) -> bool {
        self.command_id == event.command_id
    }

    /// Adds its next event. Those of other aggregates count, and change nothing.
    ///
    /// # Errors
    /// When this release cannot read it.
    pub(crate) fn push(&mut self, event: &Recorded<'_>) -> Result<(), UnknownEvent> {
        if event.aggregate_type != AGGREGATE_TYPE {
            self.position = event.position;
            return Ok(());
        }
        let value = ConfigValueEvent::value_in(event.event_type, event.event_version, event.payload)?;
        self.position = event.position;
        let value = value.map(Json::json);
        self.json.reserve(event.aggregate_id.len() + value.map_or(0, str::len) + AROUND_CHANGE);
        if !self.changes.is_empty() {
            self.json.push(b',');
        }
        let start = self.json.len();
        frame::write_item(&mut self.json, event.aggregate_id, event.sequence, value);
        self.changes.push(Change { name: event.aggregate_id.into(), json: start..self.json.len() });
        Ok(())
    }

    /// Leaves an event out that nobody who reads this asked for.
    pub(crate) fn skip(&mut self, event: &Recorded<'_>) {
        self.position = event.position;
    }

    /// The command as a whole; `None` when it changed no configuration.
    pub(crate) fn finish(mut self) -> Option<Message> {
        if self.changes.is_empty() {
            return None;
        }
        if self.trace.is_recorded() {
            self.trace.set("config.position", i64::try_from(self.position.0).unwrap_or(i64::MAX));
            match &self.changes[..] {
                [one] => self.trace.set("config.name", &*one.name),
                several => self.trace.set("messaging.batch.message_count", spans::count(several.len())),
            }
        }
        let token = PositionToken::new(self.position, self.command_id);
        let head = Head {
            position: self.position,
            recorded_at: self.recorded_at,
            actor: &self.actor,
            reason: self.reason.as_deref(),
        };
        let texts = self.actor.len() + self.reason.as_ref().map_or(0, String::len);
        let mut frame = Vec::with_capacity(texts + self.json.len() + AROUND_FRAME);
        write!(frame, "id: {token}\nevent: change\ndata: ").expect("memory takes what is written");
        serde_json::to_writer(&mut frame, &head).expect("texts and numbers are JSON");
        frame.pop();
        frame.extend_from_slice(b",\"changes\":[");
        for change in &mut self.changes {
            change.json = frame.len() + change.json.start..frame.len() + change.json.end;
        }
        frame.extend_from_slice(&self.json);
        frame.extend_from_slice(END);
        frame.shrink_to_fit();
        let (frame, changes, recorded_at) = (frame.into(), self.changes.into(), self.recorded_at);
        Some(Message { token, recorded_at, frame, changes, trace: self.trace })
    }
}

/// What all changes of a command have in common.
#[derive(Serialize)]
struct Head<'a> {
    position: Position,
    recorded_at: Moment,
    actor: &'a str,
    reason: Option<&'a str>,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A command of these changes, ending at this position; `None` = a deletion.
    pub(crate) fn message(position: u64, changes: &[(&str, Option<&str>)]) -> Message {
        draft(position, changes).finish().unwrap()
    }

    fn draft(position: u64, changes: &[(&str, Option<&str>)]) -> Draft {
        let first = position + 1 - u64::try_from(changes.len()).unwrap();
        let mut draft = None;
        for (position, (name, value)) in (first..).zip(changes) {
            let payload = value.map_or("{}".to_owned(), |value| format!("{{\"value\":{value}}}"));
            let event = Recorded {
                position: Position(position),
                aggregate_type: AGGREGATE_TYPE,
                aggregate_id: name,
                sequence: position,
                event_type: if value.is_some() { "ConfigValueSet" } else { "ConfigValueDeleted" },
                event_version: "1.0",
                payload: &payload,
                metadata: r#"{"actor":"ann","reason":"a\nb"}"#,
                recorded_at: "2024-01-15T10:30:00Z".parse().unwrap(),
                command_id: Uuid::from_u128(u128::from(first)),
            };
            draft.get_or_insert_with(|| Draft::of(&event)).push(&event).unwrap();
        }
        draft.unwrap()
    }

    fn text(frame: &Bytes) -> &str {
        std::str::from_utf8(frame).unwrap()
    }

    const HEAD: &str = concat!(
        "id: 3.00000001\nevent: change\n",
        r#"data: {"position":3,"recorded_at":"2024-01-15T10:30:00.000000Z","actor":"ann","reason":"a\nb","changes":["#
    );

    #[test]
    fn a_command_is_one_event_with_all_its_changes() {
        let message = message(3, &[("a", Some("1.10")), ("b\"", None), ("c", Some("null"))]);
        let changes = [
            r#"{"name":"a","version":1,"value":1.10}"#,
            r#"{"name":"b\"","version":2,"deleted":true}"#,
            r#"{"name":"c","version":3,"value":null}"#,
        ];
        assert_eq!(text(&message.with(&[0, 1, 2])), format!("{HEAD}{}]}}\n\n", changes.join(",")));
        assert_eq!(message.with(&[0, 1, 2]).as_ptr(), message.with(&[0, 1, 2]).as_ptr(), "shared, not copied");
        assert_eq!(text(&message.with(&[0, 2])), format!("{HEAD}{},{}]}}\n\n", changes[0], changes[2]));
        assert_eq!(text(&message.with(&[1])), format!("{HEAD}{}]}}\n\n", changes[1]));
        assert_eq!(message.for_filter(&Filter::new(vec![], Some("c"))), Some(message.with(&[2])));
        assert_eq!(message.for_filter(&Filter::new(vec![], Some("d"))), None);
    }

    #[test]
    fn a_line_break_between_tokens_of_a_value_does_not_end_the_line() {
        let message = message(1, &[("a", Some("[1,\r\n\"x\\n\"\n]"))]);
        let frame = message.with(&[0]);
        assert_eq!(text(&frame).lines().count(), 4, "{}", text(&frame));
        assert!(text(&frame).contains("[1,  \"x\\n\" ]"), "{}", text(&frame));
    }

    #[test]
    fn the_longest_numbers_fit_into_what_is_taken_around_texts() {
        let mut draft = draft(1, &[("a", None)]);
        draft.json.clear();
        frame::write_item(&mut draft.json, "a", u64::MAX, None);
        assert!(draft.json.len() - "a".len() < AROUND_CHANGE, "and a comma: {}", draft.json.len());
        draft.changes[0].json = 0..draft.json.len();
        (draft.position, draft.reason) = (Position(u64::MAX), None);
        let around = draft.actor.len() + draft.json.len();
        let message = draft.finish().unwrap();
        assert!(message.whole().len() - around <= AROUND_FRAME, "{}", message.whole().len() - around);
    }

    #[test]
    fn a_command_that_changes_no_configuration_is_no_message() {
        let mut draft = draft(1, &[("a", Some("1"))]);
        draft.changes.clear();
        assert!(draft.finish().is_none());
    }
}
