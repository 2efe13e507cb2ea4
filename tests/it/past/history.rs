//! Random histories, and the plain fold of them.

use std::{collections::BTreeMap, time::Duration};

use end_to_end::Database;
use serde_json::{Value, json};
use sqlx::types::chrono::{DateTime, Utc};
use uuid::Uuid;

/// Names that sort otherwise by their characters than by their bytes, and prefixes of each other.
pub(super) const NAMES: [&str; 8] = ["B", "a", "a/b", "a/b/c", "a0", "b c", "é", "🦀"];

/// A change of a random history.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) position: i64,
    pub(super) name: String,
    pub(super) version: i64,
    /// `None`: a deletion.
    pub(super) value: Option<Value>,
    pub(super) recorded_at: DateTime<Utc>,
    pub(super) command_id: Uuid,
    pub(super) part: i16,
    pub(super) reason: Option<String>,
}

/// A log.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub(super) events: Vec<Event>,
}

/// Chances that are the same for the same seed (xorshift64*).
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 up to `sides`, without it.
    pub(super) fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).expect("31 bits") % sides
    }
}

const INSERT: &str = "
insert into events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata, position,
                    recorded_at, command_id, part)
select 'ConfigValue', e.name, e.sequence, e.event_type, '1.0', e.payload::json, e.metadata::json, e.position, e.recorded_at,
       e.command_id, e.part
  from unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::timestamptz[], $8::uuid[],
              $9::smallint[])
       as e (name, sequence, event_type, payload, metadata, position, recorded_at, command_id, part)";

impl History {
    /// So many changes, of one to three names at a time, a few of them much oftener than others, a fifth of them deletions.
    pub(super) fn random(seed: u64, events: usize) -> Self {
        let (mut dice, mut history) = (Dice::new(seed), Self::default());
        while history.events.len() < events {
            let command_id = Uuid::from_u128((u128::from(seed) << 64) | (history.events.len() as u128 * 7919 + 1));
            let n = u64::try_from(history.events.len()).expect("few");
            let recorded_at = moment("2024-01-15T10:30:00Z") + Duration::from_millis(n * 1500);
            let mut names = NAMES.to_vec();
            for part in 0..i16::try_from(1 + dice.throw(3)).expect("at most 3") {
                let index = dice.throw(names.len()).min(dice.throw(names.len()));
                let name = names.remove(index);
                let value = (dice.throw(5) > 0).then(|| json!(dice.throw(4)));
                history.push(name, value, recorded_at, (command_id, part));
            }
        }
        history
    }

    fn push(&mut self, name: &str, value: Option<Value>, recorded_at: DateTime<Utc>, (command_id, part): (Uuid, i16)) {
        let position = i64::try_from(self.events.len()).expect("few") + 1;
        let version = self.events.iter().filter(|event| event.name == name).count();
        let version = i64::try_from(version).expect("few") + 1;
        let reason = (position % 3 != 0).then(|| format!("reason {position}"));
        let name = name.to_owned();
        self.events.push(Event { position, name, version, value, recorded_at, command_id, part, reason });
    }

    /// Puts it into an empty log.
    pub(super) async fn write(&self, database: &Database) {
        let each = |event: &Event| (event.name.clone(), event.version);
        let (names, versions): (Vec<_>, Vec<_>) = self.events.iter().map(each).unzip();
        let payloads: Vec<_> = self.events.iter().map(Event::payload).collect();
        let (metadata, types): (Vec<_>, Vec<_>) =
            self.events.iter().map(|event| (event.metadata().to_string(), event.event_type())).unzip();
        let positions: Vec<_> = self.events.iter().map(|event| event.position).collect();
        let moments: Vec<_> = self.events.iter().map(|event| event.recorded_at).collect();
        let (commands, parts): (Vec<_>, Vec<_>) =
            self.events.iter().map(|event| (event.command_id, event.part)).unzip();
        let insert = sqlx::query(INSERT).bind(names).bind(versions).bind(types).bind(payloads).bind(metadata);
        let insert = insert.bind(positions).bind(moments).bind(commands).bind(parts);
        insert.execute(&mut database.connect().await).await.expect("a history of the test's own");
    }

    /// The last position.
    pub(super) fn end(&self) -> i64 {
        self.events.last().map_or(0, |event| event.position)
    }

    /// The event at a position, from 1 on.
    pub(super) fn event(&self, position: i64) -> &Event {
        &self.events[usize::try_from(position).expect("from 1 on") - 1]
    }

    /// As the services hand a position out.
    pub(super) fn token(&self, position: i64) -> String {
        if position == 0 {
            return "0".to_owned();
        }
        let command_id = self.event(position).command_id.simple().to_string();
        format!("{position}.{}", &command_id[24..])
    }

    /// The last change of each name up to a position, deletions among them.
    pub(super) fn last_changes(&self, position: i64) -> BTreeMap<&str, &Event> {
        let until = self.events.iter().take_while(|event| event.position <= position);
        until.map(|event| (event.name.as_str(), event)).collect()
    }

    /// What a list at a position must say.
    pub(super) fn state(&self, position: i64, prefix: &str) -> Vec<Value> {
        let last = self.last_changes(position).into_values().filter(|event| event.name.starts_with(prefix));
        last.filter(|event| event.value.is_some())
            .map(|event| json!({ "name": event.name, "value": event.value }))
            .collect()
    }

    /// What a difference must say.
    pub(super) fn difference(&self, from: i64, to: i64, prefix: &str) -> Vec<Value> {
        let was = self.last_changes(from);
        let side = |event: &&Event| event.value.as_ref().map(|value| json!({"version": event.version, "value": value}));
        let changed =
            self.last_changes(to).into_iter().filter(|(name, is)| is.position > from && name.starts_with(prefix));
        let told = changed.filter_map(|(name, is)| {
            let (from, to) = (was.get(name).and_then(side), side(&is));
            let told = json!({"name": name, "from": from, "to": to, "actor": "ann", "reason": is.reason});
            (from.is_some() || to.is_some()).then_some(told)
        });
        told.collect()
    }
}

impl Event {
    pub(super) fn event_type(&self) -> &'static str {
        if self.value.is_some() { "ConfigValueSet" } else { "ConfigValueDeleted" }
    }

    pub(super) fn payload(&self) -> String {
        self.value.as_ref().map_or_else(|| "{}".to_owned(), |value| json!({ "value": value }).to_string())
    }

    pub(super) fn metadata(&self) -> Value {
        match &self.reason {
            Some(reason) => json!({"actor": "ann", "reason": reason}),
            None => json!({"actor": "ann"}),
        }
    }

    /// As the services write it.
    pub(super) fn moment(&self) -> String {
        self.recorded_at.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
    }
}

pub(super) fn moment(text: &str) -> DateTime<Utc> {
    text.parse().expect("a moment")
}
