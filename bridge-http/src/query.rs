//! Query strings of lists, read strictly: a misspelt parameter must not silently list everything.

use std::str::FromStr;

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};
use shop_domain::{
    id::{Id, InvalidId, Key},
    problem::{Code, Problem},
};

/// Longest list that one answer may hold, in items: about 300 KiB of products.
const LIMIT_MAX: u64 = 1_000;

/// The query string as the JSON arguments of a door: `limit` as a number, all others as text.
/// No parameters are no arguments.
pub(crate) fn to_json(raw: &str, allowed: &[&str]) -> Result<Bytes, Box<Problem>> {
    if raw.is_empty() {
        return Ok(Bytes::new());
    }
    let mut arguments = Map::new();
    for pair in raw.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        if !allowed.contains(&name.as_str()) {
            return Err(malformed(format!("unknown query parameter {name:?}, expected {}", allowed.join(" or "))));
        }
        let value = match name.as_str() {
            "limit" => limit(&value)?.into(),
            "after" => Value::String(place::<Id>(&name, value)?),
            _ => Value::String(place::<Key>(&name, value)?),
        };
        if arguments.contains_key(&name) {
            return Err(malformed(format!("query parameter {name:?} is given more than once")));
        }
        arguments.insert(name, value);
    }
    Ok(Value::Object(arguments).to_string().into())
}

/// Decodes as HTML forms encode: `%` and two digits are a byte, `+` is a space.
fn decode(text: &str) -> Result<String, Box<Problem>> {
    let undecodable = || malformed(format!("cannot decode {text:?} in the query string"));
    let is_escape = |rest: &str| rest.as_bytes().iter().take(2).filter(|byte| byte.is_ascii_hexdigit()).count() == 2;
    if !text.split('%').skip(1).all(is_escape) {
        return Err(undecodable());
    }
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().map(|text| text.into_owned()).map_err(|_| undecodable())
}

fn limit(digits: &str) -> Result<u64, Box<Problem>> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse() {
        Ok(limit) if is_number && (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        Ok(_) | Err(_) => Err(malformed(format!("limit must be an integer from 1 to {LIMIT_MAX}, not {digits:?}"))),
    }
}

/// Where a page before ended: an id, or a text of the same alphabet.
fn place<T: FromStr<Err = InvalidId>>(name: &str, text: String) -> Result<String, Box<Problem>> {
    match text.parse::<T>() {
        Ok(_) => Ok(text),
        Err(error) => Err(malformed(format!("{name} must be the next of another page: it {error}"))),
    }
}

fn malformed(detail: String) -> Box<Problem> {
    Box::new(Problem::new(Code::MALFORMED, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(raw: &str) -> Result<String, String> {
        let json = to_json(raw, &["limit", "after"]).map_err(|problem| problem.detail)?;
        Ok(String::from_utf8(json.to_vec()).unwrap())
    }

    #[test]
    fn parameters_become_the_arguments_of_the_door() {
        assert_eq!(read("").unwrap(), "");
        assert_eq!(read("limit=10").unwrap(), r#"{"limit":10}"#);
        assert_eq!(read("after=a%2Db&limit=1000").unwrap(), r#"{"after":"a-b","limit":1000}"#);
    }

    #[test]
    fn a_limit_is_an_integer_from_one_to_a_thousand() {
        for bad in ["0", "1001", "", "-1", "%2B5", "1.0", "ten", "99999999999999999999"] {
            assert!(read(&format!("limit={bad}")).unwrap_err().starts_with("limit must be"), "{bad:?}");
        }
    }

    #[test]
    fn a_place_is_of_the_alphabet_of_ids() {
        for bad in ["", "a.b", "a%22+b", "%F0%9F%8D%8E", &"x".repeat(65)] {
            assert!(read(&format!("after={bad}")).unwrap_err().starts_with("after must be"), "{bad:?}");
        }
    }

    #[test]
    fn anything_unexpected_is_malformed() {
        assert_eq!(read("before=x").unwrap_err(), r#"unknown query parameter "before", expected limit or after"#);
        assert!(read("after=a&after=b").unwrap_err().contains("more than once"));
        assert!(read("after=a&").unwrap_err().contains("unknown query parameter \"\""));
        for undecodable in ["after=%", "after=%4", "after=%zz", "after=%ff", "%=1"] {
            assert!(read(undecodable).unwrap_err().starts_with("cannot decode"), "{undecodable}");
        }
    }
}
