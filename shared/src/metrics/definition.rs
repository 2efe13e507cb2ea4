//! What a metric is: its name, its kind, its labels, its meaning. The page `/metrics` and docs/METRICS.md are made of these.

/// A metric that a process tells.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// Its name; the unit is in it.
    pub name: &'static str,
    /// What it does.
    pub kind: Kind,
    /// What it is told by.
    pub labels: &'static [Label],
    /// What it means: one sentence, for the page and for the document.
    pub help: &'static str,
}

/// What a metric does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// It only grows, and begins at 0 with the process.
    Counter,
    /// It is what it is now.
    Gauge,
    /// It counts how many were not above each of these bounds.
    Histogram(&'static [f64]),
}

/// What a metric is told by.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Which values it can have.
    pub values: Values,
}

/// The values of a label: never more than the code has words for.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// These. The series of all of them are there from the start.
    Words(&'static [&'static str]),
    /// Those that the sentence tells; of a bounded number.
    Told(&'static str),
}

impl Definition {
    /// A counter.
    #[must_use]
    pub const fn counter(name: &'static str, labels: &'static [Label], help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, labels, help }
    }

    /// A gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, labels: &'static [Label], help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, labels, help }
    }

    /// A histogram with these bounds.
    #[must_use]
    pub const fn histogram(
        name: &'static str,
        labels: &'static [Label],
        bounds: &'static [f64],
        help: &'static str,
    ) -> Self {
        Self { name, kind: Kind::Histogram(bounds), labels, help }
    }

    pub(super) fn label_names(&self) -> Vec<&'static str> {
        self.labels.iter().map(|label| label.name).collect()
    }

    /// What it is counted in, as its name says.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        let units = [("per_second", "events per second"), ("seconds", "seconds"), ("bytes", "bytes")];
        units.into_iter().find(|(suffix, _)| name.ends_with(suffix)).map_or("1", |(_, unit)| unit)
    }
}

/// Label values that the code has words for.
pub trait Words: Copy + 'static {
    /// All of them.
    const WORDS: &'static [&'static str];

    /// Which of them this is.
    fn index(self) -> usize;
}

/// An enum whose variants are the values of a label: `words! { pub enum Outcome { Done = "done", Failed = "failed" } }`.
#[macro_export]
macro_rules! words {
    ($(#[$about:meta])* $visibility:vis enum $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $visibility enum $name { $($(#[$doc])* $variant),+ }

        impl $crate::metrics::Words for $name {
            const WORDS: &'static [&'static str] = &[$($word),+];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}
