//! Request bodies: read once, every rule checked, every mistake reported with its place.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::json;
use shop_domain::{
    id::InvalidId,
    message::Format,
    money::AMOUNT_MAX,
    problem::{Code, Problem},
};
use std::str::FromStr;

/// Most bytes of a body.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// Most mistakes of one body that are told: enough for a person, and the answer stays small.
const MISTAKES_MAX: usize = 100;

/// A value as it was written, JSON or MessagePack. Members keep their order and their repetitions.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    Null,
    Bool,
    Integer(u64),
    /// A negative number, a fraction, or one beyond 64 bits.
    OtherNumber,
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    fn name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Integer(_) => "an integer",
            Self::OtherNumber => "a number that is negative, fractional or too large",
            Self::Text(_) => "a string",
            Self::List(_) => "an array",
            Self::Map(_) => "an object",
        }
    }
}

/// The members of a body that is being read. Mistakes gather until [`Fields::finish`].
#[derive(Debug)]
pub struct Fields {
    pointer: String,
    members: Vec<(String, Node)>,
    mistakes: Vec<Mistake>,
}

#[derive(Debug)]
struct Mistake {
    pointer: String,
    detail: String,
}

/// The format of a body, told by its first byte: the bytes that begin a MessagePack map begin
/// nothing that is JSON.
pub fn format_of(body: &[u8]) -> Format {
    match body.first() {
        Some(0x80..=0x8f | 0xde | 0xdf) => Format::Msgpack,
        Some(_) | None => Format::Json,
    }
}

impl Fields {
    /// Reads a body. Nothing, or white space, is an object without members.
    pub fn read(body: &[u8]) -> Result<Self, Problem> {
        if body.len() > BODY_BYTES_MAX {
            let detail = format!("the body has {} bytes; at most {BODY_BYTES_MAX} are taken", body.len());
            return Err(Problem::new(Code::PAYLOAD_TOO_LARGE, detail));
        }
        let malformed = |what: &str, error: &dyn fmt::Display| {
            Problem::new(Code::MALFORMED, format!("the body is not {what}: {error}"))
        };
        let node = match format_of(body) {
            Format::Json if body.trim_ascii().is_empty() => Node::Map(vec![]),
            Format::Json => match serde_json::from_slice(body) {
                Ok(node) => node,
                // Proper JSON, but beyond what its reader holds (1e400); it does not say which one it was.
                Err(error) if error.to_string().starts_with("number out of range") => {
                    return Err(invalid("", &format!("must hold integers from 0 to {AMOUNT_MAX} only")));
                }
                Err(error) => return Err(malformed("JSON", &error)),
            },
            Format::Msgpack => {
                let mut rest = body;
                let node = rmp_serde::from_read(&mut rest).map_err(|error| malformed("MessagePack", &error))?;
                if !rest.is_empty() {
                    return Err(malformed("MessagePack", &"bytes follow the map"));
                }
                node
            }
        };
        let mut fields = Self { pointer: String::new(), members: vec![], mistakes: vec![] };
        match node {
            Node::Map(members) => fields.members = members,
            Node::Null | Node::Bool | Node::Integer(_) | Node::OtherNumber | Node::Text(_) | Node::List(_) => {
                fields.note("", format!("must be an object, not {}", node.name()));
            }
        }
        Ok(fields)
    }

    /// An id or key that may be missing.
    pub fn optional_id<T: FromStr<Err = InvalidId>>(&mut self, name: &str) -> Option<T> {
        let text = self.take_text(name)?;
        text.parse().map_err(|error: InvalidId| self.note(name, error.to_string())).ok()
    }

    /// An id that must be there.
    pub fn id<T: FromStr<Err = InvalidId>>(&mut self, name: &str) -> Option<T> {
        self.required(name, |fields| fields.optional_id(name))
    }

    /// An integer that may be missing: `min` to [`AMOUNT_MAX`], or a string of its digits.
    pub fn optional_integer<T>(&mut self, name: &str, min: u64, make: fn(u64) -> Option<T>) -> Option<T> {
        let node = self.take(name)?;
        let units = match &node {
            Node::Integer(units) => Some(*units),
            Node::Text(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
            Node::Null | Node::Bool | Node::OtherNumber | Node::Text(_) | Node::List(_) | Node::Map(_) => None,
        };
        match units.filter(|units| *units >= min).and_then(make) {
            Some(amount) => Some(amount),
            None => {
                let found = match &node {
                    Node::Integer(units) => units.to_string(),
                    Node::Text(text) => format!("{:?}", text.chars().take(32).collect::<String>()),
                    Node::Null | Node::Bool | Node::OtherNumber | Node::List(_) | Node::Map(_) => node.name().into(),
                };
                self.mistake(name, format!("must be an integer from {min} to {AMOUNT_MAX}, not {found}"))
            }
        }
    }

    /// An integer that must be there.
    pub fn integer<T>(&mut self, name: &str, min: u64, make: fn(u64) -> Option<T>) -> Option<T> {
        self.required(name, |fields| fields.optional_integer(name, min, make))
    }

    /// A text for people that may be missing: 1 to `max` characters, none of them a control character.
    pub fn optional_text(&mut self, name: &str, max: usize) -> Option<Box<str>> {
        let text = self.take_text(name)?;
        let length = text.chars().count();
        if length == 0 || length > max {
            return self.mistake(name, format!("must have 1 to {max} characters, not {length}"));
        }
        if text.chars().any(char::is_control) {
            return self.mistake(name, "must not contain control characters".into());
        }
        Some(text.into())
    }

    /// A text for people that must be there.
    pub fn text(&mut self, name: &str, max: usize) -> Option<Box<str>> {
        self.required(name, |fields| fields.optional_text(name, max))
    }

    /// A list of objects, each read by `read`; none if the member is missing.
    pub fn optional_list<T>(
        &mut self,
        name: &str,
        max: usize,
        mut read: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let node = self.take(name)?;
        let Node::List(items) = node else {
            return self.mistake(name, format!("must be an array, not {}", node.name()));
        };
        if items.is_empty() || items.len() > max {
            return self.mistake(name, format!("must have 1 to {max} items, not {}", items.len()));
        }
        let mut list = Some(Vec::with_capacity(items.len()));
        for (index, item) in items.into_iter().enumerate() {
            let pointer = format!("{}/{name}/{index}", self.pointer);
            let mut fields = Self { pointer, members: vec![], mistakes: vec![] };
            if let Node::Map(members) = item {
                fields.members = members;
            } else {
                fields.note("", format!("must be an object, not {}", item.name()));
            }
            let item = read(&mut fields);
            fields.close();
            self.mistakes.append(&mut fields.mistakes);
            self.mistakes.truncate(MISTAKES_MAX);
            list = list.zip(item).map(|(mut list, item)| {
                list.push(item);
                list
            });
        }
        list
    }

    /// A list of objects that must be there.
    pub fn list<T>(&mut self, name: &str, max: usize, read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        self.required(name, |fields| fields.optional_list(name, max, read))
    }

    /// Whether the member is there and not null.
    pub fn has(&self, name: &str) -> bool {
        self.members.iter().any(|(member, node)| member == name && *node != Node::Null)
    }

    /// Notes a mistake at a member, in place of its value.
    fn mistake<T>(&mut self, name: &str, detail: String) -> Option<T> {
        self.note(name, detail);
        None
    }

    /// Notes a mistake at a member.
    pub fn note(&mut self, name: &str, detail: String) {
        if self.mistakes.len() == MISTAKES_MAX {
            return;
        }
        let pointer = if name.is_empty() { self.pointer.clone() } else { format!("{}/{}", self.pointer, escape(name)) };
        self.mistakes.push(Mistake { pointer, detail });
    }

    /// All mistakes, once every known member was taken; what is left is unknown.
    pub fn finish(mut self) -> Result<(), Problem> {
        self.close();
        let Some(first) = self.mistakes.first() else { return Ok(()) };
        let place = if first.pointer.is_empty() { "the body" } else { &first.pointer };
        let detail = format!("{place} {}", first.detail);
        let errors =
            self.mistakes.iter().map(|Mistake { pointer, detail }| json!({ "pointer": pointer, "detail": detail }));
        Err(Problem::new(Code::INVALID, detail).fact("errors", errors.collect::<Vec<_>>()))
    }

    fn close(&mut self) {
        for (name, _) in std::mem::take(&mut self.members) {
            let shown: String = name.chars().take(64).collect();
            self.note(&shown, "is not a known member".into());
        }
    }

    /// Takes a member; null counts as missing.
    fn take(&mut self, name: &str) -> Option<Node> {
        let index = self.members.iter().position(|(member, _)| member == name)?;
        let (_, node) = self.members.remove(index);
        if self.members.iter().any(|(member, _)| member == name) {
            self.members.retain(|(member, _)| member != name);
            return self.mistake(name, "is given more than once".into());
        }
        Some(node).filter(|node| *node != Node::Null)
    }

    fn take_text(&mut self, name: &str) -> Option<String> {
        let node = self.take(name)?;
        if let Node::Text(text) = node {
            return Some(text);
        }
        self.mistake(name, format!("must be a string, not {}", node.name()))
    }

    fn required<T>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        if self.has(name) { read(self) } else { self.missing(name) }
    }

    fn missing<T>(&mut self, name: &str) -> Option<T> {
        self.members.retain(|(member, _)| member != name);
        self.mistake(name, "is missing".into())
    }
}

/// A problem with one mistake.
pub fn invalid(pointer: &str, detail: &str) -> Problem {
    let place = if pointer.is_empty() { "the body" } else { pointer };
    let errors = json!([{ "pointer": pointer, "detail": detail }]);
    Problem::new(Code::INVALID, format!("{place} {detail}")).fact("errors", errors)
}

/// RFC 6901, section 3.
fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
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
        Ok(u64::try_from(value).map_or(Node::OtherNumber, Node::Integer))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::OtherNumber)
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
    use shop_domain::{id::Id, money::Money};

    use super::*;

    fn pointers(problem: &Problem) -> Vec<String> {
        let errors = problem.facts["errors"].as_array().unwrap();
        errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn an_integer_may_be_written_as_a_string_of_digits() {
        for body in [r#"{"n":10}"#, r#"{"n":"10"}"#, r#" {"n":"0010"}"#] {
            let mut fields = Fields::read(body.as_bytes()).unwrap();
            assert_eq!(fields.integer("n", 0, Money::new), Money::new(10), "{body}");
            assert!(fields.finish().is_ok());
        }
    }

    #[test]
    fn what_is_no_integer_in_the_range_is_refused() {
        let bad =
            ["-1", "1.0", "1e3", "9007199254740992", "99999999999999999999", "true", "[]", "{}", r#""""#, r#""+1""#]
                .into_iter()
                .chain([r#""1.5""#, r#"" 1""#, r#""-1""#, r#""9007199254740992""#]);
        for value in bad {
            let mut fields = Fields::read(format!(r#"{{"n":{value}}}"#).as_bytes()).unwrap();
            assert_eq!(fields.integer("n", 0, Money::new), None, "{value}");
            assert_eq!(pointers(&fields.finish().unwrap_err()), ["/n"], "{value}");
        }
    }

    #[test]
    fn every_mistake_is_reported_with_its_place() {
        let body = r#"{"id":"a.b","extra/1":1,"lines":[{"id":"x"},{"id":""},7],"n":null,"twice":1,"twice":2}"#;
        let mut fields = Fields::read(body.as_bytes()).unwrap();
        assert_eq!(fields.optional_id::<Id>("id"), None);
        assert_eq!(fields.integer("n", 0, Money::new), None);
        assert_eq!(fields.optional_integer("twice", 0, Money::new), None);
        assert_eq!(fields.optional_list("lines", 50, |line| line.id::<Id>("id")), None);
        let problem = fields.finish().unwrap_err();
        assert_eq!(problem.code, Code::INVALID);
        assert_eq!(pointers(&problem), ["/id", "/n", "/twice", "/lines/1/id", "/lines/2", "/lines/2/id", "/extra~11"]);
    }

    #[test]
    fn nothing_is_an_object_without_members() {
        for body in ["", " \n\t ", "{}"] {
            assert!(Fields::read(body.as_bytes()).unwrap().finish().is_ok());
        }
    }

    #[test]
    fn what_is_not_json_is_malformed_and_what_is_no_object_is_invalid() {
        for body in ["{", "nonsense", r#"{"a":1}x"#, r#"{"a":"\ud800"}"#] {
            assert_eq!(Fields::read(body.as_bytes()).unwrap_err().code, Code::MALFORMED, "{body}");
        }
        assert_eq!(Fields::read(b"{\"a\":\"\xff\"}").unwrap_err().code, Code::MALFORMED);
        for body in ["[1]", "1", "\"text\"", "null", "true"] {
            assert_eq!(Fields::read(body.as_bytes()).unwrap().finish().unwrap_err().code, Code::INVALID, "{body}");
        }
    }

    #[test]
    fn a_body_that_nests_without_end_is_malformed() {
        let body = format!("{{\"a\":{}", "[".repeat(60_000));
        assert_eq!(Fields::read(body.as_bytes()).unwrap_err().code, Code::MALFORMED);
        let body = [&[0x81, 0xa1, b'a'][..], &[0x91; 60_000]].concat();
        assert_eq!(Fields::read(&body).unwrap_err().code, Code::MALFORMED);
    }

    #[test]
    fn a_message_pack_map_reads_like_the_same_json() {
        let body = rmp_serde::to_vec_named(&json!({ "n": 10, "id": "x" })).unwrap();
        assert_eq!(format_of(&body), Format::Msgpack);
        let mut fields = Fields::read(&body).unwrap();
        assert_eq!(fields.integer("n", 0, Money::new), Money::new(10));
        assert_eq!(fields.id("id"), Some("x".parse::<Id>().unwrap()));
        assert!(fields.finish().is_ok());
        assert_eq!(Fields::read(&body[..4]).unwrap_err().code, Code::MALFORMED);
        assert_eq!(Fields::read(&[&body[..], &[1]].concat()).unwrap_err().code, Code::MALFORMED);
    }

    #[test]
    fn a_body_beyond_the_limit_is_too_large() {
        let body = vec![b' '; BODY_BYTES_MAX + 1];
        assert_eq!(Fields::read(&body).unwrap_err().code, Code::PAYLOAD_TOO_LARGE);
        assert!(Fields::read(&body[1..]).is_ok());
    }
}
