//! Linearizability of one name: is there one order of all calls, each at a moment between its question and its answer, in
//! which every answer is right? Wing and Gong's search, with Lowe's memory of what was tried.

use std::collections::HashSet;

/// What a client asked and was told. The times are of one clock, which no two moments share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// Before it was sent.
    pub(super) asked: u64,
    /// After its answer had come.
    pub(super) told: u64,
    /// What it was to do.
    pub(super) operation: Operation,
    /// What it was told.
    pub(super) outcome: Outcome,
}

/// A write. No two give the same value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    Set,
    SetIfAbsent,
    SetIfVersion(u64),
    Delete,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Done, as this version.
    Wrote(u64),
    /// The precondition does not hold; the version of the current value, or 0.
    Refused(u64),
    /// It was never set.
    NeverSet,
    /// It is deleted.
    Gone,
}

/// A name as its last event left it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    version: u64,
    exists: bool,
}

impl State {
    /// What a service must answer in this state, and the state after that.
    fn after(self, operation: Operation) -> (Outcome, Self) {
        let wrote = |exists| (Outcome::Wrote(self.version + 1), Self { version: self.version + 1, exists });
        let current = if self.exists { self.version } else { 0 };
        match operation {
            Operation::Set => wrote(true),
            Operation::SetIfAbsent if !self.exists => wrote(true),
            Operation::SetIfVersion(version) if self.exists && self.version == version => wrote(true),
            Operation::SetIfAbsent | Operation::SetIfVersion(_) => (Outcome::Refused(current), self),
            Operation::Delete if self.exists => wrote(false),
            Operation::Delete if self.version == 0 => (Outcome::NeverSet, self),
            Operation::Delete => (Outcome::Gone, self),
        }
    }
}

/// Whether there is such an order for the calls on a name, which begins as never set.
pub(super) fn is_linearizable(calls: &[Call]) -> bool {
    let begin = (vec![false; calls.len()], State::default());
    let mut tried = HashSet::from([begin.clone()]);
    let mut open = vec![begin];
    while let Some((done, state)) = open.pop() {
        let left = || calls.iter().enumerate().filter(|(n, _)| !done[*n]);
        // Whatever was told first must come before all that was asked after it.
        let Some(first_told) = left().map(|(_, call)| call.told).min() else { return true };
        for (n, call) in left().filter(|(_, call)| call.asked < first_told) {
            let (outcome, after) = state.after(call.operation);
            if outcome == call.outcome {
                let mut next = (done.clone(), after);
                next.0[n] = true;
                if tried.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{
        Operation::{Delete, Set, SetIfAbsent, SetIfVersion},
        Outcome::{Gone, NeverSet, Refused, Wrote},
        *,
    };

    fn holds(calls: &[(u64, u64, Operation, Outcome)]) -> bool {
        let call = |&(asked, told, operation, outcome): &_| Call { asked, told, operation, outcome };
        is_linearizable(&calls.iter().map(call).collect::<Vec<_>>())
    }

    #[test]
    fn calls_that_overlap_may_come_in_any_order() {
        assert!(holds(&[]));
        assert!(holds(&[(0, 1, Set, Wrote(1)), (2, 3, SetIfVersion(1), Wrote(2)), (4, 5, Delete, Wrote(3))]));
        assert!(holds(&[(0, 3, Set, Wrote(2)), (1, 2, Set, Wrote(1))]));
        assert!(holds(&[(0, 5, Delete, NeverSet), (1, 2, Set, Wrote(1)), (3, 4, SetIfVersion(7), Refused(1))]));
        assert!(holds(&[(0, 5, Delete, Wrote(2)), (1, 4, Delete, Gone), (2, 3, SetIfAbsent, Wrote(1))]));
    }

    #[test]
    fn a_wrong_history_is_rejected() {
        let first = (0, 1, Set, Wrote(1));
        for (what, wrong) in [
            ("a version twice", (0, 5, Set, Wrote(1))),
            ("a version left out", (2, 3, Set, Wrote(3))),
            ("over a version that was not there", (2, 3, SetIfVersion(2), Wrote(2))),
            ("refused by what is out of date", (2, 3, SetIfVersion(1), Refused(1))),
            ("refused by what was never there", (2, 3, SetIfVersion(7), Refused(2))),
            ("absent by what is out of date", (2, 3, Delete, NeverSet)),
            ("gone though it is not", (2, 3, Delete, Gone)),
            ("there is none by what is out of date", (2, 3, SetIfAbsent, Wrote(2))),
        ] {
            assert!(!holds(&[first, wrong]), "{what}");
        }
        assert!(!holds(&[(0, 1, Set, Wrote(2)), (2, 3, Set, Wrote(1))]), "told before the other was asked");
    }
}
