//! Request bodies: read once, every rule checked, every mistake reported with its place.

mod node;

use std::str::FromStr;

use serde_json::json;
use shop_domain::{
    id::InvalidId,
    money::AMOUNT_MAX,
    problem::{Code, Problem},
    text::{self, QUOTED_LENGTH_MAX, quoted},
};

use node::Node;

pub use node::format_of;

/// Most bytes of a body.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// Most mistakes of one body that are told: enough for a person, and the answer stays small.
const MISTAKES_MAX: usize = 100;

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

impl Fields {
    /// Reads a body. Nothing, or white space, is an object without members.
    pub fn read(body: &[u8]) -> Result<Self, Problem> {
        if body.len() > BODY_BYTES_MAX {
            let detail = format!("the body has {} bytes; at most {BODY_BYTES_MAX} are taken", body.len());
            return Err(Problem::new(Code::PAYLOAD_TOO_LARGE, detail));
        }
        let node = node::read(body)?;
        let mut fields = Self { pointer: String::new(), members: vec![], mistakes: vec![] };
        match node {
            Node::Map(members) => fields.members = members,
            Node::Null | Node::Bool | Node::Integer(_) | Node::OtherNumber(_) | Node::Text(_) | Node::List(_) => {
                return Err(invalid("", &format!("must be an object, not {}", node.name())));
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

    /// An integer that may be missing: `min` to `max`, or a string of its digits.
    pub fn optional_integer<T>(&mut self, name: &str, min: u64, max: u64, make: fn(u64) -> Option<T>) -> Option<T> {
        let node = self.take(name)?;
        let units = match &node {
            Node::Integer(units) => Some(*units),
            Node::Text(text) if is_digits(text) => text.parse().ok(),
            Node::Null | Node::Bool | Node::OtherNumber(_) | Node::Text(_) | Node::List(_) | Node::Map(_) => None,
        };
        match units.filter(|units| (min..=max).contains(units)).and_then(make) {
            Some(amount) => Some(amount),
            None => {
                let wanted = format!("must be an integer from {min} to {max}");
                let mistake = match &node {
                    Node::Integer(units) => format!("{wanted}, not {units}"),
                    Node::Text(text) => format!("{wanted}, not {}", quoted(text)),
                    Node::OtherNumber(number) => format!("{wanted}{}", number.advice()),
                    Node::Null | Node::Bool | Node::List(_) | Node::Map(_) => format!("{wanted}, not {}", node.name()),
                };
                self.mistake(name, mistake)
            }
        }
    }

    /// An amount that must be there: `min` to [`AMOUNT_MAX`], or a string of its digits.
    pub fn integer<T>(&mut self, name: &str, min: u64, make: fn(u64) -> Option<T>) -> Option<T> {
        self.required(name, |fields| fields.optional_integer(name, min, AMOUNT_MAX, make))
    }

    /// A text for people that may be missing, see [`text::check`].
    pub fn optional_text(&mut self, name: &str, max: usize) -> Option<Box<str>> {
        let text = self.take_text(name)?;
        match text::check(&text, max) {
            Ok(()) => Some(text.into()),
            Err(error) => self.mistake(name, error.to_string()),
        }
    }

    /// A text that may be missing and that only `read` understands; what it does not is a mistake.
    pub fn optional_place(&mut self, name: &str, read: fn(&str) -> Option<String>) -> Option<String> {
        let text = self.take_text(name)?;
        read(&text).or_else(|| self.mistake(name, format!("must be the `next` of another page, not {}", quoted(&text))))
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
                fields.note_here(format!("must be an object, not {}", item.name()));
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

    /// Passes over a member that something else was said about; false if it is not there.
    pub fn ignore(&mut self, name: &str) -> bool {
        let is_there = self.has(name);
        self.members.retain(|(member, _)| member != name);
        is_there
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

    /// Notes a mistake at a member, whatever its name.
    pub fn note(&mut self, name: &str, detail: String) {
        self.note_at(format!("{}/{}", self.pointer, escape(name)), detail);
    }

    /// Notes a mistake at the object itself.
    fn note_here(&mut self, detail: String) {
        self.note_at(self.pointer.clone(), detail);
    }

    fn note_at(&mut self, pointer: String, detail: String) {
        if self.mistakes.len() < MISTAKES_MAX {
            self.mistakes.push(Mistake { pointer, detail });
        }
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
            let shown: String = name.chars().take(QUOTED_LENGTH_MAX).collect();
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

/// Whether a text is digits and nothing else.
pub fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// RFC 6901, section 3.
fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use shop_domain::{id::Id, message::Format, money::Money};

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
        assert_eq!(fields.optional_integer("twice", 0, AMOUNT_MAX, Money::new), None);
        assert_eq!(fields.optional_list("lines", 50, |line| line.id::<Id>("id")), None);
        let problem = fields.finish().unwrap_err();
        assert_eq!(problem.code, Code::INVALID);
        assert_eq!(pointers(&problem), ["/id", "/n", "/twice", "/lines/1/id", "/lines/2", "/lines/2/id", "/extra~11"]);
    }

    #[test]
    fn a_member_without_a_name_has_a_place_like_any_other() {
        let body = r#"{"":1,"lines":[{"":2}],"a/~":3}"#;
        let mut fields = Fields::read(body.as_bytes()).unwrap();
        assert_eq!(fields.optional_list("lines", 50, |line| line.id::<Id>("id")), None);
        let problem = fields.finish().unwrap_err();
        assert_eq!(pointers(&problem), ["/lines/0/id", "/lines/0/", "/", "/a~1~0"]);
    }

    #[test]
    fn a_number_with_a_point_or_an_exponent_is_refused_with_advice() {
        for (value, says) in [
            ("1.0", "/n must be an integer from 0 to 9007199254740991; write it without point or exponent"),
            ("1e1", "/n must be an integer from 0 to 9007199254740991; write it without point or exponent"),
            ("1e300", "/n must be an integer from 0 to 9007199254740991; it is larger"),
            ("18446744073709551616", "/n must be an integer from 0 to 9007199254740991; it is larger"),
            ("-1", "/n must be an integer from 0 to 9007199254740991; it is negative"),
            ("-1.5", "/n must be an integer from 0 to 9007199254740991; it is negative"),
            ("7.5", "/n must be an integer from 0 to 9007199254740991; write it without point or exponent"),
            ("\"1\u{200b}\"", "/n must be an integer from 0 to 9007199254740991, not \"1<U+200B>\""),
            ("9007199254740992", "/n must be an integer from 0 to 9007199254740991, not 9007199254740992"),
            ("[]", "/n must be an integer from 0 to 9007199254740991, not an array"),
        ] {
            let mut fields = Fields::read(format!("{{\"n\":{value}}}").as_bytes()).unwrap();
            assert_eq!(fields.integer("n", 0, Money::new), None);
            assert_eq!(fields.finish().unwrap_err().detail, says, "{value}");
        }
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
            assert_eq!(pointers(&Fields::read(body.as_bytes()).unwrap_err()), [""], "{body}");
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
