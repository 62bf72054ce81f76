//! What a body says before anybody asks what it means: JSON or MessagePack, read into values, or the
//! place at which it stops being either, in plain words.

use std::fmt;

use rmp_serde::decode;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::error::Category;
use shop_domain::{
    encode,
    message::Format,
    money::AMOUNT_MAX,
    problem::{Code, Problem},
};

use super::invalid;

/// The smallest number that is beyond 64 bits; JSON's integers up to there are read as integers.
const BEYOND_U64: f64 = 18_446_744_073_709_551_616.0;

/// A value as it was written, JSON or MessagePack. Members keep their order and their repetitions.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Null,
    Bool,
    Integer(u64),
    OtherNumber(OtherNumber),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// A number that is no integer from 0 on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum OtherNumber {
    /// Below zero, or a zero with a sign.
    Negative,
    /// Written with a point or an exponent.
    NotPlain,
    /// Beyond 64 bits.
    TooLarge,
}

impl Node {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Integer(_) | Self::OtherNumber(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "an array",
            Self::Map(_) => "an object",
        }
    }
}

impl OtherNumber {
    fn of(value: f64) -> Self {
        if value.is_sign_negative() {
            Self::Negative
        } else if value < BEYOND_U64 {
            Self::NotPlain
        } else {
            Self::TooLarge
        }
    }

    /// What is wrong with it where an integer is wanted.
    pub(super) const fn advice(self) -> &'static str {
        match self {
            Self::Negative => "; it is negative",
            Self::NotPlain => "; write it without point or exponent",
            Self::TooLarge => "; it is larger",
        }
    }
}

/// The format of a body, told by its first byte: the bytes that begin a MessagePack map begin
/// nothing that is JSON.
pub fn format_of(body: &[u8]) -> Format {
    match body.first() {
        Some(0x80..=0x8f | 0xde | 0xdf) => Format::Msgpack,
        Some(_) | None => Format::Json,
    }
}

/// Reads a body. Nothing, or white space, is an object without members.
pub(super) fn read(body: &[u8]) -> Result<Node, Problem> {
    match format_of(body) {
        Format::Json if body.trim_ascii().is_empty() => Ok(Node::Map(vec![])),
        Format::Json => serde_json::from_slice(body).map_err(|error| not_json(body, &error)),
        Format::Msgpack => {
            let mut rest = body;
            let read = encode::decode_next(&mut rest);
            let offset = body.len() - rest.len();
            match read {
                Ok(node) if rest.is_empty() => Ok(node),
                Ok(_) => Err(not_msgpack(offset, "something follows the map")),
                Err(error) => Err(not_msgpack(offset, what_is_wrong_with_msgpack(&error))),
            }
        }
    }
}

fn not_json(body: &[u8], error: &serde_json::Error) -> Problem {
    let said = error.to_string();
    // Proper JSON, but beyond what its reader holds (1e400); it does not say which one it was.
    if said.starts_with("number out of range") {
        return invalid("", &format!("must hold integers from 0 to {AMOUNT_MAX} only"));
    }
    if let Some(what) = foreign_beginning(body) {
        return malformed(format!("the body is not JSON: it begins with {what}")).fact("line", 1).fact("column", 1);
    }
    let (line, column) = (error.line(), error.column());
    let what = what_is_wrong_with_json(error.classify(), &said);
    malformed(format!("the body is not JSON: {what} (line {line}, column {column})"))
        .fact("line", line)
        .fact("column", column)
}

/// What the body is instead, when its first bytes show it.
fn foreign_beginning(body: &[u8]) -> Option<&'static str> {
    const COMPRESSED: &str = "what compressed data begin with; send it as it is, not compressed";
    match body {
        [0xef, 0xbb, 0xbf, ..] | [0xfe, 0xff, ..] | [0xff, 0xfe, ..] => {
            Some("a byte order mark; send UTF-8 without one")
        }
        // gzip, zstd, bzip2, xz, lz4, zlib at its usual levels.
        [0x1f, 0x8b, ..]
        | [0x28, 0xb5, 0x2f, 0xfd, ..]
        | [b'B', b'Z', b'h', ..]
        | [0xfd, b'7', b'z', ..]
        | [0x04, 0x22, 0x4d, 0x18, ..]
        | [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => Some(COMPRESSED),
        // Brotli has no mark of its own; but no text begins like this.
        [0..=8 | 0x0b..=0x0c | 0x0e..=0x1f | 0x7f..=0xc1 | 0xf5..=0xff, ..] => {
            Some("a byte that begins no text; if it is compressed, send it as it is")
        }
        _ => None,
    }
}

/// The reader's words are not ours, and may change with it: what it cannot say here is said in general.
fn what_is_wrong_with_json(category: Category, said: &str) -> &'static str {
    const SAID: [(&str, &str); 13] = [
        ("trailing characters", "something follows its end"),
        ("trailing comma", "a comma has nothing behind it"),
        ("recursion limit exceeded", "it is nested too deeply"),
        ("key must be a string", "the name of a member must stand in double quotes"),
        ("expected `:`", "a colon is missing behind the name of a member"),
        ("expected `,` or `}`", "a comma or a closing brace is missing"),
        ("expected `,` or `]`", "a comma or a closing bracket is missing"),
        ("control character", "a control character stands in a string and must be escaped"),
        ("invalid escape", "a backslash in a string must be followed by one of \"\\/bfnrtu"),
        ("invalid number", "a number is not written as JSON writes it"),
        ("invalid unicode", "a string is not proper Unicode"),
        ("unexpected end of hex escape", "a string has half of a pair of surrogates"),
        ("lone leading surrogate", "a string has half of a pair of surrogates"),
    ];
    match category {
        Category::Eof => "it ends too early",
        Category::Io | Category::Syntax | Category::Data => {
            let known = SAID.iter().find(|(beginning, _)| said.starts_with(beginning));
            known.map_or("there is something that JSON does not allow here", |(_, what)| what)
        }
    }
}

fn not_msgpack(offset: usize, what: &str) -> Problem {
    malformed(format!("the body is not MessagePack that can be read: {what} (byte {offset})")).fact("offset", offset)
}

fn what_is_wrong_with_msgpack(error: &decode::Error) -> &'static str {
    match error {
        decode::Error::InvalidMarkerRead(_) | decode::Error::InvalidDataRead(_) => "it ends too early",
        decode::Error::DepthLimitExceeded => "it is nested too deeply",
        decode::Error::Utf8Error(_) => "a string is not UTF-8",
        decode::Error::TypeMismatch(_)
        | decode::Error::OutOfRange
        | decode::Error::LengthMismatch(_)
        | decode::Error::Uncategorized(_)
        | decode::Error::Syntax(_) => "there is something that JSON does not have",
    }
}

fn malformed(detail: String) -> Problem {
    Problem::new(Code::MALFORMED, detail)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Bool)
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Integer(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(u64::try_from(value).map_or(Node::OtherNumber(OtherNumber::Negative), Node::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::OtherNumber(OtherNumber::of(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut members = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            members.push(entry);
        }
        Ok(Node::Map(members))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn problem(body: &[u8]) -> (String, Option<Value>, Option<Value>, Option<Value>) {
        let problem = read(body).unwrap_err();
        assert_eq!(problem.code, Code::MALFORMED, "{problem:?}");
        let fact = |name: &str| problem.facts.get(name).cloned();
        (problem.detail.clone(), fact("line"), fact("column"), fact("offset"))
    }

    #[test]
    fn what_is_not_json_is_told_with_its_line_and_column_and_no_words_of_a_library() {
        for (body, what, line, column) in [
            ("{", "it ends too early", 1, 1),
            ("{\"a\":1,\n \"b\":\n  tru }", "there is something that JSON does not allow here", 3, 6),
            ("{\"a\":1}x", "something follows its end", 1, 8),
            ("{\"a\":1,}", "a comma has nothing behind it", 1, 8),
            ("{'a':1}", "the name of a member must stand in double quotes", 1, 2),
            ("{\"a\" 1}", "a colon is missing behind the name of a member", 1, 6),
            ("{\"a\":1 \"b\":2}", "a comma or a closing brace is missing", 1, 8),
            ("{\"a\":[1 2]}", "a comma or a closing bracket is missing", 1, 9),
            ("{\"a\":\"\n\"}", "a control character stands in a string and must be escaped", 2, 0),
            ("{\"a\":\"\\x\"}", "a backslash in a string must be followed by one of \"\\/bfnrtu", 1, 8),
            ("{\"a\":01}", "a number is not written as JSON writes it", 1, 7),
            ("{\"a\":\"\\ud800\"}", "a string has half of a pair of surrogates", 1, 13),
            ("a=1", "there is something that JSON does not allow here", 1, 1),
        ] {
            let (detail, told_line, told_column, offset) = problem(body.as_bytes());
            assert_eq!(detail, format!("the body is not JSON: {what} (line {line}, column {column})"), "{body}");
            assert_eq!((told_line, told_column, offset), (Some(line.into()), Some(column.into()), None), "{body}");
        }
        let deep = [&b"{\"a\":"[..], &[b'['; 60_000]].concat();
        assert!(problem(&deep).0.contains("it is nested too deeply"));
        assert!(problem(b"{\"a\":\"\xff\"}").0.contains("a string is not proper Unicode"));
    }

    #[test]
    fn a_body_that_begins_like_something_else_is_told_what_it_is() {
        for (body, what) in [
            (&b"\xef\xbb\xbf{}"[..], "byte order mark"),
            (b"\xff\xfe{\0}\0", "byte order mark"),
            (b"\x1f\x8b\x08\0\0", "compressed"),
            (b"\x28\xb5\x2f\xfd\x04", "compressed"),
            (b"\x78\x9c\x01", "compressed"),
            (b"\x0b\x02\x80{}\x03", "compressed"),
            (b"\xa1\x10\0", "compressed"),
        ] {
            let (detail, line, column, _) = problem(body);
            assert!(detail.contains(what), "{body:?}: {detail}");
            assert_eq!((line, column), (Some(1.into()), Some(1.into())));
        }
    }

    #[test]
    fn what_is_not_message_pack_is_told_with_the_byte_at_which_it_ends() {
        for (body, what, offset) in [
            (&b"\x81\xa6amount"[..], "it ends too early", 8),
            (b"\x81\xa6amount\x01\x01", "something follows the map", 9),
            (b"\x80\x80", "something follows the map", 1),
            (b"\x81\xa1a\xc4\x01x", "there is something that JSON does not have", 6),
            (b"\x81\x01\x01", "there is something that JSON does not have", 2),
            (b"\x81\xa1a\xc1", "there is something that JSON does not have", 4),
        ] {
            let (detail, line, column, told) = problem(body);
            assert_eq!(detail, format!("the body is not MessagePack that can be read: {what} (byte {offset})"));
            assert_eq!((line, column, told), (None, None, Some(offset.into())), "{body:?}");
        }
        let deep = [&[0x81, 0xa1, b'a'][..], &[0x91; 60_000]].concat();
        assert!(problem(&deep).0.contains("it is nested too deeply"));
    }
}
