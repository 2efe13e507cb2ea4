//! Where a list goes on: the state that its pages are of, and the last name that was told.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};
use shared::{name::ConfigName, position::PositionToken};

/// What the `page` parameter holds; opaque to clients. Any replica understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PageToken {
    /// Which state; with a fingerprint always.
    pub(super) of: PositionToken,
    /// The last name that was told.
    pub(super) last: ConfigName,
    /// Of the list that it was given for.
    check: u32,
}

/// The text is no page token.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InvalidPage;

impl PageToken {
    /// Goes on behind `last` in the list with this prefix.
    pub(super) fn new(of: PositionToken, prefix: &str, last: ConfigName) -> Self {
        let check = check(of, prefix, &last);
        Self { of, last, check }
    }

    /// Whether it was given for the list with this prefix, and is still as it was given. It is no secret: whoever makes one up
    /// learns nothing that the list does not tell.
    pub(super) fn is_of(&self, prefix: &str) -> bool {
        self.check == check(self.of, prefix, &self.last)
    }
}

/// The same in every release: pages go on while replicas are replaced.
fn check(of: PositionToken, prefix: &str, last: &str) -> u32 {
    let digest = Sha256::digest(format!("{of}\n{}\n{prefix}{last}", prefix.len()));
    let [a, b, c, d, ..] = <[u8; 32]>::from(digest);
    u32::from_be_bytes([a, b, c, d])
}

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:08x}.{}", self.of, self.check, self.last)
    }
}

impl FromStr for PageToken {
    type Err = InvalidPage;

    fn from_str(text: &str) -> Result<Self, InvalidPage> {
        let mut parts = text.splitn(4, '.');
        let mut next = || parts.next().ok_or(InvalidPage);
        let (position, fingerprint, check, last) = (next()?, next()?, next()?, next()?);
        let of = format!("{position}.{fingerprint}").parse().map_err(|_| InvalidPage)?;
        let hex = check.len() == 8 && check.bytes().all(|byte| byte.is_ascii_hexdigit());
        let check = u32::from_str_radix(check, 16).ok().filter(|_| hex).ok_or(InvalidPage)?;
        Ok(Self { of, last: ConfigName::stored(last), check })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::position::Position;
    use uuid::Uuid;

    use super::*;

    fn token(position: u64, prefix: &str, last: &str) -> PageToken {
        let of = PositionToken::new(Position(position), Uuid::from_u128(0x9f3a_01bc));
        PageToken::new(of, prefix, ConfigName::stored(last))
    }

    #[test]
    fn an_altered_one_is_noticed() {
        let given = token(42, "a/", "a/b.c").to_string();
        assert!(given.starts_with("42.9f3a01bc.") && given.ends_with(".a/b.c"), "{given}");
        for (from, to) in [("42.", "43."), ("9f3a01bc", "9f3a01bd"), ("a/b.c", "a/b.d"), ("a/b.c", "")] {
            let altered = given.replacen(from, to, 1);
            assert!(!altered.parse::<PageToken>().is_ok_and(|token| token.is_of("a/")), "{altered}");
        }
        let given: PageToken = given.parse().unwrap();
        assert!(given.is_of("a/"));
        for prefix in ["", "a", "a/b"] {
            assert!(!given.is_of(prefix), "{prefix:?}");
        }
    }

    #[test]
    fn refuses_what_is_no_token() {
        for text in [
            "",
            "x",
            "42",
            "42.9f3a01bc",
            "42.9f3a01bc.0",
            "42.9f3a01bc.+0000000.a",
            "42.x.00000000.a",
            ".9f3a01bc.00000000.a",
        ] {
            assert_eq!(text.parse::<PageToken>(), Err(InvalidPage), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn reads_back_as_it_was(position in 1..u64::MAX, prefix: String, last: String) {
            let given = token(position, &prefix, &last);
            let read: PageToken = given.to_string().parse().unwrap();
            prop_assert!(read.is_of(&prefix));
            prop_assert_eq!(read, given);
        }
    }
}
