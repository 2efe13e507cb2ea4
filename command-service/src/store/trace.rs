//! What a command's trace says of its decision and of its append.

use std::sync::{Arc, OnceLock};

use opentelemetry::trace::SpanContext;
use shared::telemetry::spans::{self, TraceSpan};

use super::{append::Appended, loaded::Decided, queue::AppendError};
use crate::domain::Refusal;

/// Ends the span of a decision: what was decided, on which version.
pub(super) fn decided(mut span: TraceSpan, decided: &[Decided], remembered: bool) {
    if !span.is_recorded() {
        return;
    }
    span.set("config.remembered", remembered);
    if let [one] = decided {
        span.set("config.version", version(one));
        span.set("config.outcome", outcome(one));
        return;
    }
    let changes = decided.iter().filter(|decided| decided.event.is_some()).count();
    span.set("config.outcome", if changes > 0 { "changed" } else { "unchanged" });
    for decided in decided {
        let told = [
            ("config.name", decided.loaded.name.as_str().into()),
            ("config.version", version(decided).into()),
            ("config.outcome", outcome(decided).into()),
        ];
        span.event("decided", &told);
    }
}

/// The version that it was decided on.
fn version(decided: &Decided) -> i64 {
    i64::try_from(decided.loaded.version).unwrap_or(i64::MAX)
}

fn outcome(Decided { event, .. }: &Decided) -> &'static str {
    match event {
        None => "unchanged",
        Some(event) if event.value().is_some() => "set",
        Some(_) => "deleted",
    }
}

/// Ends the span of a decision that was a refusal, by that operation.
pub(super) fn refused(mut span: TraceSpan, refusal: &Refusal, operation: usize, remembered: bool) {
    let word = match refusal {
        Refusal::PreconditionFailed { .. } => "precondition_failed",
        Refusal::NeverSet => "never_set",
        Refusal::AlreadyDeleted => "already_deleted",
        Refusal::NoSuchVersion { .. } => "no_such_version",
    };
    span.set("config.outcome", "refused");
    span.set("config.refusal", word);
    span.set("config.operation", spans::count(operation));
    span.set("config.remembered", remembered);
}

/// Ends the span of an append.
pub(super) fn appended(mut span: TraceSpan, of: &Result<Appended, AppendError>, statement: Option<&SpanContext>) {
    let outcome = match of {
        Ok(Appended::Written { first, .. }) => {
            span.set("config.position", i64::try_from(first.0).unwrap_or(i64::MAX));
            "appended"
        }
        Ok(Appended::Noted) => "noted",
        Ok(Appended::Answered { .. }) => "answered_before",
        Err(AppendError::Conflict) => "conflict",
        Err(AppendError::Overloaded) => "overloaded",
        Err(AppendError::Unavailable) => "unavailable",
        Err(AppendError::Unknown) => "unknown",
        Err(AppendError::Refused(_)) => "refused",
    };
    span.set("config.outcome", outcome);
    // Somebody else's being first is not a failure: it is decided anew.
    if of.as_ref().is_err_and(|error| !matches!(error, AppendError::Conflict)) {
        span.fail(outcome);
    }
    if let Some(statement) = statement {
        span.link(statement);
    }
}

/// What a unit has of its command's trace while it is in the committer's hands: nothing that would keep a span open.
#[derive(Clone, Debug)]
pub(super) struct UnitTrace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    append: SpanContext,
    statement: OnceLock<SpanContext>,
}

impl UnitTrace {
    /// `None` where nobody will see it.
    pub(super) fn of(append: &TraceSpan) -> Option<Self> {
        let append = append.sampled_context()?.clone();
        Some(Self(Arc::new(Inner { append, statement: OnceLock::new() })))
    }

    /// The span of its append.
    pub(super) fn append(&self) -> &SpanContext {
        &self.0.append
    }

    /// It went with this statement.
    pub(super) fn went_with(&self, statement: &TraceSpan) {
        if let Some(statement) = statement.sampled_context() {
            let _first = self.0.statement.set(statement.clone());
        }
    }

    /// The statement that it went with, where that is in the trace of another command.
    pub(super) fn statement_elsewhere(&self) -> Option<&SpanContext> {
        self.0.statement.get().filter(|statement| statement.trace_id() != self.0.append.trace_id())
    }
}
