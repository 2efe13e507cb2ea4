//! What the process remembers of configurations, so that the next write of one need not load it. One rule: the cache may say
//! yes, because the append verifies it; never no.

use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};
use shared::name::ConfigName;

use super::loaded::LoadedConfig;

/// Most that is remembered, in bytes of names and values and what surrounds them.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// What surrounds a value, in bytes, about.
const ENTRY_BYTES: usize = 400;

/// How many configurations are expected, for the size of the cache's own tables.
const EXPECTED: usize = 64 * 1024;

/// Parts with a lock each. Each has its share of the bytes, and must hold a largest value.
const SHARDS: usize = 4;

/// The cache.
#[derive(Debug)]
pub(super) struct Remembered(Cache<ConfigName, LoadedConfig, Weight>);

/// What an entry weighs, in bytes.
#[derive(Clone, Debug)]
struct Weight;

impl Weighter<ConfigName, LoadedConfig> for Weight {
    fn weight(&self, name: &ConfigName, loaded: &LoadedConfig) -> u64 {
        u64::try_from(name.len() + loaded.bytes() + ENTRY_BYTES).unwrap_or(u64::MAX)
    }
}

impl Remembered {
    pub(super) fn new() -> Self {
        let mut options = OptionsBuilder::new();
        options.shards(SHARDS).estimated_items_capacity(EXPECTED).weight_capacity(CACHE_BYTES);
        let options = options.build().expect("all that it needs is given");
        Self(Cache::with_options(options, Weight, DefaultHashBuilder::default(), DefaultLifecycle::default()))
    }

    /// The names' states, when all are remembered.
    pub(super) fn all(&self, names: &[ConfigName]) -> Option<Vec<LoadedConfig>> {
        names.iter().map(|name| self.0.get(name)).collect()
    }

    pub(super) fn keep(&self, loaded: LoadedConfig) {
        self.0.insert(loaded.name().clone(), loaded);
    }

    /// It is, or may be, out of date.
    pub(super) fn forget(&self, name: &ConfigName) {
        self.0.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use cqrs_es::Aggregate;
    use serde_json::value::RawValue;
    use shared::{event::ConfigValueEvent, value::ConfigJson};

    use super::*;
    use crate::domain::ConfigValue;

    #[test]
    fn what_is_remembered_has_so_many_bytes_whoever_writes_how_much() {
        const MIB: usize = 1024 * 1024;
        let json = RawValue::from_string(format!("\"{}\"", "x".repeat(MIB - 2))).unwrap();
        let mut state = ConfigValue::default();
        state.apply(ConfigValueEvent::ConfigValueSet { value: ConfigJson::accept(json, MIB).unwrap() });
        let remembered = Remembered::new();
        let names: Vec<_> = (0..100).map(|n| ConfigName::stored(&n.to_string())).collect();
        for name in &names {
            remembered.keep(LoadedConfig::new(name.clone(), state.clone(), None));
        }
        // Each has its value, and the one before.
        let kept = names.iter().filter(|name| remembered.all(&[(*name).clone()]).is_some()).count();
        assert!((1..32).contains(&kept), "{kept} of 2 MiB each");
    }
}
