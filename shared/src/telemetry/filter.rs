//! What is logged, and changing it while the process runs.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
};

use tracing::{Metadata, Subscriber, callsite, level_filters::LevelFilter, subscriber::Interest};
use tracing_subscriber::{Layer, filter::Targets, layer::Context};

/// What is logged when nothing else is said. sqlx tells of every notice and retry, which tells nobody anything.
pub const DEFAULT_FILTER: &str = "info,sqlx=warn";

/// The process's log, once it is set up: how to change it, and what was said last.
static LOG: OnceLock<(Wanted, Mutex<Filter>)> = OnceLock::new();

/// A checked filter: levels, for everything or for parts: `info,query_service=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(String);

/// The text is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{wrong}; write a level (error, warn, info, debug, trace, off) or levels of parts, such as info,query_service=debug"
)]
pub struct InvalidFilter {
    wrong: String,
}

/// The process set up no log that could be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log of this process cannot be changed")]
pub struct Fixed;

impl FromStr for Filter {
    type Err = InvalidFilter;

    fn from_str(text: &str) -> Result<Self, InvalidFilter> {
        let text = text.split(',').map(str::trim).collect::<Vec<_>>().join(",");
        // A misspelt level would be taken for a part whose lines are all that is wanted, and the log would fall silent.
        for directive in text.split(',').filter(|directive| !directive.contains('=')) {
            if directive.parse::<LevelFilter>().is_err() || directive.is_empty() {
                return Err(InvalidFilter { wrong: format!("`{directive}` is no level") });
            }
        }
        if let Some(span) = text.split(',').find(|directive| directive.contains(['[', ']', '{', '}'])) {
            return Err(InvalidFilter { wrong: format!("`{span}` names no part") });
        }
        match text.parse::<Targets>() {
            Ok(_) => Ok(Self(text)),
            Err(error) => Err(InvalidFilter { wrong: format!("`{text}` is no filter: {error}") }),
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Filter {
    fn build(&self) -> Targets {
        self.0.parse().unwrap_or_default()
    }
}

/// The layer that lets through what the filter says, now and after it was changed. It is asked once for each place in our
/// code that tells something. Spans of `tracing`, which some libraries have, are none of ours: lines are told in requests.
#[derive(Clone, Debug)]
pub(super) struct Wanted(Arc<RwLock<Targets>>);

impl Wanted {
    pub(super) fn new(filter: &Filter) -> Self {
        Self(Arc::new(RwLock::new(filter.build())))
    }

    fn change(&self, filter: &Filter) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = filter.build();
        callsite::rebuild_interest_cache();
    }

    fn wants(&self, place: &Metadata<'_>) -> bool {
        let filter = self.0.read().unwrap_or_else(PoisonError::into_inner);
        place.is_event() && filter.would_enable(place.target(), place.level())
    }
}

impl<S: Subscriber> Layer<S> for Wanted {
    fn register_callsite(&self, place: &'static Metadata<'static>) -> Interest {
        if self.wants(place) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, place: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.wants(place)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // The libraries that tell through `log` ask once, when the log is set up, and a filter may become finer later.
        None
    }
}

/// Remembers how to change the process's log.
pub(super) fn can_change(wanted: Wanted, filter: &Filter) {
    let _only_once = LOG.set((wanted, Mutex::new(filter.clone())));
}

/// What is logged now.
///
/// # Errors
/// When the log was not set up by [`super::init`].
pub fn filter() -> Result<Filter, Fixed> {
    let (_, now) = LOG.get().ok_or(Fixed)?;
    Ok(now.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

/// Logs by this filter from now on.
///
/// # Errors
/// When the log was not set up by [`super::init`].
pub fn set_filter(filter: &Filter) -> Result<(), Fixed> {
    let (log, now) = LOG.get().ok_or(Fixed)?;
    let mut now = now.lock().unwrap_or_else(PoisonError::into_inner);
    log.change(filter);
    *now = filter.clone();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_levels_for_everything_or_for_parts() {
        for text in ["info", "WARN", "off", DEFAULT_FILTER, "info,query_service::tail=debug", "warn, sqlx=off"] {
            assert!(text.parse::<Filter>().is_ok(), "{text}");
        }
    }

    #[test]
    fn a_misspelt_level_does_not_silence_the_log() {
        for text in ["", "inof", "debug,", "info,query_service", "info,sqlx=loud", "[a]"] {
            let error = text.parse::<Filter>().unwrap_err().to_string();
            assert!(error.contains("write a level"), "{text}: {error}");
        }
    }
}
