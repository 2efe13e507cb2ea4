//! Protocol Buffers' wire format, as far as traces need it: messages are written straight into the bytes that are sent, where the
//! libraries build a tree of the message first and measure it once for each level.
//! Source: <https://protobuf.dev/programming-guides/encoding/>.

/// Types of a field on the wire.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// A message that is being written. What a field has by default (zero, nothing) is left out, as proto3 does, but in `one_of_…`,
/// where being there says something.
#[derive(Debug)]
pub(super) struct Message<'a>(&'a mut Vec<u8>);

impl<'a> Message<'a> {
    /// The outermost.
    pub(super) fn new(bytes: &'a mut Vec<u8>) -> Self {
        Self(bytes)
    }

    pub(super) fn number(&mut self, field: u64, number: u64) {
        if number > 0 {
            self.one_of_number(field, number);
        }
    }

    pub(super) fn bytes(&mut self, field: u64, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.one_of_bytes(field, bytes);
        }
    }

    pub(super) fn fixed64(&mut self, field: u64, number: u64) {
        if number > 0 {
            self.key(field, FIXED64);
            self.0.extend_from_slice(&number.to_le_bytes());
        }
    }

    pub(super) fn fixed32(&mut self, field: u64, number: u32) {
        if number > 0 {
            self.key(field, FIXED32);
            self.0.extend_from_slice(&number.to_le_bytes());
        }
    }

    pub(super) fn one_of_number(&mut self, field: u64, number: u64) {
        self.key(field, VARINT);
        self.varint(number);
    }

    pub(super) fn one_of_bytes(&mut self, field: u64, bytes: &[u8]) {
        self.key(field, BYTES);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A message of bytes and of a message of bytes, each as field 1, the latter as field 2: a key and its text, of which a trace is
    /// full. In four strokes, and only when every length has one byte; whether it had.
    pub(super) fn short_pair(&mut self, field: u8, key: &[u8], text: &[u8]) -> bool {
        let whole = key.len() + text.len() + 6;
        if whole >= 0x80 {
            return false;
        }
        let [whole, key_length, value, text_length] =
            [whole, key.len(), text.len() + 2, text.len()].map(|length| length.to_le_bytes()[0]);
        self.0.extend_from_slice(&[field << 3 | 2, whole, 0x0A, key_length]);
        self.0.extend_from_slice(key);
        self.0.extend_from_slice(&[0x12, value, 0x0A, text_length]);
        self.0.extend_from_slice(text);
        true
    }

    /// A message in this one, of a length that is known.
    pub(super) fn sized(&mut self, field: u64, length: usize, write: impl FnOnce(&mut Message<'_>)) {
        self.key(field, BYTES);
        self.varint(length as u64);
        write(&mut Message(self.0));
    }

    /// A message in this one. Its length stands before it and is known behind it: one byte is left for that, which is enough for
    /// most; a longer one moves up.
    pub(super) fn message(&mut self, field: u64, write: impl FnOnce(&mut Message<'_>)) {
        self.key(field, BYTES);
        let place = self.0.len();
        self.0.push(0);
        write(&mut Message(self.0));
        let length = self.0.len() - place - 1;
        match u8::try_from(length) {
            Ok(length @ ..0x80) => self.0[place] = length,
            _ => {
                let mut prefix = Vec::with_capacity(10);
                Message(&mut prefix).varint(length as u64);
                self.0.splice(place..=place, prefix);
            }
        }
    }

    fn key(&mut self, field: u64, of_type: u64) {
        self.varint(field << 3 | of_type);
    }

    /// Seven bits a byte, the lowest first; the highest bit says that there are more.
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.0.push(number.to_le_bytes()[0]);
    }
}

/// Of a number as [`Message::one_of_number`] writes it, in a field below 16.
pub(super) fn number_length(number: u64) -> usize {
    1 + varint_length(number)
}

/// Of bytes, or a message, as [`Message::one_of_bytes`] writes them, in a field below 16.
pub(super) fn bytes_length(length: usize) -> usize {
    1 + varint_length(length as u64) + length
}

fn varint_length(number: u64) -> usize {
    let bits = u64::BITS - (number | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// A field as it was received; those with numbers of a fixed width are passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, up to the first that is malformed.
pub(super) fn fields(mut bytes: &[u8]) -> impl Iterator<Item = (u64, Field<'_>)> {
    std::iter::from_fn(move || {
        loop {
            let key = read_varint(&mut bytes)?;
            let read = match key & 7 {
                VARINT => Field::Number(read_varint(&mut bytes)?),
                BYTES => {
                    let length = usize::try_from(read_varint(&mut bytes)?).ok()?;
                    Field::Bytes(bytes.split_off(..length)?)
                }
                FIXED64 => {
                    bytes.split_off(..8)?;
                    continue;
                }
                FIXED32 => {
                    bytes.split_off(..4)?;
                    continue;
                }
                _ => return None,
            };
            return Some((key >> 3, read));
        }
    })
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for place in 0..10 {
        let byte = *bytes.split_off_first()?;
        number |= u64::from(byte & 0x7F) << (7 * place);
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(number in prop_oneof![any::<u64>(), 0..2_u64], text in proptest::collection::vec(any::<u8>(), 0..40_000)) {
            let mut bytes = vec![];
            let mut message = Message::new(&mut bytes);
            message.number(1, number);
            message.fixed64(2, number);
            message.fixed32(3, 7);
            let inner = |inner: &mut Message<'_>| {
                inner.one_of_bytes(1, &text);
                inner.one_of_number(15, number);
            };
            message.message(4, inner);
            message.sized(5, bytes_length(text.len()) + number_length(number), inner);
            let read: Vec<_> = fields(&bytes).collect();
            for of in [4, 5] {
                let inner = read.iter().find_map(|(field, value)| match value {
                    Field::Bytes(inner) if *field == of => Some(fields(inner).collect::<Vec<_>>()),
                    _ => None,
                });
                prop_assert_eq!(inner, Some(vec![(1, Field::Bytes(&text)), (15, Field::Number(number))]));
            }
            let first = read.iter().find(|(field, _)| *field == 1).copied();
            prop_assert_eq!(first, (number > 0).then_some((1, Field::Number(number))));
        }

        #[test]
        fn whatever_is_received_is_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(fields(&bytes).count() <= bytes.len());
        }
    }
}
