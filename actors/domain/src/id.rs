//! Ids and keys: parsed once at the edge, correct everywhere inside.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::text::quoted_character;

/// Longest id, in characters.
pub const ID_LENGTH_MAX: usize = 64;
/// Longest idempotency key that stands in the log as it was given, in characters.
const KEY_LENGTH_MAX: usize = 128;
/// Longest idempotency key, in characters.
pub const CALLER_KEY_LENGTH_MAX: usize = 255;

/// Why a text is not an id or a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// No character at all.
    #[error("must not be empty")]
    Empty,
    /// More characters than allowed.
    #[error("must have at most {max} characters, not {length}")]
    TooLong {
        /// The longest allowed.
        max: usize,
        /// What was given.
        length: usize,
    },
    /// A character outside the alphabet.
    #[error("must consist of A-Z a-z 0-9 - _, not {}", quoted_character(*.0))]
    Character(char),
}

fn check(text: &str, max: usize) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty);
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !text.bytes().all(is_allowed) {
        let bad = text.chars().find(|c| !u8::try_from(*c).is_ok_and(is_allowed));
        return Err(InvalidId::Character(bad.unwrap_or_default()));
    }
    if text.len() > max {
        return Err(InvalidId::TooLong { max, length: text.len() });
    }
    Ok(())
}

/// Reads a text of at most so many characters.
struct Text(usize);

impl de::Visitor<'_> for Text {
    type Value = Arc<str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Arc<str>, E> {
        check(text, self.0).map_err(E::custom)?;
        Ok(text.into())
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text of the id.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                check(text, $max)?;
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text($max)).map(Self)
            }
        }
    };
}

id!(
    /// The id of any entity: 1–64 characters of `A-Z a-z 0-9 - _`.
    Id,
    ID_LENGTH_MAX
);
id!(
    /// The id of a user, which is the id of the user's wallet and of the user's page.
    UserId,
    ID_LENGTH_MAX
);
id!(
    /// The id of a product.
    ProductId,
    ID_LENGTH_MAX
);
id!(
    /// The id of an order, which is the id of its delivery.
    OrderId,
    ID_LENGTH_MAX
);
id!(
    /// An idempotency key as the log has it: 1–128 characters of `A-Z a-z 0-9 - _`, see [`CallerKey`].
    Key,
    KEY_LENGTH_MAX
);

/// An idempotency key as a caller gives it: 1–255 visible ASCII characters. Between quotation marks, as the IETF's
/// draft has it (a string of RFC 8941, with its escapes), it is the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerKey(Box<str>);

/// Why a text is not an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// No character at all.
    #[error("must not be empty")]
    Empty,
    /// More characters than allowed.
    #[error("must have at most {CALLER_KEY_LENGTH_MAX} characters, not {0}")]
    TooLong(usize),
    /// A character that is not visible ASCII.
    #[error("must consist of visible ASCII characters, not {}", quoted_character(*.0))]
    Character(char),
    /// It begins with a quotation mark, and is no string of RFC 8941.
    #[error("begins with a quotation mark, and must then end with one, with a backslash before each other one")]
    Quotes,
}

impl CallerKey {
    /// The key, without quotation marks.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key as it is sent on: in quotation marks where it would be read otherwise without them.
    pub fn to_header(&self) -> String {
        if self.0.starts_with('"') {
            format!("\"{}\"", self.0.replace('\\', "\\\\").replace('"', "\\\""))
        } else {
            self.0.to_string()
        }
    }
}

impl FromStr for CallerKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let key = match text.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => text.to_owned(),
        };
        if let Some(bad) = key.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(InvalidKey::Character(bad));
        }
        match key.len() {
            0 => Err(InvalidKey::Empty),
            1..=CALLER_KEY_LENGTH_MAX => Ok(Self(key.into())),
            length => Err(InvalidKey::TooLong(length)),
        }
    }
}

/// What stands between quotation marks, of which the first was read (RFC 8941, section 4.2.5).
fn unquoted(quoted: &str) -> Result<String, InvalidKey> {
    let mut text = String::with_capacity(quoted.len());
    let mut characters = quoted.chars();
    loop {
        match characters.next() {
            Some('"') if characters.as_str().is_empty() => return Ok(text),
            Some('\\') => match characters.next() {
                Some(escaped @ ('"' | '\\')) => text.push(escaped),
                Some(_) | None => return Err(InvalidKey::Quotes),
            },
            Some('"') | None => return Err(InvalidKey::Quotes),
            Some(other) => text.push(other),
        }
    }
}

macro_rules! entity_id {
    ($($name:ident),*) => {$(
        impl From<$name> for Id {
            fn from(id: $name) -> Self {
                Self(id.0)
            }
        }

        impl From<Id> for $name {
            fn from(id: Id) -> Self {
                Self(id.0)
            }
        }
    )*};
}
entity_id!(UserId, ProductId, OrderId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_to_sixty_four_characters_of_the_alphabet() {
        assert!("a".parse::<Id>().is_ok());
        assert!("A-z_09".parse::<Id>().is_ok());
        assert!("x".repeat(64).parse::<Id>().is_ok());
        assert_eq!("".parse::<Id>(), Err(InvalidId::Empty));
        assert_eq!("x".repeat(65).parse::<Id>(), Err(InvalidId::TooLong { max: 64, length: 65 }));
        for bad in ["a.b", "a b", "*", ">", "🍎", "a/b", "é", "a\0"] {
            assert!(matches!(bad.parse::<Id>(), Err(InvalidId::Character(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_key_may_have_twice_as_many() {
        assert!("k".repeat(128).parse::<Key>().is_ok());
        assert!("k".repeat(129).parse::<Key>().is_err());
    }

    #[test]
    fn a_callers_key_is_visible_ascii_and_the_same_with_and_without_quotation_marks() {
        let read = |text: &str| text.parse::<CallerKey>().map(|key| key.as_str().to_owned());
        let long = "~".repeat(255);
        for (given, key) in [
            ("k-1", "k-1"),
            (r#""k-1""#, "k-1"),
            ("a.b:c/d,e", "a.b:c/d,e"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            (r#"a"b\c"#, r#"a"b\c"#),
            (r#""\"a\\b""#, r#""a\b"#),
            (&long, &long),
            (&format!("\"{long}\""), &long),
        ] {
            assert_eq!(read(given).as_deref(), Ok(key));
            assert_eq!(read(&given.parse::<CallerKey>().unwrap().to_header()).as_deref(), Ok(key));
        }
        for bad in [r#"""#, r#""a"#, r#""a"b"#, r#""a\"#, r#""a\b""#, r#""a""a""#] {
            assert_eq!(read(bad), Err(InvalidKey::Quotes), "{bad}");
        }
        assert_eq!((read(""), read("\"\"")), (Err(InvalidKey::Empty), Err(InvalidKey::Empty)));
        assert_eq!(read(&"k".repeat(256)), Err(InvalidKey::TooLong(256)));
        for (bad, character) in [("a b", ' '), ("\"a b\"", ' '), ("a\tb", '\t'), ("é", 'é'), ("a\u{7f}", '\u{7f}')] {
            assert_eq!(read(bad), Err(InvalidKey::Character(character)));
        }
    }

    #[test]
    fn an_id_is_checked_when_it_is_read_from_bytes() {
        assert!(serde_json::from_str::<Id>(r#""a.b""#).is_err());
    }
}
