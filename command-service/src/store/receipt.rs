//! What a command did. The framework's own call returns nothing, so the store leaves the receipt in the command's scope.

use std::sync::{Arc, Mutex, PoisonError};

use shared::{moment::Moment, position::PositionToken, telemetry::spans::TraceSpan, value::ConfigJson};
use tokio::time::Instant;
use uuid::Uuid;

use super::{loaded::Decided, trace, unit::IdempotencyKey};
use crate::domain::Refusal;

/// Where a command stands in the log.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// The configuration's version now.
    pub version: u64,
    /// The place of the event that gave it this version.
    pub token: PositionToken,
    /// When that was.
    pub recorded_at: Moment,
    /// Whether this command wrote that event; if not, it changed nothing.
    pub changed: bool,
    /// Whether there is a value now, which the version names.
    pub exists: bool,
    /// The value before; `None` when there was none.
    pub previous: Option<ConfigJson>,
}

/// What belongs to one execution of a command, carried beside the framework's calls.
#[derive(Clone, Debug)]
pub struct CommandScope(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    command_id: Uuid,
    until: Instant,
    key: Option<IdempotencyKey>,
    freshness: Freshness,
    found: Mutex<Found>,
}

/// What a decision may rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Also on what this process remembers: an append verifies it. Enough to say yes.
    Remembered,
    /// Only on what was loaded for it: to say no, or that nothing changes.
    Loaded,
}

#[derive(Debug, Default)]
struct Found {
    decided_at: Option<PositionToken>,
    remembered: bool,
    receipt: Option<Receipt>,
    /// Open until it is decided.
    decision: TraceSpan,
}

tokio::task_local! {
    static SCOPE: CommandScope;
}

impl CommandScope {
    /// Of a command with this identity, that is to be done, or given up, by `until`.
    #[must_use]
    pub fn new(command_id: Uuid, until: Instant, key: Option<IdempotencyKey>, freshness: Freshness) -> Self {
        Self(Arc::new(Inner { command_id, until, key, freshness, found: Mutex::default() }))
    }

    /// The span that its decision has in the command's trace; ends when it is decided.
    #[must_use]
    pub fn decided_in(self, span: TraceSpan) -> Self {
        self.found().decision = span;
        self
    }

    /// Runs the command in this scope.
    pub async fn run<F: Future>(&self, command: F) -> F::Output {
        SCOPE.scope(self.clone(), command).await
    }

    /// The scope that the caller runs in.
    #[must_use]
    pub fn current() -> Option<Self> {
        SCOPE.try_with(Clone::clone).ok()
    }

    /// What identifies the command in the log.
    #[must_use]
    pub fn command_id(&self) -> Uuid {
        self.0.command_id
    }

    /// When it is given up.
    #[must_use]
    pub fn until(&self) -> Instant {
        self.0.until
    }

    /// The key that it came with.
    #[must_use]
    pub fn key(&self) -> Option<IdempotencyKey> {
        self.0.key
    }

    /// What it may be decided on.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        self.0.freshness
    }

    /// The place of the last event that the decision rests on.
    #[must_use]
    pub fn decided_at(&self) -> PositionToken {
        self.found().decided_at.unwrap_or(PositionToken::ZERO)
    }

    /// Whether the decision rests on what this process remembers.
    #[must_use]
    pub fn is_remembered(&self) -> bool {
        self.found().remembered
    }

    /// What the command did, once it was committed.
    #[must_use]
    pub fn receipt(&self) -> Option<Receipt> {
        self.found().receipt.clone()
    }

    /// The aggregate said no.
    pub fn refused(&self, refusal: &Refusal, operation: usize) {
        let mut found = self.found();
        let (span, remembered) = (std::mem::take(&mut found.decision), found.remembered);
        drop(found);
        trace::refused(span, refusal, operation, remembered);
    }

    pub(super) fn decided(&self, decided: &[Decided]) {
        let mut found = self.found();
        let (span, remembered) = (std::mem::take(&mut found.decision), found.remembered);
        drop(found);
        trace::decided(span, decided, remembered);
    }

    pub(super) fn loaded(&self, at: PositionToken, remembered: bool) {
        let mut found = self.found();
        (found.decided_at, found.remembered) = (Some(at), remembered);
    }

    pub(super) fn committed(&self, receipt: Receipt) {
        self.found().receipt = Some(receipt);
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.0.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
