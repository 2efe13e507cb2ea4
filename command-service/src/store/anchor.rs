//! What an append can rely on without looking it up: what its own committer left in the log.

use shared::position::Position;
use uuid::Uuid;

use super::{ready::Ready, unit::NewEvent};

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
    pub(super) fn behind(
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

    /// Of what was appended last.
    pub(super) fn lineage(self) -> Lineage {
        self.lineage
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
    pub(super) fn anchor(self) -> Option<(Position, Uuid)> {
        self.anchored.anchor
    }

    pub(super) fn only_in(self) -> Option<u32> {
        self.only_in
    }

    /// Whether the name's last version must be looked up, though the anchor holds.
    pub(super) fn asks_for(self, event: &NewEvent) -> bool {
        event.expected_version > 0 && event.lineage != Some(self.anchored.lineage)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use shared::name::ConfigName;

    use super::{super::unit::Unit, *};

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
