//! What the clients do.

use clap::ValueEnum;

/// Names that each client of a `put` writes in turn.
pub(crate) const NAMES_PER_CLIENT: usize = 8;

/// Bytes of a value that says nothing but its number.
pub(crate) const SMALL: usize = crate::template::DIGITS;

/// Workloads, as they are named on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Family {
    /// Each client sets names of its own; once for each number of --clients
    Put,
    /// 64 clients set one name
    Hot,
    /// 16 clients increment one counter, each by compare-and-set until it wins
    Cas,
    /// 16 clients set 10 names at once
    #[value(name = "batch-10")]
    Batch10,
    /// 16 clients set 100 names at once
    #[value(name = "batch-100")]
    Batch100,
    /// 64 clients set values of 1 KiB
    #[value(name = "value-1k")]
    Value1k,
    /// 16 clients set values of 64 KiB
    #[value(name = "value-64k")]
    Value64k,
}

impl Family {
    /// All of them, in the order of the report.
    pub(crate) const ALL: [Self; 7] =
        [Self::Put, Self::Hot, Self::Cas, Self::Batch10, Self::Batch100, Self::Value1k, Self::Value64k];
}

/// What one client does again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Sets its own names in turn.
    Put,
    /// Sets the one name that all set.
    Hot,
    /// Increments the one counter.
    CompareAndSet,
    /// Sets so many of its own names at once.
    Batch(usize),
}

/// One line of the report.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    /// Unique in a report, and the beginning of the names that it writes.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) clients: usize,
    /// Length of each value, without the quotes around it.
    pub(crate) value_bytes: usize,
}

impl Workload {
    /// What was asked for, in the order of the report.
    pub(crate) fn chosen(families: &[Family], clients: &[u16]) -> Vec<Self> {
        let chosen = Family::ALL.into_iter().filter(|family| families.contains(family));
        chosen.flat_map(|family| Self::of(family, clients)).collect()
    }

    fn of(family: Family, clients: &[u16]) -> Vec<Self> {
        let one =
            |name: &str, kind, clients, value_bytes| vec![Self { name: name.to_owned(), kind, clients, value_bytes }];
        match family {
            Family::Put => {
                let puts =
                    clients.iter().map(|&clients| one(&format!("put-{clients}"), Kind::Put, clients.into(), SMALL));
                puts.flatten().collect()
            }
            Family::Hot => one("hot", Kind::Hot, 64, SMALL),
            Family::Cas => one("cas", Kind::CompareAndSet, 16, SMALL),
            Family::Batch10 => one("batch-10", Kind::Batch(10), 16, SMALL),
            Family::Batch100 => one("batch-100", Kind::Batch(100), 16, SMALL),
            Family::Value1k => one("value-1k", Kind::Put, 64, 1024),
            Family::Value64k => one("value-64k", Kind::Put, 16, 64 * 1024),
        }
    }

    /// Events that one operation leads to.
    pub(crate) fn events(&self) -> usize {
        match self.kind {
            Kind::Batch(operations) => operations,
            Kind::Put | Kind::Hot | Kind::CompareAndSet => 1,
        }
    }

    /// How many names one client writes in turn; 1 where the request itself names them all.
    pub(crate) fn names_in_turn(&self) -> usize {
        if self.kind == Kind::Put { NAMES_PER_CLIENT } else { 1 }
    }

    /// A name that this client writes; of the same length for every client and index. It is the same for both sides, and
    /// the same in a path.
    pub(crate) fn name_of(&self, client: usize, index: usize) -> String {
        match self.kind {
            Kind::Hot | Kind::CompareAndSet => self.name.clone(),
            Kind::Put | Kind::Batch(_) => format!("{}.{client:04}.{index:03}", self.name),
        }
    }

    /// The quoted value, as JSON and as etcd's bytes, its number still zero.
    pub(crate) fn value(&self) -> String {
        let filler = self.value_bytes - SMALL;
        format!("\"{:0>SMALL$}{:x<filler$}\"", 0, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_length_and_names_differ_by_client() {
        for workload in Workload::chosen(&Family::ALL, &[1, 256]) {
            assert_eq!(workload.value().len(), workload.value_bytes + 2, "{}", workload.name);
            let shared = matches!(workload.kind, Kind::Hot | Kind::CompareAndSet);
            assert_eq!(workload.name_of(0, 0) == workload.name_of(1, 0), shared, "{}", workload.name);
        }
    }
}
