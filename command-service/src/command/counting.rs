//! What becomes of commands, counted where it is known: at the end of each, whoever still waits for it.

use super::{CommandError, Done, Work};
use crate::{
    domain::Change,
    metrics::{Command, CommandOutcome, WriteMetrics},
    store::{AppendError, StoreError},
};

/// A command under way. One that panics has failed.
#[derive(Debug)]
pub(super) struct Counting {
    metrics: WriteMetrics,
    command: Command,
    outcome: CommandOutcome,
}

impl Counting {
    pub(super) fn begin(metrics: &WriteMetrics, work: &Work) -> Self {
        let command = match work {
            Work::One(operation) => match operation.command.change {
                Change::Set(_) => Command::Set,
                Change::Delete | Change::Clear | Change::Keep => Command::Delete,
            },
            Work::Rollback { .. } => Command::Rollback,
            Work::Batch(_) => Command::Batch,
        };
        Self { metrics: metrics.clone(), command, outcome: CommandOutcome::Failed }
    }

    pub(super) fn end(mut self, result: &Result<Done, CommandError>) {
        self.outcome = outcome(result);
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.metrics.commands.of(self.command, self.outcome).inc();
        match self.outcome {
            CommandOutcome::Unknown => self.metrics.outcomes_unknown.inc(),
            CommandOutcome::Replayed => self.metrics.replays.inc(),
            _ => {}
        }
    }
}

fn outcome(result: &Result<Done, CommandError>) -> CommandOutcome {
    match result {
        Ok(Done { replayed: true, .. }) | Err(CommandError::Refused { replayed: true, .. }) => CommandOutcome::Replayed,
        Ok(done) if done.receipts.iter().any(|receipt| receipt.changed) => CommandOutcome::Changed,
        Ok(_) => CommandOutcome::Unchanged,
        Err(CommandError::Refused { .. } | CommandError::KeyReused) => CommandOutcome::Refused,
        Err(CommandError::Store(StoreError::Append(AppendError::Unknown))) => CommandOutcome::Unknown,
        Err(_) => CommandOutcome::Failed,
    }
}
