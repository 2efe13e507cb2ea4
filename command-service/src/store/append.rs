//! The append: one statement, one round trip, for a whole group. The order rule is in `append_events` itself.

use std::time::Duration;

use bytes::BytesMut;
use chrono::{DateTime, TimeDelta, Utc};
use shared::{
    event::{AGGREGATE_TYPE, EVENT_VERSION},
    moment::Moment,
    name::ConfigName,
    position::Position,
};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    pipe::Pipe,
    ready::{Array, Column, Interval, Ready, put},
};

/// One command's events: all are written, or none.
#[derive(Clone, Debug)]
pub struct Unit {
    /// What makes its append safe to repeat.
    pub command_id: Uuid,
    /// In order. Each of another name.
    pub events: Vec<NewEvent>,
    /// Of its events, all the same; JSON.
    pub metadata: String,
    /// What must still be true of names that it does not write.
    pub checks: Vec<Check>,
    /// The key that it came with, and what a repetition is answered. Kept together with the events, also when there are none.
    pub keyed: Option<Keyed>,
}

/// A name that a unit depends on without writing it.
#[derive(Clone, Debug)]
pub struct Check {
    /// Of the configuration.
    pub name: ConfigName,
    /// The version that it must have; 0 before its first event.
    pub version: u64,
    /// The command that must have written that version; `None`: whichever.
    pub seen: Option<Uuid>,
}

/// An idempotency key, and the answer that is kept under it.
#[derive(Clone, Debug)]
pub struct Keyed {
    /// The key.
    pub key: IdempotencyKey,
    /// JSON.
    pub answer: String,
}

/// A client's idempotency key, as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// SHA-256 of account, route and key.
    pub hash: [u8; 32],
    /// SHA-256 of what was asked.
    pub request: [u8; 32],
}

/// An event on its way into the log.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Of which configuration.
    pub name: ConfigName,
    /// The version that its writer saw; the event gets the next.
    pub expected_version: u64,
    /// The command that had written that version; `None`: whichever. Behind a failover that lost the log's end, the same
    /// version may be another's.
    pub seen: Option<Uuid>,
    /// The lineage that this version belongs to; `None`: it was loaded, so anybody may have written it.
    pub lineage: Option<Lineage>,
    /// Its type's name.
    pub event_type: &'static str,
    /// JSON.
    pub payload: String,
}

impl Unit {
    /// What it weighs in queue and group, in bytes.
    pub(super) fn bytes(&self) -> usize {
        // In the log, each event has the metadata.
        let event = |event: &NewEvent| event.name.len() + event.payload.len() + self.metadata.len();
        let events = self.events.iter().map(event);
        let checks = self.checks.iter().map(|check| check.name.len());
        events.chain(checks).sum::<usize>() + self.keyed.as_ref().map_or(0, |keyed| keyed.answer.len())
    }
}

/// What one committer has appended since its first append, or since the last time the log turned out to have lost some of it. As
/// long as the newest of these events is in the log, all of them are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lineage(u64);

/// A lineage, and its newest event.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Anchored {
    lineage: Lineage,
    /// Its place, and the command that wrote it; `None` before the first append.
    anchor: Option<(Position, Uuid)>,
    /// The server process that carried out the last append.
    process: Option<u32>,
    /// Nobody else's event stood between that append and the one before.
    alone: bool,
}

/// What an append stands on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Footing {
    anchored: Anchored,
    /// The anchor counts in this server process only.
    only_in: Option<u32>,
}

impl Anchored {
    /// Behind an append, which has found these events in the log, or put them there; and before it this head.
    ///
    /// Where a guessed anchor was not there, only the guess was wrong, if the append was carried out where the one before was: a server
    /// process does not live to see its log lose something.
    fn behind(
        self,
        on: Footing,
        holds: bool,
        events: impl Iterator<Item = (Position, Uuid)>,
        head: Option<Uuid>,
        server_process: u32,
    ) -> Self {
        let alone = head == self.anchor.map(|(_, command_id)| command_id);
        let holds = holds || (on.only_in.is_some() && self.process == Some(server_process));
        let (lineage, anchor) = if holds { (self.lineage, self.anchor) } else { (Lineage(self.lineage.0 + 1), None) };
        let anchor = events.chain(anchor).max_by_key(|(position, _)| *position);
        Self { lineage, anchor, process: Some(server_process), alone }
    }

    /// Of an append that is sent when all before it are answered.
    pub(super) fn footing(self) -> Footing {
        Footing { anchored: self, only_in: None }
    }

    /// Of an append that is sent right behind this group, before that has its outcome: the anchor is where the group's last event will
    /// be, if all of it is appended and nobody else writes. Otherwise the anchor will not be there, and all is looked up.
    ///
    /// The group itself may find that its own anchor is gone, and be appended where it was expected nonetheless. Then what was
    /// written before is not what it was, and the anchor behind it would promise too much. A server loses what it had only when its
    /// processes end: so the anchor counts in the process only that has carried out the append before. `None` when that is not known,
    /// or others write too.
    pub(super) fn footing_behind(self, group: &[&Ready]) -> Option<Footing> {
        let ((position, command_id), process) = (self.anchor?, self.process.filter(|_| self.alone)?);
        let events: usize = group.iter().map(|ready| ready.unit.events.len()).sum();
        let last = group.iter().rfind(|ready| !ready.unit.events.is_empty());
        let position = Position(position.0 + u64::try_from(events).ok()?);
        let anchor = Some((position, last.map_or(command_id, |ready| ready.unit.command_id)));
        Some(Footing { anchored: Self { anchor, ..self }, only_in: Some(process) })
    }
}

impl Footing {
    /// Whether the name's last version must be looked up, though the anchor holds.
    fn asks_for(self, event: &NewEvent) -> bool {
        event.expected_version > 0 && event.lineage != Some(self.anchored.lineage)
    }
}

/// What became of a group.
#[derive(Debug)]
pub(super) struct Group {
    /// Of each unit, in their order.
    pub(super) outcomes: Vec<Outcome>,
    /// What the next append can rely on.
    pub(super) anchored: Anchored,
    /// The command that wrote the log's last event before it.
    pub(super) head: Option<Uuid>,
    /// The server process that carried it out.
    pub(super) server_process: u32,
}

/// What became of a unit.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// It is done: written now, or by an earlier attempt of the same command.
    Done {
        /// Where.
        appended: Appended,
        /// By an earlier attempt.
        repeated: bool,
    },
    /// Somebody else wrote a name of it since; nothing of the unit was written.
    Conflict,
}

/// A unit that is done.
#[derive(Clone, Debug)]
pub enum Appended {
    /// Its events are in the log.
    Written {
        /// Place of its first event; the others follow it.
        first: Position,
        /// When, by the database's clock under the log's lock.
        recorded_at: Moment,
        /// The lineage that they belong to.
        lineage: Lineage,
    },
    /// It had no events; its answer is kept.
    Noted,
    /// Its key was taken by an earlier command: nothing was written now.
    Answered {
        /// What was asked then, as in [`IdempotencyKey::request`].
        request: Vec<u8>,
        /// What was answered then; JSON.
        answer: String,
    },
}

/// One row of the answer: a run of units with the same outcome.
#[derive(Debug)]
pub(super) struct Run {
    first_unit: i32,
    last_unit: i32,
    outcome: String,
    first_position: Option<i64>,
    recorded_at: Option<DateTime<Utc>>,
    key_request_hash: Option<Vec<u8>>,
    key_answer: Option<String>,
    head_command_id: Option<Uuid>,
    anchor_holds: bool,
    server_process: i32,
}

pub(super) const APPEND: &str = "
select first_unit, last_unit, outcome, first_position, recorded_at, key_request_hash, key_answer, head_command_id, anchor_holds,
       pg_backend_pid() as server_process
  from append_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,
                     case when coalesce($23 = pg_backend_pid(), true) then $20::bigint end, $21, $22)";

impl Run {
    fn of(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            first_unit: row.try_get(0)?,
            last_unit: row.try_get(1)?,
            outcome: row.try_get(2)?,
            first_position: row.try_get(3)?,
            recorded_at: row.try_get(4)?,
            key_request_hash: row.try_get(5)?,
            key_answer: row.try_get(6)?,
            head_command_id: row.try_get(7)?,
            anchor_holds: row.try_get(8)?,
            server_process: row.try_get(9)?,
        })
    }
}

/// Appends the units and tells what became of each, in their order. No two may touch the same name.
///
/// All rows are awaited up to the server's last word: a row arrives before the commit, and would prove nothing.
pub(super) async fn append(
    pipe: &Pipe,
    group: &[&Ready],
    key_lifetime: Duration,
    footing: Footing,
) -> Result<Vec<Run>, sqlx::Error> {
    let units: &[_] = &group.iter().map(|ready| &ready.unit).collect::<Vec<_>>();
    let index = |index: usize| i32::try_from(index + 1).expect("a group is far smaller than 2^31 units").to_be_bytes();
    let of_events = || {
        units.iter().enumerate().flat_map(|(unit, Unit { events, .. })| events.iter().map(move |event| (unit, event)))
    };
    let of_checks = || {
        units.iter().enumerate().flat_map(|(unit, Unit { checks, .. })| checks.iter().map(move |check| (unit, check)))
    };
    let (events, checks) = (of_events().count(), of_checks().count());
    let column = |column: Column| {
        move |bytes: &mut BytesMut| {
            group.iter().for_each(|ready| bytes.extend_from_slice(ready.columns.elements(column)));
        }
    };
    let part = |part: usize| i16::try_from(part).expect("a batch is far smaller than 2^15 operations").to_be_bytes();
    let version = |version: u64| i64::try_from(version).expect("versions are bigints in the log").to_be_bytes();
    // Without any key the arrays are empty, and the server looks for none.
    let keyed = units.iter().any(|unit| unit.keyed.is_some());
    let keys = || units.iter().filter(|_| keyed).map(|unit| unit.keyed.as_ref());
    let looked_up = || (0..).zip(of_events()).filter(|(_, (_, event))| footing.asks_for(event)).map(|(event, _)| event);
    let lifetime = i64::try_from(key_lifetime.as_micros()).expect("a key lives for days");
    let keys_count = keys().count();
    let rows = pipe
        .append(&[
            &AGGREGATE_TYPE,
            &EVENT_VERSION,
            &Array::new(units.len(), |bytes| {
                units.iter().for_each(|unit| put(bytes, Some(unit.command_id.as_bytes())));
            }),
            &Array::new(units.len(), |bytes| {
                units.iter().for_each(|unit| put(bytes, Some(unit.metadata.as_bytes())));
            }),
            &Array::new(keys_count, |bytes| {
                keys().for_each(|keyed| put(bytes, keyed.map(|keyed| keyed.key.hash.as_slice())));
            }),
            &Array::new(keys_count, |bytes| {
                keys().for_each(|keyed| put(bytes, keyed.map(|keyed| keyed.key.request.as_slice())));
            }),
            &Array::new(keys_count, |bytes| {
                keys().for_each(|keyed| put(bytes, keyed.map(|keyed| keyed.answer.as_bytes())));
            }),
            &Interval(lifetime),
            &Array::new(events, |bytes| of_events().for_each(|(unit, _)| put(bytes, Some(&index(unit))))),
            &Array::new(events, |bytes| {
                units.iter().flat_map(|unit| 0..unit.events.len()).for_each(|place| put(bytes, Some(&part(place))));
            }),
            &Array::new(events, column(Column::Names)),
            &Array::new(events, column(Column::Expected)),
            &Array::new(events, column(Column::Seen)),
            &Array::new(events, column(Column::Types)),
            &Array::new(events, |bytes| {
                of_events().for_each(|(_, event)| put(bytes, Some(event.payload.as_bytes())));
            }),
            &Array::new(checks, |bytes| of_checks().for_each(|(unit, _)| put(bytes, Some(&index(unit))))),
            &Array::new(checks, |bytes| {
                of_checks().for_each(|(_, check)| put(bytes, Some(check.name.as_str().as_bytes())));
            }),
            &Array::new(checks, |bytes| {
                of_checks().for_each(|(_, check)| put(bytes, Some(&version(check.version))));
            }),
            &Array::new(checks, |bytes| {
                of_checks().for_each(|(_, check)| {
                    put(bytes, check.seen.as_ref().map(|seen| seen.as_bytes().as_slice()));
                });
            }),
            &footing.anchored.anchor.map(|(position, _)| position.to_parameter()),
            &footing.anchored.anchor.map(|(_, command_id)| command_id),
            &Array::new(looked_up().count(), |bytes| {
                looked_up().for_each(|event| put(bytes, Some(&index(event))));
            }),
            &footing.only_in.map(u32::cast_signed),
        ])
        .await?;
    rows.iter().map(Run::of).collect::<Result<_, _>>().map_err(|error| not_understood(&error.to_string()))
}

/// What became of the group, by the server's answer.
pub(super) fn judged(group: &[&Ready], runs: Vec<Run>, anchored: Anchored, on: Footing) -> Result<Group, sqlx::Error> {
    let units: &[_] = &group.iter().map(|ready| &ready.unit).collect::<Vec<_>>();
    let Some(Run { head_command_id: head, anchor_holds, server_process, .. }) = runs.first() else {
        return Err(not_understood("nothing"));
    };
    let (head, holds, server_process) = (*head, *anchor_holds, server_process.cast_unsigned());
    let found = runs.iter().filter_map(|run| last_of(units, run));
    let anchored = anchored.behind(on, holds, found, head, server_process);
    Ok(Group { outcomes: outcomes(units, runs, anchored.lineage)?, anchored, head, server_process })
}

/// The units that a row speaks of.
fn units_of<'a>(units: &'a [&'a Unit], run: &Run) -> Option<&'a [&'a Unit]> {
    units.get(usize::try_from(run.first_unit - 1).ok()?..usize::try_from(run.last_unit).ok()?)
}

/// The last event of the units that a row tells to be in the log.
fn last_of(units: &[&Unit], run: &Run) -> Option<(Position, Uuid)> {
    let first = run.first_position?;
    let units = units_of(units, run)?;
    let events: usize = units.iter().map(|unit| unit.events.len()).sum();
    let last = units.iter().rfind(|unit| !unit.events.is_empty())?;
    Some((Position::from_column(first + i64::try_from(events).ok()? - 1), last.command_id))
}

/// What became of each unit.
fn outcomes(units: &[&Unit], runs: Vec<Run>, lineage: Lineage) -> Result<Vec<Outcome>, sqlx::Error> {
    let mut outcomes: Vec<Option<Outcome>> = vec![None; units.len()];
    for run in runs {
        let Some(of_run) = units_of(units, &run) else { return Err(not_understood("units that it was not given")) };
        let outcomes = outcomes.iter_mut().skip(usize::try_from(run.first_unit - 1).unwrap_or(usize::MAX));
        let outcomes = of_run.iter().zip(outcomes);
        match (run.outcome.as_str(), run.first_position, run.recorded_at, run.key_request_hash, run.key_answer) {
            (word @ ("appended" | "repeated"), Some(position), Some(recorded_at), ..) => {
                let repeated = word == "repeated";
                let (mut first, mut recorded_at) = (Position::from_column(position), recorded_at);
                for (unit, outcome) in outcomes {
                    let appended = match unit.events.len() {
                        0 => Appended::Noted,
                        _ => Appended::Written { first, recorded_at: Moment(recorded_at), lineage },
                    };
                    *outcome = Some(Outcome::Done { appended, repeated });
                    first.0 += u64::try_from(unit.events.len()).unwrap_or(u64::MAX);
                    recorded_at += TimeDelta::microseconds(1);
                }
            }
            ("answered", .., Some(request), Some(answer)) => {
                let appended = Appended::Answered { request, answer };
                let answered = Outcome::Done { appended, repeated: false };
                outcomes.for_each(|(_, outcome)| *outcome = Some(answered.clone()));
            }
            ("conflict", ..) => outcomes.for_each(|(_, outcome)| *outcome = Some(Outcome::Conflict)),
            (other, ..) => return Err(not_understood(other)),
        }
    }
    outcomes.into_iter().collect::<Option<_>>().ok_or_else(|| not_understood("nothing of some units"))
}

fn not_understood(answer: &str) -> sqlx::Error {
    sqlx::Error::Protocol(format!("append_events answered `{answer}`, which is not understood"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What happens to a log, its committer, and who loads from it.
    #[derive(Clone, Debug)]
    enum Step {
        /// The committer appends an event of the name, knowing what it knows; or its answer is lost, and it repeats.
        Append { name: usize, repeated: bool },
        /// It sends a second append behind the first, and something happens before each.
        Two { names: [usize; 2], before: [Elsewhere; 2] },
        /// Somebody else does something.
        Elsewhere(Elsewhere),
        /// The committer's process loads a name, perhaps from a server that still has what is lost.
        Load { name: usize, from_old: bool },
    }

    #[derive(Clone, Debug)]
    enum Elsewhere {
        Nothing,
        /// Another writer appends.
        Writes(usize),
        /// A failover loses so many events; statements are carried out by another server from there on.
        Loses(usize),
    }

    fn elsewhere() -> impl Strategy<Value = Elsewhere> {
        prop_oneof![
            4 => Just(Elsewhere::Nothing),
            1 => (0..3_usize).prop_map(Elsewhere::Writes),
            1 => (1..4_usize).prop_map(Elsewhere::Loses),
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3_usize, any::<bool>()).prop_map(|(name, repeated)| Step::Append { name, repeated }),
            4 => ([0..3_usize, 0..3_usize], [elsewhere(), elsewhere()]).prop_map(|(names, before)| Step::Two { names, before }),
            3 => elsewhere().prop_map(Step::Elsewhere),
            2 => (0..3_usize, any::<bool>()).prop_map(|(name, from_old)| Step::Load { name, from_old }),
        ]
    }

    /// Events as their commands and names, in their order.
    type Log = Vec<(Uuid, usize)>;

    /// The last event of a name, and how many it has.
    fn last(log: &Log, name: usize) -> Option<(usize, Uuid, u64)> {
        let of_name = || log.iter().enumerate().filter(|(_, event)| event.1 == name);
        of_name().next_back().map(|(index, event)| (index + 1, event.0, of_name().count() as u64))
    }

    fn event(name: usize, seen: Option<(Uuid, u64, Option<Lineage>)>) -> NewEvent {
        NewEvent {
            name: ConfigName::stored(&name.to_string()),
            expected_version: seen.map_or(0, |(_, version, _)| version),
            seen: seen.map(|(command_id, ..)| command_id),
            lineage: seen.and_then(|(.., lineage)| lineage),
            event_type: "ConfigValueSet",
            payload: String::new(),
        }
    }

    fn ready(command_id: Uuid, event: NewEvent) -> Ready {
        Ready::new(Unit { command_id, events: vec![event], metadata: String::new(), checks: vec![], keyed: None })
    }

    /// What of a name its loader or writer knows: which command wrote it last, its version, and the lineage.
    type Known = Option<(Uuid, u64, Option<Lineage>)>;

    #[derive(Default)]
    struct Server {
        log: Log,
        /// What it was before a failover.
        old: Log,
        /// The process that carries out what comes next.
        process: u32,
        commands: u128,
    }

    /// What an append found and did.
    struct Done {
        on: Footing,
        holds: bool,
        head: Option<Uuid>,
        process: u32,
        written: Option<(Position, Uuid)>,
    }

    impl Server {
        fn command(&mut self) -> Uuid {
            self.commands += 1;
            Uuid::from_u128(self.commands)
        }

        fn happens(&mut self, what: &Elsewhere) {
            match what {
                Elsewhere::Nothing => {}
                Elsewhere::Writes(name) => {
                    let command = self.command();
                    self.log.push((command, *name));
                }
                Elsewhere::Loses(events) => {
                    self.old.clone_from(&self.log);
                    self.log.truncate(self.log.len().saturating_sub(*events));
                    self.process += 1;
                }
            }
        }

        /// As the log itself judges it. What is not looked up must be as it was seen.
        fn append(
            &mut self,
            command: Uuid,
            name: usize,
            event: &NewEvent,
            footing: Footing,
        ) -> Result<Done, TestCaseError> {
            let here = footing.only_in.is_none_or(|process| process == self.process);
            let anchor = footing.anchored.anchor.filter(|_| here);
            let holds = anchor.is_some_and(|(position, command_id)| {
                usize::try_from(position.0 - 1)
                    .is_ok_and(|index| self.log.get(index).is_some_and(|event| event.0 == command_id))
            });
            let looked_up = !holds || footing.asks_for(event);
            if let Some(seen) = event.seen
                && !looked_up
            {
                prop_assert!(self.log.contains(&(seen, name)), "{seen} of {name} is not in {:?}", self.log);
            }
            let head = self.log.last().map(|(command_id, _)| *command_id);
            let stands = last(&self.log, name).map(|(_, command_id, _)| command_id) == event.seen;
            if stands {
                self.log.push((command, name));
            }
            let written = stands.then_some((Position(self.log.len() as u64), command));
            Ok(Done { on: footing, holds, head, process: self.process, written })
        }

        /// What is known of a name behind an append, or when a conflict has it loaded.
        fn known(&self, name: usize, done: &Done, anchored: Anchored) -> Known {
            last(&self.log, name)
                .map(|(_, command_id, version)| (command_id, version, done.written.map(|_| anchored.lineage)))
        }
    }

    impl Done {
        fn anchors(&self, anchored: Anchored) -> Anchored {
            anchored.behind(self.on, self.holds, self.written.into_iter(), self.head, self.process)
        }
    }

    proptest! {
        /// Through failovers, other writers, repetitions, loads of any server, and appends that are sent before the one in front of them is
        /// answered: a name that is not looked up, while the anchor is in the log, has in the log what was seen of it.
        #[test]
        fn what_is_not_looked_up_is_there(steps in prop::collection::vec(step(), 0..60)) {
            let mut server = Server::default();
            let mut known: [Known; 3] = [None; 3];
            let mut anchored = Anchored::default();
            for step in steps {
                match step {
                    Step::Elsewhere(what) => server.happens(&what),
                    Step::Load { name, from_old } => {
                        let log = if from_old { &server.old } else { &server.log };
                        known[name] = last(log, name).map(|(_, command_id, version)| (command_id, version, None));
                    }
                    Step::Append { name, repeated } => {
                        let (command, event) = (server.command(), event(name, known[name]));
                        let done = server.append(command, name, &event, anchored.footing())?;
                        anchored = done.anchors(anchored);
                        if done.written.is_some() && repeated {
                            let holds = anchored.anchor.is_some();
                            anchored = Done { holds, ..done }.anchors(anchored);
                        }
                        known[name] = server.known(name, &done, anchored);
                    }
                    Step::Two { names: [first, second], before } => {
                        let commands = [server.command(), server.command()];
                        let events = [first, second].map(|name| event(name, known[name]));
                        let in_front = ready(commands[0], events[0].clone());
                        let footings = [Some(anchored.footing()), anchored.footing_behind(&[&in_front])];
                        // A name has one command at a time.
                        let of = if first == second { 1 } else { 2 };
                        let mut sent = vec![];
                        for index in 0..of {
                            let (name, Some(footing)) = ([first, second][index], footings[index]) else { break };
                            server.happens(&before[index]);
                            sent.push((name, server.append(commands[index], name, &events[index], footing)?));
                        }
                        for (name, done) in sent {
                            anchored = done.anchors(anchored);
                            known[name] = server.known(name, &done, anchored);
                        }
                    }
                }
            }
        }
    }
}
