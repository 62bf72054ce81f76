//! JSON Schema, as much of it as the OpenAPI document uses. A keyword that is not known here is a
//! failure: what is not checked must not look as if it were.

use regex_lite::Regex;
use serde_json::Value;

use super::{list, resolve};

/// Keywords that say nothing about which values are right.
const ANNOTATIONS: [&str; 5] = ["$ref", "description", "default", "examples", "title"];

/// Says in what a value differs from a schema, which may be a reference. `at` is where it stands.
pub(super) fn conforms(schema: &'static Value, value: &Value, at: &str) -> Result<(), String> {
    let referred = resolve(schema);
    if !std::ptr::eq(referred, schema) {
        conforms(referred, value, at)?;
    }
    for (keyword, rule) in schema.as_object().into_iter().flatten() {
        if !ANNOTATIONS.contains(&keyword.as_str()) && !holds(keyword, rule, schema, value, at)? {
            return Err(format!("{at:?} breaks {keyword} {rule}: {value}"));
        }
    }
    Ok(())
}

/// Whether one keyword of a schema holds; an error tells of a value further inside.
fn holds(keyword: &str, rule: &'static Value, schema: &'static Value, value: &Value, at: &str) -> Result<bool, String> {
    let is_so = |part: &'static Value| conforms(part, value, at).is_ok();
    let text = value.as_str();
    let number = value.as_u64().map(i128::from).or(value.as_i64().map(i128::from));
    let count = value.as_array().map(Vec::len);
    Ok(match keyword {
        "type" => has_type(rule, value),
        "const" => rule == value,
        "enum" => list(rule).contains(value),
        "not" => !is_so(rule),
        "oneOf" => list(rule).iter().filter(|part| is_so(part)).count() == 1,
        "allOf" => {
            for part in list(rule) {
                conforms(part, value, at)?;
            }
            true
        }
        "pattern" => text.is_none_or(|text| pattern(rule).is_match(text)),
        "format" => text.is_none_or(|text| rule != "date-time" || is_time(text)),
        "minLength" => text.is_none_or(|text| text.chars().count() >= limit(rule)),
        "maxLength" => text.is_none_or(|text| text.chars().count() <= limit(rule)),
        "minimum" => number.is_none_or(|number| number >= rule.as_i64().unwrap().into()),
        "maximum" => number.is_none_or(|number| number <= rule.as_i64().unwrap().into()),
        "minItems" => count.is_none_or(|count| count >= limit(rule)),
        "maxItems" => count.is_none_or(|count| count <= limit(rule)),
        "required" => value
            .as_object()
            .is_none_or(|members| list(rule).iter().all(|name| members.contains_key(name.as_str().unwrap()))),
        "properties" => {
            for (name, part) in rule.as_object().unwrap() {
                if let Some(member) = value.get(name) {
                    conforms(part, member, &format!("{at}/{name}"))?;
                }
            }
            true
        }
        "additionalProperties" => {
            let others = value.as_object().into_iter().flatten();
            let mut others = others.filter(|(name, _)| schema["properties"].get(name.as_str()).is_none());
            others.all(|(_, other)| *rule != Value::Bool(false) && conforms(rule, other, at).is_ok())
        }
        "propertyNames" => value
            .as_object()
            .into_iter()
            .flatten()
            .all(|(name, _)| conforms(rule, &Value::from(name.as_str()), at).is_ok()),
        "items" => {
            for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                conforms(rule, item, &format!("{at}/{index}"))?;
            }
            true
        }
        other => panic!("the document has the keyword {other}, which this does not know"),
    })
}

fn has_type(rule: &'static Value, value: &Value) -> bool {
    let one = std::slice::from_ref(rule);
    let names = if rule.is_array() { list(rule) } else { one };
    names.iter().any(|name| match name.as_str().unwrap() {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        // Written without point or exponent: the document says so, for a schema cannot.
        "integer" => value.is_u64() || value.is_i64(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "null" => value.is_null(),
        other => panic!("the document has a type {other}, which this does not know"),
    })
}

/// A pattern of the document.
pub(super) fn pattern(rule: &Value) -> Regex {
    let pattern = rule.as_str().unwrap();
    Regex::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"))
}

fn limit(rule: &Value) -> usize {
    usize::try_from(rule.as_u64().unwrap()).unwrap()
}

/// `2026-01-31T12:00:00.000Z`
fn is_time(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "0000-00-00T00:00:00.000Z"
}
