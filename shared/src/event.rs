//! The events of the log and what travels with them. Their stored form is a contract: it is never rewritten.

use std::collections::HashMap;

use cqrs_es::DomainEvent;
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;

use crate::value::{ConfigJson, Json};

/// `aggregate_type` of a configuration's events.
pub const AGGREGATE_TYPE: &str = "ConfigValue";

/// `event_version` of the events below.
pub const EVENT_VERSION: &str = "1.0";

/// Longest reason for a change, in bytes of UTF-8: it is kept with the event for ever, and in memory with the value.
pub const MAX_REASON_BYTES: usize = 1024;

/// Keys of an event's metadata.
pub mod metadata {
    /// Who made the change: the authenticated account.
    pub const ACTOR: &str = "actor";
    /// Why, in the words of who made it.
    pub const REASON: &str = "reason";
    /// The request that made it, as in the log.
    pub const REQUEST_ID: &str = "request_id";
    /// W3C trace context of the append.
    pub const TRACEPARENT: &str = "traceparent";
    /// W3C trace state of the append.
    pub const TRACESTATE: &str = "tracestate";
    /// The actor as long as there are no accounts.
    pub const ANONYMOUS: &str = "anonymous";
}

/// What can happen to a configuration. Stored as `event_type` and a payload: `{"value": <any JSON>}` or `{}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigValueEvent {
    /// It was given a value, for the first time or anew.
    ConfigValueSet {
        /// The new value.
        value: ConfigJson,
    },
    /// It was deleted. Its history stays.
    ConfigValueDeleted,
}

/// An event in the log that this version of the code does not know.
#[derive(Debug, thiserror::Error)]
pub enum UnknownEvent {
    /// No such type, or a later version of it: written by a newer release.
    #[error("event type {event_type} version {event_version} is not known to this release")]
    Type {
        /// As stored.
        event_type: String,
        /// As stored.
        event_version: String,
    },
    /// The payload is not of its type's shape.
    #[error("the payload of an event of type {event_type} is malformed")]
    Payload {
        /// As stored.
        event_type: String,
        /// What the parser said.
        source: serde_json::Error,
    },
}

impl ConfigValueEvent {
    /// The type of an event that gives a value.
    pub const SET: &str = "ConfigValueSet";
    const DELETED: &str = "ConfigValueDeleted";

    /// As stored in `event_type`.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::ConfigValueSet { .. } => Self::SET,
            Self::ConfigValueDeleted => Self::DELETED,
        }
    }

    /// The value that it gave; `None` for a deletion.
    #[must_use]
    pub fn value(&self) -> Option<&ConfigJson> {
        match self {
            Self::ConfigValueSet { value } => Some(value),
            Self::ConfigValueDeleted => None,
        }
    }

    /// As stored in `payload`. Put together by hand, because a general serializer would have to promise not to touch the
    /// value's bytes.
    #[must_use]
    pub fn payload(&self) -> String {
        match self {
            Self::ConfigValueSet { value } => format!("{{\"value\":{}}}", value.json()),
            Self::ConfigValueDeleted => "{}".to_owned(),
        }
    }

    /// Reads a stored event.
    ///
    /// # Errors
    /// When this release does not know it.
    pub fn from_stored(event_type: &str, event_version: &str, payload: &str) -> Result<Self, UnknownEvent> {
        Ok(match stored(event_type, event_version, payload)? {
            Some(value) => Self::ConfigValueSet { value: value.into() },
            None => Self::ConfigValueDeleted,
        })
    }

    /// The value that a stored event gave, where it stands; `None` for a deletion.
    ///
    /// # Errors
    /// When this release does not know the event.
    pub fn value_in<'a>(
        event_type: &str,
        event_version: &str,
        payload: &'a str,
    ) -> Result<Option<Json<'a>>, UnknownEvent> {
        Ok(stored(event_type, event_version, payload)?.map(Json::from))
    }

    /// Whether a stored event gives a value, without its payload; else it takes it away.
    ///
    /// # Errors
    /// When this release does not know its type.
    pub fn gives_value(event_type: &str, event_version: &str) -> Result<bool, UnknownEvent> {
        if event_version != EVENT_VERSION || (event_type != Self::SET && event_type != Self::DELETED) {
            let (event_type, event_version) = (event_type.to_owned(), event_version.to_owned());
            return Err(UnknownEvent::Type { event_type, event_version });
        }
        Ok(event_type == Self::SET)
    }
}

/// A payload; told apart by the presence of `value`, which may be `null`.
#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
}

fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn stored<'a>(event_type: &str, event_version: &str, payload: &'a str) -> Result<Option<&'a RawValue>, UnknownEvent> {
    let gives_value = ConfigValueEvent::gives_value(event_type, event_version)?;
    let malformed = |source| UnknownEvent::Payload { event_type: event_type.to_owned(), source };
    let value = serde_json::from_str::<Payload<'_>>(payload).map_err(malformed)?.value;
    if value.is_some() == gives_value {
        return Ok(value);
    }
    Err(malformed(serde::de::Error::custom("it is the payload of another event type")))
}

/// The payload alone: its type is a column of its own.
impl Serialize for ConfigValueEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Self::ConfigValueSet { value } = self {
            map.serialize_entry("value", value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for ConfigValueEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// As the one above, of a text that does not stay.
        #[derive(Deserialize)]
        struct Payload {
            #[serde(default, deserialize_with = "present")]
            value: Option<ConfigJson>,
        }
        fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ConfigJson>, D::Error> {
            ConfigJson::deserialize(deserializer).map(Some)
        }
        Ok(match Payload::deserialize(deserializer)?.value {
            Some(value) => Self::ConfigValueSet { value },
            None => Self::ConfigValueDeleted,
        })
    }
}

impl DomainEvent for ConfigValueEvent {
    fn event_type(&self) -> String {
        self.type_name().to_owned()
    }

    fn event_version(&self) -> String {
        EVENT_VERSION.to_owned()
    }
}

/// Who changed something, why, and in which request: travels with each event.
pub type Metadata = HashMap<String, String>;

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn set(json: &str) -> ConfigValueEvent {
        let value = ConfigJson::accept(RawValue::from_string(json.to_owned()).unwrap(), 1000).unwrap();
        ConfigValueEvent::ConfigValueSet { value }
    }

    #[test]
    fn a_stored_event_reads_back_as_it_was() {
        for event in [set("\"a\""), set("null"), set("12345678901234567890123"), ConfigValueEvent::ConfigValueDeleted] {
            let back = ConfigValueEvent::from_stored(event.type_name(), EVENT_VERSION, &event.payload()).unwrap();
            assert_eq!(back, event);
            assert_eq!(serde_json::to_string(&event).unwrap(), event.payload(), "the serializer agrees");
        }
    }

    /// The way of `postgres-es`: through a `serde_json::Value`.
    #[test]
    fn a_stock_writer_stores_and_loads_the_same_payload() {
        let event = set(r#"{"a":[1,null]}"#);
        let stored = serde_json::to_value(&event).unwrap();
        assert_eq!(stored.to_string(), event.payload());
        assert_eq!(serde_json::from_value::<ConfigValueEvent>(stored).unwrap(), event);
    }

    #[test]
    fn an_unknown_type_version_or_shape_is_told() {
        let read = |event_type, version, payload| ConfigValueEvent::from_stored(event_type, version, payload);
        assert!(matches!(read("ConfigValueRenamed", "1.0", "{}"), Err(UnknownEvent::Type { .. })));
        assert!(matches!(read("ConfigValueSet", "2.0", "{\"value\":1}"), Err(UnknownEvent::Type { .. })));
        assert!(matches!(read("ConfigValueSet", "1.0", "{}"), Err(UnknownEvent::Payload { .. })));
        assert!(matches!(read("ConfigValueDeleted", "1.0", "{\"value\":1}"), Err(UnknownEvent::Payload { .. })));
        assert!(matches!(read("ConfigValueSet", "1.0", "[]"), Err(UnknownEvent::Payload { .. })));
    }
}
