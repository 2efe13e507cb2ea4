//! As much of etcd's protobuf as the workloads need, written and read by hand: `etcdserverpb` `KV`'s messages, by their
//! field numbers.

use crate::template::Template;

/// Wire types.
const VARINT: u64 = 0;
const BYTES: u64 = 2;

/// A message that is being written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message(pub(crate) Template);

impl Message {
    /// A field of bytes.
    pub(crate) fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.head(field, bytes.len());
        self.0.fixed(bytes);
        self
    }

    /// A name whose last digits change.
    pub(crate) fn indexed_name(mut self, field: u64, name: &str) -> Self {
        self.head(field, name.len());
        self.0.indexed_name(name);
        self
    }

    /// A value whose number changes.
    pub(crate) fn value(mut self, field: u64, quoted: &str) -> Self {
        self.head(field, quoted.len());
        self.0.value(quoted);
        self
    }

    /// A message within.
    pub(crate) fn message(mut self, field: u64, message: &Self) -> Self {
        self.head(field, message.0.len());
        self.0.part(&message.0);
        self
    }

    /// A number or an enumeration.
    pub(crate) fn number(mut self, field: u64, number: u64) -> Self {
        self.varint(field << 3 | VARINT);
        self.varint(number);
        self
    }

    fn head(&mut self, field: u64, length: usize) {
        self.varint(field << 3 | BYTES);
        self.varint(length as u64);
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.fixed(&[u8::try_from(number & 0x7f | 0x80).expect("a byte")]);
            number >>= 7;
        }
        self.0.fixed(&[u8::try_from(number).expect("less than 0x80")]);
    }
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// Nothing when it is another.
    pub(crate) fn number(self) -> Option<u64> {
        if let Self::Number(number) = self { Some(number) } else { None }
    }

    /// Nothing when it is another.
    pub(crate) fn bytes(self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }
}

/// The first field of this number. `None` when there is none, or the message is not one.
pub(crate) fn field(message: &[u8], wanted: u64) -> Option<Value<'_>> {
    fields(message, wanted).next()
}

/// All fields of this number, up to where the message is none.
pub(crate) fn fields(mut message: &[u8], wanted: u64) -> impl Iterator<Item = Value<'_>> {
    let all = std::iter::from_fn(move || next_field(&mut message));
    all.filter(move |(number, _)| *number == wanted).map(|(_, value)| value)
}

fn next_field<'a>(message: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = varint(message)?;
    let value = match key & 7 {
        VARINT => Value::Number(varint(message)?),
        BYTES => {
            let length = usize::try_from(varint(message)?).ok()?;
            let (bytes, rest) = message.split_at_checked(length)?;
            *message = rest;
            Value::Bytes(bytes)
        }
        _ => return None,
    };
    Some((key >> 3, value))
}

/// The field at the end of a path of messages.
pub(crate) fn field_at<'a>(message: &'a [u8], path: &[u64]) -> Option<Value<'a>> {
    let (last, parents) = path.split_last()?;
    let parent = parents.iter().try_fold(message, |message, parent| field(message, *parent)?.bytes())?;
    field(parent, *last)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Numbers;

    fn written(message: Message) -> Vec<u8> {
        let mut template = message.0;
        template.filled(0, &Numbers::default()).to_vec()
    }

    #[test]
    fn messages_are_written_as_the_specification_shows_them() {
        // The two examples of the protobuf encoding guide.
        assert_eq!(written(Message::default().number(1, 150)), [0x08, 0x96, 0x01]);
        assert_eq!(written(Message::default().bytes(2, b"testing")), b"\x12\x07testing");
        let inner = Message::default().number(1, 150);
        assert_eq!(written(Message::default().message(3, &inner)), [0x1a, 0x03, 0x08, 0x96, 0x01]);
    }

    #[test]
    fn what_was_written_is_read_again_and_what_is_cut_off_is_not() {
        let inner = Message::default().bytes(1, b"key").number(3, u64::MAX);
        let bytes = written(Message::default().number(1, 7).message(200, &inner));
        assert_eq!(field(&bytes, 1), Some(Value::Number(7)));
        assert_eq!(field_at(&bytes, &[200, 3]), Some(Value::Number(u64::MAX)));
        assert_eq!(field_at(&bytes, &[200, 1]).and_then(Value::bytes), Some(b"key".as_slice()));
        assert_eq!(field(&bytes, 9), None);
        assert_eq!(field(&bytes[..bytes.len() - 1], 200), None);
    }
}
