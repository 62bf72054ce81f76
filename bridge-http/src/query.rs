//! Query strings of lists, read strictly: a misspelt parameter must not silently list everything.

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};
use shop_domain::{
    problem::{Code, Problem},
    text::quoted,
};

/// The query string as the JSON arguments of a door, all of them as text: the door judges what they say,
/// as it does for whoever asks it over NATS. No parameters are no arguments.
pub(crate) fn to_json(raw: &str, allowed: &[&str]) -> Result<Bytes, Box<Problem>> {
    if raw.is_empty() {
        return Ok(Bytes::new());
    }
    let mut arguments = Map::new();
    for pair in raw.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        if !allowed.contains(&name.as_str()) {
            let detail = format!("unknown query parameter {}, expected {}", quoted(&name), allowed.join(" or "));
            return Err(malformed(detail));
        }
        if arguments.contains_key(&name) {
            return Err(malformed(format!("query parameter {} is given more than once", quoted(&name))));
        }
        arguments.insert(name, Value::String(value));
    }
    Ok(Value::Object(arguments).to_string().into())
}

/// Decodes as HTML forms encode: `%` and two digits are a byte, `+` is a space.
fn decode(text: &str) -> Result<String, Box<Problem>> {
    let undecodable = || malformed(format!("cannot decode {} in the query string", quoted(text)));
    let is_escape = |rest: &str| rest.as_bytes().iter().take(2).filter(|byte| byte.is_ascii_hexdigit()).count() == 2;
    if !text.split('%').skip(1).all(is_escape) {
        return Err(undecodable());
    }
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().map(|text| text.into_owned()).map_err(|_| undecodable())
}

fn malformed(detail: String) -> Box<Problem> {
    Box::new(Problem::new(Code::MALFORMED, detail))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(raw: &str) -> Result<String, String> {
        let json = to_json(raw, &["limit", "after"]).map_err(|problem| problem.detail)?;
        Ok(String::from_utf8(json.to_vec()).unwrap())
    }

    #[test]
    fn parameters_become_the_arguments_of_the_door() {
        assert_eq!(read("").unwrap(), "");
        assert_eq!(read("limit=10").unwrap(), r#"{"limit":"10"}"#);
        assert_eq!(read("after=a%2Db&limit=1000").unwrap(), r#"{"after":"a-b","limit":"1000"}"#);
    }

    #[test]
    fn what_a_parameter_says_is_for_the_door_to_judge() {
        for (raw, value) in [("0", "0"), ("", ""), ("%2B5", "+5"), ("a%22+b", "a\" b"), ("%F0%9F%8D%8E", "🍎")] {
            assert_eq!(read(&format!("limit={raw}")).unwrap(), json!({ "limit": value }).to_string());
        }
        assert_eq!(read("limit").unwrap(), r#"{"limit":""}"#);
    }

    #[test]
    fn anything_unexpected_is_malformed() {
        assert_eq!(read("before=x").unwrap_err(), r#"unknown query parameter "before", expected limit or after"#);
        assert!(read("after=a&after=b").unwrap_err().contains("more than once"));
        assert!(read("after=a&").unwrap_err().contains("unknown query parameter \"\""));
        for undecodable in ["after=%", "after=%4", "after=%zz", "after=%ff", "%=1"] {
            assert!(read(undecodable).unwrap_err().starts_with("cannot decode"), "{undecodable}");
        }
        let long = format!("{}=1", "x".repeat(5_000));
        assert!(read(&long).unwrap_err().len() < 200, "what is said stays short");
    }
}
