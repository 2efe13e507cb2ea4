//! A request whose bytes are built once. Between two uses only digits change, in place: those of the name, and those of
//! the values, so that each write is a new value.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Digits of a value's number.
pub(crate) const DIGITS: usize = 16;

/// Digits of a name's index, at its end.
pub(crate) const INDEX_DIGITS: usize = 3;

/// Gives numbers that were never given before in this run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers(Arc<AtomicU64>);

impl Numbers {
    /// One more.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// The bytes, and where in them the digits are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    /// Where the digits of the name's index begin.
    index_at: Option<usize>,
    /// Where the digits of each value begin.
    values_at: Vec<usize>,
}

impl Template {
    /// Adds what stays as it is.
    pub(crate) fn fixed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Adds a name whose last digits are its index.
    pub(crate) fn indexed_name(&mut self, name: &str) {
        self.fixed(name.as_bytes());
        self.index_at = Some(self.bytes.len() - INDEX_DIGITS);
    }

    /// Adds a quoted value that begins with its number.
    pub(crate) fn value(&mut self, quoted: &str) {
        self.values_at.push(self.bytes.len() + 1);
        self.fixed(quoted.as_bytes());
    }

    /// Adds a part that was built for itself.
    pub(crate) fn part(&mut self, part: &Self) {
        let moved = self.bytes.len();
        self.values_at.extend(part.values_at.iter().map(|at| at + moved));
        self.index_at = self.index_at.or(part.index_at.map(|at| at + moved));
        self.fixed(&part.bytes);
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes, with this index in the name and new numbers in all values.
    pub(crate) fn filled(&mut self, index: usize, numbers: &Numbers) -> &[u8] {
        if let Some(at) = self.index_at {
            write_digits(&mut self.bytes[at..at + INDEX_DIGITS], index as u64);
        }
        for &at in &self.values_at {
            write_digits(&mut self.bytes[at..at + DIGITS], numbers.next());
        }
        &self.bytes
    }

    /// The bytes, with this number in every value.
    pub(crate) fn with_number(&mut self, number: u64) -> &[u8] {
        for &at in &self.values_at {
            write_digits(&mut self.bytes[at..at + DIGITS], number);
        }
        &self.bytes
    }
}

fn write_digits(into: &mut [u8], mut number: u64) {
    for digit in into.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).expect("below ten");
        number /= 10;
    }
}

/// The number of a value, as it is kept, with or without its quotes.
pub(crate) fn number_in(value: &[u8]) -> Option<u64> {
    let digits = value.strip_prefix(b"\"").unwrap_or(value).get(..DIGITS)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_change_in_place_and_no_value_comes_twice() {
        let value = format!("\"{}\"", "0".repeat(DIGITS));
        let mut inner = Template::default();
        inner.indexed_name("n.000");
        inner.fixed(b"=");
        inner.value(&value);
        let mut outer = Template::default();
        outer.fixed(b"> ");
        outer.part(&inner);
        outer.value(&value);
        let numbers = Numbers::default();
        outer.filled(7, &numbers);
        assert_eq!(outer.filled(12, &numbers), br#"> n.012="0000000000000003""0000000000000004""#);
        assert_eq!(number_in(br#""0000000000000004""#), Some(4));
        assert_eq!(number_in(b"0000000000000004"), Some(4));
        assert_eq!(number_in(b"4"), None);
    }
}
