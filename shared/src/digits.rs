//! Short texts of numbers that go with every answer, written from their end: the standard library's formatting costs several
//! times as much as the rest of such a header.

/// Of each byte.
const HEXADECIMAL: [[u8; 2]; 256] = {
    let digits = *b"0123456789abcdef";
    let mut of_byte = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        of_byte[byte] = [digits[byte >> 4], digits[byte & 0xF]];
        byte += 1;
    }
    of_byte
};

/// A text of visible ASCII that grows at its front; at most `N` bytes.
#[derive(Clone, Debug)]
pub(crate) struct Digits<const N: usize> {
    bytes: [u8; N],
    start: usize,
}

impl<const N: usize> Digits<N> {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; N], start: N }
    }

    pub(crate) fn before(mut self, byte: u8) -> Self {
        self.start -= 1;
        self.bytes[self.start] = byte;
        self
    }

    pub(crate) fn decimal(mut self, mut number: u64) -> Self {
        loop {
            self = self.before(b"0123456789"[usize::try_from(number % 10).unwrap_or(0)]);
            number /= 10;
            if number == 0 {
                return self;
            }
        }
    }

    /// With zeros in front, up to so many digits.
    pub(crate) fn padded(self, number: u64, digits: usize) -> Self {
        let end = self.start;
        let mut text = self.decimal(number);
        while end - text.start < digits {
            text = text.before(b'0');
        }
        text
    }

    /// Two digits for each byte.
    pub(crate) fn hexadecimal(mut self, bytes: &[u8]) -> Self {
        for byte in bytes.iter().rev() {
            self.start -= 2;
            self.bytes[self.start..self.start + 2].copy_from_slice(&HEXADECIMAL[usize::from(*byte)]);
        }
        self
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(crate) fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn writes_what_the_standard_library_writes(number in prop_oneof![any::<u64>(), 0_u64..20], bits: u32) {
            let text = Digits::<32>::new().hexadecimal(&bits.to_be_bytes()).before(b'.').decimal(number);
            prop_assert_eq!(text.as_str(), format!("{number}.{bits:08x}"));
            let text = Digits::<32>::new().before(b'Z').padded(number, 6);
            prop_assert_eq!(text.as_str(), format!("{number:06}Z"));
        }
    }
}
